"""Rows of a few dozen to a few hundred classes that lie side by side: a vector of rows at a time, each along its lanes.

Nothing is transposed but what is left of the rows: a vector of maxima, then one of sums for each, folded to one lane a
row (`lanes.totals`).  So losses and factors are computed for all the rows at once, as for rows in tiles, and no row
waits for the sum of another.

Only for labels, and arithmetic in float32: a sum across lanes costs an ulp of float64, for which the accuracy law has
no room; and next to a distribution, whose rows keep their maximum in the sum, a lane would add too many classes to it.

The logits of a group are copied to a tile, where they become exponentials; these become the gradient in the stage that
leaves for memory.  −inf stands at the place of a target meanwhile: its term is not in the sum, and no instruction is
spent on leaving it out.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from xent_numba.backends.cpu.compile.inline import inline
from xent_numba.backends.cpu.plan import TILE_CLASSES
from xent_numba.backends.cpu.regimes.group_epilogue import (
    gradient_scales,
    group_epilogue,
    group_losses,
    labels_of,
    saved_shift,
    store_losses,
)
from xent_numba.backends.cpu.regimes.lanes_tile import finite_or_zero, tile_shift, tile_unscale
from xent_numba.backends.cpu.regimes.packed_row import PrefetchRows, copy_row, row_sums, to_gradient
from xent_numba.backends.cpu.regimes.staging import (
    flush_carry,
    flush_full_lines,
    rows_contiguous,
    staging_buffer,
    write_row,
)
from xent_numba.backends.cpu.row.epilogue import RowStatistics
from xent_numba.backends.cpu.row.operands import dense_target_of, row_pointer, vtype_of
from xent_numba.backends.cpu.simd.cast import demote, promote
from xent_numba.backends.cpu.simd.exp_shifted import Shift
from xent_numba.backends.cpu.simd.load_store import (
    L1_PREFETCH_DISTANCE,
    L2_PREFETCH_DISTANCE,
    advance,
    gather,
    load_scalar,
    stack_buffer,
    store,
    store_scalar,
    stride,
)
from xent_numba.backends.cpu.simd.reduce import extract_lane, reduce_add, reduce_add_each, reduce_max_each
from xent_numba.backends.cpu.simd.vector import iota, lanes_of, select, splat

TILE_VECTORS = 256  # of 16 lanes: 16 rows of as many classes as a tile may have
assert TILE_CLASSES == TILE_VECTORS  # memory on the stack is as long as a literal says


# ------------------------------------------------------------------------------------------------ a group of rows
class Group(NamedTuple):
    """Rows (a, b) … (a, b + rows − 1), of which the first has the address p."""

    a: int
    b: int
    rows: int
    p: Any


@inline
def _group(call: Any, g: int, stop: int, lanes: int) -> Any:
    """Group g, a vector of rows of one first index a; none of its rows from `stop` on."""
    width = call.logits.shape[1]
    per_a = (width + lanes - 1) // lanes
    a = g // per_a
    b = (g - a * per_a) * lanes
    rows = min(lanes, width - b) if g < stop else 0
    return Group(a, b, rows, row_pointer(call.logits, a, b))


@inline
def _prefetch_rows(p: Any, row_stride: int, lanes: int) -> Any:
    """The first row of later groups."""
    step = max(1, lanes * (row_stride if row_stride > 0 else -row_stride))
    l2, l1 = max(1, L2_PREFETCH_DISTANCE // step), max(1, L1_PREFETCH_DISTANCE // step)
    return PrefetchRows(advance(p, l2 * lanes * row_stride), advance(p, l1 * lanes * row_stride))


@inline
def _load_row(group: Any, r: int, tile: Any, row_maxima: Any, width: int, call: Any, vtype: Any) -> None:
    """Row r of a group to its tile, and its maximum."""
    row_max = splat(-math.inf, vtype)
    if r < group.rows:
        p = advance(group.p, r * stride(call.logits, 1))
        row_max = copy_row(p, advance(tile, r * width), call.logits.shape[2], call.transform, row_max)
    store(row_maxima, r * lanes_of(vtype), row_max)


@inline
def _mask_targets(tile: Any, width: int, y: Any, smooth: Any, lanes: int) -> None:
    """−inf at the targets, if nothing else is to be taken from the logits.

    Long before they are read again: a processor waits for memory of which only a part was just written.
    """
    if smooth is None:
        for r in range(lanes):
            if extract_lane(y, r) >= 0:
                store_scalar(tile, r * width + extract_lane(y, r), -math.inf)


@inline
def _excluded_class(y: int, t: Any) -> Any:
    """The class to be left out by a mask: none where −inf is in its place."""
    if t is None:
        return None
    return y


@inline
def _store_target_gradient(row: Any, y: int, value: float, t: Any) -> None:
    """The gradient at the target, where no mask has put it."""
    if t is None:
        store_scalar(row, y, value)


@inline
def _store_dense_sums(
    target_gaps: Any, target_sums: Any, i: int, target_gap: Any, target_sum: Any, smooth: Any
) -> None:
    if smooth is not None:
        store(target_gaps, i, target_gap)
        store(target_sums, i, target_sum)


@inline
def _dense_totals(memory: Any, smooth: Any, vtype64: Any) -> Any:
    if smooth is None:
        return vtype64
    return reduce_add_each(memory, vtype64)


@inline
def _target_logits(tile: Any, width: int, y: Any, vtype: Any) -> Any:
    """f of each row's logit at its target, in float64."""
    place = select(y < splat(0, y), splat(0, y), y) + iota(vtype) * splat(width, y)
    return promote(gather(tile, place, vtype))


