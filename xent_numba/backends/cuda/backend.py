"""The backend for NumPy arrays: rows are copied over in chunks, computed, and the results copied back.

A chunk bounds the memory on both sides, whatever the size and layout of the logits: contiguous rows are copied from
where they lie, others are packed a chunk at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from xent_numba.backends.cuda.row.operands import Call, Operand
from xent_numba.backends.cuda.runtime import device, memory
from xent_numba.backends.reference import BACKEND as REFERENCE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from xent_numba.backends.protocol import LabelScan, Problem

    Array = NDArray[Any]
    Float64s = NDArray[np.float64]

CHUNK_BYTES = 1 << 28  # of logits
GROUP = 4096  # rows whose losses make one partial sum


class CudaBackend:
    """The backend protocol on NumPy arrays."""

    name = "cuda"

    def why_not(self) -> str | None:
        """Without numba-cuda, a GPU or a driver that fits: which, and what to do."""
        return device.why_not()

    def describe(self) -> dict[str, object]:
        """The device and the versions."""
        from importlib.metadata import version

        found = device.facts()
        capability = f"{found.capability[0]}.{found.capability[1]}"
        return {
            "device": found.name,
            "compute capability": capability,
            "multiprocessors": found.processors,
            "numba-cuda": version("numba-cuda"),
        }

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
        wide = problem.logits.dtype == np.float64
        losses = np.empty(problem.logits.shape[:2], np.float64 if wide else np.float32)
        _run(problem, "grad" if grad is not None else "", grad, rows=losses)
        if rows is not None:
            rows[...] = losses
            return None
        with np.errstate(all="ignore"):
            flat = losses.reshape(-1).astype(np.float64)
            return np.add.reduceat(flat, np.arange(0, flat.size, GROUP))

    def cross_entropy_grad(
        self, problem: Problem, grad: Array, lse: Array | None, grad_output: Float64s | None
    ) -> None:
        """Gradient alone."""
        _run(problem, "grad", grad, saved_lse=lse, grad_output=grad_output)

    def softmax(self, logits: Array, out: Array, n_threads: int | None) -> None:
        """exp(x - lse)."""
        _chunks(logits, None, {}, Call((1, 1, 1), Operand("", 0), "softmax"), out, None, None)

    def log_softmax(self, logits: Array, out: Array, n_threads: int | None) -> None:
        """(x - max) - log Σ exp(x - max)."""
        _chunks(logits, None, {}, Call((1, 1, 1), Operand("", 0), "log_softmax"), out, None, None)

    def logsumexp(self, logits: Array, out: Array, n_threads: int | None) -> None:
        """max + log Σ exp(x - max)."""
        _chunks(logits, None, {}, Call((1, 1, 1), Operand("", 0)), None, None, out)


def _run(
    problem: Problem,
    store: str,
    out: Array | None,
    rows: Array | None = None,
    saved_lse: Array | None = None,
    grad_output: Array | None = None,
) -> None:
    """A problem as a template call, its arrays per class copied once."""
    ignore = np.array(problem.ignore, np.int64)
    weight = None if problem.weight is None else memory.upload(problem.weight)
    ignored = memory.upload(ignore) if ignore.size > 1 else None
    call = Call(
        (1, 1, 1),
        Operand("", 0),
        store,
        weight=None if weight is None else Operand("float64", memory.address(weight)),
        ignore=problem.ignore,
        ignore_list=0 if ignored is None else memory.address(ignored),
        label_smoothing=problem.label_smoothing,
        logit_scale=problem.logit_scale,
        softcap=problem.softcap,
        z_coefficient=problem.z_coefficient,
        grad_scale=problem.grad_scale,
    )
    per_row = {
        "labels": problem.labels,
        "sample_weight": problem.sample_weight,
        "saved_lse": saved_lse,
        "grad_output": grad_output,
    }
    _chunks(problem.logits, problem.distribution, per_row, call, out, rows, None)


def _chunks(
    logits: Array,
    distribution: Array | None,
    per_row: dict[str, Array | None],
    call: Call,
    out: Array | None,
    rows: Array | None,
    lse: Array | None,
) -> None:
    """Copy, launch and copy back, chunk by chunk."""
    from xent_numba.backends.cuda import plan as dispatch

    classes = logits.shape[2]
    for part in _parts(logits):
        x = memory.upload(logits[part])
        n = logits[part].size // classes
        kept = [x]
        call.shape = (1, n, classes)
        call.logits = _operand(logits, x, classes)
        if distribution is not None:
            kept.append(memory.upload(distribution[part]))
            call.distribution = _operand(distribution, kept[-1], classes)
        for name, values in per_row.items():
            if values is not None:
                kept.append(memory.upload(values[part]))
                setattr(call, name, _operand(values, kept[-1], 1))
        results = []
        for name, array in (("out", out), ("rows", rows), ("lse", lse)):
            if array is not None:
                target = x if name == "out" else memory.allocate(n * array.dtype.itemsize)  # in place
                results.append((array, target))
                setattr(call, name, _operand(array, target, classes) if name == "out" else memory.address(target))
        dispatch.run(call, 0, device.facts(), lambda n: memory.address(memory.scratch(n)))
        for array, target in results:
            _download(target, array, part)


def _parts(logits: Array) -> Iterator[tuple[slice, slice]]:
    """(A, B) in chunks of about CHUNK_BYTES, in C order."""
    a, b, classes = logits.shape
    n = max(1, CHUNK_BYTES // (classes * logits.dtype.itemsize))
    step_a, step_b = max(1, n // b), max(1, min(n, b))
    for i in range(0, a, step_a):
        for j in range(0, b, step_b):
            yield slice(i, i + step_a), slice(j, j + step_b)


def _download(source: Any, array: Array, part: tuple[slice, slice]) -> None:
    """Into a part of a host array, directly where it is contiguous."""
    view = array[part]
    packed = view if view.flags.c_contiguous else np.empty(view.shape, view.dtype)
    memory.download(source, packed)
    if packed is not view:
        view[...] = packed


def _operand(array: Array, there: Any, classes: int) -> Operand:
    """Packed rows of `classes` values of the array's dtype."""
    size = array.dtype.itemsize
    return Operand(array.dtype.name, memory.address(there), 0, classes * size, size)


BACKEND = CudaBackend()
