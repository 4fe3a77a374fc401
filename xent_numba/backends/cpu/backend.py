"""The entry points of the cpu backend: from a `Problem` to one call of a driver."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import llvmlite.binding
import numba
import numpy as np

from xent_numba.backends import LabelScan
from xent_numba.backends.cpu import cache, drivers, labels, probabilities, split, threads
from xent_numba.backends.cpu.call import Call
from xent_numba.backends.cpu.columns import TILE
from xent_numba.backends.cpu.kernel import code_of
from xent_numba.backends.cpu.simd import LINE
from xent_numba.backends.cpu.statistics import SEGMENT
from xent_numba.backends.reference import BACKEND as REFERENCE
from xent_numba.reduction import loss_dtype

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xent_numba.problem import Problem

    Array = NDArray[Any]
    Float64s = NDArray[np.float64]

SERIAL = 1 << 15  # logits: below, one thread is as fast as many
GROUP = 1 << 15  # logits that one partial sum stands for, at least one row
FEW = 16  # rows: below, the segments of a row are shared among the threads rather than the rows
STREAM = 1 << 24  # bytes of gradient from which on it is written past the caches
ROWS = Call._fields.index("rows")
_NATIVE = {"d": None, "f": None, "e": np.uint16}  # bfloat16, whose character is its library's choice: int16


def _native(array: Array) -> Array:
    """The array in a dtype that Numba has: 16-bit floats as tagged integers.  Read-only: one signature for all."""
    tag = _NATIVE.get(array.dtype.char, np.int16)
    view = array.view() if tag is None else array.view(tag)
    view.flags.writeable = False
    return view


def _writable(array: Array) -> Array:
    tag = _NATIVE.get(array.dtype.char, np.int16)
    return array if tag is None else array.view(tag)


_TORCH_IGNORE = (-100,)
_NONE = np.empty(0)
_NONE.flags.writeable = False
_NO_ROWS = {np.float64: np.empty(0, np.float64), np.float32: np.empty(0, np.float32)}
_NO_LABELS = np.empty(0, np.int64)


def _flat(array: Array | None) -> Array:
    """A per-row array (A, B) as (A·B,), contiguous and read-only; (0,) for None."""
    if array is None:
        return _NONE
    view = array.reshape(-1)
    if not view.flags.c_contiguous:  # a column of labels, say: reshape leaves one long stride as it is
        view = view.copy()
    view.flags.writeable = False
    return view


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
        flat = _flat(labels_)
        if flat.size <= labels.GROUP and weight is None and sample_weight is None and len(ignore) == 1:
            count = labels.count_few(flat.dtype, flat, n_classes, ignore[0])
            if count >= 0:
                return LabelScan(-1, count, float(count), float(count))
        groups = -(-flat.size // labels.GROUP)
        kept, sums = np.empty(groups, np.int64), np.empty((groups, 2))
        unlike = np.array(ignore, np.int64)
        args = (flat, n_classes, unlike, _flat(weight), _flat(sample_weight), kept, sums)
        with threads.parallel(n_threads, groups > 4) as loop:
            labels.scan(flat.dtype, *args, loop)
        if kept.min() < 0:
            return LabelScan(_first_bad(flat, int(np.argmin(kept)), n_classes, ignore), 0, 0.0, 0.0)
        by_weight, by_sample = (float(x) for x in sums.sum(axis=0))
        return LabelScan(-1, int(kept.sum()), by_weight, by_sample)

    def cross_entropy(self, problem: Problem, rows: Array | None, grad: Array | None) -> Float64s | None:
        """Loss, and gradient where asked for."""
        if not _fits(problem):
            return REFERENCE.cross_entropy(problem, rows, grad)
        partials = _run(problem, *_call(problem, rows, grad, None, None), grad, None)
        return partials if rows is None else None

    def cross_entropy_grad(
        self, problem: Problem, grad: Array, lse: Array | None, grad_output: Float64s | None
    ) -> None:
        """Gradient alone."""
        if _fits(problem, lse):
            _run(problem, *_call(problem, None, grad, lse, grad_output), grad, lse)
        else:
            REFERENCE.cross_entropy_grad(problem, grad, lse, grad_output)

    def softmax(self, logits: Array, out: Array, n_threads: int | None) -> None:
        """exp(x) / Σ exp(x)."""
        fields = (_native(logits), _writable(out), None, None, out.nbytes >= STREAM)
        _run_rowwise(n_threads, logits, fields, out)

    def log_softmax(self, logits: Array, out: Array, n_threads: int | None) -> None:
        """x − log Σ exp(x)."""
        fields = (_native(logits), None, _writable(out), None, out.nbytes >= STREAM)
        _run_rowwise(n_threads, logits, fields, out)

    def logsumexp(self, logits: Array, out: Array, n_threads: int | None) -> None:
        """log Σ exp(x)."""
        flat = out.reshape(-1) if out.flags.c_contiguous else np.empty(out.size, out.dtype)
        _run_rowwise(n_threads, logits, (_native(logits), None, None, flat, False), None)
        if not out.flags.c_contiguous:
            out[...] = flat.reshape(out.shape)


def _first_bad(flat: Array, group: int, n_classes: int, ignore: tuple[int, ...]) -> int:
    start = group * labels.GROUP
    y = flat[start : start + labels.GROUP]
    bad = ((y < 0) | (y >= n_classes)) & ~np.isin(y, ignore)
    return start + int(np.argmax(bad))


def _call(
    problem: Problem, rows: Array | None, grad: Array | None, lse: Array | None, upstream: Float64s | None
) -> tuple[Any, tuple[Any, ...]]:
    """The fields of `drivers.Call`, as a plain tuple: a quarter of the cost of a named one to pass; and their code."""
    if _is_plain(problem) and lse is None and upstream is None:
        code = problem.logits.dtype, problem.labels.dtype, grad is None  # type: ignore[union-attr]
        return code, (
            _native(problem.logits), _flat(problem.labels), None, None, _NONE, _NONE, _NONE, None,
            _NO_ROWS[loss_dtype(problem.logits.dtype)] if rows is None else rows.reshape(-1),
            None if grad is None else _writable(grad), _NO_LABELS, 1.0, None, None, None,
            problem.z_coefficient, problem.grad_scale, grad is not None and grad.nbytes >= STREAM,
        )  # fmt: skip
    classes = problem.logits.shape[2]
    hard, dense, dense_weight = _target(problem, classes)
    scale, cap = problem.logit_scale, problem.softcap
    f: Any = None
    s = None
    if cap is not None:
        f = np.array([[scale, cap]])
    elif scale != 1.0:
        f, s = np.array([-1.0 if scale < 0.0 else 1.0]), abs(scale)
    in_range = [y for y in problem.ignore if 0 <= y < classes]
    fields = (
        _native(problem.logits),
        None if problem.labels is None else _flat(problem.labels),
        None if problem.distribution is None else _native(problem.distribution),
        dense_weight,
        _NONE if problem.labels is None else _flat(problem.weight),
        _flat(problem.sample_weight),
        _flat(upstream),
        None if lse is None else _flat(lse),
        _NO_ROWS[loss_dtype(problem.logits.dtype)] if rows is None else rows.reshape(-1),
        None if grad is None else _writable(grad),
        np.array(in_range, np.int64) if in_range else _NO_LABELS,
        hard,
        dense,
        f,
        s,
        problem.z_coefficient,
        problem.grad_scale * (scale if cap is None else 1.0),
        grad is not None and grad.nbytes >= STREAM,
    )
    return code_of(fields), fields


def _is_plain(problem: Problem) -> bool:
    """Whether no option is on but those of a whole call: there is little to say then, and it is said quickly."""
    return (
        problem.labels is not None
        and problem.weight is None
        and problem.sample_weight is None
        and problem.label_smoothing == 0.0
        and problem.logit_scale == 1.0
        and problem.softcap is None
        and (problem.ignore == _TORCH_IGNORE or all(y < 0 for y in problem.ignore))
    )


def _is_wide(problem: Problem) -> bool:
    """Whether the arithmetic is float64."""
    q = problem.distribution
    return problem.logits.dtype.char == "d" or (q is not None and q.dtype.char == "d")


def _fits(problem: Problem, lse: Array | None = None) -> bool:
    """Whether the kernels can hold the options in their arithmetic, and 1 / logit_scale and lse / logit_scale too."""
    scale, weight = abs(problem.logit_scale), problem.weight
    if scale == 1.0 and weight is None:
        return True
    is_float64 = _is_wide(problem)
    if not (1e-300 if is_float64 else 1e-37) < scale < (1e300 if is_float64 else 1e37):
        return False
    if lse is not None and scale != 1.0:
        most = float(np.abs(lse).max(where=np.isfinite(lse), initial=0.0))
        if most > (1e14 if is_float64 else 1e6):  # whose last digit is more than 1 / 8
            return False
    if weight is None or is_float64:
        return True
    largest, least = float(weight.max()), float(weight.min(where=weight > 0.0, initial=1.0))
    return least > 1e-30 and largest < 1e30


def _target(problem: Problem, classes: int) -> tuple[float | None, Array | None, Array | None]:
    """(hard, dense, weights of the dense part): the effective target as `terms` describes it."""
    epsilon, w = problem.label_smoothing, problem.weight
    beta = epsilon / classes
    if problem.labels is not None and (epsilon == 0.0 or classes == 1):  # one class: (1 − ε) w + ε w, exactly
        return 1.0, None, None
    weight = None if w is None else w.astype(np.float64 if _is_wide(problem) else np.float32)
    if problem.labels is None:
        return None, np.array([1.0 - epsilon, beta, 0.0]), weight
    mass = beta * (classes if w is None else float(w.sum()))
    return 1.0 - epsilon, np.array([0.0, beta, mass]), weight


def _run(problem: Problem, code: Any, fields: tuple[Any, ...], grad: Array | None, lse: Array | None) -> Float64s:
    """Walk the rows of a loss."""
    logits, n_threads = problem.logits, problem.n_threads
    walk, group, units = _walk(drivers, _is_wide(problem), logits, problem.distribution, grad)
    partials = np.empty(-(-units // group))
    if logits.size < SERIAL:
        walk(code, fields, group, units, partials, 0)
        return partials
    segments = -(-logits.shape[2] // SEGMENT)
    by_segments = walk is drivers.long and lse is None and segments > 1 and units < FEW
    with threads.parallel(n_threads, partials.size > 1 or by_segments) as loop:
        if loop and by_segments:
            for i in range(units):
                partials[i] = _split_row(problem, code, fields, i, segments, grad, loop)
        else:
            walk(code, fields, group, units, partials, loop)
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
    walk, group, units = _walk(probabilities, logits.dtype.char == "d", logits, None, out)
    groups = -(-units // group)
    with threads.parallel(n_threads, logits.size >= SERIAL and groups > 1) as loop:
        walk(code_of(fields), fields, group, units, groups, loop)


def _walk(kernels: Any, is_wide: bool, logits: Array, *others: Array | None) -> tuple[Any, int, int]:
    """(driver, units in a group, units): whether by long rows or by wide groups."""
    a, b, classes = logits.shape
    if classes > TILE and all(x is None or x.strides[2] == x.itemsize for x in (logits, *others)):
        return kernels.long, max(1, GROUP // classes), a * b
    lanes = LINE // (8 if is_wide else 4)
    return kernels.wide, max(1, GROUP // (classes * lanes)), a * -(-b // lanes)


BACKEND = Cpu()
