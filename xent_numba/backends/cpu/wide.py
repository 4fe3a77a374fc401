"""Short rows, and rows whose classes are apart in memory: a vector of rows at a time, one row a lane."""

from __future__ import annotations

from typing import Any

from xent_numba.backends.cpu.call import dense, row_pointer, times, zero_vector
from xent_numba.backends.cpu.columns import (
    finite,
    heeded,
    merge_lanes,
    tile_exponentials,
    tile_gradient,
    tile_statistics,
)
from xent_numba.backends.cpu.conversions import narrow, shortened, whole, widen
from xent_numba.backends.cpu.finish import Row, factors, inverse_of_saved, log_sum, loss, target_term
from xent_numba.backends.cpu.lanes import lane
from xent_numba.backends.cpu.lanes import total as sum_of
from xent_numba.backends.cpu.memory import advance, gather, keep, load, load_part, pointer, put, scratch, stride
from xent_numba.backends.cpu.pieces import inline, unless_none
from xent_numba.backends.cpu.simd import iota, lanes_of, select, splat
from xent_numba.backends.cpu.stage import deliver, end, stage_for
from xent_numba.backends.cpu.terms import factor, transformed
from xent_numba.backends.cpu.tiles import TILE, fill, soon
from xent_numba.backends.cpu.vmath import divided, scaled


@unless_none
def _labels(labels: Any, i: int, rows: int, classes: int, ignored: Any, like: Any) -> Any:
    """The class of each row, −1 in lanes without one; None where there are no labels."""
    nothing = whole(like)
    y = load(pointer(labels), i, nothing) if rows == lanes_of(like) else load_part(pointer(labels), i, rows, nothing)
    for value in ignored:
        y = select(y == splat(value, y), nothing, y)
    y = select(y < splat(classes, y), y, nothing)  # what is out of range is ignored: the scan saw to it
    return shortened(select(y < splat(0, y), nothing, y), like)


@inline
def _row_values(array: Any, i: int, rows: int, wide: Any) -> Any:
    """array[i + r] in lane r, or 1 where the array is empty."""
    if array.size == 0:
        return splat(1.0, wide)
    memory = scratch(wide, 1)
    for r in range(lanes_of(wide)):
        put(memory, r, array[i + r] if r < rows else 0.0)
    return load(memory, 0, wide)


@unless_none
def _hard(hard: Any, weight: Any, y: Any, wide: Any) -> Any:
    """(1 − ε) w_y of each row; None for a distribution."""
    if weight.size == 0:
        return splat(hard, wide)
    memory = scratch(wide, 1)
    for r in range(lanes_of(wide)):
        put(memory, r, hard * weight[max(lane(y, r), 0)])
    return load(memory, 0, wide)


@inline
def _target_logits(
    tile: Any, p: Any, row_stride: int, class_stride: int, classes: int, y: Any, f: Any, like: Any
) -> Any:
    """f of each row's logit at its target, in float64."""
    if y is None:
        return widen(like)
    lanes = lanes_of(like)
    if classes <= TILE:
        place = select(y < splat(0, y), splat(0, y), y) * splat(lanes, y) + iota(like)
        return widen(transformed(gather(tile, place, like), f))
    memory = scratch(like, 1)
    for r in range(lanes):
        j = lane(y, r)
        if j >= 0:
            put(memory, r, lane(load_part(p, r * row_stride + j * class_stride, 1, splat(0.0, like)), 0))
        else:
            put(memory, r, 0.0)
    return widen(transformed(load(memory, 0, like), f))


@unless_none
def _e_tile(grad: Any, like: Any) -> Any:
    return scratch(like, 256)


@unless_none
def _q_tile(q: Any, like: Any) -> Any:
    return scratch(like, 256)


@inline
def _fill_q(q: Any, tile: Any, a: int, b: int, first: int, rows: int, classes: int, like: Any) -> None:
    if q is not None:
        p = advance(row_pointer(q, a, b), first * stride(q, 2))
        fill(p, stride(q, 1), stride(q, 2), rows, classes, tile, like)


@unless_none
def _saved(lse: Any, i: int, rows: int, s: Any, like: Any) -> Any:
    """What stands in for the maximum where a log-sum-exp is saved: it, without the scale."""
    given = _row_values(lse, i, rows, widen(like))
    return narrow(given / splat(factor(s), given), like)


@inline
def _inverse(lse: Any, row: Any, total: Any, i: int, rows: int, s: Any, like: Any) -> Any:
    """1 / S."""
    if lse is None:
        return divided(splat(1.0, total), total)
    return inverse_of_saved(row, _row_values(lse, i, rows, widen(like)), s)


