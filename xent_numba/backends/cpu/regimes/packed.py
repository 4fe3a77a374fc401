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
from xent_numba.backends.cpu.regimes.group_epilogue import end_of, labels_of, losses, put_rows, saved_of, slopes
from xent_numba.backends.cpu.regimes.lanes_tile import finite, lowered, shift_by
from xent_numba.backends.cpu.regimes.packed_row import Ahead, copy, sums, turn
from xent_numba.backends.cpu.regimes.staging import deliver_row, drain, empty, side_by_side, stage_for
from xent_numba.backends.cpu.regimes.tile_load import TILE
from xent_numba.backends.cpu.row.epilogue import Row
from xent_numba.backends.cpu.row.operands import dense, row_pointer, zero_vector
from xent_numba.backends.cpu.simd.cast import narrow, widen
from xent_numba.backends.cpu.simd.exp_shifted import Shift
from xent_numba.backends.cpu.simd.load_store import FAR, NEAR, advance, gather, get, put, scratch, store, stride
from xent_numba.backends.cpu.simd.reduce import lane, largests, total, totals
from xent_numba.backends.cpu.simd.vector import iota, lanes_of, select, splat

TILE_VECTORS = 256  # of 16 lanes: 16 rows of as many classes as a tile may have
assert TILE == TILE_VECTORS  # memory on the stack is as long as a literal says


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
def _ahead(p: Any, row_stride: int, lanes: int) -> Any:
    """The first row of later groups."""
    step = max(1, lanes * (row_stride if row_stride > 0 else -row_stride))
    far, near = max(1, FAR // step), max(1, NEAR // step)
    return Ahead(advance(p, far * lanes * row_stride), advance(p, near * lanes * row_stride))


@inline
def _bring(group: Any, r: int, tile: Any, tops: Any, width: int, call: Any, like: Any) -> None:
    """Row r of a group to its tile, and its maximum."""
    top = splat(-math.inf, like)
    if r < group.rows:
        p = advance(group.p, r * stride(call.logits, 1))
        top = copy(p, advance(tile, r * width), call.logits.shape[2], call.f, top)
    store(tops, r * lanes_of(like), top)


@inline
def _blot(tile: Any, width: int, y: Any, smooth: Any, lanes: int) -> None:
    """−inf at the targets, if nothing else is to be taken from the logits.

    Long before they are read again: a processor waits for memory of which only a part was just written.
    """
    if smooth is None:
        for r in range(lanes):
            if lane(y, r) >= 0:
                put(tile, r * width + lane(y, r), -math.inf)


@inline
def _masked(y: int, t: Any) -> Any:
    """The class to be left out by a mask: none where −inf is in its place."""
    if t is None:
        return None
    return y


@inline
def _put_value(row: Any, y: int, value: float, t: Any) -> None:
    """The gradient at the target, where no mask has put it."""
    if t is None:
        put(row, y, value)


@inline
def _put_dense(dots: Any, masses: Any, i: int, dot: Any, mass: Any, smooth: Any) -> None:
    if smooth is not None:
        store(dots, i, dot)
        store(masses, i, mass)


@inline
def _dense_totals(memory: Any, smooth: Any, wide: Any) -> Any:
    if smooth is None:
        return wide
    return totals(memory, wide)


@inline
def _target_logits(tile: Any, width: int, y: Any, like: Any) -> Any:
    """f of each row's logit at its target, in float64."""
    place = select(y < splat(0, y), splat(0, y), y) + iota(like) * splat(width, y)
    return widen(gather(tile, place, like))


@inline
def _top(tops: Any, saved: Any, like: Any) -> Any:
    """The maxima; where a log-sum-exp is saved, that."""
    if saved is not None:
        return saved
    return largests(tops, like)


@inline
def _run(
    call: Any, lse: Any, grad: Any, stage: Any, held: int, here: Any, tile: Any, tops: Any, after: Any, tile_after: Any,
    tops_after: Any, like: Any,
) -> Any:  # fmt: skip
    """The losses of a group in a tile, whose gradient is written, and what of it stays in the stage.

    The rows of the group after it are brought meanwhile: memory is never idle, and no maximum is waited for.
    """
    classes, row_stride = call.logits.shape[2], stride(call.logits, 1)
    s = call.s
    lanes = lanes_of(like)
    wide = widen(like)
    a, b, rows = here.a, here.b, here.rows
    i = a * call.logits.shape[1] + b
    y = labels_of(call.labels, i, rows, classes, call.ignored, like)
    t = dense(call.dense, None, call.dense_weight)
    saved = saved_of(lse, i, rows, s, like)
    width = (classes + lanes - 1) // lanes * lanes
    rests, dots, masses = scratch(wide, 16), scratch(wide, 16), scratch(wide, 16)

    top = _top(tops, saved, like)
    x_y = _target_logits(tile, width, y, like)
    _blot(tile, width, y, t, lanes)
    c = finite(top)
    shift = shift_by(c, saved, s)
    centres, nears, ms = scratch(like, 1), scratch(like, 1), scratch(like, 1)
    store(centres, 0, c)
    store(nears, 0, shift.near)
    store(ms, 0, shift.m)
    ahead = _ahead(after.p, row_stride, lanes)
    for r in range(lanes):
        _bring(after, r, tile_after, tops_after, width, call, like)
        rest, dot, mass = wide, wide, wide
        if lane(y, r) >= 0:
            soon = Ahead(advance(ahead.far, r * row_stride), advance(ahead.near, r * row_stride))
            by, centre = Shift(splat(get(nears, r), like), splat(get(ms, r), like)), splat(get(centres, r), like)
            row = advance(tile, r * width)
            rest, dot, mass = sums(soon, row, classes, _masked(lane(y, r), t), by, centre, saved, s, t, grad)
        store(rests, r * lanes, rest)
        _put_dense(dots, masses, r * lanes, dot, mass, t)
    by = lowered(shift, c, saved, s)
    found = Row(top, totals(rests, wide) * by, _dense_totals(dots, t, wide), _dense_totals(masses, t, wide))
    end = end_of(call, found, x_y, y, i, rows, like)
    if grad is not None:
        of_p, u_factor, y_value = slopes(call, lse, end, i, rows, like)
        factors, ks, values = centres, nears, ms
        store(factors, 0, narrow(of_p * by, like))
        store(ks, 0, u_factor)
        store(values, 0, y_value)
        out, out_stride = row_pointer(grad, a, b), stride(grad, 1)
        together = call.streaming and side_by_side(grad)
        for r in range(rows):
            row = advance(stage, held + r * classes if together else 0)
            if lane(y, r) >= 0:
                value, factor = get(values, r), splat(get(factors, r), like)
                turn(advance(tile, r * width), row, classes, _masked(lane(y, r), t), value, factor, get(ks, r), t)
                _put_value(row, lane(y, r), value, t)
            else:
                for j in range(classes):
                    put(row, j, 0.0)
            if not together:
                deliver_row(row, advance(out, r * out_stride), classes, call.streaming, like)
        if together:
            held = drain(stage, held, rows * classes, out, like)
    return losses(call, end, y, rows), held


@inline
def batch_rows(call: Any, start: int, stop: int, group: int, partials: Any) -> None:
    """Add the losses of the groups start … stop, in their order, to partial sums of `group` of them each."""
    like = zero_vector(call)
    lanes = lanes_of(like)
    stage, held = stage_for(call.grad, like), 0
    tiles, tops = scratch(like, 512), scratch(like, 32)  # two of each
    width = (call.logits.shape[2] + lanes - 1) // lanes * lanes
    here = _group(call, start, stop, lanes)
    tile, top = tiles, tops
    for r in range(lanes):
        _bring(here, r, tile, top, width, call, like)
    for g in range(start, stop):
        other = 1 - (g - start) % 2
        after = _group(call, g + 1, stop, lanes)
        tile_after, top_after = advance(tiles, other * TILE_VECTORS * lanes), advance(tops, other * 16 * lanes)
        found, held = _run(call, call.lse, call.grad, stage, held, here, tile, top, after, tile_after, top_after, like)
        if after.rows == 0 or after.a != here.a:
            held = empty(call.grad, stage, held, here.a, here.b + here.rows, like)
        put_rows(call.rows, here.a * call.logits.shape[1] + here.b, here.rows, found)
        partials[g // group] += total(found)
        here, tile, top = after, tile_after, top_after
