"""The statistics of a block of rows: maxima, sums of exponentials, logsumexp.

The largest class is left out of the sum S − 1 = Σ_{j ≠ argmax} exp(z_j − max), so that log S = log1p(S − 1) is accurate
however small it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from xent_numba.backends.compensated import exp_of_difference, sum_of

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    Array = NDArray[Any]
    Float64s = NDArray[np.float64]


class Stats(NamedTuple):
    """The statistics of a block z (R, C): p = exps / sums, lse = log Σ exp(z)."""

    exps: Float64s  # (R, C) exp(z − max), or exp(z − lse) with a saved lse
    sums: Float64s  # (R, 1) the sum of exps
    first: NDArray[np.int64]  # (R, 1) the class of the maximum
    others: Float64s  # (R, 1) the sum of exps without that class
    top: Float64s  # (R, 1) max z
    lost_at_top: Float64s  # (R, 1) the rounding error of z at the maximum
    log_sums: Float64s  # (R, 1) lse − max
    lse: Float64s  # (R, 1)


def block_stats(z: Float64s, lost: Float64s | None = None) -> Stats:
    """The statistics of a block of transformed logits; `lost` is the rounding error of z."""
    lost = np.zeros((1, 1)) if lost is None else lost
    first = np.argmax(z, axis=1, keepdims=True)
    top = np.max(z, axis=1, keepdims=True)
    lost_at_top = np.take_along_axis(np.broadcast_to(lost, z.shape), first, axis=1)
    exps = exp_of_difference(z, top, lost - lost_at_top)
    others = sum_without(exps, first)
    log_sums = np.log1p(others)
    log_sums = np.where(np.isfinite(top), log_sums, np.nan)  # with an infinite or nan maximum, the row is nan
    return Stats(exps, sum_of(exps), first, others, top, lost_at_top, log_sums, top + log_sums)


def quarter_below(z: Float64s, lost: Float64s, stats: Stats) -> Float64s:
    """A quarter of max − z (R, C), which does not overflow where both are finite; `lost` as in `block_stats`."""
    return (0.25 * stats.top - 0.25 * z) + (0.25 * stats.lost_at_top - 0.25 * lost)


def sum_without(exps: Float64s, y: NDArray[np.int64]) -> Float64s:
    """The sum of exps without class y (R, 1)."""
    others = exps.copy()
    np.put_along_axis(others, y, 0.0, axis=1)
    return sum_of(others)


def stats_from(z: Float64s, lse: Float64s) -> Stats:
    """The statistics from a saved lse, which is infinite or nan exactly where the maximum of the row is."""
    lse = np.where(np.isfinite(lse), lse, np.nan)
    zero = np.zeros_like(lse)
    exps, first = exp_of_difference(z, lse, zero), np.argmax(z, axis=1, keepdims=True)
    sums = np.where(np.isnan(lse), np.nan, 1.0)
    return Stats(exps, sums, first, sum_without(exps, first), lse, zero, zero, lse)
