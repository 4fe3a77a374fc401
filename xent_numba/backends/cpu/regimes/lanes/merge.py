"""Rows of more classes than a tile holds: the statistics of their tiles together.

The rounding errors of the sums are kept, because they add up over thousands of tiles.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from xent_numba.backends.cpu.compile.inline import inline, optional
from xent_numba.backends.cpu.regimes.lanes.measures import (
    first_measures,
    lower_of,
    merge_measures,
    merged_measured,
)
from xent_numba.backends.cpu.row.epilogue import RowStatistics, Top, centre_of, with_measured
from xent_numba.backends.cpu.simd.cast import promote
from xent_numba.backends.cpu.simd.exp_shifted import exp_scaled_clamped_difference, exp_scaled_difference
from xent_numba.backends.cpu.simd.math import compensated_add, unscale, with_error
from xent_numba.backends.cpu.simd.vector import maximum, select, splat


class MergedStatistics(NamedTuple):
    """The `RowStatistics` of several tiles of the rows, and the rounding errors of their sums."""

    stats: Any  # without what was measured
    sum_error: Any
    gap_error: Any
    target_error: Any
    measures: Any  # `MergedMeasures`, or None


@inline
def first_tile(stats: Any) -> Any:
    """The `MergedStatistics` of a single tile."""
    zero = splat(0.0, stats.sum_exp_others)
    return MergedStatistics(with_measured(stats, None), zero, zero, zero, first_measures(stats.measured))


@inline
def merged_statistics(merged: Any) -> Any:
    """The `RowStatistics` of `MergedStatistics`, with the rounding errors added."""
    stats = merged.stats
    return RowStatistics(
        stats.row_max,
        stats.sum_exp_others + merged.sum_error,
        with_error(stats.target_gap, merged.gap_error),
        stats.target_sum + merged.target_error,
        stats.top,
        merged_measured(merged.measures),
    )


@inline
def merge_lanes(merged: Any, right: Any, saved_shift: Any, scale: Any) -> Any:
    """The `MergedStatistics` of some tiles of the rows and the next one."""
    left = merged.stats
    target_sum, target_error = compensated_add(left.target_sum, merged.target_error, right.target_sum)
    top = _larger_top(left.top, right.top)
    if saved_shift is not None:  # all parts have the same shift, and only a gradient is wanted
        own = _lower_term(left.top, right.top, centre_of(saved_shift), scale, left.sum_exp_others)
        sum_exp, error = compensated_add(left.sum_exp_others, merged.sum_error, right.sum_exp_others + own)
        stats = RowStatistics(left.row_max, sum_exp, left.target_gap, target_sum, top, None)
        return MergedStatistics(stats, error, merged.gap_error, target_error, merged.measures)
    row_max = maximum(left.row_max, right.row_max)
    centre = promote(centre_of(row_max))
    down = splat(unscale(centre), centre)
    left_factor = exp_scaled_difference(promote(left.row_max), centre, scale) * down
    right_factor = exp_scaled_difference(promote(right.row_max), centre, scale) * down
    own = _lower_term(left.top, right.top, centre_of(row_max), scale, centre)
    sum_exp, error = compensated_add(
        left.sum_exp_others * left_factor, merged.sum_error * left_factor, right.sum_exp_others * right_factor + own
    )
    gap, gap_error = compensated_add(
        left.target_gap, merged.gap_error, left.target_sum * (centre - promote(centre_of(left.row_max)))
    )
    right_gap = right.target_gap + right.target_sum * (centre - promote(centre_of(right.row_max)))
    gap, gap_error = compensated_add(gap, gap_error, right_gap)
    stats = RowStatistics(row_max, sum_exp, gap, target_sum, top, None)
    left_sum, right_sum = (left.sum_exp_others + merged.sum_error) * left_factor, right.sum_exp_others * right_factor
    lower = lower_of(left.top, right.top, left_sum, right_sum, own)
    measures = merge_measures(merged.measures, right.measured, left_factor, right_factor, lower, centre)
    return MergedStatistics(stats, error, gap_error, target_error, measures)


@optional
def _larger_top(left: Any, right: Any) -> Any:
    """The `Top` of two neighbouring parts of the rows together."""
    is_right = right.x > left.x
    return Top(select(is_right, right.y, left.y), select(is_right, right.x, left.x))


@inline
def _lower_term(left: Any, right: Any, centre: Any, scale: Any, vtype64: Any) -> Any:
    """exp(scale · (x − centre)) for the lower of two `Top`, which joins the other classes; 0 for None."""
    if left is None:
        return splat(0.0, vtype64)
    x = select(right.x > left.x, left.x, right.x)
    return promote(exp_scaled_clamped_difference(x, centre, scale)) * splat(unscale(x), vtype64)
