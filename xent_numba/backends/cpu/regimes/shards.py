"""Shards of the classes: the statistics of their rows, and their gradient from those of all shards.

A shard has no label.  Each row leaves out its `Top`, so that what it knows is relative to its own maximum and exact.
The gradient is that of a loss, with the factors that `ShardCoefficients` hold for each row.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from xent_numba.backends.cpu.compile.inline import inline
from xent_numba.backends.cpu.compile.kernel import kernel
from xent_numba.backends.cpu.plan import TILE_CLASSES
from xent_numba.backends.cpu.regimes.item_epilogue import row_values
from xent_numba.backends.cpu.regimes.lanes.gradient import TILE_ELEMENTS, subtract_dense_target_lanes, tile_gradient
from xent_numba.backends.cpu.regimes.lanes.load import prefetch_cursor, rows_view
from xent_numba.backends.cpu.regimes.lanes.merge import first_tile, merge_lanes, merged_statistics
from xent_numba.backends.cpu.regimes.lanes.rows import load_item_tile, tile_at, tile_buffer
from xent_numba.backends.cpu.regimes.lanes.tile import Tile, TileInput, tile_exponentials, tile_statistics
from xent_numba.backends.cpu.regimes.long.gradient import (
    GradientScalars,
    RowOutput,
    gradient_coefficients,
    write_gradient,
)
from xent_numba.backends.cpu.regimes.long.outputs import store_element
from xent_numba.backends.cpu.regimes.long.statistics import statistics
from xent_numba.backends.cpu.regimes.staging import flush_carry, flush_tail, staging_of, write_tile
from xent_numba.backends.cpu.regimes.work_items import work_item
from xent_numba.backends.cpu.row.epilogue import in_float64
from xent_numba.backends.cpu.row.operands import RowInput, dense_target_of, row_pointer, vtype_of
from xent_numba.backends.cpu.row.target import insert_target_lanes
from xent_numba.backends.cpu.row.transform import chain_rule
from xent_numba.backends.cpu.runtime.parallel_for import parallel_for
from xent_numba.backends.cpu.simd.cast import demote, promote, truncate_integers
from xent_numba.backends.cpu.simd.load_store import advance, load, load_n, pointer, stack_buffer
from xent_numba.backends.cpu.simd.reduce import extract_lane
from xent_numba.backends.cpu.simd.vector import lanes_of, minus_ones, select, splat

ANY_SIZE = 1.0  # in the place of a focal_gamma, with which p_factor may be smaller than without
SKIPPED = -2  # in the place of a class: the row is not read, and its gradient is 0


class ShardOperands(NamedTuple):
    """The arguments of both kernels: N = A·B rows of C classes; (A, B, C) arrays have any strides."""

    logits: Any  # (A, B, C)
    distribution: Any  # (A, B, C), or None
    dense_weight: Any  # (C,) class weights in the arithmetic of the logits, or None
    dense: Any  # `DenseCoefficients`, or None without a dense target
    transform: Any  # `Sign`, `Softcap` or None
    scale: Any  # |logit_scale|, or None where it is 1 or part of the softcap


class Found(NamedTuple):
    """Where the `RowStatistics` are written, (N,) each."""

    row_max: Any
    sum_exp_others: Any
    top: Any  # the class of the `Top`
    top_x: Any  # its logit
    gap: Any
    target_sum: Any


class Factors(NamedTuple):
    """The fields of `protocol.ShardCoefficients`, (N,) each; `own` is SKIPPED in rows that are not kept."""

    centre: Any
    p_factor: Any
    u_factor: Any
    own: Any
    at_own: Any


# ------------------------------------------------------------------------------------------------ long rows
@inline
def _row(operands: Any, a: int, b: int, y: int) -> Any:
    """The `RowInput` of row (a, b), in which class y has a gradient of its own."""
    dense = dense_target_of(operands.dense, row_pointer(operands.distribution, a, b), operands.dense_weight)
    p, classes = row_pointer(operands.logits, a, b), operands.logits.shape[2]
    return RowInput(p, classes, y, dense, operands.transform, operands.scale, True, None)


@inline
def _long_statistics(fields: Any, found_fields: Any, kept: Any, group: int, work_items: int, k: int) -> None:
    """Compute the statistics of group k of the long rows, of those that are kept."""
    operands, found = ShardOperands(*fields), Found(*found_fields)
    vtype = vtype_of(operands)
    for i in range(k * group, min(work_items, (k + 1) * group)):
        if kept.size == 0 or kept[i]:
            where = work_item(operands.logits.shape, i, 1)
            stats = statistics(_row(operands, where.a, where.b, np.int64(-1)), None, vtype)
            found.row_max[i], found.sum_exp_others[i] = stats.row_max, stats.sum_exp_others
            found.top[i], found.top_x[i] = stats.top.y, stats.top.x
            found.gap[i], found.target_sum[i] = 0.25 * stats.target_gap, stats.target_sum


@inline
def _long_gradient(
    fields: Any, factor_fields: Any, grad: Any, streaming: bool, group: int, work_items: int, k: int
) -> None:
    """Write the gradient of group k of the long rows."""
    operands, factors = ShardOperands(*fields), Factors(*factor_fields)
    vtype = vtype_of(operands)
    staging = stack_buffer(vtype, 2)
    for i in range(k * group, min(work_items, (k + 1) * group)):
        where = work_item(operands.logits.shape, i, 1)
        out, own = row_pointer(grad, where.a, where.b), factors.own[i]
        if own == SKIPPED:
            for j in range(operands.logits.shape[2]):
                store_element(out, j, 0.0, vtype)
        else:
            row = _row(operands, where.a, where.b, own)
            scalars = GradientScalars(factors.centre[i], factors.p_factor[i], factors.u_factor[i], factors.at_own[i])
            coefficients = gradient_coefficients(ANY_SIZE, scalars, operands.scale, vtype)
            carry = write_gradient(row, RowOutput(out, staging, streaming), 0, row.classes, coefficients, 0, vtype)
            flush_tail(staging, carry, advance(out, row.classes), vtype)


# ------------------------------------------------------------------------------------------------ a row in each lane
class _LaneFactors(NamedTuple):
    """p_factor · rescale · exp − u_factor · u, times f'; `at_own` at class y of each row."""

    p_factor: Any
    rescale: Any
    u_factor: Any
    at_own: Any


