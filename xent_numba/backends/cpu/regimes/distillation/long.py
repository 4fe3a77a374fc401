"""The divergence of rows whose classes lie side by side: each along its classes, but their epilogues together.

A batch is several rows, or the parts of one row: as the operands say, so that what it keeps stays in a cache.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types

from xent_numba.backends.cpu.compile.inline import inline, optional, specialize
from xent_numba.backends.cpu.plan import SEGMENT_CLASSES
from xent_numba.backends.cpu.regimes.distillation.batch import (
    Batch,
    batch_memory,
    batch_sums,
    lane_of_near,
    no_sums,
    part_pair,
    sum_batch,
)
from xent_numba.backends.cpu.regimes.distillation.outcome import BatchItem, rows_outcome, weights_of_rows
from xent_numba.backends.cpu.regimes.distillation.output import (
    BLOCK_VECTORS,
    BUFFER_VECTORS,
    Output,
    Parts,
    Pending,
    block_memory,
    block_size,
    part_size,
    write_all,
    write_laid_out,
)
from xent_numba.backends.cpu.regimes.distillation.passes import (
    Pair,
    exponentials,
    far_pass,
    near_pass,
    no_total,
    total_of,
)
from xent_numba.backends.cpu.regimes.distillation.terms import (
    compute_type,
    merge_sums,
    near_factors,
    p_and_q_factors,
    rescales,
    shifts_of,
)
from xent_numba.backends.cpu.row.operands import apply_weight, row_pointer, store_loss
from xent_numba.backends.cpu.row.target import product_or_zero
from xent_numba.backends.cpu.simd.cast import demote, promote
from xent_numba.backends.cpu.simd.load_store import (
    advance,
    load,
    load_scalar,
    pointer,
    stack_buffer,
    store,
    store_scalar,
    stride,
)
from xent_numba.backends.cpu.simd.math import log1p
from xent_numba.backends.cpu.simd.reduce import any_true, reduce_add
from xent_numba.backends.cpu.simd.vector import lanes_of, select, splat


# ------------------------------------------------------------------------------------------------ batches
@inline
def _batch(operands: Any, item: Any, start: int, vtype: Any) -> Any:
    """The `Batch` of the rows of a work item, or of the segment of its one row from class `start` on."""
    classes, size, lanes = operands.student.shape[2], operands.part_classes, lanes_of(vtype)
    pair = Pair(row_pointer(operands.teacher, item.a, item.b), row_pointer(operands.student, item.a, item.b))
    step = (size + lanes - 1) // lanes * lanes
    if size < classes:
        count = min(classes - start, SEGMENT_CLASSES)
        parts = (count + size - 1) // size
        pair = Pair(advance(pair.t, start), advance(pair.s, start))
        return Batch(Parts(parts, size, count - (parts - 1) * size, step), pair, size, size, True)
    t_step, s_step = stride(operands.teacher, 1), stride(operands.student, 1)
    return Batch(Parts(item.rows, size, size, step), pair, t_step, s_step, False)


@optional
def _pending(before: Any, operands: Any, batch: Any, kept: Any, factors: Any, item: Any) -> Any:
    """The `Pending` of a batch, of which nothing is written yet, after that of the batch before; None for None."""
    row_step, rows = stride(operands.grad, 1), operands.grad.shape[1]
    follows = row_step == operands.grad.shape[2]
    ends = item.is_last or item.b + item.rows == rows or not follows
    step = batch.parts.size if batch.of_one_row else row_step
    p = row_pointer(operands.grad, item.a, item.b)
    output = Output(p, step, before.output.buffer, operands.streaming, batch.of_one_row or follows, ends)
    return Pending(batch.parts, kept, factors, output, np.int64(0), np.int64(0), before.carry)


@optional
def _nothing_pending(grad: Any, kept: Any, factors: Any, streaming: bool, vtype: Any) -> Any:
    """The `Pending` before the first batch; None without a gradient."""
    none = np.int64(0)
    output = Output(row_pointer(grad, 0, 0), none, stack_buffer(vtype, BUFFER_VECTORS), streaming, True, False)
    return Pending(Parts(none, none, none, none), kept, factors, output, none, none, none)


# ------------------------------------------------------------------------------------------------ third pass
@specialize
def _least_factor(vtype: Any) -> Any:
    """A number below which a factor has not all its digits, with some room."""
    least = 1e-36 if vtype.dtype == types.float32 else 1e-290
    return lambda vtype: least


@inline
def _is_too_small(p_or_q: Any, unit: Any, factor: Any, vtype: Any) -> bool:
    """Whether a factor of the gradient is too small in any lane that has classes."""
    zero = splat(0.0, unit)
    return any_true((p_or_q < splat(_least_factor(vtype), zero)) & (unit > zero) & (factor > zero))


@inline
def _is_out_of_reach(is_near: Any, unit: Any, vtype: Any) -> bool:
    """Whether the teacher's probability is so small in a part of a near row that q / p might overflow there."""
    return any_true(is_near & (unit < splat(_least_factor(vtype), unit)))


@optional
def _far_block(out: Any, e: Any, count: int, near: Any, vtype: Any) -> Any:
    """Lay out the gradient of a block of a row that is far apart; nothing for None."""
    far_pass(e, out, count, near.p_factor, near.q_factor, vtype)
    return None


