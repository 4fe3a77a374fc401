"""The statistics of a vector of rows, each along its classes: maxima, and the sums of Hessian-vector products."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from xent_numba.backends.cpu.compile.inline import inline
from xent_numba.backends.cpu.regimes.lanes.tile import exp_of_tile, tile_rescale, tile_shift
from xent_numba.backends.cpu.regimes.packed.load import ROWS, PrefetchRows, prefetch_rows, tile_width
from xent_numba.backends.cpu.regimes.packed.rows import shift_of_row, store_shift
from xent_numba.backends.cpu.row.transform import load_logits, load_logits_n
from xent_numba.backends.cpu.simd.cache_control import prefetch_l1, prefetch_l2
from xent_numba.backends.cpu.simd.cast import promote
from xent_numba.backends.cpu.simd.load_store import (
    advance,
    load,
    load_n,
    load_scalar,
    stack_buffer,
    store,
)
from xent_numba.backends.cpu.simd.reduce import extract_lane, reduce_add_each, reduce_max_each
from xent_numba.backends.cpu.simd.vector import lanes_of, select, splat


class PackedRow(NamedTuple):
    """One row: pointers to its logits, its vector and its place in the tile."""

    x: Any
    v: Any
    exp: Any
    classes: int
    transform: Any
    scale: Any


@inline
def packed_row(operands: Any, views: Any, r: int, tile: Any, lanes: int) -> Any:
    """Row r of a work item, whose logits and vector are two `RowsView`."""
    classes = operands.logits.shape[2]
    x, v = views
    return PackedRow(
        advance(x.p, r * x.row_stride),
        advance(v.p, r * v.row_stride),
        advance(tile, r * tile_width(classes, lanes)),
        classes,
        operands.transform,
        operands.scale,
    )


# ------------------------------------------------------------------------------------------------ statistics
@inline
def _larger(row: Any, i: int, best: Any) -> Any:
    """(maximum, v there) of each lane, with a whole vector of classes from i on; `best` is that before."""
    x, v = load_logits(row.x, i, row.transform, best[0]), load(row.v, i, best[0])
    is_larger = x > best[0]
    return select(is_larger, x, best[0]), select(is_larger, v, best[1])


@inline
def _row_max(row: Any, vtype: Any) -> Any:
    """(maximum, v there) of each lane of a row."""
    lanes, minus_inf, zero = lanes_of(vtype), splat(-math.inf, vtype), splat(0.0, vtype)
    even, odd = (minus_inf, zero), (minus_inf, zero)
    i = 0
    while i + 2 * lanes <= row.classes:
        even, odd = _larger(row, i, even), _larger(row, i + lanes, odd)
        i += 2 * lanes
    if i + lanes <= row.classes:
        even = _larger(row, i, even)
        i += lanes
    if i < row.classes:
        count = row.classes - i
        x, v = load_logits_n(row.x, i, count, row.transform, minus_inf), load_n(row.v, i, count, zero)
        is_larger = x > odd[0]
        odd = select(is_larger, x, odd[0]), select(is_larger, v, odd[1])
    is_odd = odd[0] > even[0]
    return select(is_odd, odd[0], even[0]), select(is_odd, odd[1], even[1])


class _Prefetch(NamedTuple):
    """`PrefetchRows` of logits and vector, for later work items."""

    x: Any
    v: Any


@inline
def _prefetch_row(view: Any, later: Any, r: int) -> Any:
    """The `PrefetchRows` that belong to row r of an item."""
    return PrefetchRows(advance(later.l2, r * view.row_stride), advance(later.l1, r * view.row_stride))


@inline
def _prefetch(prefetch: Any, i: int) -> None:
    """Prefetch what belongs to the classes from i on."""
    prefetch_l2(prefetch.x.l2, i)
    prefetch_l2(prefetch.v.l2, i)
    prefetch_l1(prefetch.x.l1, i)
    prefetch_l1(prefetch.v.l1, i)


@inline
def _term(row: Any, i: int, shift: Any, at_top: Any, prefetch: Any) -> Any:
    """(e, e (v − at_top)) of a whole vector of classes from i on; e goes to the tile."""
    _prefetch(prefetch, i)
    e = exp_of_tile(load_logits(row.x, i, row.transform, at_top), shift, None, row.scale)
    store(row.exp, i, e)
    return e, e * (load(row.v, i, at_top) - at_top)


@inline
def _row_sums(row: Any, shift: Any, at_top: Any, prefetch: Any) -> Any:
    """(Σ e, Σ e (v − at_top)) per lane in float64; four of each run side by side in the arithmetic of the logits."""
    step, zero = lanes_of(at_top), splat(0.0, at_top)
    e0, e1, e2, e3 = zero, zero, zero, zero
    g0, g1, g2, g3 = zero, zero, zero, zero
    i = 0
    while i + 4 * step <= row.classes:
        e, g = _term(row, i, shift, at_top, prefetch)
        e0, g0 = e0 + e, g0 + g
        e, g = _term(row, i + step, shift, at_top, prefetch)
        e1, g1 = e1 + e, g1 + g
        e, g = _term(row, i + 2 * step, shift, at_top, prefetch)
        e2, g2 = e2 + e, g2 + g
        e, g = _term(row, i + 3 * step, shift, at_top, prefetch)
        e3, g3 = e3 + e, g3 + g
        i += 4 * step
    while i + step <= row.classes:
        e, g = _term(row, i, shift, at_top, prefetch)
        e0, g0 = e0 + e, g0 + g
        i += step
    if i < row.classes:
        _prefetch(prefetch, i)
        count = row.classes - i
        x = load_logits_n(row.x, i, count, row.transform, splat(-math.inf, at_top))
        e = exp_of_tile(x, shift, None, row.scale)
        store(row.exp, i, e)
        e1, g1 = e1 + e, g1 + e * (load_n(row.v, i, count, at_top) - at_top)
    return promote((e0 + e1) + (e2 + e3)), promote((g0 + g1) + (g2 + g3))


@inline
def item_statistics(operands: Any, views: Any, y: Any, tile: Any, vtype: Any) -> Any:
    """Maxima, v there, Σ e, Σ e (v − v there), and the `tile_rescale` of the exponentials, one row in each lane."""
    lanes, vtype64 = lanes_of(vtype), promote(vtype)
    maxima, at_maxima = stack_buffer(vtype, ROWS), stack_buffer(vtype, ROWS)
    sums, streams = stack_buffer(vtype64, ROWS), stack_buffer(vtype64, ROWS)
    minus_inf, zero = splat(-math.inf, vtype), splat(0.0, vtype)
    for r in range(lanes):
        lane_max, at_max = minus_inf, zero
        if extract_lane(y, r) >= 0:
            lane_max, at_max = _row_max(packed_row(operands, views, r, tile, lanes), vtype)
        store(maxima, r * lanes, lane_max)
        store(at_maxima, r * lanes, at_max)
    row_max = reduce_max_each(maxima, vtype)
    one_value = stack_buffer(vtype, 1)
    store(one_value, 0, row_max)
    for r in range(lanes):
        is_max = load(maxima, r * lanes, vtype) == splat(load_scalar(one_value, r), vtype)
        store(at_maxima, r * lanes, select(is_max, load(at_maxima, r * lanes, vtype), minus_inf))
    at_top = reduce_max_each(at_maxima, vtype)
    tops = stack_buffer(vtype, 1)
    store(tops, 0, at_top)
    shift = tile_shift(row_max, None, operands.scale)
    shifts = store_shift(shift, vtype)
    later_x = prefetch_rows(views[0].p, views[0].row_stride, lanes)
    later_v = prefetch_rows(views[1].p, views[1].row_stride, lanes)
    for r in range(lanes):
        sum_exp, stream = splat(0.0, vtype64), splat(0.0, vtype64)
        if extract_lane(y, r) >= 0:
            prefetch = _Prefetch(_prefetch_row(views[0], later_x, r), _prefetch_row(views[1], later_v, r))
            row, at = packed_row(operands, views, r, tile, lanes), splat(load_scalar(tops, r), vtype)
            sum_exp, stream = _row_sums(row, shift_of_row(shifts, r, vtype), at, prefetch)
        store(sums, r * lanes, sum_exp)
        store(streams, r * lanes, stream)
    rescale = tile_rescale(shift, None, operands.scale)
    total, stream = reduce_add_each(sums, vtype64) * rescale, reduce_add_each(streams, vtype64) * rescale
    return row_max, at_top, total, stream, rescale
