"""Rows of a few dozen to a few hundred classes that lie side by side: a vector of rows at a time, each along its lanes.

Nothing is transposed but what is left of the rows: a vector of maxima, then one of sums for each, folded to one lane a
row (`lanes.totals`).  So losses and factors are computed for all the rows at once, as for rows in tiles, and no row
waits for the sum of another.

Only for arithmetic in float32: the sum across lanes costs an ulp of float64 that the accuracy law has no room for.

The logits of a group are copied to a tile, where they become exponentials; these become the gradient in the stage that
leaves for memory.  −inf stands at the place of a target meanwhile: its term is not in the sum, and no instruction is
spent on leaving it out.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from xent_numba.backends.cpu.along import copy, sums, turn
from xent_numba.backends.cpu.call import dense, row_pointer, zero_vector
from xent_numba.backends.cpu.columns import finite, lowered, shift_by, with_maximum
from xent_numba.backends.cpu.conversions import narrow, widen
from xent_numba.backends.cpu.finish import Row
from xent_numba.backends.cpu.group import end_of, labels_of, losses, put_rows, saved_of, slopes
from xent_numba.backends.cpu.lanes import lane, largests, total, totals
from xent_numba.backends.cpu.memory import (
    advance,
    gather,
    get,
    put,
    scratch,
    store,
    stride,
)
from xent_numba.backends.cpu.pieces import inline, unless_none
from xent_numba.backends.cpu.shifted import Shift
from xent_numba.backends.cpu.simd import iota, lanes_of, select, splat
from xent_numba.backends.cpu.stage import deliver_row, drain, empty, side_by_side, stage_for


# ------------------------------------------------------------------------------------------------ a group of rows
@inline
def _label(y: Any, r: int) -> Any:
    """The class of row r, −1 where it is ignored; 0 where there are distributions."""
    if y is None:
        return 0
    return lane(y, r)


@unless_none
def _blot(y: Any, tile: Any, width: int, dense: Any, lanes: int) -> None:
    """−inf at the targets, if nothing else is to be taken from the logits.

    Long before they are read again: a processor waits for memory of which only a part was just written.
    """
    if dense is None:
        for r in range(lanes):
            if lane(y, r) >= 0:
                put(tile, r * width + lane(y, r), -math.inf)


@inline
def _put_dense(dots: Any, masses: Any, i: int, dot: Any, mass: Any, dense: Any) -> None:
    if dense is not None:
        store(dots, i, dot)
        store(masses, i, mass)


@inline
def _dense_totals(memory: Any, dense: Any, wide: Any) -> Any:
    if dense is None:
        return wide
    return totals(memory, wide)


@inline
def _masked(y: Any, lanes: Any, t: Any) -> Any:
    """The class to be left out by a mask: none where −inf is in its place, or there are distributions."""
    if t is None:
        return None
    return _if_there(lanes, y)


@unless_none
def _if_there(lanes: Any, y: int) -> Any:
    return y


@inline
def _target_logits(tile: Any, width: int, y: Any, like: Any) -> Any:
    """f of each row's logit at its target, in float64."""
    if y is None:
        return widen(like)
    place = select(y < splat(0, y), splat(0, y), y) + iota(like) * splat(width, y)
    return widen(gather(tile, place, like))


@inline
def _put_value(row: Any, y: int, value: float, t: Any) -> None:
    """The gradient at the target, where no mask has put it."""
    if t is None:
        put(row, y, value)


@inline
def _dense_of(call: Any, a: int, b: int) -> Any:
    return dense(call.dense, row_pointer(call.q, a, b), call.dense_weight)


