"""softmax, log_softmax and logsumexp from the statistics of the losses: long rows, or a vector of rows at a time."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from numba import types

from xent_numba.backends.cpu.compile.inline import inline, specialize
from xent_numba.backends.cpu.compile.kernel import kernel
from xent_numba.backends.cpu.plan import TILE_CLASSES
from xent_numba.backends.cpu.regimes.lanes.load import load_tile, prefetch_cursor, rows_view
from xent_numba.backends.cpu.regimes.lanes.merge import first_tile, merge_lanes, merged_statistics
from xent_numba.backends.cpu.regimes.lanes.rows import tile_at
from xent_numba.backends.cpu.regimes.lanes.tile import (
    Tile,
    TileInput,
    no_top,
    tile_argmax,
    tile_exponentials,
    tile_statistics,
)
from xent_numba.backends.cpu.regimes.long.softmax import softmax_long_rows
from xent_numba.backends.cpu.regimes.staging import flush_carry, staging_of, write_tile
from xent_numba.backends.cpu.regimes.work_items import work_item
from xent_numba.backends.cpu.row.epilogue import centre_of, log_of_sum
from xent_numba.backends.cpu.runtime.parallel_for import parallel_for
from xent_numba.backends.cpu.simd.cast import demote, promote
from xent_numba.backends.cpu.simd.load_store import load, pointer, stack_buffer, store
from xent_numba.backends.cpu.simd.math import exp
from xent_numba.backends.cpu.simd.reduce import extract_lane
from xent_numba.backends.cpu.simd.vector import lanes_of, select, splat, zero_vector


class SoftmaxOperands(NamedTuple):
    """The arguments of a call: logits, and one of the three results.  (A, B, C) arrays have any strides."""

    logits: Any  # (A, B, C)
    softmax: Any  # (A, B, C) or None
    log_softmax: Any  # (A, B, C) or None
    logsumexp: Any  # (A·B,) or None
    streaming: bool  # whether an (A, B, C) result is written past the caches


# ------------------------------------------------------------------------------------------------ long rows
@inline
def _long(fields: Any, group: int, work_items: int, k: int) -> None:
    """Compute group k of the long rows, one row at a time."""
    softmax_long_rows(SoftmaxOperands(*fields), k * group, min(work_items, (k + 1) * group))


# ------------------------------------------------------------------------------------------------ results of a tile
@inline
def _tile_softmax(tile: Any, factor: Any) -> None:
    """Multiply the exponentials of a tile by one factor for each row."""
    lanes = lanes_of(factor)
    for j in range(tile.classes):
        store(tile.exp, j * lanes, load(tile.exp, j * lanes, factor) * factor)


@inline
def _tile_log_softmax(tile: Any, row_max: Any, log_sum: Any, vtype: Any) -> None:
    """x − row_max − log_sum in the place of the exponentials of a tile."""
    lanes = lanes_of(vtype)
    for j in range(tile.classes):
        store(tile.exp, j * lanes, (load(tile.logits, j * lanes, vtype) - row_max) - log_sum)


@inline
def _store_logsumexp(out: Any, item: Any, row_max: Any, nan_sum: Any, log_sum: Any) -> None:
    """The log-sum-exp of each row, if it is asked for.

    A row with +inf gives +inf, one with nothing but −inf gives −inf, and any row with a NaN gives NaN: the maximum
    passes over NaN, so for the first two the `nan_sum` is added.  The sum of any other row is NaN already.
    """
    if out is not None:
        for r in range(lanes_of(log_sum)):
            if r < item.rows:
                top = extract_lane(row_max, r)
                if top == math.inf:
                    out[item.first_row + r] = extract_lane(nan_sum, r) + math.inf
                elif top == -math.inf:
                    out[item.first_row + r] = top + extract_lane(nan_sum, r)
                else:
                    out[item.first_row + r] = top + extract_lane(log_sum, r)


# ------------------------------------------------------------------------------------------------ first passes
@inline
def _add_nans(logsumexp: Any, tile: Any, nan_sum: Any, vtype: Any) -> Any:
    """0 per lane, or NaN where a logit so far is NaN: for a logsumexp; unchanged where none is asked for."""
    if logsumexp is None:
        return nan_sum
    lanes = lanes_of(vtype)
    for j in range(tile.classes):
        x = load(tile.logits, j * lanes, vtype)
        nan_sum = nan_sum + select(x == x, splat(0.0, vtype), x)
    return nan_sum


@specialize
def _first_pass(softmax: Any, logsumexp: Any, logits: Any, item: Any, tile: Any, vtype: Any) -> Any:
    """(`max_index`, `nan_sum`) of the rows, with their first tile loaded.

    `max_index` is the class of each row's maximum, which is left out of the sum: log S is then log1p of the rest, and
    exact.  A softmax has no use for it, and gets None.
    """
    if isinstance(softmax, types.NoneType):
        return lambda softmax, logsumexp, logits, item, tile, vtype: _find_max(logsumexp, logits, item, tile, vtype)
    return lambda softmax, logsumexp, logits, item, tile, vtype: _load_first(logits, item, tile, vtype)


@inline
def _load_first(logits: Any, item: Any, tile: Any, vtype: Any) -> Any:
    """Load the first tile and leave the maximum to `tile_statistics`."""
    load_tile(rows_view(logits, item, 0), min(logits.shape[2], TILE_CLASSES), tile.logits, vtype)
    return None, splat(0.0, vtype)


@inline
def _find_max(logsumexp: Any, logits: Any, item: Any, tile: Any, vtype: Any) -> Any:
    """Load all tiles to find the maximum, and then the first one again if there are several."""
    classes = logits.shape[2]
    top = no_top(vtype)
    nan_sum = splat(0.0, vtype)
    for first in range(0, classes, TILE_CLASSES):
        part = tile_at(tile, first, classes)
        load_tile(rows_view(logits, item, first), part.classes, part.logits, vtype)
        top = tile_argmax(part, None, top, vtype)
        nan_sum = _add_nans(logsumexp, part, nan_sum, vtype)
    if classes > TILE_CLASSES:
        load_tile(rows_view(logits, item, 0), TILE_CLASSES, tile.logits, vtype)
    return top.y, nan_sum


@inline
def _sum_exp(max_index: Any, stats: Any) -> Any:
    """Σ exp(x − row_max) in float64: with the term of the maximum where the statistics leave it out.

    That term is 1 where the maximum is finite, NaN where it is +inf, and 0 where it is −inf.
    """
    if max_index is None:
        return stats.sum_exp_others
    return stats.sum_exp_others + promote(exp(stats.row_max - centre_of(stats.row_max)))


# ------------------------------------------------------------------------------------------------ work items
@inline
def _compute_item(operands: Any, out: Any, item: Any, staging: Any, vtype: Any) -> Any:
    """Compute the rows of a work item; returns the staging buffer after it.  `out` is an (A, B, C) result or None."""
    classes = operands.logits.shape[2]
    buffers = Tile(stack_buffer(vtype, TILE_CLASSES), stack_buffer(vtype, TILE_CLASSES), None, 0, 0)
    max_index, nan_sum = _first_pass(operands.softmax, operands.logsumexp, operands.logits, item, buffers, vtype)
    inputs = TileInput(max_index, None, None, None, None, None, None)
    tile = tile_at(buffers, 0, classes)
    cursor = prefetch_cursor(rows_view(operands.logits, item, 0), tile.classes, vtype)
    stats, rescale = tile_statistics(tile, inputs, cursor, vtype)
    merged = first_tile(stats)
    for first in range(TILE_CLASSES, classes, TILE_CLASSES):
        tile = tile_at(buffers, first, classes)
        load_tile(rows_view(operands.logits, item, first), tile.classes, tile.logits, vtype)
        part, _ = tile_statistics(tile, inputs, None, vtype)
        merged = merge_lanes(merged, part, None, None)
    stats = merged_statistics(merged)
    row_max, sum_exp = promote(stats.row_max), _sum_exp(max_index, stats)
    log_sum = log_of_sum(stats.sum_exp_others, sum_exp)
    if out is not None:
        for first in range(0, classes, TILE_CLASSES):
            tile = tile_at(buffers, first, classes)
            if classes > TILE_CLASSES:
                load_tile(rows_view(operands.logits, item, first), tile.classes, tile.logits, vtype)
            if operands.softmax is not None:
                if classes > TILE_CLASSES:
                    rescale = tile_exponentials(tile, inputs, stats.row_max)
                _tile_softmax(tile, demote(rescale / sum_exp, vtype))
            else:
                _tile_log_softmax(tile, stats.row_max, demote(log_sum, vtype), vtype)
            staging = write_tile(staging, tile.exp, rows_view(out, item, first), tile.classes, vtype)
    _store_logsumexp(operands.logsumexp, item, row_max, nan_sum, log_sum)
    return staging


@specialize
def _output(softmax: Any, log_softmax: Any) -> Any:
    """The (A, B, C) array that is written to, or None for a logsumexp."""
    if isinstance(softmax, types.NoneType):
        return lambda softmax, log_softmax: log_softmax
    return lambda softmax, log_softmax: softmax


@inline
def _lanes(fields: Any, group: int, work_items: int, k: int) -> None:
    """Compute group k of the work items, each a vector of rows, in order."""
    operands = SoftmaxOperands(*fields)
    out = _output(operands.softmax, operands.log_softmax)
    vtype = zero_vector(pointer(operands.logits))
    staging = staging_of(out, operands.streaming, vtype)
    stop = min(work_items, (k + 1) * group)
    for index in range(k * group, stop):
        item = work_item(operands.logits.shape, index, lanes_of(vtype))
        staging = _compute_item(operands, out, item, staging, vtype)
        staging = flush_carry(staging, out, item, index + 1 == stop, vtype)


# ------------------------------------------------------------------------------------------------ kernels
@kernel
def softmax_long(fields: Any, group: int, work_items: int, groups: int, loop: int) -> None:
    """Compute all long rows, in parallel groups of them.  `fields` are those of `SoftmaxOperands`."""
    parallel_for(_long, (fields, group, work_items), groups, loop)


@kernel
def softmax_lanes(fields: Any, group: int, work_items: int, groups: int, loop: int) -> None:
    """Compute all work items of a vector of rows, in parallel groups of them."""
    parallel_for(_lanes, (fields, group, work_items), groups, loop)