@inline
def _third_pass(
    batch: Any, kept: Any, near: Any, is_near: Any, again: bool, scale: Any, pending: Any, vtype: Any
) -> Any:
    """The sums of the third pass in the lanes of the parts, and the `Pending` after the gradient of all is written.

    near: `NearFactors`.  is_near: the mask of the parts of rows that are not far apart.  again: whether exponentials
    that were not kept are computed again.
    """
    one = splat(1.0, promote(vtype))
    flags, sums = stack_buffer(one, 1), stack_buffer(one, 1)
    store(flags, 0, select(is_near, one, one - one))
    store(sums, 0, one - one)
    for k in range(batch.parts.count):
        pair, at_k, total = part_pair(batch, k), lane_of_near(near, k, vtype), no_total(vtype)
        size = part_size(batch.parts, k)
        for i in range(0, size, BLOCK_VECTORS * lanes_of(vtype)):
            count = block_size(batch.parts, k, i, vtype)
            block = Pair(advance(pair.t, i), advance(pair.s, i))
            first = k * batch.parts.step + i
            e = Pair(kept.t, kept.s)
            if again:
                exponentials(block.t, e.t, count, at_k.shifts.t, scale, vtype)
                exponentials(block.s, e.s, count, at_k.shifts.s, scale, vtype)
            else:
                e = Pair(advance(kept.t, first), advance(kept.s, first))
            if load_scalar(flags, k) > 0.0:
                total = near_pass(total, block, e, block_memory(pending), count, at_k, scale, vtype)
            else:
                _far_block(block_memory(pending), e, count, at_k, vtype)
            pending = write_laid_out(pending, vtype)
        store_scalar(sums, k, reduce_add(total_of(total)))
    return load(sums, 0, one), pending


@inline
def _whole_row(operands: Any, item: Any) -> Any:
    """The one row of a work item as a `Batch` of a single part."""
    classes, none = operands.student.shape[2], np.int64(0)
    pair = Pair(row_pointer(operands.teacher, item.a, item.b), row_pointer(operands.student, item.a, item.b))
    return Batch(Parts(np.int64(1), classes, classes, none), pair, none, none, True)


@inline
def _compute_batch(operands: Any, item: Any, kept: Any, factors: Any, memory: Any, pending: Any, vtype: Any) -> Any:
    """The losses of the rows of a work item, and the `Pending` with their gradient, after all before it is written."""
    classes, scale, lanes = operands.student.shape[2], operands.scale, lanes_of(vtype)
    sums = no_sums(promote(vtype))
    for start in range(0, classes, SEGMENT_CLASSES):
        batch = _batch(operands, item, start, vtype)
        pending = write_all(sum_batch(batch, memory, kept, pending, scale, vtype), vtype)
        part = batch_sums(batch, memory, scale, vtype)
        sums = part.sums if start == 0 else merge_sums(sums, part.sums, scale)
    of_one_row, shifts, units = batch.of_one_row, part.shifts, part.units
    outcome = rows_outcome(operands, sums, item, of_one_row, vtype)
    sums, kl, is_near = outcome.sums, outcome.found.kl, outcome.is_near
    weight = weights_of_rows(operands, item, of_one_row, vtype)
    factor = weight * splat(operands.grad_factor, weight)
    p_factor, q_factor = p_and_q_factors(sums, units, factor)
    again = of_one_row and (
        classes > SEGMENT_CLASSES
        or _is_too_small(p_factor, units[0], factor, vtype)
        or _is_too_small(q_factor, units[1], factor, vtype)
        or _is_out_of_reach(is_near, units[0], vtype)
    )
    if again:
        batch = _whole_row(operands, item)
        t_max, s_max = demote(sums.t_max, vtype), demote(sums.s_max, vtype)
        shifts = shifts_of(t_max, s_max, scale)
        units = rescales(shifts, t_max, s_max, scale)
    pending = _pending(pending, operands, batch, kept, factors, item)
    if again or any_true(is_near):
        near = near_factors(sums, outcome.found, shifts, units, factor, scale, vtype)
        h, pending = _third_pass(batch, kept, near, is_near, again, scale, pending, vtype)
        zero = splat(0.0, h)
        h = product_or_zero(h, units[0] / sums.t_sum)
        if of_one_row:
            h = splat(reduce_add(h), h)
        kl = select(is_near, log1p(select(is_near, h, zero)), kl)
    else:
        store(factors, 0, demote(p_factor, vtype))
        store(factors, lanes, demote(q_factor, vtype))
    return apply_weight(kl * splat(operands.loss_factor, kl), weight), pending


# ------------------------------------------------------------------------------------------------ rows
@inline
def _item(shape: Any, i: int, stop: int, most: int) -> Any:
    """The `BatchItem` that begins with row i and ends before row `stop`, of `most` rows at most."""
    a = i // shape[1]
    b = i - a * shape[1]
    rows = min(most, shape[1] - b, stop - i)
    return BatchItem(a, b, rows, i, i + rows == stop)


@inline
def long_rows(operands: Any, start: int, stop: int, group: int, partials: Any) -> None:
    """Compute the rows start … stop, and add their losses in order to partials[row // group]."""
    vtype = compute_type(pointer(operands.teacher), pointer(operands.student))
    memory = batch_memory(vtype)
    losses = stack_buffer(promote(vtype), 1)
    size = operands.kept.shape[1] // 2
    p = advance(pointer(operands.kept), (start // operands.chunk) * 2 * size)
    kept, factors = Pair(p, advance(p, size)), stack_buffer(vtype, 2)
    pending = _nothing_pending(operands.grad, kept, factors, operands.streaming, vtype)
    i = start
    while i < stop:
        item = _item(operands.student.shape, i, stop, operands.batch_rows)
        found, pending = _compute_batch(operands, item, kept, factors, memory, pending, vtype)
        store(losses, 0, found)
        for r in range(item.rows):
            loss = load_scalar(losses, r)
            store_loss(operands.row_losses, i + r, loss)
            partials[(i + r) // group] += loss
        i += item.rows
    write_all(pending, vtype)
