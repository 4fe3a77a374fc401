"""Short rows, and rows whose classes are apart in memory: a vector of rows at a time, one row in each lane.

The rows of a work item are transposed into a tile, up to TILE_CLASSES classes at a time (`tile`).  A row of a
single tile is read once, and its exponentials become its gradient in place; a longer one is read again for the
gradient.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from numba import types

from xent_numba.backends.cpu.compile.inline import inline, optional, specialize
from xent_numba.backends.cpu.plan import TILE_CLASSES
from xent_numba.backends.cpu.regimes.item_epilogue import (
    item_epilogue,
    item_losses,
    label_weights,
    labels_of,
    saved_shift_of,
    saved_values,
    scaled_factors,
    store_losses,
)
from xent_numba.backends.cpu.regimes.lanes.gradient import rescaled, tile_gradient
from xent_numba.backends.cpu.regimes.lanes.load import load_tile, prefetch_cursor, rows_view
from xent_numba.backends.cpu.regimes.lanes.merge import first_tile, merge_lanes, merged_statistics
from xent_numba.backends.cpu.regimes.lanes.tile import (
    Tile,
    TileInput,
    tile_exponentials,
    tile_statistics,
)
from xent_numba.backends.cpu.regimes.staging import flush_carry, staging_of, write_tile
from xent_numba.backends.cpu.regimes.work_items import work_item
from xent_numba.backends.cpu.row.epilogue import in_float64, label_of_top
from xent_numba.backends.cpu.row.operands import dense_target_of, vtype_of, wants_top
from xent_numba.backends.cpu.row.target import dense_target_at
from xent_numba.backends.cpu.row.transform import apply_transform
from xent_numba.backends.cpu.simd.cast import promote
from xent_numba.backends.cpu.simd.load_store import gather, load, load_n, stack_buffer, store_scalar
from xent_numba.backends.cpu.simd.reduce import extract_lane, reduce_add
from xent_numba.backends.cpu.simd.vector import iota, lanes_of, select, splat


# ------------------------------------------------------------------------------------------------ tiles
@optional
def tile_buffer(array: Any, vtype: Any) -> Any:
    """Memory for a tile of an array; None where the array is None."""
    return stack_buffer(vtype, TILE_CLASSES)


@inline
def tile_at(tile: Any, first: int, classes: int) -> Any:
    """The buffers of a tile for the classes from `first` on, of rows of this many classes."""
    return Tile(tile.logits, tile.exp, tile.distribution, first, min(classes - first, TILE_CLASSES))


@inline
def _load_distribution(distribution: Any, item: Any, tile: Any, vtype: Any) -> None:
    """Load the classes of a tile from a distribution, if there is one."""
    if distribution is not None:
        load_tile(rows_view(distribution, item, tile.first), tile.classes, tile.distribution, vtype)


@inline
def load_item_tile(operands: Any, item: Any, tile: Any, vtype: Any) -> None:
    """Load the classes of a tile: logits, and the distribution if there is one."""
    load_tile(rows_view(operands.logits, item, tile.first), tile.classes, tile.logits, vtype)
    _load_distribution(operands.distribution, item, tile, vtype)


@inline
def values_at(array: Any, buffer: Any, item: Any, y: Any, vtype: Any) -> Any:
    """The value of an (A, B, C) array at class y of each row; anything where y is −1.

    It is in the buffer of the tile if that holds whole rows; otherwise it is loaded again, a row at a time.
    """
    lanes = lanes_of(vtype)
    if array.shape[2] <= TILE_CLASSES:
        index = select(y < splat(0, y), splat(0, y), y) * splat(lanes, y) + iota(vtype)
        return gather(buffer, index, vtype)
    view = rows_view(array, item, 0)
    memory = stack_buffer(vtype, 1)
    for r in range(lanes):
        j = extract_lane(y, r)
        if j >= 0 and r < item.rows:
            value = load_n(view.p, r * view.row_stride + j * view.class_stride, 1, splat(0.0, vtype))
            store_scalar(memory, r, extract_lane(value, 0))
        else:
            store_scalar(memory, r, 0.0)
    return load(memory, 0, vtype)


class _Labels(NamedTuple):
    """The labels of the rows of a work item; for a distribution, the classes of its `Top` in their place."""

    stats: Any  # `RowStatistics` of the rows with these labels
    y: Any
    logit: Any  # after the transform, in float64
    weight: Any  # the label_weight, in float64


@specialize
def _labels(top: Any, stats: Any, y: Any, operands: Any, item: Any, buffers: Any, dense: Any, vtype: Any) -> Any:
    """The `_Labels` of rows with labels y, where `top` is None, or with a distribution."""
    if isinstance(top, types.NoneType):

        def of_labels(
            top: Any, stats: Any, y: Any, operands: Any, item: Any, buffers: Any, dense: Any, vtype: Any
        ) -> Any:
            x_y = apply_transform(values_at(operands.logits, buffers.logits, item, y, vtype), operands.transform)
            return _Labels(stats, y, promote(x_y), label_weights(operands.confidence, operands.weight, y, promote(x_y)))

        return of_labels

    def of_top(top: Any, stats: Any, y: Any, operands: Any, item: Any, buffers: Any, dense: Any, vtype: Any) -> Any:
        q = values_at(operands.distribution, buffers.distribution, item, top.y, vtype)
        u = promote(dense_target_at(dense, q, top.y))
        stats = in_float64(stats)
        return _Labels(label_of_top(stats, u), top.y, stats.top.x, u)

    return of_top


# ------------------------------------------------------------------------------------------------ work items
@inline
def _compute_item(operands: Any, saved_lse: Any, grad: Any, item: Any, staging: Any, vtype: Any) -> Any:
    """The losses of a work item, whose gradient is written, and the staging buffer after it.

    `saved_lse` and `grad` are those of `operands`; they are arguments so that what depends on one that is None is not
    compiled.
    """
    classes = operands.logits.shape[2]
    buffers = Tile(
        stack_buffer(vtype, TILE_CLASSES), tile_buffer(grad, vtype), tile_buffer(operands.distribution, vtype), 0, 0
    )
    saved = saved_values(saved_lse, item, vtype)
    y = labels_of(operands.labels, item, classes, operands.ignored_classes, vtype)
    saved_shift = saved_shift_of(saved, operands.scale, vtype)
    dense = dense_target_of(operands.dense, buffers.distribution, operands.dense_weight)
    top = wants_top(operands.distribution)
    inputs = TileInput(y, dense, operands.transform, operands.scale, saved_shift, top, None)

    tile = tile_at(buffers, 0, classes)
    load_item_tile(operands, item, tile, vtype)
    cursor = prefetch_cursor(rows_view(operands.logits, item, 0), tile.classes, vtype)
    stats, rescale = tile_statistics(tile, inputs, cursor, vtype)
    merged = first_tile(stats)
    for first in range(TILE_CLASSES, classes, TILE_CLASSES):
        tile = tile_at(buffers, first, classes)
        load_item_tile(operands, item, tile, vtype)
        part, _ = tile_statistics(tile, inputs, None, vtype)
        merged = merge_lanes(merged, part, saved_shift, operands.scale)
    stats = merged_statistics(merged)

    labels = _labels(stats.top, stats, y, operands, item, buffers, dense, vtype)
    epilogue = item_epilogue(operands, labels.stats, labels.logit, labels.weight, item, vtype)
    if grad is not None:
        factors = scaled_factors(operands, saved, epilogue, item, vtype)
        for first in range(0, classes, TILE_CLASSES):
            tile = tile_at(buffers, first, classes)
            if classes > TILE_CLASSES:
                load_item_tile(operands, item, tile, vtype)
                rescale = tile_exponentials(tile, inputs, stats.row_max)
            scaled = rescaled(operands.focal_gamma, factors, rescale, vtype)
            tile_gradient(tile, tile.exp, inputs, labels.y, scaled, vtype)
            staging = write_tile(staging, tile.exp, rows_view(grad, item, first), tile.classes, vtype)
    return item_losses(operands, epilogue, y, item.rows), staging


@inline
def lanes_rows(operands: Any, start: int, stop: int, group: int, partials: Any) -> None:
    """Compute the work items start … stop, in order, and store the sum of the losses of each `group` of them.

    `start` is a multiple of `group`.
    """
    vtype = vtype_of(operands)
    lanes = lanes_of(vtype)
    staging = staging_of(operands.grad, operands.streaming, vtype)
    for first in range(start, stop, group):
        sum_of_losses = 0.0
        for index in range(first, min(stop, first + group)):
            item = work_item(operands.logits.shape, index, lanes)
            losses, staging = _compute_item(operands, operands.saved_lse, operands.grad, item, staging, vtype)
            staging = flush_carry(staging, operands.grad, item, index + 1 == stop, vtype)
            store_losses(operands.row_losses, item, losses)
            sum_of_losses += reduce_add(losses)
        partials[first // group] = sum_of_losses