def _element(factors: Any, e: Any, x: Any, tile: Any, j: int, y: Any, inputs: Any) -> Any:
    """What is written for class j of a tile."""
    g = e * factors.p_factor * factors.rescale
    g = subtract_dense_target_lanes(g, factors.u_factor, inputs.dense, tile.first + j, j)
    return insert_target_lanes(chain_rule(g, x, inputs.transform), tile.first + j, y, factors.at_own)


TILE_ELEMENTS[_LaneFactors] = _element


@inline
def _lane_statistics(fields: Any, found_fields: Any, kept: Any, group: int, work_items: int, k: int) -> None:
    """Compute the statistics of group k of the work items, kept or not."""
    operands, found = ShardOperands(*fields), Found(*found_fields)
    vtype, classes = vtype_of(operands), operands.logits.shape[2]
    buffers = Tile(stack_buffer(vtype, TILE_CLASSES), None, tile_buffer(operands.distribution, vtype), 0, 0)
    dense = dense_target_of(operands.dense, buffers.distribution, operands.dense_weight)
    inputs = TileInput(None, dense, operands.transform, operands.scale, None, True, None)
    for index in range(k * group, min(work_items, (k + 1) * group)):
        item = work_item(operands.logits.shape, index, lanes_of(vtype))
        tile = tile_at(buffers, 0, classes)
        load_item_tile(operands, item, tile, vtype)
        cursor = prefetch_cursor(rows_view(operands.logits, item, 0), tile.classes, vtype)
        merged = first_tile(tile_statistics(tile, inputs, cursor, vtype)[0])
        for first in range(TILE_CLASSES, classes, TILE_CLASSES):
            tile = tile_at(buffers, first, classes)
            load_item_tile(operands, item, tile, vtype)
            merged = merge_lanes(merged, tile_statistics(tile, inputs, None, vtype)[0], None, operands.scale)
        stats = in_float64(merged_statistics(merged))
        for r in range(item.rows):
            i = item.first_row + r
            found.row_max[i], found.sum_exp_others[i] = (
                extract_lane(stats.row_max, r),
                extract_lane(stats.sum_exp_others, r),
            )
            found.top[i], found.top_x[i] = extract_lane(stats.top.y, r), extract_lane(stats.top.x, r)
            found.gap[i], found.target_sum[i] = (
                0.25 * extract_lane(stats.target_gap, r),
                extract_lane(stats.target_sum, r),
            )


