"""Hessian-vector products of rows of a few dozen to a few hundred classes: a vector of rows, each along its classes.

As in `regimes.packed`, nothing is transposed but what is summed over the rows, and the regime is for float32 arithmetic
and labels; and for losses whose second derivatives at the label have no formula of their own.  Then nothing has to be
left out of the sum of exponentials, as H v has no 1 − p in it: only the value of the vector at the maximum is wanted,
to which its other values are relative.

The exponentials of a work item wait in a tile; logits and vector are in a cache when they are read again.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from xent_numba.backends.cpu.compile.inline import inline
from xent_numba.backends.cpu.plan import TILE_CLASSES
from xent_numba.backends.cpu.regimes.curvature.operands import second_order_vtype
from xent_numba.backends.cpu.regimes.curvature.packed_statistics import item_statistics, packed_row
from xent_numba.backends.cpu.regimes.item_epilogue import label_weights, labels_of, row_values
from xent_numba.backends.cpu.regimes.lanes.load import rows_view
from xent_numba.backends.cpu.regimes.staging import (
    flush_carry,
    flush_full_lines,
    staging_of,
    with_carry,
    write_row,
)
from xent_numba.backends.cpu.regimes.work_items import work_item
from xent_numba.backends.cpu.row.curvature import magnitude_of, offset_without_focal
from xent_numba.backends.cpu.row.epilogue import log_of_sum
from xent_numba.backends.cpu.row.operands import row_pointer
from xent_numba.backends.cpu.simd.cast import demote, promote
from xent_numba.backends.cpu.simd.load_store import (
    advance,
    load,
    load_n,
    load_scalar,
    stack_buffer,
    store,
    store_scalar,
    stride,
)
from xent_numba.backends.cpu.simd.math import apply_scale, divide
from xent_numba.backends.cpu.simd.reduce import extract_lane
from xent_numba.backends.cpu.simd.vector import lanes_of, splat


# ------------------------------------------------------------------------------------------------ factors
class _Buffers(NamedTuple):
    """Pointers to a value for each row: what the products are made of."""

    factor: Any  # what turns exponentials into p_j times all that multiplies the row
    spread: Any
    at_top: Any
    offset: Any


@inline
def _lse(row_max: Any, total: Any, operands: Any) -> Any:
    """The log-sum-exp of each row, where a z-loss needs it."""
    lse = total
    if operands.z_coefficient != 0.0:
        log_s = log_of_sum(total - splat(1.0, total), total)
        lse = apply_scale(promote(row_max), operands.scale) + log_s
    return lse


@inline
def _target_sum(dense: Any, vtype64: Any) -> Any:
    """Σ u_j, which label smoothing makes the same in all rows."""
    if dense is None:
        return splat(0.0, vtype64)
    return splat(dense.target_sum, vtype64)


@inline
def _factors(operands: Any, second: Any, item: Any, y: Any, found: Any, vtype: Any) -> Any:
    """The `_Buffers` of a work item, from `found`: maxima, v there, Σ e, Σ e (v − v there), and `tile_rescale`."""
    row_max, at_top, total, stream, rescale = found
    zeta, inverse = operands.z_coefficient, divide(splat(1.0, total), total)
    weight = label_weights(operands.confidence, operands.weight, y, total) + _target_sum(operands.dense, total)
    spread = weight + splat(2.0 * zeta, total) * _lse(row_max, total, operands)
    offset = offset_without_focal(spread, stream * inverse, promote(at_top), zeta)
    factor = row_values(operands.sample_weight, item, total) * splat(second.scale, total) * inverse * rescale
    buffers = _Buffers(stack_buffer(vtype, 1), stack_buffer(vtype, 1), stack_buffer(vtype, 1), stack_buffer(vtype, 1))
    magnitude = magnitude_of(spread)
    store(buffers.factor, 0, demote(factor * magnitude, vtype))
    store(buffers.spread, 0, demote(spread / magnitude, vtype))
    store(buffers.at_top, 0, at_top)
    store(buffers.offset, 0, demote(offset / magnitude, vtype))
    return buffers


# ------------------------------------------------------------------------------------------------ products
@inline
def _write_product(row: Any, out: Any, buffers: Any, r: int, vtype: Any) -> None:
    """Write a row of the product to a buffer, whole vectors: what is beyond the row is overwritten by the next one."""
    factor, spread = splat(load_scalar(buffers.factor, r), vtype), splat(load_scalar(buffers.spread, r), vtype)
    at_top, offset = splat(load_scalar(buffers.at_top, r), vtype), splat(load_scalar(buffers.offset, r), vtype)
    step = lanes_of(vtype)
    i = 0
    while i + step <= row.classes:
        p = load(row.exp, i, vtype) * factor
        store(out, i, p * (spread * (load(row.v, i, vtype) - at_top) - offset))
        i += step
    if i < row.classes:
        p = load(row.exp, i, vtype) * factor
        store(out, i, p * (spread * (load_n(row.v, i, row.classes - i, at_top) - at_top) - offset))


@inline
def _write_zeros(out: Any, classes: int) -> None:
    """Write an ignored row to a buffer."""
    for j in range(classes):
        store_scalar(out, j, 0.0)


@inline
def _product_item(operands: Any, second: Any, item: Any, tile: Any, staging: Any, vtype: Any) -> Any:
    """Write the Hessian-vector products of a work item; returns the staging buffer after it."""
    classes, lanes = operands.logits.shape[2], lanes_of(vtype)
    views = rows_view(operands.logits, item, 0), rows_view(second.vector, item, 0)
    y = labels_of(operands.labels, item, classes, operands.ignored_classes, vtype)
    found = item_statistics(operands, views, y, tile, vtype)
    buffers = _factors(operands, second, item, y, found, vtype)
    out, out_stride = row_pointer(operands.grad, item.a, item.b), stride(operands.grad, 1)
    for r in range(item.rows):
        place = advance(staging.buffer, staging.carry + r * classes if staging.assembles else 0)
        if extract_lane(y, r) >= 0:
            _write_product(packed_row(operands, views, r, tile, lanes), place, buffers, r, vtype)
        else:
            _write_zeros(place, classes)
        if not staging.assembles:
            write_row(place, advance(out, r * out_stride), classes, staging.streaming, vtype)
    if staging.assembles:
        carry = flush_full_lines(staging.buffer, staging.carry, item.rows * classes, out, vtype)
        staging = with_carry(staging, carry)
    return staging


@inline
def packed_products(operands: Any, second: Any, start: int, stop: int) -> None:
    """The work items start … stop of a Hessian-vector product."""
    vtype = second_order_vtype(operands, second)
    staging, tile = staging_of(operands.grad, operands.streaming, vtype), stack_buffer(vtype, TILE_CLASSES)
    for index in range(start, stop):
        item = work_item(operands.logits.shape, index, lanes_of(vtype))
        staging = _product_item(operands, second, item, tile, staging, vtype)
        staging = flush_carry(staging, operands.grad, item, index + 1 == stop, vtype)
