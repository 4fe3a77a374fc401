"""From the statistics of a vector of rows, one in each lane, to their log-probability, entropy and logsumexp."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from xent_numba.backends.cpu.compile.inline import inline, optional
from xent_numba.backends.cpu.row.epilogue import scaled_gap, sum_with_top
from xent_numba.backends.cpu.simd.math import apply_scale, divide
from xent_numba.backends.cpu.simd.vector import select, splat


class FloatFields(NamedTuple):
    """The fields that are real numbers, float64, one row in each lane; None for those that are not wanted."""

    log_prob: Any
    entropy: Any
    logsumexp: Any


@inline
def float_fields(operands: Any, stats: Any, x_y: Any, has_nan: Any, vtype: Any) -> Any:
    """The `FloatFields` of rows from their `RowStatistics`, in float64, whose `top` is the class that they leave out.

    x_y: f of the logits at the labels.  has_nan: 0, or NaN where a logit is NaN, at least where the maximum is +inf.
    """
    total, log_s = sum_with_top(stats, operands.scale, vtype)
    return FloatFields(
        _log_prob(operands.log_prob, stats, x_y, log_s, operands.scale),
        _entropy(operands.entropy, stats, total, log_s, operands.scale),
        _logsumexp(operands.logsumexp, stats, log_s, has_nan, operands.scale),
    )


@optional
def _log_prob(out: Any, stats: Any, x_y: Any, log_s: Any, scale: Any) -> Any:
    """−(s (m − x_y) + log S), but never −0."""
    return splat(0.0, log_s) - (scaled_gap(stats.row_max, x_y, scale) + log_s)


@optional
def _entropy(out: Any, stats: Any, total: Any, log_s: Any, scale: Any) -> Any:
    """log S + s Σ e_j (m − x_j) / S, of terms that are not negative."""
    return log_s + apply_scale(divide(stats.measured.gap, total), scale)


@optional
def _logsumexp(out: Any, stats: Any, log_s: Any, has_nan: Any, scale: Any) -> Any:
    """s m + log S; where the maximum is infinite that maximum, or NaN where a logit is NaN."""
    row_max = stats.row_max
    infinity, minus_infinity = splat(math.inf, row_max), splat(-math.inf, row_max)
    found = apply_scale(row_max, scale) + log_s
    # A row of −inf and NaN has a sum of NaN; in one with +inf, only `has_nan` tells of it.
    found = select(row_max == minus_infinity, minus_infinity + stats.sum_exp_others, found)
    return select(row_max == infinity, infinity + has_nan, found)