@inline
def _own_classes(own: Any, item: Any, vtype: Any) -> Any:
    """`Factors.own` of the rows of a work item; −1 in lanes without a row."""
    nothing = minus_ones(vtype)
    if item.rows == lanes_of(vtype):
        y = load(pointer(own), item.first_row, nothing)
    else:
        y = load_n(pointer(own), item.first_row, item.rows, nothing)
    return truncate_integers(y, vtype)


@inline
def _lane_gradient(
    fields: Any, factor_fields: Any, grad: Any, streaming: bool, group: int, work_items: int, k: int
) -> None:
    """Write the gradient of group k of the work items."""
    operands, factors = ShardOperands(*fields), Factors(*factor_fields)
    vtype, classes = vtype_of(operands), operands.logits.shape[2]
    vtype64 = promote(vtype)
    exps = stack_buffer(vtype, TILE_CLASSES)
    buffers = Tile(stack_buffer(vtype, TILE_CLASSES), exps, tile_buffer(operands.distribution, vtype), 0, 0)
    dense = dense_target_of(operands.dense, buffers.distribution, operands.dense_weight)
    staging = staging_of(grad, streaming, vtype)
    stop = min(work_items, (k + 1) * group)
    for index in range(k * group, stop):
        item = work_item(operands.logits.shape, index, lanes_of(vtype))
        y = _own_classes(factors.own, item, vtype)
        ignored = select(y == splat(SKIPPED, y), splat(-1, y), splat(0, y))
        inputs = TileInput(ignored, dense, operands.transform, operands.scale, None, True, None)
        centre = demote(row_values(factors.centre, item, vtype64), vtype)
        p_factor = demote(row_values(factors.p_factor, item, vtype64), vtype)
        u_factor = demote(row_values(factors.u_factor, item, vtype64), vtype)
        at_own = demote(row_values(factors.at_own, item, vtype64), vtype)
        for first in range(0, classes, TILE_CLASSES):
            tile = tile_at(buffers, first, classes)
            load_item_tile(operands, item, tile, vtype)
            rescale = tile_exponentials(tile, inputs, centre)
            lanes = _LaneFactors(p_factor, demote(rescale, vtype), u_factor, at_own)
            tile_gradient(tile, tile.exp, inputs, y, lanes, vtype)
            staging = write_tile(staging, tile.exp, rows_view(grad, item, first), tile.classes, vtype)
        staging = flush_carry(staging, grad, item, index + 1 == stop, vtype)


# ------------------------------------------------------------------------------------------------ kernels
@kernel
def statistics_long(fields: Any, found: Any, kept: Any, group: int, work_items: int, groups: int, loop: int) -> None:
    """Compute the statistics of all long rows, in parallel groups of them."""
    parallel_for(_long_statistics, (fields, found, kept, group, work_items), groups, loop)


@kernel
def statistics_lanes(fields: Any, found: Any, kept: Any, group: int, work_items: int, groups: int, loop: int) -> None:
    """Compute the statistics of all work items of a vector of rows, in parallel groups of them."""
    parallel_for(_lane_statistics, (fields, found, kept, group, work_items), groups, loop)


@kernel
def gradient_long(
    fields: Any, factors: Any, grad: Any, streaming: bool, group: int, work_items: int, groups: int, loop: int
) -> None:
    """Write the gradient of all long rows, in parallel groups of them."""
    parallel_for(_long_gradient, (fields, factors, grad, streaming, group, work_items), groups, loop)


@kernel
def gradient_lanes(
    fields: Any, factors: Any, grad: Any, streaming: bool, group: int, work_items: int, groups: int, loop: int
) -> None:
    """Write the gradient of all work items of a vector of rows, in parallel groups of them."""
    parallel_for(_lane_gradient, (fields, factors, grad, streaming, group, work_items), groups, loop)
