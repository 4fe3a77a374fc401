"""The divergence of long rows, whose classes lie side by side: one row at a time, along its classes."""

from __future__ import annotations

from typing import Any

import numpy as np

from xent_numba.backends.cpu.compile.inline import inline, optional
from xent_numba.backends.cpu.plan import SEGMENT_CLASSES
from xent_numba.backends.cpu.regimes.distillation.passes import (
    Ahead,
    Pair,
    careful_sum,
    exponentials,
    far_pass,
    find_maxima,
    near_pass,
    no_total,
    sum_terms,
    total_of,
)
from xent_numba.backends.cpu.regimes.distillation.terms import (
    FAR,
    NearFactors,
    Shifts,
    compute_type,
    merge_sums,
    near_factors,
    needs_care,
    outcome_of,
    p_and_q_factors,
    rescales,
    shifts_of,
    sums_of,
    with_careful_sum,
)
from xent_numba.backends.cpu.regimes.lanes.load import PrefetchCursor
from xent_numba.backends.cpu.regimes.long.gradient import RowOutput
from xent_numba.backends.cpu.regimes.staging import (
    flush_full_lines,
    flush_tail,
    write_row,
)
from xent_numba.backends.cpu.regimes.work_items import work_item
from xent_numba.backends.cpu.row.epilogue import centre_of
from xent_numba.backends.cpu.row.operands import apply_weight, row_pointer, store_loss, value_or_one
from xent_numba.backends.cpu.simd.cast import demote, promote
from xent_numba.backends.cpu.simd.exp_shifted import Shift
from xent_numba.backends.cpu.simd.load_store import advance, pointer, stack_buffer, stride
from xent_numba.backends.cpu.simd.math import log1p
from xent_numba.backends.cpu.simd.reduce import any_true, extract_lane, reduce_add, reduce_max
from xent_numba.backends.cpu.simd.vector import lanes_of, one_lane, splat

_BLOCK_VECTORS = 16  # of a long row, whose gradient is written together
_BUFFER_VECTORS = _BLOCK_VECTORS + 2  # with the carry before a block, and what whole vectors write beyond its end


@inline
def _all_lanes(a: Any, vtype: Any) -> Any:
    """A vector of one lane in all lanes."""
    return splat(extract_lane(a, 0), vtype)


@inline
def _spread_shift(shift: Any, vtype: Any) -> Any:
    """A `Shift` of one lane in all lanes."""
    return Shift(_all_lanes(shift.residual, vtype), _all_lanes(shift.exponent, vtype))


@inline
def _spread(shifts: Any, vtype: Any) -> Any:
    """`Shifts` of one lane in all lanes."""
    return Shifts(
        _spread_shift(shifts.t, vtype),
        _spread_shift(shifts.s, vtype),
        _all_lanes(shifts.origin, vtype),
        _all_lanes(shifts.origin_error, vtype),
    )


@inline
def _one_sum(total: Any, vtype: Any) -> Any:
    """The sum over the lanes, of float64, in one lane."""
    return one_lane(reduce_add(total), promote(vtype))


@inline
def _segment_sums(pair: Any, kept: Any, count: int, scale: Any, ahead: Any, vtype: Any) -> Any:
    """The `Sums` of `count` neighbouring classes of a row, in one lane."""
    t_lanes, s_lanes = find_maxima(pair, count, vtype)
    t_max, s_max = one_lane(reduce_max(t_lanes), vtype), one_lane(reduce_max(s_lanes), vtype)
    shifts = shifts_of(t_max, s_max, scale)
    centres = Pair(_all_lanes(centre_of(t_max), vtype), _all_lanes(centre_of(s_max), vtype))
    a, b, c = sum_terms(pair, kept, count, centres, _spread(shifts, vtype), scale, ahead, vtype)
    totals = _one_sum(a, vtype), _one_sum(b, vtype), _one_sum(c, vtype)
    return sums_of(promote(t_max), promote(s_max), totals, rescales(shifts, t_max, s_max, scale))


