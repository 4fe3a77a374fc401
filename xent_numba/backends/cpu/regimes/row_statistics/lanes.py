"""Short rows, and rows whose classes are apart in memory: a vector of rows at a time, one row in each lane."""

from __future__ import annotations

from typing import Any

from numba import types

from xent_numba.backends.cpu.compile.inline import inline, optional, specialize
from xent_numba.backends.cpu.plan import TILE_CLASSES
from xent_numba.backends.cpu.regimes.item_epilogue import labels_of
from xent_numba.backends.cpu.regimes.lanes.load import load_tile, prefetch_cursor, rows_view
from xent_numba.backends.cpu.regimes.lanes.merge import first_tile, merge_lanes, merged_statistics
from xent_numba.backends.cpu.regimes.lanes.order import label_keys, no_order, tile_order
from xent_numba.backends.cpu.regimes.lanes.rows import tile_at, values_at
from xent_numba.backends.cpu.regimes.lanes.tile import Tile, TileInput, tile_statistics
from xent_numba.backends.cpu.regimes.row_statistics.fields import (
    ItemOrder,
    irregular_rows,
    nans_of_sums,
    store_item,
)
from xent_numba.backends.cpu.regimes.row_statistics.operands import (
    either,
    measures_wanted,
    promoted,
    sums_wanted,
    top_wanted,
    unless,
    vtype_of,
)
from xent_numba.backends.cpu.regimes.work_items import work_item
from xent_numba.backends.cpu.row.epilogue import RowStatistics, Top
from xent_numba.backends.cpu.row.transform import Softcap, apply_transform, is_instance_type
from xent_numba.backends.cpu.simd.cast import promote
from xent_numba.backends.cpu.simd.load_store import stack_buffer
from xent_numba.backends.cpu.simd.vector import lanes_of


# ------------------------------------------------------------------------------------------------ what is wanted
@specialize
def _needs_keys(argmax: Any, transform: Any) -> Any:
    """True where argmax is wanted and the keys are not f of the logits, else None."""
    if isinstance(argmax, types.NoneType) or not is_instance_type(transform, Softcap):
        return lambda argmax, transform: None
    return lambda argmax, transform: True


@optional
def _label_logits(wanted: Any, operands: Any, tile: Any, item: Any, y: Any, vtype: Any) -> Any:
    """The logits at the labels, as given; None for None."""
    return values_at(operands.logits, tile.logits, item, y, vtype)


# ------------------------------------------------------------------------------------------------ sums
@optional
def _sums_of_tile(wanted: Any, tile: Any, inputs: Any, cursor: Any, vtype: Any) -> Any:
    """The `RowStatistics` of a tile; None for None."""
    stats, _ = tile_statistics(tile, inputs, cursor, vtype)
    return stats


@optional
def _first(stats: Any) -> Any:
    """The `MergedStatistics` of the first tile; None for None."""
    return first_tile(stats)


@optional
def _merge(merged: Any, stats: Any, scale: Any) -> Any:
    """The `MergedStatistics` with one more tile; None for None."""
    return merge_lanes(merged, stats, None, scale)


@optional
def _whole(merged: Any, y: Any, f_y: Any) -> Any:
    """The `RowStatistics` of whole rows in float64, whose `top` is the class that they leave out; None for None."""
    stats = merged_statistics(merged)
    return RowStatistics(
        promote(stats.row_max),
        stats.sum_exp_others,
        stats.target_gap,
        stats.target_sum,
        _left_out(stats.top, y, f_y),
        stats.measured,
    )


@specialize
def _left_out(top: Any, y: Any, f_y: Any) -> Any:
    """The class that is left out of the sum, with its logit in float64: the `Top`, or the label's."""
    if isinstance(top, types.NoneType):
        return lambda top, y, f_y: Top(y, f_y)
    return lambda top, y, f_y: Top(top.y, promote(top.x))


@specialize
def _nans_of(stats: Any, nans: Any, log_prob: Any, f_y: Any) -> Any:
    """The mask of the rows that may have a NaN: from their sums, or as it was found without any."""
    if isinstance(stats, types.NoneType):
        return lambda stats, nans, log_prob, f_y: nans
    return lambda stats, nans, log_prob, f_y: nans_of_sums(stats, log_prob, f_y)


@specialize
def _class_of(top: Any, stats: Any) -> Any:
    """The class of each maximum, from the `Top` of the keys or else from the statistics; None without either."""
    if not isinstance(top, types.NoneType):
        return lambda top, stats: top.y
    if isinstance(stats, types.NoneType):
        return lambda top, stats: None
    return lambda top, stats: stats.top.y


@optional
def _transformed(x: Any, transform: Any) -> Any:
    """f of logits; None for None."""
    return apply_transform(x, transform)


# ------------------------------------------------------------------------------------------------ work items
@inline
def _compute_item(operands: Any, item: Any, vtype: Any) -> None:
    """Compute the rows of a work item."""
    classes, transform = operands.logits.shape[2], operands.transform
    sums = sums_wanted(operands)
    # Next to sums, argmax costs no more than the maximum, of which the `Top` is made.
    top = either(top_wanted(operands), operands.argmax)
    find_top = either(unless(sums, operands.argmax), _needs_keys(operands.argmax, transform))
    buffers = Tile(stack_buffer(vtype, TILE_CLASSES), None, None, 0, 0)
    y = labels_of(operands.labels, item, classes, operands.ignored_classes, vtype)
    inputs = TileInput(y, None, transform, operands.scale, None, top, measures_wanted(operands.entropy))

    tile = tile_at(buffers, 0, classes)
    load_tile(rows_view(operands.logits, item, 0), tile.classes, tile.logits, vtype)
    x_y = _label_logits(either(operands.log_prob, operands.rank), operands, tile, item, y, vtype)
    label = label_keys(operands.rank, y, x_y, transform)
    cursor = prefetch_cursor(rows_view(operands.logits, item, 0), tile.classes, vtype)
    merged = _first(_sums_of_tile(sums, tile, inputs, cursor, vtype))
    order = tile_order(no_order(find_top, operands.rank, unless(sums, True), vtype), tile, transform, label, vtype)
    for first in range(TILE_CLASSES, classes, TILE_CLASSES):
        tile = tile_at(buffers, first, classes)
        load_tile(rows_view(operands.logits, item, first), tile.classes, tile.logits, vtype)
        merged = _merge(merged, _sums_of_tile(sums, tile, inputs, None, vtype), operands.scale)
        order = tile_order(order, tile, transform, label, vtype)
    f_y = promoted(_transformed(x_y, transform))
    stats = _whole(merged, y, f_y)
    nans = _nans_of(stats, order.nans, operands.log_prob, f_y)
    irregular = irregular_rows(nans, operands.rank, x_y, transform)
    found = ItemOrder(_class_of(order.top, stats), order.count, irregular)
    store_item(operands, item, y, f_y, stats, found, vtype)


@inline
def lanes_rows(operands: Any, start: int, stop: int) -> None:
    """Compute the work items start … stop."""
    vtype = vtype_of(operands)
    lanes = lanes_of(vtype)
    for index in range(start, stop):
        _compute_item(operands, work_item(operands.logits.shape, index, lanes), vtype)