@inline
def _row_max(row_maxima: Any, saved: Any, vtype: Any) -> Any:
    """The maxima; where a log-sum-exp is saved, that."""
    if saved is not None:
        return saved
    return reduce_max_each(row_maxima, vtype)


@inline
def _group_rows(
    call: Any, lse: Any, grad: Any, staging: Any, carry: int, here: Any, tile: Any, row_maxima: Any, after: Any,
    tile_after: Any, tops_after: Any, vtype: Any,
) -> Any:  # fmt: skip
    """The losses of a group in a tile, whose gradient is written, and what of it stays in the stage.

    The rows of the group after it are brought meanwhile: memory is never idle, and no maximum is waited for.
    """
    classes, row_stride = call.logits.shape[2], stride(call.logits, 1)
    s = call.scale
    lanes = lanes_of(vtype)
    vtype64 = promote(vtype)
    a, b, rows = here.a, here.b, here.rows
    i = a * call.logits.shape[1] + b
    y = labels_of(call.labels, i, rows, classes, call.ignored, vtype)
    t = dense_target_of(call.dense, None, call.dense_weight)
    saved = saved_shift(lse, i, rows, s, vtype)
    width = (classes + lanes - 1) // lanes * lanes
    sums_exp_others, target_gaps, target_sums = (
        stack_buffer(vtype64, 16),
        stack_buffer(vtype64, 16),
        stack_buffer(vtype64, 16),
    )

    row_max = _row_max(row_maxima, saved, vtype)
    x_y = _target_logits(tile, width, y, vtype)
    _mask_targets(tile, width, y, t, lanes)
    c = finite_or_zero(row_max)
    shift = tile_shift(c, saved, s)
    centres, residuals, ms = stack_buffer(vtype, 1), stack_buffer(vtype, 1), stack_buffer(vtype, 1)
    store(centres, 0, c)
    store(residuals, 0, shift.residual)
    store(ms, 0, shift.m)
    ahead = _prefetch_rows(after.p, row_stride, lanes)
    for r in range(lanes):
        _load_row(after, r, tile_after, tops_after, width, call, vtype)
        sum_exp_others, target_gap, target_sum = vtype64, vtype64, vtype64
        if extract_lane(y, r) >= 0:
            prefetch = PrefetchRows(advance(ahead.l2, r * row_stride), advance(ahead.l1, r * row_stride))
            by, centre = (
                Shift(splat(load_scalar(residuals, r), vtype), splat(load_scalar(ms, r), vtype)),
                splat(load_scalar(centres, r), vtype),
            )
            row = advance(tile, r * width)
            sum_exp_others, target_gap, target_sum = row_sums(
                prefetch, row, classes, _excluded_class(extract_lane(y, r), t), by, centre, saved, s, t, grad
            )
        store(sums_exp_others, r * lanes, sum_exp_others)
        _store_dense_sums(target_gaps, target_sums, r * lanes, target_gap, target_sum, t)
    by = tile_unscale(shift, c, saved, s)
    found = RowStatistics(
        row_max,
        reduce_add_each(sums_exp_others, vtype64) * by,
        _dense_totals(target_gaps, t, vtype64),
        _dense_totals(target_sums, t, vtype64),
    )
    end = group_epilogue(call, found, x_y, y, i, rows, vtype)
    if grad is not None:
        of_p, u_factor, y_value = gradient_scales(call, lse, end, i, rows, vtype)
        factors, ks, values = centres, residuals, ms
        store(factors, 0, demote(of_p * by, vtype))
        store(ks, 0, u_factor)
        store(values, 0, y_value)
        out, out_stride = row_pointer(grad, a, b), stride(grad, 1)
        together = call.streaming and rows_contiguous(grad)
        for r in range(rows):
            row = advance(staging, carry + r * classes if together else 0)
            if extract_lane(y, r) >= 0:
                value, factor = load_scalar(values, r), splat(load_scalar(factors, r), vtype)
                to_gradient(
                    advance(tile, r * width),
                    row,
                    classes,
                    _excluded_class(extract_lane(y, r), t),
                    value,
                    factor,
                    load_scalar(ks, r),
                    t,
                )
                _store_target_gradient(row, extract_lane(y, r), value, t)
            else:
                for j in range(classes):
                    store_scalar(row, j, 0.0)
            if not together:
                write_row(row, advance(out, r * out_stride), classes, call.streaming, vtype)
        if together:
            carry = flush_full_lines(staging, carry, rows * classes, out, vtype)
    return group_losses(call, end, y, rows), carry