@inline
def _ahead(pair: Any, distance: Any, vtype: Any) -> Any:
    """What to prefetch while a pair is summed, of which both are continued so many elements further on."""
    step = lanes_of(vtype)
    return Ahead(PrefetchCursor(advance(pair.t, distance.t), step), PrefetchCursor(advance(pair.s, distance.s), step))


@inline
def _row_sums(pair: Any, kept: Any, distance: Any, classes: int, scale: Any, vtype: Any) -> Any:
    """The `Sums` of a whole row, in one lane: merged from its segments in order.

    `distance` is that of the next row.
    """
    count = min(classes, SEGMENT_CLASSES)
    sums = _segment_sums(pair, kept, count, scale, _ahead(pair, distance, vtype), vtype)
    for start in range(SEGMENT_CLASSES, classes, SEGMENT_CLASSES):
        part = Pair(advance(pair.t, start), advance(pair.s, start))
        count = min(classes - start, SEGMENT_CLASSES)
        sums = merge_sums(sums, _segment_sums(part, kept, count, scale, _ahead(part, distance, vtype), vtype), scale)
    return sums


@inline
def _spread_near(near: Any, vtype: Any) -> Any:
    """`NearFactors` of one lane in all lanes."""
    return NearFactors(
        _spread(near.shifts, vtype),
        _all_lanes(near.bound, vtype),
        _all_lanes(near.s_to_t, vtype),
        _all_lanes(near.p_factor, vtype),
        _all_lanes(near.q_factor, vtype),
        _all_lanes(near.ratio, vtype),
        _all_lanes(near.minus_ratio, vtype),
        _all_lanes(near.excess, vtype),
    )


@optional
def _block_memory(buffer: Any, carry: int) -> Any:
    """Where a block of the gradient is laid out, behind the carry; None without a gradient."""
    return advance(buffer, carry)


@inline
def _write_block(out: Any, output: Any, carry: int, i: int, count: int, vtype: Any) -> Any:
    """Write `count` elements of the gradient from class i on, which follow the carry in the buffer; the new carry.

    `out` is that of the `RowOutput`, None without a gradient.
    """
    if out is not None:
        if output.streaming:
            return flush_full_lines(output.staging, carry, count, advance(out, i), vtype)
        write_row(output.staging, advance(out, i), count, False, vtype)
    return np.int64(0)


@inline
def _near_row(pair: Any, kept: Any, output: Any, carry: Any, classes: int, near: Any, scale: Any, vtype: Any) -> Any:
    """The sum of the third pass over a row, per lane, and the carry after it."""
    total = no_total(vtype)
    block = _BLOCK_VECTORS * lanes_of(vtype)
    for i in range(0, classes, block):
        count = min(block, classes - i)
        part, e = Pair(advance(pair.t, i), advance(pair.s, i)), Pair(kept.t, kept.s)
        if classes > SEGMENT_CLASSES:
            exponentials(part.t, kept.t, count, near.shifts.t, scale, vtype)
        else:
            e = Pair(advance(kept.t, i), advance(kept.s, i))
        total = near_pass(total, part, e, _block_memory(output.staging, carry), count, near, scale, vtype)
        carry = _write_block(output.p, output, carry, i, count, vtype)
    return total_of(total), carry


@inline
def _far_row(pair: Any, kept: Any, output: Any, carry: Any, classes: int, far: Any, scale: Any, vtype: Any) -> Any:
    """Write the gradient of a row far apart; returns the carry after it.  `far` has its shifts and two factors."""
    block = _BLOCK_VECTORS * lanes_of(vtype)
    for i in range(0, classes, block):
        count = min(block, classes - i)
        e = Pair(kept.t, kept.s)
        if classes > SEGMENT_CLASSES:
            exponentials(advance(pair.t, i), kept.t, count, far[0].t, scale, vtype)
            exponentials(advance(pair.s, i), kept.s, count, far[0].s, scale, vtype)
        else:
            e = Pair(advance(kept.t, i), advance(kept.s, i))
        far_pass(e, _block_memory(output.staging, carry), count, far[1], far[2], vtype)
        carry = _write_block(output.p, output, carry, i, count, vtype)
    return carry


