"""From the statistics of rows to their losses and to the factors of their gradients.  Rows are lanes; one lane is a
row too.

All in float64.  With the maximum m, the sum `rest` over the other classes, the term of the target e_y and S = rest +
e_y,

    lse − z_y = s (m − x_y) + log S

is exact where m − x_y is, and log S is log1p(rest) where the target is the maximum: so a loss of 1e-9 keeps all its
digits, and so does the gradient of the target, −rest / S, which is never p − 1.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from xent_numba.backends.cpu.compile.inline import inline
from xent_numba.backends.cpu.simd.cast import demote, promote
from xent_numba.backends.cpu.simd.math import apply_scale, clamp_exp_arg, exp, log1p
from xent_numba.backends.cpu.simd.vector import select, splat


class RowStatistics(NamedTuple):
    """What one pass over a row has found.  x is f of the logits, before the size s of a logit_scale."""

    row_max: Any  # max x
    sum_exp_others: Any  # Σ exp(s (x_j − top)), without the target's term if there is a hard target
    target_gap: Any  # Σ u_j (top − x_j)
    target_sum: Any  # Σ u_j


class GradientFactors(NamedTuple):
    """∂loss/∂z_j = p_factor · exp(s (x_j − top)) − u_j, and at_target − u_y at the hard target's class."""

    p_factor: Any
    at_target: Any


@inline
def target_exp(row: Any, label_weight: Any, x_y: Any, s: Any, vtype: Any) -> Any:
    """e_y = exp(s (x_y − top)), 0 without a hard target.  `hard` is the target's own part, (1 − ε) w_y, or None."""
    zero = splat(0.0, row.sum_exp_others)
    if label_weight is None:
        return zero
    e_y = promote(exp(clamp_exp_arg(demote(apply_scale(x_y - row.row_max, s), vtype))))
    return select(row.row_max == splat(-math.inf, zero), zero, e_y)


@inline
def log_of_sum(q: Any, total: Any) -> Any:
    """log S from q = S − 1; nan for a row that has nothing above −inf, or has a NaN or +inf."""
    return select(total > splat(0.0, q), log1p(q), splat(math.nan, q))


@inline
def log_sum(row: Any, label_weight: Any, x_y: Any, total: Any) -> Any:
    """log S, exact where the target is the maximum."""
    q = total - splat(1.0, total)
    if label_weight is not None:
        q = select(x_y == row.row_max, row.sum_exp_others, q)
    return log_of_sum(q, total)


@inline
def _gap(a: Any, b: Any, s: Any) -> Any:
    """s · (a − b), finite where s · a and s · b are."""
    d = apply_scale(a - b, s)
    if s is None:
        return d
    return select(d < splat(math.inf, d), d, apply_scale(a, s) - apply_scale(b, s))


@inline
def row_loss(row: Any, label_weight: Any, x_y: Any, log_s: Any, s: Any, z: float) -> Any:
    """T lse − Σ t z, plus the z-loss."""
    value = row.target_sum * log_s + apply_scale(row.target_gap, s)
    if label_weight is not None:
        zero = splat(0.0, log_s)
        # A weight of 0 silences even an infinite loss, but not NaN.
        value = value + select(label_weight == zero, zero * log_s, label_weight * (_gap(row.row_max, x_y, s) + log_s))
    lse = apply_scale(row.row_max, s) + log_s
    return value + splat(z, lse) * lse * lse  # in this order: lse² may overflow where z is 0


@inline
def gradient_factors(row: Any, label_weight: Any, e_y: Any, inverse: Any, lse: Any, z: float) -> Any:
    """The factors of the gradient, from `inverse` = 1 / S."""
    slope = row.target_sum + splat(2.0 * z, lse) * lse
    if label_weight is None:
        return GradientFactors(slope * inverse, slope)
    return GradientFactors(
        (label_weight + slope) * inverse, (slope * e_y - label_weight * row.sum_exp_others) * inverse
    )


@inline
def inverse_from_lse(row: Any, saved: Any, s: Any) -> Any:
    """1 / S from a saved lse, where the row's exponentials are taken at row.top = lse / s, rounded.

    p_j = exp(z_j − lse) = exp(s (x_j − top)) · exp(s · top − lse); not finite where the saved value is not.
    """
    return exp(clamp_exp_arg(apply_scale(row.row_max, s) - saved))