@inline
def _lse(saved: Any, row: Any, log_s: Any, i: int, rows: int, s: Any) -> Any:
    if saved is None:
        return scaled(row.top, s) + log_s
    return _row_values(saved, i, rows, log_s)


@inline
def _put_rows(out: Any, i: int, rows: int, loss: Any) -> None:
    if out.size:
        for r in range(lanes_of(loss)):
            if r < rows:
                out[i + r] = lane(loss, r)


@inline
def _kept(loss: Any, y: Any, rows: int) -> Any:
    """The loss, 0 in lanes that have no row or an ignored one."""
    if y is None:
        return keep(loss, rows, splat(0.0, loss))
    return heeded(loss, y)


@inline
def _group(call: Any, lse: Any, grad: Any, stage: Any, held: int, a: int, b: int, rows: int, like: Any) -> Any:
    """The losses of rows (a, b) … (a, b + rows − 1), whose gradient is written, and what of it stays in the stage."""
    classes = call.logits.shape[2]
    f, s, z = call.f, call.s, call.z
    i = a * call.logits.shape[1] + b
    p = row_pointer(call.logits, a, b)
    row_stride, class_stride = stride(call.logits, 1), stride(call.logits, 2)
    y = _labels(call.labels, i, rows, classes, call.ignored, like)
    saved = _saved(lse, i, rows, s, like)
    tile, e_tile, q_tile = scratch(like, 256), _e_tile(grad, like), _q_tile(call.q, like)
    t = dense(call.dense, q_tile, call.dense_weight)

    count = min(classes, TILE)
    fill(p, row_stride, class_stride, rows, count, tile, like)
    _fill_q(call.q, q_tile, a, b, 0, rows, count, like)
    ahead = soon(p, row_stride, class_stride, count, like)
    row, by = tile_statistics(tile, e_tile, 0, count, y, saved, f, s, t, ahead, like)
    for first in range(TILE, classes, TILE):
        count = min(classes - first, TILE)
        fill(advance(p, first * class_stride), row_stride, class_stride, rows, count, tile, like)
        _fill_q(call.q, q_tile, a, b, first, rows, count, like)
        more, _ = tile_statistics(tile, e_tile, first, count, y, saved, f, s, t, None, like)
        row = merge_lanes(row, more, saved, s)

    wide = widen(like)
    x_y = _target_logits(tile, p, row_stride, class_stride, classes, y, f, like)
    top = row.top
    row = Row(widen(row.top), row.rest, row.dot, row.mass)
    hard = _hard(call.hard, call.weight, y, wide)
    e_y = target_term(row, hard, x_y, s, like)
    total = row.rest + e_y
    log_s = log_sum(row, hard, x_y, total)
    scale = _row_values(call.sample_weight, i, rows, wide)
    if grad is not None:
        inverse = _inverse(lse, row, total, i, rows, s, like)
        slope = factors(row, hard, e_y, inverse, _lse(lse, row, log_s, i, rows, s), z)
        k = scale * _row_values(call.upstream, i, rows, wide) * splat(call.grad_scale, wide)
        u_factor, y_value = narrow(k, like), narrow(slope.at_target * k, like)
        for first in range(0, classes, TILE):
            count = min(classes - first, TILE)
            if classes > TILE:
                fill(advance(p, first * class_stride), row_stride, class_stride, rows, count, tile, like)
                _fill_q(call.q, q_tile, a, b, first, rows, count, like)
                by = tile_exponentials(tile, e_tile, count, finite(top), saved, f, s)
            p_factor = narrow(slope.of_p * k * by, like)
            tile_gradient(tile, e_tile, first, count, y, p_factor, u_factor, y_value, f, t, like)
            held = deliver(e_tile, grad, a, b, first, rows, count, call.streaming, stage, held, like)
    return _kept(times(loss(row, hard, x_y, log_s, s, z), scale), y, rows), held


@inline
def wide_rows(call: Any, start: int, stop: int) -> float:
    """Σ loss of the groups start … stop; a group is a vector of rows of one first index a."""
    like = zero_vector(call)
    lanes = lanes_of(like)
    width = call.logits.shape[1]
    per_a = (width + lanes - 1) // lanes
    sum_of_losses = 0.0
    stage, held = stage_for(call.grad, like), 0
    for g in range(start, stop):
        a = g // per_a
        b = (g - a * per_a) * lanes
        rows = min(lanes, width - b)
        losses, held = _group(call, call.lse, call.grad, stage, held, a, b, rows, like)
        if b + rows == width or g + 1 == stop:
            held = end(call.grad, stage, held, a, b + rows, like)
        _put_rows(call.rows, a * width + b, rows, losses)
        sum_of_losses += sum_of(losses)
    return sum_of_losses
