"""The entry points of the cpu backend: from a `Problem` to the call of a kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from xent_numba.backends.cpu import curvature, distillation, row_statistics, selftest, shards
from xent_numba.backends.cpu.arguments import Arguments, flat, kernel_arguments, native, plain_arguments
from xent_numba.backends.cpu.compile import cache
from xent_numba.backends.cpu.compile.kernel import signature_key
from xent_numba.backends.cpu.compile.numba_private import VERSIONS
from xent_numba.backends.cpu.compile.processor import processor
from xent_numba.backends.cpu.fallback import (
    computes_in_float64,
    is_ordinary,
    options_in_range,
    reference_gradient,
    weight_range,
)
from xent_numba.backends.cpu.plan import FEW_LABELS, LABEL_GROUP, SERIAL_LABEL_GROUPS, STREAM_BYTES, plan
from xent_numba.backends.cpu.regimes import entry, label_scan, softmax
from xent_numba.backends.cpu.regimes.long import split
from xent_numba.backends.cpu.row.operands import Operands
from xent_numba.backends.cpu.runtime import threads
from xent_numba.backends.protocol import LabelScan
from xent_numba.backends.reference import BACKEND as REFERENCE
from xent_numba.reduction import exact_sum

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xent_numba.backends.protocol import (
        DistillationProblem,
        Problem,
        RowFields,
        Shard,
        ShardCoefficients,
        ShardStatistics,
    )

    Array = NDArray[Any]
    Float64s = NDArray[np.float64]

_ROW_LOSSES = Operands._fields.index("row_losses")
_KERNELS = {"long": entry.run_long, "split": entry.run_long, "packed": entry.run_packed, "lanes": entry.run_lanes}
_ROWWISE_KERNELS = {"long": softmax.softmax_long, "lanes": softmax.softmax_lanes}


class Cpu:
    """Kernels that Numba compiles for the processor; the methods are those of `Backend`."""

    name = "cpu"

    def why_not(self) -> str | None:
        """None if the installed Numba passes the self-test."""
        return selftest.why_not()

    def describe(self) -> dict[str, object]:
        """Versions, threads, processor."""
        return {
            **VERSIONS,
            "processor": processor().name,
            "vector_bits": processor().vector_bits,
            "threads": threads.available(),
            "threading_layer": threads.layer(),
            "cache": str(cache.directory()),
        }

    def explain(self, logits: Array, distribution: Array | None, grad: Array | None) -> dict[str, object]:
        """The plan of a call without further options."""
        float64 = computes_in_float64(logits, distribution)
        chosen = plan(logits.shape, _contiguous(logits, distribution, grad), float64, distribution is None)
        regime, why = chosen.regime, chosen.why
        if regime == "split" and threads.available() == 1:  # no other thread to share a row with: see `_run`
            regime, why = "long", "one thread: one row at a time"
        found: dict[str, object] = {
            "regime": regime,
            "why": why,
            "work items": f"{chosen.work_items}, summed in groups of {chosen.group}",
            "threads": threads.available() if chosen.parallel else 1,
        }
        if grad is not None:
            found["gradient"] = (
                "written past the caches" if grad.nbytes >= STREAM_BYTES else "written through the caches"
            )
        return found

    def scan_labels(
        self,
        labels: Array,
        n_classes: int,
        ignore: tuple[int, ...],
        weight: Float64s | None,
        sample_weight: Float64s | None,
        n_threads: int | None,
    ) -> LabelScan:
        """First bad label and denominators."""
        y = flat(labels)
        if weight is None and sample_weight is None and len(ignore) == 1 and y.size <= LABEL_GROUP:
            if y.size <= FEW_LABELS:
                count = label_scan.count_unweighted_labels.py_func(y.tolist(), n_classes, ignore[0])
            else:
                count = label_scan.count_unweighted_labels(y.dtype, y, n_classes, ignore[0])
            if count >= 0:
                kept = float(count)
                found: LabelScan = tuple.__new__(LabelScan, (-1, kept, kept))  # half the cost of LabelScan(...)
                return found
        groups = -(-y.size // LABEL_GROUP)
        counts, sums = np.empty(groups, np.int64), np.empty((2, groups))
        args = (y, n_classes, np.array(ignore, np.int64), flat(weight), flat(sample_weight), counts, sums)
        label_scan.scan_labels(y.dtype, *args, threads.parallel_loop(n_threads, groups > SERIAL_LABEL_GROUPS))
        if counts.min() < 0:
            return LabelScan(_first_bad(y, int(np.argmin(counts)), n_classes, ignore), 0.0, 0.0)
        return LabelScan(-1, exact_sum(sums[0]), exact_sum(sums[1]))

    def cross_entropy(self, problem: Problem, rows: Array | None, grad: Array | None) -> Float64s | None:
        """Loss, and gradient where asked for."""
        if is_ordinary(problem):
            partials = _run(problem, plain_arguments(problem, rows, grad), grad)
            return partials if rows is None else None
        weights = weight_range(problem.weight)
        if not options_in_range(problem, weights):
            return REFERENCE.cross_entropy(problem, rows, grad)
        by_reference = None if grad is None else reference_gradient(problem, weights)
        partials = _run(problem, kernel_arguments(problem, rows, grad), grad)
        if grad is not None and by_reference is not None:
            grad[by_reference.rows] = by_reference.grad
        return partials if rows is None else None

    def cross_entropy_grad(
        self, problem: Problem, grad: Array, lse: Array | None, grad_output: Float64s | None
    ) -> None:
        """Gradient alone."""
        if lse is None and grad_output is None:
            self.cross_entropy(problem, None, grad)  # the same kernels: next to the gradient, the loss costs nothing
            return
        weights = weight_range(problem.weight)
        # The focal factor of a row is known after one pass over it, and the kernels of a saved lse make only one.
        saved_and_focal = lse is not None and problem.focal_gamma != 0.0
        if saved_and_focal or not options_in_range(problem, weights):
            REFERENCE.cross_entropy_grad(problem, grad, lse, grad_output)
            return
        # First, as `grad` may overwrite the logits.
        by_reference = reference_gradient(problem, weights, lse, grad_output)
        _run(problem, kernel_arguments(problem, None, grad, lse, grad_output), grad, may_split=lse is None)
        if by_reference is not None:
            grad[by_reference.rows] = by_reference.grad

    def row_statistics(self, problem: Problem, fields: RowFields) -> None:
        """What each row can tell; the log-probability alone is a loss with another sign."""
        if not row_statistics.is_supported(problem, fields):
            REFERENCE.row_statistics(problem, fields)
        elif fields.log_prob is not None and all(field is None for field in fields[1:]):
            self.cross_entropy(problem, fields.log_prob, None)
            np.subtract(0.0, fields.log_prob, out=fields.log_prob)
        else:
            row_statistics.run(problem, fields)

    def shard_statistics(self, shard: Shard, found: ShardStatistics) -> None:
        """What a shard knows about each row."""
        if shards.in_range(shard):
            shards.run_statistics(shard, found)
        else:
            REFERENCE.shard_statistics(shard, found)

    def shard_gradient(self, shard: Shard, coefficients: ShardCoefficients, grad: Array) -> None:
        """Gradient of a shard."""
        if shards.in_range(shard):
            shards.run_gradient(shard, coefficients, grad)
        else:
            REFERENCE.shard_gradient(shard, coefficients, grad)

    def distillation_loss(
        self, problem: DistillationProblem, rows: Array | None, grad: Array | None
    ) -> Float64s | None:
        """Loss, and gradient where asked for."""
        return distillation.distillation_loss(problem, rows, grad)

    def cross_entropy_hvp(self, problem: Problem, vector: Array, product: Array, gauss_newton: bool) -> None:
        """Hessian-vector product."""
        curvature.hessian_vector_product(problem, vector, product, gauss_newton)

    def cross_entropy_grad_and_hessian_diag(self, problem: Problem, grad: Array, diag: Array) -> None:
        """Gradient, and diagonal of the Hessian."""
        curvature.grad_and_hessian_diag(problem, grad, diag)

    def softmax(self, logits: Array, out: Array, n_threads: int | None) -> None:
        """exp(x) / Σ exp(x)."""
        fields = (native(logits), native(out), None, None, out.nbytes >= STREAM_BYTES)
        _run_rowwise(n_threads, logits, fields, out)

    def log_softmax(self, logits: Array, out: Array, n_threads: int | None) -> None:
        """x − log Σ exp(x)."""
        fields = (native(logits), None, native(out), None, out.nbytes >= STREAM_BYTES)
        _run_rowwise(n_threads, logits, fields, out)

    def logsumexp(self, logits: Array, out: Array, n_threads: int | None) -> None:
        """log Σ exp(x)."""
        side_by_side = out.reshape(-1) if out.flags.c_contiguous else np.empty(out.size, out.dtype)
        _run_rowwise(n_threads, logits, (native(logits), None, None, side_by_side, False), None)
        if not out.flags.c_contiguous:
            out[...] = side_by_side.reshape(out.shape)


def _first_bad(labels: Array, group: int, n_classes: int, ignore: tuple[int, ...]) -> int:
    """The index of the first label of a group that is neither a class nor ignored; there is one."""
    start = group * LABEL_GROUP
    y = labels[start : start + LABEL_GROUP]
    bad = ((y < 0) | (y >= n_classes)) & ~np.isin(y, ignore)
    return start + int(np.argmax(bad))


def _contiguous(logits: Array, q: Array | None = None, grad: Array | None = None) -> bool:
    """Whether the classes of each row lie side by side in all of these (A, B, C) arrays."""
    return (
        logits.strides[2] == logits.itemsize
        and (grad is None or grad.strides[2] == grad.itemsize)
        and (q is None or q.strides[2] == q.itemsize)
    )


def _run(problem: Problem, arguments: Arguments, grad: Array | None, *, may_split: bool = True) -> Float64s:
    """Run the kernel of a loss by its plan; return the partial sums of the losses."""
    logits, n_threads = problem.logits, problem.n_threads
    q = problem.distribution
    float64 = computes_in_float64(logits, q, problem.softcap)
    chosen = plan(logits.shape, _contiguous(logits, q, grad), float64, q is None, may_split)
    key, fields = arguments
    group, work_items = chosen.group, chosen.work_items
    partials = np.zeros(-(-work_items // group))
    kernel = _KERNELS[chosen.regime]
    if not chosen.parallel:
        kernel(key, fields, group, work_items, partials, partials.size, 0)
        return partials
    loop = threads.parallel_loop(n_threads, True)
    if loop and chosen.regime == "split":
        for i in range(work_items):
            partials[i] = _split_row(problem, arguments, i, chosen.segments, grad, loop)
    else:
        chunk = -(-partials.size // threads.thread_count(n_threads)) if loop else partials.size
        kernel(key, fields, group, work_items, partials, chunk, loop)
    return partials


def _split_row(problem: Problem, arguments: Arguments, i: int, segments: int, grad: Array | None, loop: int) -> float:
    """Compute row i, its segments in parallel; return its loss."""
    key, fields = arguments
    labels = problem.labels
    if labels is not None:
        y = int(labels.reshape(-1)[i])
        if y in problem.ignore or not 0 <= y < problem.logits.shape[2]:
            if fields[_ROW_LOSSES].size:
                fields[_ROW_LOSSES][i] = 0.0
            if grad is not None:
                grad[divmod(i, grad.shape[1])] = 0
            return 0.0
    parts, scalars = np.empty((segments, 6)), np.empty(5)
    split.split_statistics(key, fields, i, parts, loop)
    loss = split.split_outcome(key, fields, i, parts, scalars)
    if grad is not None:
        split.split_gradient(key, fields, i, scalars, segments, loop)
    return float(loss)


def _run_rowwise(n_threads: int | None, logits: Array, fields: tuple[Any, ...], out: Array | None) -> None:
    """Run the kernel of a softmax, log_softmax or logsumexp by its plan; `fields` are `SoftmaxOperands`."""
    chosen = plan(logits.shape, _contiguous(logits, out), computes_in_float64(logits), False, False)
    kernel = _ROWWISE_KERNELS[chosen.regime]
    groups = -(-chosen.work_items // chosen.group)
    loop = threads.parallel_loop(n_threads, chosen.parallel)
    kernel(signature_key(fields), fields, chosen.group, chosen.work_items, groups, loop)


BACKEND = Cpu()
