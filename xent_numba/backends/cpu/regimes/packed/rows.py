"""Rows of a few dozen to a few hundred classes that lie side by side: a vector of rows at a time, each along its
classes.

Logits are not transposed, only what is summed over them: the maximum of each row is a vector of lanes, and so is each
sum.  As many of these vectors as there are rows are reduced at once, to one vector with a row in each lane
(`reduce_max_each`, `reduce_add_each`).  Losses and gradient factors are then computed for all rows together, as in the
`lanes` regime, and no row waits for the sum of another.

The regime is for float32 arithmetic and labels only.  A sum across lanes costs an ulp of float64, for which the
accuracy that is promised for float64 has no room.  A distribution leaves out the class of its maximum, which is found
along a lane and not across lanes.

The logits of a work item are copied to a tile, where their exponentials replace them; the gradient is made of these in
the staging buffer, on its way to memory.  While a work item is computed the next one is loaded to a second tile, so
that memory is always busy and no maximum has to be waited for.

−inf has two uses here.  It fills up the last vector of a row, and it takes the place of the logit at the label, whose
term does not belong in the sum; no instruction is spent on leaving either out.
"""

from __future__ import annotations

import math
from typing import Any

from xent_numba.backends.cpu.compile.inline import inline, optional
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
from xent_numba.backends.cpu.regimes.lanes.gradient import ScaledFactors, rescaled
from xent_numba.backends.cpu.regimes.lanes.tile import (
    TileInput,
    TileShift,
    tile_rescale,
    tile_shift,
)
from xent_numba.backends.cpu.regimes.packed.load import (
    ROWS,
    PrefetchRows,
    load_row,
    packed_item,
    prefetch_rows,
    tile_width,
)
from xent_numba.backends.cpu.regimes.packed.row import PackedRow, row_sums, to_gradient
from xent_numba.backends.cpu.regimes.staging import (
    flush_carry,
    flush_full_lines,
    staging_of,
    with_carry,
    write_row,
)
from xent_numba.backends.cpu.row.epilogue import RowStatistics
from xent_numba.backends.cpu.row.operands import dense_target_of, row_pointer, vtype_of
from xent_numba.backends.cpu.row.target import no_dense_sums
from xent_numba.backends.cpu.simd.cast import promote
from xent_numba.backends.cpu.simd.exp_shifted import Shift
from xent_numba.backends.cpu.simd.load_store import (
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

# In vectors: ROWS rows of up to TILE_CLASSES classes are TILE_CLASSES vectors, as a vector has ROWS lanes.
_TWO_TILES, _TWO_MAXIMA = 2 * TILE_CLASSES, 2 * ROWS


# ------------------------------------------------------------------------------------------------ labels
@inline
def _target_logits(tile: Any, width: int, y: Any, vtype: Any) -> Any:
    """Each row's logit at its label, after the transform, in float64; anything where there is no label."""
    index = select(y < splat(0, y), splat(0, y), y) + iota(vtype) * splat(width, y)
    return promote(gather(tile, index, vtype))


@inline
def _mask_targets(tile: Any, width: int, y: Any, dense: Any, lanes: int) -> None:
    """Put −inf in the place of the logits at the labels, unless a dense target needs them.

    They are written early, to avoid a store-forwarding stall: the vectors that hold them are loaded later.
    """
    if dense is None:
        for r in range(lanes):
            if extract_lane(y, r) >= 0:
                store_scalar(tile, r * width + extract_lane(y, r), -math.inf)


@optional
def _excluded_class(dense: Any, y: int) -> Any:
    """The class that is left out of the sum of exponentials by a mask; None where its logit is −inf."""
    return y


@inline
def _store_target(row: Any, y: int, value: float, dense: Any) -> None:
    """Store the gradient at the label, where `to_gradient` has not put it there."""
    if dense is None:
        store_scalar(row, y, value)


# ------------------------------------------------------------------------------------------------ statistics
@inline
def _row_max(lane_maxima: Any, saved_shift: Any, vtype: Any) -> Any:
    """The maximum of each row; the saved log-sum-exp, divided by the scale, where there is one."""
    if saved_shift is not None:
        return saved_shift
    return reduce_max_each(lane_maxima, vtype)


@inline
def store_shift(shift: Any, vtype: Any) -> Any:
    """A `TileShift` of pointers, from which `shift_of_row` loads one lane."""
    pointers = TileShift(stack_buffer(vtype, 1), Shift(stack_buffer(vtype, 1), stack_buffer(vtype, 1)))
    store(pointers.centre, 0, shift.centre)
    store(pointers.nearby.residual, 0, shift.nearby.residual)
    store(pointers.nearby.exponent, 0, shift.nearby.exponent)
    return pointers


@inline
def shift_of_row(pointers: Any, r: int, vtype: Any) -> Any:
    """The `TileShift` of row r, in all lanes."""
    residual, m = pointers.nearby
    nearby = Shift(splat(load_scalar(residual, r), vtype), splat(load_scalar(m, r), vtype))
    return TileShift(splat(load_scalar(pointers.centre, r), vtype), nearby)


@inline
def _store_dense_sums(pointers: Any, i: int, dense_sums: Any, dense: Any) -> None:
    """Store the `DenseSums` of a row, which in float32 have no rounding errors, if there is a dense target."""
    if dense is not None:
        store(pointers[0], i, dense_sums.gap)
        store(pointers[1], i, dense_sums.target)


@inline
def _reduce_dense_sums(pointers: Any, dense: Any, vtype64: Any) -> Any:
    """(Σ u (centre − x), Σ u) of every row, one row in each lane; arbitrary values without a dense target."""
    if dense is None:
        return vtype64, vtype64
    return reduce_add_each(pointers[0], vtype64), reduce_add_each(pointers[1], vtype64)


@inline
def _statistics(operands: Any, grad: Any, inputs: Any, current: Any, following: Any, vtype: Any) -> Any:
    """The `RowStatistics` of the current work item, the `tile_rescale` of its exponentials and its target logits.

    The following work item is loaded meanwhile.
    """
    classes, row_stride = operands.logits.shape[2], stride(operands.logits, 1)
    lanes, vtype64 = lanes_of(vtype), promote(vtype)
    width = tile_width(classes, lanes)
    sums_exp = stack_buffer(vtype64, ROWS)
    all_dense_sums = stack_buffer(vtype64, ROWS), stack_buffer(vtype64, ROWS)

    row_max = _row_max(current.lane_maxima, inputs.saved_shift, vtype)
    target_logits = _target_logits(current.tile, width, inputs.y, vtype)
    _mask_targets(current.tile, width, inputs.y, inputs.dense, lanes)
    shift = tile_shift(row_max, inputs.saved_shift, inputs.scale)
    shifts = store_shift(shift, vtype)
    later = prefetch_rows(following.p, row_stride, lanes)
    for r in range(lanes):
        load_row(operands, following, r, vtype)
        sum_exp, dense_sums = vtype64, no_dense_sums(vtype64)
        if extract_lane(inputs.y, r) >= 0:
            row = PackedRow(
                advance(current.tile, r * width),
                classes,
                _excluded_class(inputs.dense, extract_lane(inputs.y, r)),
                shift_of_row(shifts, r, vtype),
                inputs.saved_shift,
                inputs.scale,
                inputs.dense,
                PrefetchRows(advance(later.l2, r * row_stride), advance(later.l1, r * row_stride)),
            )
            sum_exp, dense_sums = row_sums(row, grad)
        store(sums_exp, r * lanes, sum_exp)
        _store_dense_sums(all_dense_sums, r * lanes, dense_sums, inputs.dense)
    rescale = tile_rescale(shift, inputs.saved_shift, inputs.scale)
    sum_exp_others = reduce_add_each(sums_exp, vtype64) * rescale
    target_gap, target_sum = _reduce_dense_sums(all_dense_sums, inputs.dense, vtype64)
    return RowStatistics(row_max, sum_exp_others, target_gap, target_sum, None, None), rescale, target_logits


# ------------------------------------------------------------------------------------------------ gradient
@optional
def _stored(values: Any, vtype: Any) -> Any:
    """A pointer to a vector; None for None."""
    memory = stack_buffer(vtype, 1)
    store(memory, 0, values)
    return memory


@optional
def _loaded(memory: Any, r: int, vtype: Any) -> Any:
    """Lane r of a vector in memory, in all lanes; None for None."""
    return splat(load_scalar(memory, r), vtype)


@inline
def _store_factors(factors: Any, vtype: Any) -> Any:
    """`ScaledFactors` of pointers, from which those of one row are loaded."""
    pointers = ScaledFactors(
        stack_buffer(vtype, 1), stack_buffer(vtype, 1), stack_buffer(vtype, 1), _stored(factors.rescale, vtype)
    )
    store(pointers.p_factor, 0, factors.p_factor)
    store(pointers.u_factor, 0, factors.u_factor)
    store(pointers.at_target, 0, factors.at_target)
    return pointers


@inline
def _factors_of_row(pointers: Any, r: int, vtype: Any) -> Any:
    """The `ScaledFactors` of row r: p_factor and rescale in all lanes, the others as scalars."""
    p_factor = splat(load_scalar(pointers.p_factor, r), vtype)
    u_factor, at_target = load_scalar(pointers.u_factor, r), load_scalar(pointers.at_target, r)
    return ScaledFactors(p_factor, u_factor, at_target, _loaded(pointers.rescale, r, vtype))


@inline
def _write_gradient(grad: Any, inputs: Any, current: Any, factors: Any, staging: Any, vtype: Any) -> Any:
    """Write the gradient of a work item; returns the staging buffer after it.  `factors` holds pointers."""
    item, classes = current.item, grad.shape[2]
    out, out_stride = row_pointer(grad, item.a, item.b), stride(grad, 1)
    width = tile_width(classes, lanes_of(vtype))
    for r in range(item.rows):
        row = advance(staging.buffer, staging.carry + r * classes if staging.assembles else 0)
        y = extract_lane(inputs.y, r)
        if y >= 0:
            row_factors, exps = _factors_of_row(factors, r, vtype), advance(current.tile, r * width)
            to_gradient(exps, row, classes, _excluded_class(inputs.dense, y), row_factors, inputs.dense)
            _store_target(row, y, row_factors.at_target, inputs.dense)
        else:
            for j in range(classes):
                store_scalar(row, j, 0.0)
        if not staging.assembles:
            write_row(row, advance(out, r * out_stride), classes, staging.streaming, vtype)
    if staging.assembles:
        carry = flush_full_lines(staging.buffer, staging.carry, item.rows * classes, out, vtype)
        staging = with_carry(staging, carry)
    return staging


# ------------------------------------------------------------------------------------------------ work items
@inline
def _compute_item(
    operands: Any, saved_lse: Any, grad: Any, current: Any, following: Any, staging: Any, vtype: Any
) -> Any:
    """The losses of the current work item, whose gradient is written, and the staging buffer after it.

    `saved_lse` and `grad` are those of `operands`; they are arguments so that what depends on one that is None is not
    compiled.
    """
    item = current.item
    saved = saved_values(saved_lse, item, vtype)
    y = labels_of(operands.labels, item, operands.logits.shape[2], operands.ignored_classes, vtype)
    dense = dense_target_of(operands.dense, None, operands.dense_weight)
    saved_shift = saved_shift_of(saved, operands.scale, vtype)
    inputs = TileInput(y, dense, operands.transform, operands.scale, saved_shift, None, None)
    stats, rescale, target_logits = _statistics(operands, grad, inputs, current, following, vtype)
    label_weight = label_weights(operands.confidence, operands.weight, y, promote(vtype))
    epilogue = item_epilogue(operands, stats, target_logits, label_weight, item, vtype)
    if grad is not None:
        factors = scaled_factors(operands, saved, epilogue, item, vtype)
        factors = rescaled(operands.focal_gamma, factors, rescale, vtype)
        staging = _write_gradient(grad, inputs, current, _store_factors(factors, vtype), staging, vtype)
    return item_losses(operands, epilogue, y, item.rows), staging


@inline
def packed_rows(operands: Any, start: int, stop: int, group: int, partials: Any) -> None:
    """Compute the work items start … stop, in order, and add their losses to partials[index // group]."""
    vtype = vtype_of(operands)
    staging = staging_of(operands.grad, operands.streaming, vtype)
    buffers = stack_buffer(vtype, _TWO_TILES), stack_buffer(vtype, _TWO_MAXIMA)
    current = packed_item(operands.logits, start, stop, buffers, 0, vtype)
    for r in range(lanes_of(vtype)):
        load_row(operands, current, r, vtype)
    for index in range(start, stop):
        following = packed_item(operands.logits, index + 1, stop, buffers, (index + 1 - start) % 2, vtype)
        losses, staging = _compute_item(operands, operands.saved_lse, operands.grad, current, following, staging, vtype)
        staging = flush_carry(staging, operands.grad, current.item, index + 1 == stop, vtype)
        store_losses(operands.row_losses, current.item, losses)
        partials[index // group] += reduce_add(losses)
        current = following