@inline
def _long_row(operands: Any, grad: Any, i: int, kept: Any, buffer: Any, carry: Any, vtype: Any) -> Any:
    """The loss of row i, whose gradient is written, and the carry after it; `grad` is that of the operands."""
    a, b, _, _ = work_item(operands.student.shape, i, 1)
    classes, scale = operands.student.shape[2], operands.scale
    pair = Pair(row_pointer(operands.teacher, a, b), row_pointer(operands.student, a, b))
    output = RowOutput(row_pointer(grad, a, b), buffer, operands.streaming)
    distance = Pair(stride(operands.teacher, 1), stride(operands.student, 1))
    sums = _row_sums(pair, kept, distance, classes, scale, vtype)
    found = outcome_of(sums, scale)
    t_max, s_max = demote(sums.t_max, vtype), demote(sums.s_max, vtype)
    shifts = shifts_of(t_max, s_max, scale)
    factors = rescales(shifts, t_max, s_max, scale)
    if any_true(needs_care(found)):
        total = total_of(careful_sum(no_total(vtype), pair, classes, _spread(shifts, vtype), scale, vtype))
        sums = with_careful_sum(sums, _one_sum(total, vtype), factors, vtype)
        found = outcome_of(sums, scale)
    weight = value_or_one(operands.sample_weight, i)
    factor = one_lane(weight * operands.grad_factor, promote(vtype))
    kl = found.kl
    if extract_lane(kl, 0) < FAR:
        near = _spread_near(near_factors(sums, found, shifts, factors, factor, scale, vtype), vtype)
        total, carry = _near_row(pair, kept, output, carry, classes, near, scale, vtype)
        kl = log1p(_one_sum(total, vtype) * (factors[0] / sums.t_sum))
    elif grad is not None:
        p_factor, q_factor = p_and_q_factors(sums, factors, factor)
        p_factor, q_factor = demote(p_factor, vtype), demote(q_factor, vtype)
        far = _spread(shifts, vtype), _all_lanes(p_factor, vtype), _all_lanes(q_factor, vtype)
        carry = _far_row(pair, kept, output, carry, classes, far, scale, vtype)
    loss = apply_weight(kl * splat(operands.loss_factor, kl), splat(weight, kl))
    return extract_lane(loss, 0), carry


@optional
def _long_buffer(grad: Any, vtype: Any) -> Any:
    """Memory for a block of the gradient, the carry before it, and what whole vectors write beyond its end."""
    return stack_buffer(vtype, _BUFFER_VECTORS)


@inline
def _flush_row(grad: Any, a: int, b: int, buffer: Any, carry: Any, is_last: bool, vtype: Any) -> Any:
    """Write the carry after row (a, b), unless the next row to be computed follows it in memory; the new carry."""
    if grad is not None:
        classes = grad.shape[2]
        if is_last or b + 1 == grad.shape[1] or stride(grad, 1) != classes:
            flush_tail(buffer, carry, advance(row_pointer(grad, a, b), classes), vtype)
            return np.int64(0)
    return carry


@inline
def long_rows(operands: Any, start: int, stop: int, group: int, partials: Any) -> None:
    """Compute the rows start … stop, and add their losses in order to partials[row // group]."""
    vtype = compute_type(pointer(operands.teacher), pointer(operands.student))
    buffer, carry = _long_buffer(operands.grad, vtype), np.int64(0)
    size = operands.kept.shape[1] // 2
    kept = advance(pointer(operands.kept), (start // operands.chunk) * 2 * size)
    kept = Pair(kept, advance(kept, size))
    for i in range(start, stop):
        loss, carry = _long_row(operands, operands.grad, i, kept, buffer, carry, vtype)
        a, b, _, _ = work_item(operands.student.shape, i, 1)
        carry = _flush_row(operands.grad, a, b, buffer, carry, i + 1 == stop, vtype)
        store_loss(operands.row_losses, i, loss)
        partials[i // group] += loss
