"""The loss of a block of rows and its gradient.

The gradient at an index target is −Σ_{j ≠ y} p_j, which is never computed as p_y − 1: that would cancel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from xent_numba.backends.compensated import sum_of
from xent_numba.backends.reference.blocks import block_rows, is_kept, store, times
from xent_numba.backends.reference.focal import focal_factors
from xent_numba.backends.reference.statistics import quarter_below, sum_without

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    from xent_numba.backends.protocol import Problem
    from xent_numba.backends.reference.blocks import Block
    from xent_numba.backends.reference.focal import FocalFactors
    from xent_numba.backends.reference.statistics import Stats

    Array = NDArray[Any]
    Float64s = NDArray[np.float64]


class Target(NamedTuple):
    """The effective target of a block: a dense t (R, C), or t_y = w_y at one class y and 0 elsewhere."""

    t: Float64s | None  # (R, C); None for class indices without smoothing
    y: NDArray[np.int64]  # (R, 1) the class; 0 in ignored rows, and for a distribution
    w: Float64s  # (R, 1) the weight of that class; 1 for a distribution
    kept: NDArray[np.bool]  # (R, 1) False in ignored rows


def effective_target(problem: Problem, block: Block) -> Target:
    """The target with weights and smoothing: (1 − ε) t + (ε / C) w, where t is w_y at y, or w q."""
    c, epsilon = problem.logits.shape[2], problem.label_smoothing
    w = np.ones(c) if problem.weight is None else problem.weight
    if problem.labels is None:
        assert problem.distribution is not None
        q = block_rows(problem.distribution, block)
        if epsilon:
            q = (1.0 - epsilon) * q + epsilon / c
        one = np.ones((len(q), 1))
        return Target(w * q, np.zeros(one.shape, dtype=np.int64), one, one > 0)
    labels = problem.labels[block].reshape(-1, 1)
    kept = is_kept(labels, problem.ignore)
    y = np.where(kept, labels, 0).astype(np.int64)
    t = None
    if epsilon:
        t = np.tile(epsilon / c * w, (len(y), 1))
        np.put_along_axis(t, y, np.take_along_axis(t, y, axis=1) + (1.0 - epsilon) * w[y], axis=1)
    return Target(t, y, w[y], kept)


def label_factors(stats: Stats, y: NDArray[np.int64], gamma: float) -> FocalFactors:
    """The `FocalFactors` of a block with class indices y (R, 1)."""
    p, q = np.take_along_axis(stats.exps, y, axis=1), sum_without(stats.exps, y)
    return focal_factors(gamma, p / stats.sums, q / stats.sums)


def block_losses(z: Float64s, lost: Float64s, stats: Stats, target: Target, problem: Problem) -> Float64s:
    """Σ_j t_j (lse − z_j) + λ lse² as (R, 1), where lse − z = (max − z) + log Σ exp(z − max), two terms ≥ 0.

    A focal loss has (1 − p)^γ as a factor of t_y, the only target that is not 0.
    """
    below = quarter_below(z, lost, stats)
    if target.t is None:
        weight = target.w
        if problem.focal_gamma:
            weight = weight * label_factors(stats, target.y, problem.focal_gamma).loss
        losses = 4.0 * times(weight, np.take_along_axis(below, target.y, axis=1) + 0.25 * stats.log_sums)
    else:
        losses = 4.0 * sum_of(times(target.t, below + 0.25 * stats.log_sums))
    if problem.z_coefficient:
        losses = losses + problem.z_coefficient * stats.lse**2
    return losses


def store_gradient(grad: Array, block: Block, stats: Stats, target: Target, problem: Problem, factor: Float64s) -> None:
    """Write (T p − t + 2 λ lse p) · factor; 0 in ignored rows."""
    g = block_gradient(stats, target, problem)
    store(grad, block, np.where(target.kept, g * factor, 0.0))


def block_gradient(stats: Stats, target: Target, problem: Problem) -> Float64s:
    """∂loss/∂z = T p − t + 2 λ lse p as (R, C).

    At the maximum, where p may be nearly 1, T p − t is (T − t) p − t (1 − p): a one-hot distribution keeps its digits.
    """
    p = stats.exps / stats.sums
    if target.t is None:
        weight = target.w
        if problem.focal_gamma:
            weight = weight * label_factors(stats, target.y, problem.focal_gamma).gradient
        g = weight * p
        at_target = 0.0 - weight * (sum_without(stats.exps, target.y) / stats.sums)
        np.put_along_axis(g, target.y, at_target, axis=1)
    else:
        total = sum_of(target.t)
        g = total * p - target.t
        top = np.take_along_axis(target.t, stats.first, axis=1)
        p_top = np.take_along_axis(p, stats.first, axis=1)
        np.put_along_axis(g, stats.first, (total - top) * p_top - top * (stats.others / stats.sums), axis=1)
    if problem.z_coefficient:
        g = g + 2.0 * problem.z_coefficient * stats.lse * p
    return g