@inline
def packed_rows(call: Any, start: int, stop: int, group: int, partials: Any) -> None:
    """Add the losses of the groups start … stop, in their order, to partial sums of `group` of them each."""
    vtype = vtype_of(call)
    lanes = lanes_of(vtype)
    staging, carry = staging_buffer(call.grad, vtype), 0
    tiles, row_maxima = stack_buffer(vtype, 512), stack_buffer(vtype, 32)  # two of each
    width = (call.logits.shape[2] + lanes - 1) // lanes * lanes
    here = _group(call, start, stop, lanes)
    tile, row_max = tiles, row_maxima
    for r in range(lanes):
        _load_row(here, r, tile, row_max, width, call, vtype)
    for g in range(start, stop):
        other = 1 - (g - start) % 2
        after = _group(call, g + 1, stop, lanes)
        tile_after, top_after = advance(tiles, other * TILE_VECTORS * lanes), advance(row_maxima, other * 16 * lanes)
        found, carry = _group_rows(
            call, call.lse, call.grad, staging, carry, here, tile, row_max, after, tile_after, top_after, vtype
        )
        if after.rows == 0 or after.a != here.a:
            carry = flush_carry(call.grad, staging, carry, here.a, here.b + here.rows, vtype)
        store_losses(call.rows, here.a * call.logits.shape[1] + here.b, here.rows, found)
        partials[g // group] += reduce_add(found)
        here, tile, row_max = after, tile_after, top_after
