"""What the kernels leave to the reference backend: calls, or single rows, whose numbers their arithmetic cannot hold.

Such calls are rare: a weight of 1e-40 next to float32 logits, a mean over 1e25 rows.  Whether the reference computes a
row depends on nothing but the options and the row itself, so the bits of a row never depend on its neighbours.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from xent_numba.backends.reference import BACKEND as REFERENCE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xent_numba.backends.protocol import Problem

    Array = NDArray[Any]


class Limits(NamedTuple):
    """The values that the kernels can compute with, for one type of arithmetic."""

    logit_scale: tuple[float, float]  # |logit_scale|; of logit_scale / softcap in float64, which a softcap implies
    weight: tuple[float, float]  # class weights other than 0
    gradient: tuple[float, float]  # what multiplies the gradient of a row: the product of all scales and weights
    saved_lse: float  # |lse| as saved, next to a logit_scale; beyond this, its last digit is worth more than 1 / 8


FLOAT32 = Limits(
    (1e-37, 1e37), (1e-30, 1e30), (1e-22, 1e30), 1e6
)  # a gradient 2^32 times smaller than 1e-22 is still a normal number
FLOAT64 = Limits((1e-300, 1e300), (0.0, math.inf), (1e-270, 1e270), 1e14)


class ReferenceGradient(NamedTuple):
    """Rows whose gradient the reference has computed."""

    rows: tuple[Array, ...]  # indices into (A, B)
    grad: Array  # (R, C)


def computes_in_float64(
    logits: Array, distribution: Array | None = None, softcap: float | None = None, vector: Array | None = None
) -> bool:
    """Whether the kernels compute in float64: for float64 logits, distribution or vector, or for a softcap."""
    return (
        logits.dtype.char == "d"
        or softcap is not None
        or (distribution is not None and distribution.dtype.char == "d")
        or (vector is not None and vector.dtype.char == "d")
    )


def is_ordinary(problem: Problem) -> bool:
    """Whether a problem has no option that could be out of range, and its scale of the gradient is in range."""
    low, high = FLOAT32.gradient
    return problem.is_plain and low < problem.grad_scale < high


def weight_range(weight: Array | None) -> tuple[float, float]:
    """The smallest class weight that is not 0, at most 1; and the largest."""
    if weight is None:
        return 1.0, 1.0
    return float(weight.min(where=weight > 0.0, initial=1.0)), float(weight.max())


def options_in_range(problem: Problem, weights: tuple[float, float]) -> bool:
    """Whether the kernels can compute with the options that all rows have in common.

    `weights`: the `weight_range` of the class weights.
    """
    limits = _limits(problem)
    scale, cap = abs(problem.logit_scale), problem.softcap
    low, high = limits.logit_scale
    if not low < scale < high or (cap is not None and not low < scale / cap < high):
        return False
    if problem.labels is None and problem.logits.shape[2] == 1:
        return False  # a distribution over one class, where p is 1 exactly
    smallest, largest = weights
    return limits.weight[0] < smallest and largest < limits.weight[1]


def reference_gradient(
    problem: Problem,
    weights: tuple[float, float],
    saved_lse: Array | None = None,
    grad_output: Array | None = None,
) -> ReferenceGradient | None:
    """The gradient of the rows that are out of range, by the reference; None where there are none, nearly always."""
    rows = rows_out_of_range(problem, weights, saved_lse, grad_output)
    if rows is None:
        return None
    part = select_rows(problem, rows)
    grad = np.empty_like(part.logits)
    REFERENCE.cross_entropy_grad(part, grad, _rows_of(saved_lse, rows), _rows_of(grad_output, rows))
    return ReferenceGradient(rows, grad[0])


def _limits(problem: Problem) -> Limits:
    """The limits of the arithmetic of a call."""
    return FLOAT64 if computes_in_float64(problem.logits, problem.distribution, problem.softcap) else FLOAT32


def rows_out_of_range(
    problem: Problem, weights: tuple[float, float], saved_lse: Array | None, grad_output: Array | None
) -> tuple[Array, ...] | None:
    """The indices of the rows whose gradient has a factor, or whose saved lse is, out of range; None for none."""
    scale, limits = abs(problem.logit_scale), _limits(problem)
    least, most = limits.gradient
    smallest_weight, largest_weight = weights
    factors = np.full((1, 1), scale * abs(problem.grad_scale))
    per_row = [values for values in (problem.sample_weight, grad_output) if values is not None]
    with np.errstate(all="ignore"):
        ranges = [(float(values.min()), float(values.max())) for values in per_row]
        smallest, largest = (math.prod((ends[k] for ends in ranges), start=factors[0, 0]) for k in (0, 1))
        all_positive = all(ends[0] > 0.0 for ends in ranges)
        in_range = all_positive and smallest * smallest_weight >= least and largest * largest_weight <= most
        if in_range and (saved_lse is None or (scale == 1.0 and problem.z_coefficient == 0.0)):
            return None
        nonzero = factors != 0.0
        for values in per_row:
            factors = factors * np.abs(values)
            nonzero = nonzero & (values != 0.0)  # by value, not by underflow
        rows = ((factors * smallest_weight < least) | (factors * largest_weight > most)) & nonzero
        if saved_lse is not None and problem.z_coefficient != 0.0:
            rows = rows | (np.isfinite(saved_lse) & (factors * np.abs(2.0 * problem.z_coefficient * saved_lse) > most))
        if saved_lse is not None and scale != 1.0:
            rows = rows | (np.isfinite(saved_lse) & (np.abs(saved_lse) > limits.saved_lse))
    if not rows.any():
        return None
    return np.nonzero(np.broadcast_to(rows, problem.logits.shape[:2]))


def select_rows(problem: Problem, rows: tuple[Array, ...]) -> Problem:
    """A problem of some of the rows, as one of logits (1, R, C)."""
    q = problem.distribution
    return problem._replace(
        logits=problem.logits[rows][None],
        labels=_rows_of(problem.labels, rows),
        distribution=None if q is None else q[rows][None],
        sample_weight=_rows_of(problem.sample_weight, rows),
    )


def _rows_of(values: Array | None, rows: tuple[Array, ...]) -> Array | None:
    """Some of the per-row values (A, B), as (1, R); None for None."""
    return None if values is None else values[rows][None]
