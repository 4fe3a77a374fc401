"""The entry points of the cpu backend: from a `Problem` to one call of a driver."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import llvmlite.binding
import numba
import numpy as np

from xent_numba.backends.cpu.arguments import (
    STREAM,
    arguments,
    beyond,
    fits,
    flat,
    is_plain,
    is_wide,
    native,
    plain_arguments,
    rows_of,
    some,
)
from xent_numba.backends.cpu.compile import cache
from xent_numba.backends.cpu.compile.kernel import code_of
from xent_numba.backends.cpu.regimes import entry as drivers
from xent_numba.backends.cpu.regimes import labels, split
from xent_numba.backends.cpu.regimes import softmax as probabilities
from xent_numba.backends.cpu.regimes.long_stats import SEGMENT
from xent_numba.backends.cpu.regimes.tile_load import TILE
from xent_numba.backends.cpu.row.operands import Call
from xent_numba.backends.cpu.runtime import threads
from xent_numba.backends.cpu.simd.vector import LINE
from xent_numba.backends.protocol import LabelScan
from xent_numba.backends.reference import BACKEND as REFERENCE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xent_numba.backends.protocol import Problem

    Array = NDArray[Any]
    Float64s = NDArray[np.float64]

SERIAL = 1 << 15  # logits: below, one thread is as fast as many
GROUP = 1 << 15  # logits that one partial sum stands for, at least one row
LEAST = 32  # classes from which on a row goes along its lanes, in a batch
FEW = 16  # rows: below, the segments of a row are shared among the threads rather than the rows
ROWS = Call._fields.index("rows")


class Cpu:
    """Numba on the processor."""

    name = "cpu"

    def why_not(self) -> str | None:
        """None: where Numba can be imported, it runs."""
        return None

    def describe(self) -> dict[str, object]:
        """Versions, threads, processor."""
        features = llvmlite.binding.get_host_cpu_features()
        widths = (("avx512f", 512), ("avx2", 256), ("avx", 256))
        return {
            "numba": numba.__version__,
            "llvmlite": llvmlite.__version__,
            "processor": llvmlite.binding.get_host_cpu_name(),
            "vector_bits": next((bits for name, bits in widths if features.get(name)), 128),
            "threads": threads.available(),
            "threading_layer": threads.layer(),
            "cache": str(cache.directory()),
        }

    def scan_labels(
        self,
        labels_: Array,
        n_classes: int,
        ignore: tuple[int, ...],
        weight: Float64s | None,
        sample_weight: Float64s | None,
        n_threads: int | None,
    ) -> LabelScan:
        """First bad label and denominators."""
        y = flat(labels_)
        if weight is None and sample_weight is None and len(ignore) == 1 and y.size <= labels.GROUP:
            if y.size <= labels.HANDFUL:
                count = labels.count_few.py_func(y.tolist(), n_classes, ignore[0])
            else:
                count = labels.count_few(y.dtype, y, n_classes, ignore[0])
            if count >= 0:
                kept = float(count)
                found: LabelScan = tuple.__new__(LabelScan, (-1, count, kept, kept))  # half the cost of LabelScan(...)
                return found
        groups = -(-y.size // labels.GROUP)
        counts, sums = np.empty(groups, np.int64), np.empty((groups, 2))
        unlike = np.array(ignore, np.int64)
        args = (y, n_classes, unlike, flat(weight), flat(sample_weight), counts, sums)
        with threads.parallel(n_threads, groups > 4) as loop:
            labels.scan(y.dtype, *args, loop)
        if counts.min() < 0:
            return LabelScan(_first_bad(y, int(np.argmin(counts)), n_classes, ignore), 0, 0.0, 0.0)
        by_weight, by_sample = (float(x) for x in sums.sum(axis=0))
        return LabelScan(-1, int(counts.sum()), by_weight, by_sample)

    def cross_entropy(self, problem: Problem, rows: Array | None, grad: Array | None) -> Float64s | None:
        """Loss, and gradient where asked for."""
        if is_plain(problem):
            code, fields = plain_arguments(problem, rows, grad)
            partials = _run(problem, code, fields, grad, None)
            return partials if rows is None else None
        if not fits(problem):
            return REFERENCE.cross_entropy(problem, rows, grad)
        others = None if grad is None else beyond(problem)
        apart = None if others is None else _reference(rows_of(problem, others))
        partials = _run(problem, *arguments(problem, rows, grad), grad, None)
        if grad is not None and others is not None and apart is not None:
            grad[others] = apart
        return partials if rows is None else None

    def cross_entropy_grad(
        self, problem: Problem, grad: Array, lse: Array | None, grad_output: Float64s | None
    ) -> None:
        """Gradient alone."""
        if lse is None and grad_output is None:
            self.cross_entropy(problem, None, grad)  # the same kernels: next to the gradient, the loss costs nothing
            return
        if not fits(problem):
            REFERENCE.cross_entropy_grad(problem, grad, lse, grad_output)
            return
        others, apart = beyond(problem, lse, grad_output), None
        if others is not None:
            apart = _reference(rows_of(problem, others), some(lse, others), some(grad_output, others))
        _run(problem, *arguments(problem, None, grad, lse, grad_output), grad, lse)
        if others is not None:
            grad[others] = apart

    def softmax(self, logits: Array, out: Array, n_threads: int | None) -> None:
        """exp(x) / Σ exp(x)."""
        fields = (native(logits), native(out), None, None, out.nbytes >= STREAM)
        _run_rowwise(n_threads, logits, fields, out)

    def log_softmax(self, logits: Array, out: Array, n_threads: int | None) -> None:
        """x − log Σ exp(x)."""
        fields = (native(logits), None, native(out), None, out.nbytes >= STREAM)
        _run_rowwise(n_threads, logits, fields, out)

    def logsumexp(self, logits: Array, out: Array, n_threads: int | None) -> None:
        """log Σ exp(x)."""
        side_by_side = out.reshape(-1) if out.flags.c_contiguous else np.empty(out.size, out.dtype)
        _run_rowwise(n_threads, logits, (native(logits), None, None, side_by_side, False), None)
        if not out.flags.c_contiguous:
            out[...] = side_by_side.reshape(out.shape)


def _reference(problem: Problem, lse: Array | None = None, upstream: Array | None = None) -> Array:
    """The gradient of rows that the kernels cannot hold."""
    grad = np.empty_like(problem.logits)
    REFERENCE.cross_entropy_grad(problem, grad, lse, upstream)
    return grad[0]


def _first_bad(labels_: Array, group: int, n_classes: int, ignore: tuple[int, ...]) -> int:
    start = group * labels.GROUP
    y = labels_[start : start + labels.GROUP]
    bad = ((y < 0) | (y >= n_classes)) & ~np.isin(y, ignore)
    return start + int(np.argmax(bad))


def _run(problem: Problem, code: Any, fields: tuple[Any, ...], grad: Array | None, lse: Array | None) -> Float64s:
    """Walk the rows of a loss."""
    logits, n_threads = problem.logits, problem.n_threads
    in_batches = problem.distribution is None
    walk, group, units = _walk(drivers, is_wide(problem), in_batches, logits, problem.distribution, grad)
    partials = np.zeros(-(-units // group))
    if logits.size < SERIAL:
        walk(code, fields, group, units, partials, partials.size, 0)
        return partials
    segments = -(-logits.shape[2] // SEGMENT)
    by_segments = walk is drivers.long and lse is None and segments > 1 and units < FEW
    with threads.parallel(n_threads, partials.size > 1 or by_segments) as loop:
        if loop and by_segments:
            for i in range(units):
                partials[i] = _split_row(problem, code, fields, i, segments, grad, loop)
        else:
            span = -(-partials.size // threads.wanted(n_threads)) if loop else partials.size
            walk(code, fields, group, units, partials, span, loop)
    return partials


def _split_row(
    problem: Problem, code: Any, fields: tuple[Any, ...], i: int, segments: int, grad: Array | None, loop: int
) -> float:
    """One row, its segments in parallel."""
    labels_ = problem.labels
    if labels_ is not None:
        y = int(labels_.reshape(-1)[i])
        if y in problem.ignore or not 0 <= y < problem.logits.shape[2]:
            if fields[ROWS].size:
                fields[ROWS][i] = 0.0
            if grad is not None:
                grad[divmod(i, grad.shape[1])] = 0
            return 0.0
    parts, slope = np.empty((segments, 4)), np.empty(4)
    split.split_statistics(code, fields, i, parts, loop)
    loss = split.split_outcome(code, fields, i, parts, slope)
    if grad is not None:
        split.split_gradient(code, fields, i, slope, segments, loop)
    return float(loss)


def _run_rowwise(n_threads: int | None, logits: Array, fields: tuple[Any, ...], out: Array | None) -> None:
    """Walk the rows of a softmax and its kin."""
    walk, group, units = _walk(probabilities, logits.dtype.char == "d", False, logits, out)
    groups = -(-units // group)
    with threads.parallel(n_threads, logits.size >= SERIAL and groups > 1) as loop:
        walk(code_of(fields), fields, group, units, groups, loop)


def _walk(kernels: Any, is_wide: bool, in_batches: bool, logits: Array, *others: Array | None) -> tuple[Any, int, int]:
    """(driver, units in a group, units): long rows one at a time, others a vector of rows at a time."""
    a, b, classes = logits.shape
    walk = kernels.wide
    if classes >= LEAST and all(x is None or x.strides[2] == x.itemsize for x in (logits, *others)):
        if classes > TILE:
            return kernels.long, GROUP // classes or 1, a * b
        if in_batches and not is_wide:
            walk = kernels.batch
    lanes = LINE // (8 if is_wide else 4)
    return walk, GROUP // (classes * lanes) or 1, a * -(-b // lanes)


BACKEND = Cpu()
