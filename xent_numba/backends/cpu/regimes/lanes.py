"""Short rows, and rows whose classes are apart in memory: a vector of rows at a time, one row a lane."""

from __future__ import annotations

from typing import Any

from xent_numba.backends.cpu.compile.inline import inline, optional
from xent_numba.backends.cpu.plan import TILE_CLASSES
from xent_numba.backends.cpu.regimes.group_epilogue import (
    gradient_scales,
    group_epilogue,
    group_losses,
    labels_of,
    saved_shift,
    store_losses,
)
from xent_numba.backends.cpu.regimes.lanes_tile import (
    finite_or_zero,
    merge_lanes,
    tile_exponentials,
    tile_gradient,
    tile_statistics,
)
from xent_numba.backends.cpu.regimes.staging import flush_carry, staging_buffer, write_rows
from xent_numba.backends.cpu.regimes.tile_load import load_tile, prefetch_cursor
from xent_numba.backends.cpu.regimes.work_items import row_group
from xent_numba.backends.cpu.row.operands import dense_target_of, row_pointer, vtype_of
from xent_numba.backends.cpu.row.transform import apply_transform
from xent_numba.backends.cpu.simd.cast import demote, promote
from xent_numba.backends.cpu.simd.load_store import advance, gather, load, load_n, stack_buffer, store_scalar, stride
from xent_numba.backends.cpu.simd.reduce import extract_lane, reduce_add
from xent_numba.backends.cpu.simd.vector import iota, lanes_of, select, splat


@inline
def _target_logits(
    tile: Any, p: Any, row_stride: int, class_stride: int, classes: int, y: Any, f: Any, vtype: Any
) -> Any:
    """f of each row's logit at its target, in float64."""
    if y is None:
        return promote(vtype)
    lanes = lanes_of(vtype)
    if classes <= TILE_CLASSES:
        place = select(y < splat(0, y), splat(0, y), y) * splat(lanes, y) + iota(vtype)
        return promote(apply_transform(gather(tile, place, vtype), f))
    memory = stack_buffer(vtype, 1)
    for r in range(lanes):
        j = extract_lane(y, r)
        if j >= 0:
            store_scalar(memory, r, extract_lane(load_n(p, r * row_stride + j * class_stride, 1, splat(0.0, vtype)), 0))
        else:
            store_scalar(memory, r, 0.0)
    return promote(apply_transform(load(memory, 0, vtype), f))


@optional
def _e_tile(grad: Any, vtype: Any) -> Any:
    return stack_buffer(vtype, 256)


@optional
def _q_tile(q: Any, vtype: Any) -> Any:
    return stack_buffer(vtype, 256)


@inline
def _fill_q(q: Any, tile: Any, a: int, b: int, first: int, rows: int, classes: int, vtype: Any) -> None:
    if q is not None:
        p = advance(row_pointer(q, a, b), first * stride(q, 2))
        load_tile(p, stride(q, 1), stride(q, 2), rows, classes, tile, vtype)


@inline
def _group(call: Any, lse: Any, grad: Any, staging: Any, carry: int, a: int, b: int, rows: int, vtype: Any) -> Any:
    """The losses of rows (a, b) … (a, b + rows − 1), whose gradient is written, and what of it stays in the stage."""
    classes = call.logits.shape[2]
    f, s = call.transform, call.scale
    i = a * call.logits.shape[1] + b
    p = row_pointer(call.logits, a, b)
    row_stride, class_stride = stride(call.logits, 1), stride(call.logits, 2)
    y = labels_of(call.labels, i, rows, classes, call.ignored, vtype)
    saved = saved_shift(lse, i, rows, s, vtype)
    tile, e_tile, q_tile = stack_buffer(vtype, 256), _e_tile(grad, vtype), _q_tile(call.distribution, vtype)
    t = dense_target_of(call.dense, q_tile, call.dense_weight)

    count = min(classes, TILE_CLASSES)
    load_tile(p, row_stride, class_stride, rows, count, tile, vtype)
    _fill_q(call.distribution, q_tile, a, b, 0, rows, count, vtype)
    ahead = prefetch_cursor(p, row_stride, class_stride, count, vtype)
    row, by = tile_statistics(tile, e_tile, 0, count, y, saved, f, s, t, ahead, vtype)
    for first in range(TILE_CLASSES, classes, TILE_CLASSES):
        count = min(classes - first, TILE_CLASSES)
        load_tile(advance(p, first * class_stride), row_stride, class_stride, rows, count, tile, vtype)
        _fill_q(call.distribution, q_tile, a, b, first, rows, count, vtype)
        more, _ = tile_statistics(tile, e_tile, first, count, y, saved, f, s, t, None, vtype)
        row = merge_lanes(row, more, saved, s)

    x_y = _target_logits(tile, p, row_stride, class_stride, classes, y, f, vtype)
    end = group_epilogue(call, row, x_y, y, i, rows, vtype)
    if grad is not None:
        of_p, u_factor, y_value = gradient_scales(call, lse, end, i, rows, vtype)
        for first in range(0, classes, TILE_CLASSES):
            count = min(classes - first, TILE_CLASSES)
            if classes > TILE_CLASSES:
                load_tile(advance(p, first * class_stride), row_stride, class_stride, rows, count, tile, vtype)
                _fill_q(call.distribution, q_tile, a, b, first, rows, count, vtype)
                by = tile_exponentials(tile, e_tile, count, finite_or_zero(row.row_max), saved, f, s)
            p_factor = demote(of_p * by, vtype)
            tile_gradient(tile, e_tile, first, count, y, p_factor, u_factor, y_value, f, t, vtype)
            carry = write_rows(e_tile, grad, a, b, first, rows, count, call.streaming, staging, carry, vtype)
    return group_losses(call, end, y, rows), carry


@inline
def lanes_rows(operands: Any, start: int, stop: int, group: int, partials: Any) -> None:
    """Compute the work items start … stop, in order, and store the sum of the losses of each group of them.

    `start` is a multiple of `group`.
    """
    vtype = vtype_of(operands)
    lanes = lanes_of(vtype)
    staging, carry = staging_buffer(operands.grad, vtype), 0
    shape = operands.logits.shape
    for first in range(start, stop, group):
        sum_of_losses = 0.0
        for item in range(first, min(stop, first + group)):
            a, b, rows = row_group(shape, item, lanes)
            losses, carry = _group(operands, operands.lse, operands.grad, staging, carry, a, b, rows, vtype)
            if b + rows == shape[1] or item + 1 == stop:
                carry = flush_carry(operands.grad, staging, carry, a, b + rows, vtype)
            store_losses(operands.rows, a * shape[1] + b, rows, losses)
            sum_of_losses += reduce_add(losses)
        partials[first // group] = sum_of_losses
