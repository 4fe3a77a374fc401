"""The sums that `row.measures` defines, of the blocks and segments of a long row.

Each function does nothing where `measures`, or `measured`, is None.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from xent_numba.backends.cpu.compile.inline import inline, optional
from xent_numba.backends.cpu.regimes.long.rescale import own_term, rescale, rescale_one
from xent_numba.backends.cpu.row.measures import (
    Measured,
    MeasureSums,
    add_measure_sums,
    add_measure_terms_n,
    join_measure_sums,
    measure_totals,
    rebase_measure_sums,
)
from xent_numba.backends.cpu.simd.exp_shifted import shift_value
from xent_numba.backends.cpu.simd.math import unscale
from xent_numba.backends.cpu.simd.reduce import extract_lane, reduce_add
from xent_numba.backends.cpu.simd.vector import splat


@optional
def nothing_measured(measures: Any) -> Any:
    """The `Measured` of no classes."""
    return Measured(0.0, 0.0, 0.0)


@inline
def add_block(sums: Any, measures: Any, block: Any) -> Any:
    """The `MeasureSums` of some blocks and one more."""
    if measures is None:
        return sums
    return join_measure_sums(sums, block)


@inline
def add_tail(sums: Any, measures: Any, row: Any, i: int, count: int, e: Any, x: Any, origin: Any) -> Any:
    """The `MeasureSums` with the `count` classes from i on added; the other lanes of e are 0."""
    if measures is None:
        return sums
    zero = splat(0.0, x)
    return add_measure_sums(sums, add_measure_terms_n((zero, zero), row, measures, i, count, e, x, origin))


@inline
def move(sums: Any, measures: Any, whole: Any, old: Any, new: Any, scale: Any) -> Any:
    """The `MeasureSums` relative to another shift and `Origin`; `old` and `new` are pairs of the two.

    `whole` is Σ exp over the same classes and the one that was left out, relative to the new shift.
    """
    if measures is None:
        return sums
    moved = MeasureSums(
        rescale(sums.gap, old[0], new[0], scale),
        rescale(sums.stream, old[0], new[0], scale),
        rescale(sums.gap_error, old[0], new[0], scale),
        rescale(sums.stream_error, old[0], new[0], scale),
    )
    return rebase_measure_sums(moved, measures, whole, old[1], new[1])


@optional
def measured(measures: Any, sums: Any, shift: Any, origin: Any, stats: Any, scale: Any, vtype: Any) -> Any:
    """The `Measured` of a segment, from its `MeasureSums` and the rest of its `RowStatistics`."""
    gap, stream = measure_totals(sums)
    down, old = unscale(vtype), extract_lane(shift_value(shift), 0)
    centre = np.float64(extract_lane(origin.centre, 0))
    row_max = max(stats.row_max, centre)  # the centre is 0 where the maximum is −inf
    gap_sum = rescale_one(reduce_add(gap), old, row_max, scale, vtype) * down
    if row_max > centre:
        whole = stats.sum_exp_others + own_term(stats.top, row_max, scale, vtype)
        gap_sum += whole * (row_max - centre)
    stream_sum = rescale_one(reduce_add(stream), old, row_max, scale, vtype) * down
    return Measured(gap_sum, stream_sum, _first_lane(origin.at_top))


@inline
def _first_lane(at_top: Any) -> Any:
    """The first lane as a float64; 0 for None."""
    if at_top is None:
        return 0.0
    return np.float64(extract_lane(at_top, 0))


@optional
def join_measured(upper: Any, lower: Any) -> Any:
    """The `Measured` of two parts of a row, the lower of which has nothing but −inf."""
    return Measured(upper.gap + lower.gap, upper.stream + lower.stream, upper.at_top)


@optional
def merge_measured(upper: Any, lower: Any, lower_sum: float, old: float, new: float, scale: Any, vtype: Any) -> Any:
    """The `Measured` of two parts of a row with the maxima new ≥ old.

    `lower_sum` is Σ exp of all the lower part, relative to the new maximum.
    """
    gap = upper.gap + rescale_one(lower.gap, old, new, scale, vtype)
    stream = upper.stream + rescale_one(lower.stream, old, new, scale, vtype)
    if lower_sum != 0.0:
        gap += lower_sum * (new - old)
        stream += lower_sum * (lower.at_top - upper.at_top)
    return Measured(gap, stream, upper.at_top)
