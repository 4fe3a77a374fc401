"""The backend for NumPy arrays: rows are copied over in chunks, computed, and the results copied back.

A chunk bounds the memory on both sides, whatever the size and layout of the logits: contiguous rows are copied from
where they lie, others are packed a chunk at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from xent_numba.backends.cuda.hw.sizes import VECTOR_BYTES
from xent_numba.backends.cuda.plan import plan
from xent_numba.backends.cuda.row.operands import Operand, Operands, kernel_arguments, row_layout
from xent_numba.backends.cuda.row.spec import SHARD_COEFFICIENTS, SHARD_STATISTICS, STATISTICS
from xent_numba.backends.cuda.runtime import device, memory
from xent_numba.backends.reference import BACKEND as REFERENCE
from xent_numba.prepare.layout import row_blocks
from xent_numba.reduction import loss_dtype

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from xent_numba.backends.protocol import (
        DistillationProblem,
        LabelScan,
        Problem,
        RowFields,
        Shard,
        ShardCoefficients,
        ShardStatistics,
    )

    Array = NDArray[Any]
    Float64s = NDArray[np.float64]

CHUNK_BYTES = 1 << 28  # of logits
GROUP = 4096  # rows whose losses make one partial sum


class CudaBackend:
    """The methods of `Backend`, for NumPy arrays."""

    name = "cuda"

    def why_not(self) -> str | None:
        """Without numba-cuda, a GPU or a driver that fits: which, and what to do."""
        return device.why_not()

    def describe(self) -> dict[str, object]:
        """The device and the versions."""
        from importlib.metadata import version

        facts = device.facts()
        return {
            "device": facts.name,
            "compute capability": f"{facts.compute_capability[0]}.{facts.compute_capability[1]}",
            "multiprocessors": facts.multiprocessors,
            "numba-cuda": version("numba-cuda"),
        }

    def explain(self, logits: Array, distribution: Array | None, grad: Array | None) -> dict[str, object]:
        """The plan of the first chunk of a call without further options: the kernels see packed copies."""
        chunk = logits[next(_chunks(logits))].shape
        n_rows, classes = chunk[0] * chunk[1], logits.shape[2]
        x = _packed(logits, VECTOR_BYTES, classes)  # any aligned address: memory on the device always starts so
        operands = Operands((1, n_rows, classes), x)
        if distribution is None:
            operands.labels = Operand("int64", VECTOR_BYTES, 0, 8, 8)
        else:
            operands.distribution = _packed(distribution, VECTOR_BYTES, classes)
        if grad is not None:
            operands.output, operands.out = "grad", x
        facts = device.facts()
        spec, _ = kernel_arguments(operands, facts.compute_capability)
        chosen = plan(spec, n_rows, classes, row_layout(operands, spec), facts)
        found: dict[str, object] = {"regime": chosen.regime, "why": chosen.why, "threads per block": chosen.threads}
        if chosen.vectors:
            found["vectors per thread"] = chosen.vectors
        if chosen.segments > 1:
            found["segments per row"] = chosen.segments
        return {**found, "rows per chunk": n_rows, "device": facts.name}

    def scan_labels(
        self,
        labels: Array,
        n_classes: int,
        ignore: tuple[int, ...],
        weight: Float64s | None,
        sample_weight: Float64s | None,
        n_threads: int | None,
    ) -> LabelScan:
        """Host labels are read on the host: they would have to be copied before a GPU could be any faster."""
        return REFERENCE.scan_labels(labels, n_classes, ignore, weight, sample_weight, n_threads)

    def cross_entropy(self, problem: Problem, rows: Array | None, grad: Array | None) -> Float64s | None:
        """Loss, and gradient where asked for."""
        losses = np.empty(problem.logits.shape[:2], loss_dtype(problem.logits.dtype))
        _run(problem, "" if grad is None else "grad", {"out": grad, "rows": losses})
        return _rows_or_sums(losses, rows)

    def cross_entropy_grad(
        self, problem: Problem, grad: Array, lse: Array | None, grad_output: Float64s | None
    ) -> None:
        """Gradient alone."""
        _run(problem, "grad", {"out": grad}, {"saved_lse": lse, "grad_output": grad_output})

    def row_statistics(self, problem: Problem, fields: RowFields) -> None:
        """The fields that are asked for, in one read of the logits."""
        _run(problem, "", fields._asdict())

    def cross_entropy_hvp(self, problem: Problem, vector: Array, product: Array, gauss_newton: bool) -> None:
        """H v, in two reads of logits and vector."""
        _run(problem, "hvp", {"out": product}, {"second": vector}, gauss_newton=gauss_newton)

    def cross_entropy_grad_and_hessian_diag(self, problem: Problem, grad: Array, diag: Array) -> None:
        """Both, in two reads of the logits."""
        _run(problem, "grad and diag", {"out": grad, "second_out": diag})

    def shard_statistics(self, shard: Shard, found: ShardStatistics) -> None:
        """In two reads of the logits."""
        _run_shard("statistics", shard, {}, found._asdict())

    def shard_gradient(self, shard: Shard, coefficients: ShardCoefficients, grad: Array) -> None:
        """In one read of the logits."""
        _run_shard("gradient", shard, coefficients._asdict(), {"out": grad})

    def distillation_loss(
        self, problem: DistillationProblem, rows: Array | None, grad: Array | None
    ) -> Float64s | None:
        """Divergence, and gradient where asked for."""
        losses = np.empty(problem.student.shape[:2], loss_dtype(problem.student.dtype))
        operands = _without_target("" if grad is None else "grad")
        operands.temperature, operands.temperature_squared = problem.temperature, problem.temperature_squared
        operands.grad_scale = problem.grad_scale
        inputs = {"logits": problem.student, "second": problem.teacher, "sample_weight": problem.sample_weight}
        _run_chunks(operands, inputs, {"out": grad, "rows": losses})
        return _rows_or_sums(losses, rows)

    def softmax(self, logits: Array, out: Array, n_threads: int | None) -> None:
        """exp(x - lse)."""
        _run_chunks(_without_target("softmax"), {"logits": logits}, {"out": out})

    def log_softmax(self, logits: Array, out: Array, n_threads: int | None) -> None:
        """(x - max) - log Σ exp(x - max)."""
        _run_chunks(_without_target("log_softmax"), {"logits": logits}, {"out": out})

    def logsumexp(self, logits: Array, out: Array, n_threads: int | None) -> None:
        """max + log Σ exp(x - max)."""
        _run_chunks(_without_target(""), {"logits": logits}, {"lse": out})


def _run_shard(
    task: str, shard: Shard, more_inputs: Mapping[str, Array | None], outputs: Mapping[str, Array | None]
) -> None:
    """A shard of the classes in chunks of rows.  Which rows are kept goes as labels, of which 0 is to be ignored."""
    weight = None if shard.weight is None else memory.upload(shard.weight)
    operands = Operands(
        (1, 1, 1),
        Operand("", 0),
        "grad" if "out" in outputs else "",
        weight=None if weight is None else Operand("float64", memory.address(weight)),
        ignore=(0,),
        logit_scale=shard.logit_scale,
        softcap=shard.softcap,
        shard=task,
        shard_target=(shard.alpha, shard.beta),
    )
    labels = None if shard.kept is None else shard.kept.view(np.uint8)
    inputs = {"logits": shard.logits, "labels": labels, "distribution": shard.distribution, **more_inputs}
    _run_chunks(operands, inputs, outputs)


def _rows_or_sums(losses: Array, rows: Array | None) -> Float64s | None:
    """None once the losses are in `rows`; without these, their sums over groups of rows."""
    if rows is not None:
        rows[...] = losses
        return None
    with np.errstate(all="ignore"):
        flat = losses.reshape(-1).astype(np.float64)
        return np.add.reduceat(flat, np.arange(0, flat.size, GROUP))


def _without_target(output: str) -> Operands:
    """The operands of functions without a target; shape and addresses are set for each chunk."""
    return Operands((1, 1, 1), Operand("", 0), output)


def _run(
    problem: Problem,
    output: str,
    outputs: Mapping[str, Array | None],
    more_inputs: Mapping[str, Array | None] | None = None,
    *,
    gauss_newton: bool = False,
) -> None:
    """A problem in chunks.  The arrays that all chunks share are copied once."""
    ignore = np.array(problem.ignore, np.int64)
    weight = None if problem.weight is None else memory.upload(problem.weight)
    ignore_list = memory.upload(ignore) if ignore.size > 1 else None
    operands = Operands(
        (1, 1, 1),
        Operand("", 0),
        output,
        weight=None if weight is None else Operand("float64", memory.address(weight)),
        ignore=problem.ignore,
        ignore_list=0 if ignore_list is None else memory.address(ignore_list),
        label_smoothing=problem.label_smoothing,
        logit_scale=problem.logit_scale,
        softcap=problem.softcap,
        z_coefficient=problem.z_coefficient,
        focal_gamma=problem.focal_gamma,
        grad_scale=problem.grad_scale,
        gauss_newton=gauss_newton,
    )
    inputs = {
        "logits": problem.logits,
        "distribution": problem.distribution,
        "labels": problem.labels,
        "sample_weight": problem.sample_weight,
        **(more_inputs or {}),
    }
    _run_chunks(operands, inputs, outputs)


def _run_chunks(operands: Operands, inputs: Mapping[str, Array | None], outputs: Mapping[str, Array | None]) -> None:
    """Copy, launch and copy back, chunk by chunk.

    `inputs` and `outputs` are host arrays (A, B, C) or (A, B) under the names of their operands.  The output of the
    classes replaces the logits on the device.
    """
    from xent_numba.backends.cuda import launch

    logits = inputs["logits"]
    assert logits is not None
    classes = logits.shape[2]
    for part in _chunks(logits):
        n_rows = logits[part].size // classes
        operands.shape = (1, n_rows, classes)
        on_device = {}
        for name, array in inputs.items():
            if array is not None:
                on_device[name] = memory.upload(array[part])
                address = memory.address(on_device[name])
                if name in SHARD_COEFFICIENTS:
                    operands.by_row[name] = address
                else:
                    setattr(operands, name, _packed(array, address, classes if array.ndim == 3 else 1))
        for name, array in outputs.items():
            if array is None:
                continue
            if name == "out":
                on_device[name], operands.out = on_device["logits"], _packed(array, operands.logits.address, classes)
                continue
            width = classes if array.ndim == 3 else 1
            on_device[name] = memory.allocate(n_rows * width * array.dtype.itemsize)
            address = memory.address(on_device[name])
            if array.ndim == 3:
                setattr(operands, name, _packed(array, address, width))
            elif name in (*STATISTICS, *SHARD_STATISTICS):
                operands.by_row[name] = address
            else:
                setattr(operands, name, address)
        launch.run(operands)
        for name, array in outputs.items():
            if array is not None:
                _download(on_device[name], array[part])


def _chunks(logits: Array) -> Iterator[tuple[slice, slice]]:
    """(A, B) in chunks of about CHUNK_BYTES, in C order."""
    return row_blocks(logits.shape, CHUNK_BYTES // (logits.shape[2] * logits.itemsize))


def _download(source: Any, target: Array) -> None:
    """Copy device memory into a host array, directly where that is contiguous."""
    packed = target if target.flags.c_contiguous else np.empty(target.shape, target.dtype)
    memory.download(source, packed)
    if packed is not target:
        target[...] = packed


def _packed(array: Array, address: int, classes: int) -> Operand:
    """Packed rows of `classes` values of the array's dtype."""
    size = array.dtype.itemsize
    return Operand(array.dtype.name, address, 0, classes * size, size)


BACKEND = CudaBackend()