@inline
def _top(tops: Any, saved: Any, like: Any) -> Any:
    """The maxima; where a log-sum-exp is saved, that."""
    if saved is not None:
        return saved
    return largests(tops, like)


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
def _bring(group: Any, r: int, tile: Any, tops: Any, width: int, call: Any, like: Any) -> None:
    """Row r of a group to its tile, and its maximum."""
    top = splat(-math.inf, like)
    if r < group.rows:
        p = advance(group.p, r * stride(call.logits, 1))
        top = copy(p, advance(tile, r * width), call.logits.shape[2], call.f, top)
    store(tops, r * lanes_of(like), top)


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
    saved = saved_of(lse, i, rows, s, like)
    width = (classes + lanes - 1) // lanes * lanes
    rests, dots, masses = scratch(wide, 16), scratch(wide, 16), scratch(wide, 16)

    top = _top(tops, saved, like)
    x_y = _target_logits(tile, width, y, like)
    _blot(y, tile, width, call.dense, lanes)
    c = finite(top)
    shift = shift_by(c, saved, s)
    centres, nears, ms = scratch(like, 1), scratch(like, 1), scratch(like, 1)
    store(centres, 0, c)
    store(nears, 0, shift.near)
    store(ms, 0, shift.m)
    for r in range(lanes):
        _bring(after, r, tile_after, tops_after, width, call, like)
        rest, dot, mass = wide, wide, wide
        y_r = _label(y, r)
        if r < rows and y_r >= 0:
            t = _dense_of(call, a, b + r)
            q, row = advance(after.p, r * row_stride), advance(tile, r * width)
            by, centre = Shift(splat(get(nears, r), like), splat(get(ms, r), like)), splat(get(centres, r), like)
            rest, dot, mass = sums(q, row, classes, _masked(y_r, y, t), by, centre, saved, s, t, grad)
        store(rests, r * lanes, rest)
        _put_dense(dots, masses, r * lanes, dot, mass, call.dense)
    by = lowered(shift, c, saved, s)
    rest = with_maximum(totals(rests, wide), top, shift, by, y, saved, s)
    row = Row(top, rest, _dense_totals(dots, call.dense, wide), _dense_totals(masses, call.dense, wide))
    end = end_of(call, row, x_y, y, i, rows, like)
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
            t, y_r = _dense_of(call, a, b + r), _label(y, r)
            if y_r >= 0:
                value, factor = get(values, r), splat(get(factors, r), like)
                e = advance(tile, r * width)
                turn(e, row, classes, _masked(y_r, y, t), value, factor, get(ks, r), t)
                if y is not None:
                    _put_value(row, y_r, value, t)
            else:
                for j in range(classes):
                    put(row, j, 0.0)
            if not together:
                deliver_row(row, advance(out, r * out_stride), classes, call.streaming, like)
        if together:
            held = drain(stage, held, rows * classes, out, like)
    return losses(call, end, y, rows), held


@inline
def batch_rows(call: Any, start: int, stop: int) -> Any:
    """Σ loss of the groups start … stop; a group is a vector of rows of one first index a."""
    like = zero_vector(call)
    lanes = lanes_of(like)
    stage, held = stage_for(call.grad, like), 0
    tiles, tops = scratch(like, 512), scratch(like, 32)
    width = (call.logits.shape[2] + lanes - 1) // lanes * lanes
    here = _group(call, start, stop, lanes)
    tile, top = tiles, tops
    for r in range(lanes):
        _bring(here, r, tile, top, width, call, like)
    sum_of_losses = 0.0
    for g in range(start, stop):
        other = 1 - (g - start) % 2
        after = _group(call, g + 1, stop, lanes)
        tile_after, top_after = advance(tiles, other * 256 * lanes), advance(tops, other * 16 * lanes)
        found, held = _run(call, call.lse, call.grad, stage, held, here, tile, top, after, tile_after, top_after, like)
        if after.rows == 0 or after.a != here.a:
            held = empty(call.grad, stage, held, here.a, here.b + here.rows, like)
        put_rows(call.rows, here.a * call.logits.shape[1] + here.b, here.rows, found)
        sum_of_losses += total(found)
        here, tile, top = after, tile_after, top_after
    return sum_of_losses
