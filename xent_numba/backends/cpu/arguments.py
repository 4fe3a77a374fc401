"""From a `Problem` to the arguments of a kernel, in dtypes that Numba has; and whether the kernels can hold it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from xent_numba.backends.cpu.compile.kernel import code_of
from xent_numba.reduction import loss_dtype

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xent_numba.backends.protocol import Problem

    Array = NDArray[Any]
    Float64s = NDArray[np.float64]

STREAM = 1 << 24  # bytes of gradient from which on it is written past the caches
_NATIVE = "df"  # the floats that Numba has
_TORCH_IGNORE = (-100,)
_NONE = np.empty(0)
_NO_ROWS = {np.float64: np.empty(0, np.float64), np.float32: np.empty(0, np.float32)}
_NO_LABELS = np.empty(0, np.int64)
_LEAST, _MOST = 1e-22, 1e30  # factor of a gradient: 2^32 less than the least is still a normal float32


def native(array: Array) -> Array:
    """The array in a dtype that Numba has: 16-bit floats as tagged integers."""
    char = array.dtype.char
    if char in _NATIVE:
        return array
    return array.view(np.uint16 if char == "e" else np.int16)  # the character of bfloat16 is its library's choice


def flat(array: Array | None) -> Array:
    """A per-row array (A, B) as (A·B,), contiguous, so copied where it is a column, say; (0,) for None."""
    return _NONE if array is None else array.ravel()


def plain_arguments(problem: Problem, rows: Array | None, grad: Array | None) -> tuple[Any, tuple[Any, ...]]:
    """The same as `arguments` for a problem that `is_plain`, and at a fraction of the cost."""
    logits, labels = problem.logits, problem.labels
    code = logits.dtype, labels.dtype, grad is None  # type: ignore[union-attr]
    return code, (
        native(logits), flat(labels), None, None, _NONE, _NONE, _NONE, None,
        _NO_ROWS[loss_dtype(logits.dtype)] if rows is None else rows.reshape(-1),
        None if grad is None else native(grad), _NO_LABELS, 1.0, None, None, None,
        problem.z_coefficient, problem.grad_scale, grad is not None and grad.nbytes >= STREAM,
    )  # fmt: skip


def arguments(
    problem: Problem,
    rows: Array | None,
    grad: Array | None,
    lse: Array | None = None,
    upstream: Float64s | None = None,
) -> tuple[Any, tuple[Any, ...]]:
    """The fields of a `Call`, as a plain tuple: a quarter of the cost of a named one to pass; and their code."""
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
        native(problem.logits),
        None if problem.labels is None else flat(problem.labels),
        None if problem.distribution is None else native(problem.distribution),
        dense_weight,
        _NONE if problem.labels is None else flat(problem.weight),
        flat(problem.sample_weight),
        flat(upstream),
        None if lse is None else flat(lse),
        _NO_ROWS[loss_dtype(problem.logits.dtype)] if rows is None else rows.reshape(-1),
        None if grad is None else native(grad),
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


def is_plain(problem: Problem) -> bool:
    """Whether no option is on but those of a whole call: there is little to say then, and it is said quickly."""
    return (
        problem.labels is not None
        and _LEAST < problem.grad_scale < _MOST
        and problem.weight is None
        and problem.sample_weight is None
        and problem.label_smoothing == 0.0
        and problem.logit_scale == 1.0
        and problem.softcap is None
        and (problem.ignore == _TORCH_IGNORE or all(y < 0 for y in problem.ignore))
    )


def is_wide(problem: Problem) -> bool:
    """Whether the arithmetic is float64."""
    q = problem.distribution
    return problem.logits.dtype.char == "d" or problem.softcap is not None or (q is not None and q.dtype.char == "d")


def fits(problem: Problem) -> bool:
    """Whether the kernels can hold the options in their arithmetic."""
    scale, cap, weight = abs(problem.logit_scale), problem.softcap, problem.weight
    is_float64 = is_wide(problem)
    if not (1e-300 if is_float64 else 1e-37) < scale < (1e300 if is_float64 else 1e37):
        return False
    if cap is not None and not 1e-300 < scale / cap < 1e300:
        return False
    if problem.labels is None and problem.logits.shape[2] == 1:
        return False  # where p is 1 exactly
    if weight is None or is_float64:
        return True
    return _least(weight) > 1e-30 and float(weight.max()) < 1e30


def _least(weight: Array) -> float:
    """The smallest weight that is not 0, and 1 at most."""
    return float(weight.min(where=weight > 0.0, initial=1.0))


def beyond(problem: Problem, lse: Array | None = None, upstream: Array | None = None) -> tuple[Array, ...] | None:
    """The indices of rows whose gradient the kernels cannot hold: row factors, or a saved lse, far from 1.

    Which rows these are depends on nothing but the rows and the options.
    """
    scale, weight, wide = abs(problem.logit_scale), problem.weight, is_wide(problem)
    least, most = (1e-270, 1e270) if wide else (_LEAST, _MOST)
    low, high = (1.0, 1.0) if weight is None else (_least(weight), float(weight.max()))
    factors = given = np.full((1, 1), scale * abs(problem.grad_scale))
    per_row = [one for one in (problem.sample_weight, upstream) if one is not None]
    with np.errstate(all="ignore"):
        sizes = [(float(one.min()), float(one.max())) for one in per_row]
        small, large = (math.prod((ends[k] for ends in sizes), start=factors[0, 0]) for k in (0, 1))
        usual = all(ends[0] > 0.0 for ends in sizes) and small * low >= least and large * high <= most
        if usual and (lse is None or (scale == 1.0 and problem.z_coefficient == 0.0)):
            return None
        for one in per_row:
            factors, given = factors * np.abs(one), (given != 0.0) & (one != 0.0)  # not 0 by underflow
        rows = ((factors * low < least) | (factors * high > most)) & (given != 0.0)
        if lse is not None and problem.z_coefficient != 0.0:
            rows = rows | (np.isfinite(lse) & (factors * np.abs(2.0 * problem.z_coefficient * lse) > most))
        if lse is not None and scale != 1.0:
            rows = rows | (np.isfinite(lse) & (np.abs(lse) > (1e14 if wide else 1e6)))  # whose last digit is > 1 / 8
    if not rows.any():
        return None
    return np.nonzero(np.broadcast_to(rows, problem.logits.shape[:2]))


def rows_of(problem: Problem, rows: tuple[Array, ...]) -> Problem:
    """The same problem, of some of its rows."""
    q = problem.distribution
    return problem._replace(
        logits=problem.logits[rows][None],
        labels=some(problem.labels, rows),
        distribution=None if q is None else q[rows][None],
        sample_weight=some(problem.sample_weight, rows),
    )


def some(values: Array | None, rows: tuple[Array, ...]) -> Array | None:
    """Some rows of (A, B) values, as (1, R)."""
    return None if values is None else values[rows][None]


def _target(problem: Problem, classes: int) -> tuple[float | None, Array | None, Array | None]:
    """(hard, dense, weights of the dense part): the effective target as `terms` describes it."""
    epsilon, w = problem.label_smoothing, problem.weight
    beta = epsilon / classes
    if problem.labels is not None and (epsilon == 0.0 or classes == 1):  # one class: (1 − ε) w + ε w, exactly
        return 1.0, None, None
    weight = None if w is None else w.astype(np.float64 if is_wide(problem) else np.float32)
    if problem.labels is None:
        return None, np.array([1.0 - epsilon, beta, 0.0]), weight
    mass = beta * (classes if w is None else float(w.sum()))
    return 1.0 - epsilon, np.array([0.0, beta, mass]), weight
