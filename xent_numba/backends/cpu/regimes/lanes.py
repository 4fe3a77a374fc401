"""Short rows, and rows whose classes are apart in memory: a vector of rows at a time, one row a lane."""

from __future__ import annotations

from typing import Any

from xent_numba.backends.cpu.compile.inline import inline, unless_none
from xent_numba.backends.cpu.regimes.group_epilogue import end_of, labels_of, losses, put_rows, saved_of, slopes
from xent_numba.backends.cpu.regimes.lanes_tile import (
    finite,
    merge_lanes,
    tile_exponentials,
    tile_gradient,
    tile_statistics,
)
from xent_numba.backends.cpu.regimes.staging import deliver, empty, stage_for
from xent_numba.backends.cpu.regimes.tile_load import TILE, fill, soon
from xent_numba.backends.cpu.row.operands import dense, row_pointer, zero_vector
from xent_numba.backends.cpu.row.transform import transformed
from xent_numba.backends.cpu.simd.cast import narrow, widen
from xent_numba.backends.cpu.simd.load_store import advance, gather, load, load_part, put, scratch, stride
from xent_numba.backends.cpu.simd.reduce import lane, total
from xent_numba.backends.cpu.simd.vector import iota, lanes_of, select, splat


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


@inline
def _group(call: Any, lse: Any, grad: Any, stage: Any, held: int, a: int, b: int, rows: int, like: Any) -> Any:
    """The losses of rows (a, b) … (a, b + rows − 1), whose gradient is written, and what of it stays in the stage."""
    classes = call.logits.shape[2]
    f, s = call.f, call.s
    i = a * call.logits.shape[1] + b
    p = row_pointer(call.logits, a, b)
    row_stride, class_stride = stride(call.logits, 1), stride(call.logits, 2)
    y = labels_of(call.labels, i, rows, classes, call.ignored, like)
    saved = saved_of(lse, i, rows, s, like)
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

    x_y = _target_logits(tile, p, row_stride, class_stride, classes, y, f, like)
    end = end_of(call, row, x_y, y, i, rows, like)
    if grad is not None:
        of_p, u_factor, y_value = slopes(call, lse, end, i, rows, like)
        for first in range(0, classes, TILE):
            count = min(classes - first, TILE)
            if classes > TILE:
                fill(advance(p, first * class_stride), row_stride, class_stride, rows, count, tile, like)
                _fill_q(call.q, q_tile, a, b, first, rows, count, like)
                by = tile_exponentials(tile, e_tile, count, finite(row.top), saved, f, s)
            p_factor = narrow(of_p * by, like)
            tile_gradient(tile, e_tile, first, count, y, p_factor, u_factor, y_value, f, t, like)
            held = deliver(e_tile, grad, a, b, first, rows, count, call.streaming, stage, held, like)
    return losses(call, end, y, rows), held


@inline
def wide_rows(call: Any, start: int, stop: int) -> Any:
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
        found, held = _group(call, call.lse, call.grad, stage, held, a, b, rows, like)
        if b + rows == width or g + 1 == stop:
            held = empty(call.grad, stage, held, a, b + rows, like)
        put_rows(call.rows, a * width + b, rows, found)
        sum_of_losses += total(found)
    return sum_of_losses
