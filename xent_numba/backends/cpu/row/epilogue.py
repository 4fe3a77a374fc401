"""From the statistics of rows to their losses and to the factors of their gradients.

The values are vectors of float64 with one row in each lane; a single row is a vector of which one lane counts.

With the row maximum m = max x_j, sum_exp_others = Σ_{j ≠ y} exp(s (x_j − m)), e_y = exp(s (x_y − m)), and
S = sum_exp_others + e_y,

    lse − z_y = s (m − x_y) + log S

is exact where m − x_y is, and log S is log1p(sum_exp_others) where the target is the maximum.  So a loss of 1e-9 keeps
all its digits, and so does the gradient at the target, −sum_exp_others / S, which is never computed as p_y − 1.

A distribution has no label, so one class is treated as if it were: the one with the largest logit (`Top`).  It is left
out of sum_exp_others, and its u_y becomes the label_weight (`label_of_top`).  So a one-hot distribution has the digits
that a label has.

Throughout, x_j stands for f(x_j), the logits after the transform; s is |logit_scale| (`scale`, None for 1); t_j is the
effective target, with label_weight = (1 − ε) w_y at the label's class y and the dense part u_j.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from xent_numba.backends.cpu.compile.inline import inline
from xent_numba.backends.cpu.simd.cast import demote, promote
from xent_numba.backends.cpu.simd.math import apply_scale, clamp_exp_arg, exp, log1p
from xent_numba.backends.cpu.simd.vector import select, splat


class Top(NamedTuple):
    """The class that stands in for the label of a distribution: one with the largest logit, or nearly so."""

    y: Any
    x: Any  # its logit x_y


class RowStatistics(NamedTuple):
    """What one pass over the logits of a row finds out."""

    row_max: Any  # m = max x_j
    sum_exp_others: Any  # Σ exp(s (x_j − m)) over all classes but that of the label, or of `top`, if there is one
    target_gap: Any  # Σ u_j (m − x_j)
    target_sum: Any  # Σ u_j
    top: Any  # `Top`, where one is left out of the sum; else None
    measured: Any  # `Measured`, what `Measures` asked for; else None


class GradientFactors(NamedTuple):
    """∂loss/∂z_j = p_factor · exp(s (x_j − m)) − u_j, and at_target − u_y at the class y of the label."""

    p_factor: Any
    at_target: Any


@inline
def centre_of(row_max: Any) -> Any:
    """What is subtracted from the logits before exp: the maximum, or 0 where that is −inf or NaN."""
    return select(row_max > splat(-math.inf, row_max), row_max, splat(0.0, row_max))


@inline
def with_measured(stats: Any, measured: Any) -> Any:
    """The `RowStatistics` with this `Measured`, or None."""
    row_max, sum_exp_others, target_gap, target_sum, top, _ = stats
    return RowStatistics(row_max, sum_exp_others, target_gap, target_sum, top, measured)


@inline
def in_float64(stats: Any) -> Any:
    """The `RowStatistics` of rows with a `Top`, of which the logits are in the arithmetic of the logits, in float64."""
    row_max, sum_exp_others, target_gap, target_sum, top, measured = stats
    return RowStatistics(promote(row_max), sum_exp_others, target_gap, target_sum, Top(top.y, promote(top.x)), measured)


@inline
def label_of_top(stats: Any, label_weight: Any) -> Any:
    """The statistics of a distribution with the target at its `Top`, `label_weight`, taken out of the dense target."""
    return RowStatistics(
        stats.row_max,
        stats.sum_exp_others,
        stats.target_gap - label_weight * (stats.row_max - stats.top.x),
        stats.target_sum - label_weight,
        None,
        None,
    )


@inline
def target_exp(stats: Any, x_y: Any, scale: Any, vtype: Any) -> Any:
    """e_y = exp(s (x_y − m)), in the precision of `vtype`."""
    zero = splat(0.0, stats.sum_exp_others)
    e_y = promote(exp(clamp_exp_arg(demote(apply_scale(x_y - stats.row_max, scale), vtype))))
    return select(stats.row_max == splat(-math.inf, zero), zero, e_y)


@inline
def log_of_sum(others: Any, total: Any) -> Any:
    """log S, from S and others = S − 1; nan for a row of −inf alone, and for one that has a NaN or +inf."""
    return select(total > splat(0.0, others), log1p(others), splat(math.nan, others))


@inline
def log_sum(stats: Any, x_y: Any, total: Any) -> Any:
    """log S, from S; exact where the target is the maximum."""
    others = total - splat(1.0, total)
    return log_of_sum(select(x_y == stats.row_max, stats.sum_exp_others, others), total)


@inline
def sum_with_top(stats: Any, scale: Any, vtype: Any) -> Any:
    """(S, log S) of rows whose statistics leave out their `Top`, all in float64."""
    total = stats.sum_exp_others + target_exp(stats, stats.top.x, scale, vtype)
    return total, log_sum(stats, stats.top.x, total)


@inline
def scaled_gap(a: Any, b: Any, scale: Any) -> Any:
    """s · (a − b), which is finite where s · a and s · b are."""
    d = apply_scale(a - b, scale)
    if scale is None:
        return d
    return select(d < splat(math.inf, d), d, apply_scale(a, scale) - apply_scale(b, scale))


@inline
def negative_log_p(stats: Any, x_y: Any, log_s: Any, scale: Any) -> Any:
    """−log p_y = lse − z_y, where log_s is log S."""
    return scaled_gap(stats.row_max, x_y, scale) + log_s


@inline
def row_loss(stats: Any, label_weight: Any, x_y: Any, log_s: Any, scale: Any, z_coefficient: float) -> Any:
    """T lse − Σ t_j z_j + z_coefficient · lse², where log_s is log S."""
    loss = stats.target_sum * log_s + apply_scale(stats.target_gap, scale)
    zero = splat(0.0, log_s)
    label_loss = label_weight * negative_log_p(stats, x_y, log_s, scale)
    # a weight of 0 gives 0 for an infinite loss too, but NaN for NaN
    loss = loss + select(label_weight == zero, zero * log_s, label_loss)
    lse = apply_scale(stats.row_max, scale) + log_s
    # in this order, because lse² may overflow where z_coefficient is 0
    return loss + splat(z_coefficient, lse) * lse * lse


@inline
def gradient_factors(stats: Any, label_weight: Any, e_y: Any, inverse: Any, lse: Any, z_coefficient: float) -> Any:
    """The `GradientFactors`, from inverse = 1 / S.

    Where z_coefficient is 0, `lse` may be any number that is finite for a finite row.
    """
    dense_factor = stats.target_sum + splat(2.0 * z_coefficient, lse) * lse
    return GradientFactors(
        (label_weight + dense_factor) * inverse,
        (dense_factor * e_y - label_weight * stats.sum_exp_others) * inverse,
    )


@inline
def inverse_from_lse(stats: Any, lse: Any, scale: Any) -> Any:
    """1 / S from a saved lse; not finite where lse is not.

    The exponentials of such a row are relative to lse / s, rounded, which stands in for the maximum m, so that
    p_j = exp(z_j − lse) = exp(s (x_j − m)) · exp(s m − lse), of which the last factor is returned.
    """
    return exp(clamp_exp_arg(apply_scale(stats.row_max, scale) - lse))
