"""The sums that `row.measures` defines, of tiles: with a row in each lane.

Each function does nothing where its first argument, or `measures`, is None.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from xent_numba.backends.cpu.compile.inline import inline, optional
from xent_numba.backends.cpu.row.measures import (
    Measured,
    MeasureSums,
    Origin,
    add_gap,
    add_measure_sums,
    add_stream,
    measure_totals,
)
from xent_numba.backends.cpu.row.target import product_or_zero
from xent_numba.backends.cpu.row.transform import chain_rule
from xent_numba.backends.cpu.simd.cast import promote
from xent_numba.backends.cpu.simd.load_store import gather, load
from xent_numba.backends.cpu.simd.math import compensated_add
from xent_numba.backends.cpu.simd.vector import iota, lanes_of, select, splat


# ------------------------------------------------------------------------------------------------ one tile
@optional
def tile_origin(measures: Any, tile: Any, transform: Any, centre: Any, top: Any) -> Any:
    """The `Origin` of each lane of a tile with this `Top`; None for None."""
    return Origin(centre, _stream_at(measures.stream, tile, transform, top.y, centre))


@optional
def _stream_at(stream: Any, tile: Any, transform: Any, y: Any, vtype: Any) -> Any:
    """f'_y v_y of each lane; of any class where y is not one of the tile."""
    j = y - splat(tile.first, y)
    index = select(j < splat(0, j), splat(0, j), j) * splat(lanes_of(vtype), j) + iota(vtype)
    return chain_rule(gather(stream, index, vtype), gather(tile.logits, index, vtype), transform)


@inline
def add_class(run: Any, measures: Any, tile: Any, transform: Any, j: int, e: Any, x: Any, origin: Any) -> Any:
    """A pair of sums in the arithmetic of the logits, with the terms of class j of the tile.

    e: its exponentials, with 0 where it is left out; x: its logits after the transform.
    """
    if measures is None:
        return run
    v = _stream(measures.stream, tile, transform, j, x)
    return add_gap(run[0], measures.gap, e, x, origin.centre), add_stream(run[1], v, e, origin.at_top)


@optional
def _stream(stream: Any, tile: Any, transform: Any, j: int, vtype: Any) -> Any:
    """f'_j v_j of class j of a tile; None for None."""
    i = j * lanes_of(vtype)
    return chain_rule(load(stream, i, vtype), load(tile.logits, i, vtype), transform)


@inline
def add_run(sums: Any, measures: Any, run: Any) -> Any:
    """The `MeasureSums` with a pair of sums of `add_class` added."""
    if measures is None:
        return sums
    return add_measure_sums(sums, run)


@optional
def tile_measured(measures: Any, sums: Any, rescale: Any, origin: Any) -> Any:
    """The `Measured` of a tile; `rescale` is its `tile_rescale`."""
    gap, stream = measure_totals(sums)
    return Measured(gap * rescale, stream * rescale, _at_top(origin.at_top, gap))


@inline
def _at_top(at_top: Any, vtype64: Any) -> Any:
    """f'_top v_top in float64; 0 for None."""
    if at_top is None:
        return splat(0.0, vtype64)
    return promote(at_top)


# ------------------------------------------------------------------------------------------------ several tiles
class MergedMeasures(NamedTuple):
    """The `Measured` of several tiles, with the rounding errors of the sums."""

    sums: Any  # `MeasureSums`
    at_top: Any


@optional
def first_measures(measured: Any) -> Any:
    """The `MergedMeasures` of a single tile."""
    zero = splat(0.0, measured.gap)
    return MergedMeasures(MeasureSums(measured.gap, measured.stream, zero, zero), measured.at_top)


@optional
def merged_measured(merged: Any) -> Any:
    """The `Measured` of `MergedMeasures`."""
    gap, stream = measure_totals(merged.sums)
    return Measured(gap, stream, merged.at_top)


class Lower(NamedTuple):
    """Of two parts of the rows, the one with the lower maximum."""

    is_left: Any  # mask
    row_max: Any  # float64
    sum_exp: Any  # Σ exp over all its classes, relative to the maximum of both


@optional
def merge_measures(merged: Any, right: Any, left_factor: Any, right_factor: Any, lower: Any, centre: Any) -> Any:
    """The `MergedMeasures` of some tiles and the next one, of which `right` is the `Measured`.

    The factors turn exponentials relative to the maximum of a part into those relative to `centre`, that of both.
    """
    sums = merged.sums
    upper_at_top = select(lower.is_left, right.at_top, merged.at_top)
    lower_at_top = select(lower.is_left, merged.at_top, right.at_top)
    gap, gap_error = compensated_add(sums.gap * left_factor, sums.gap_error * left_factor, right.gap * right_factor)
    gap, gap_error = compensated_add(gap, gap_error, product_or_zero(lower.sum_exp, centre - lower.row_max))
    stream, stream_error = compensated_add(
        sums.stream * left_factor, sums.stream_error * left_factor, right.stream * right_factor
    )
    change = product_or_zero(lower.sum_exp, lower_at_top - upper_at_top)
    stream, stream_error = compensated_add(stream, stream_error, change)
    return MergedMeasures(MeasureSums(gap, stream, gap_error, stream_error), upper_at_top)


@optional
def lower_of(top: Any, other: Any, left_sum: Any, right_sum: Any, own: Any) -> Any:
    """The `Lower` of two parts with the tops `top` and `other`; `own` is the term of the top of the lower one."""
    is_left = other.x > top.x
    return Lower(is_left, promote(select(is_left, top.x, other.x)), select(is_left, left_sum, right_sum) + own)
