"""Rows of many classes that lie side by side: statistics and gradient one row at a time, losses a vector of rows at a
time.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import types

from xent_numba.backends.cpu.compile.inline import inline, optional, specialize
from xent_numba.backends.cpu.regimes.long_gradient import (
    GradientCoefficients,
    PendingGradient,
    dense_target_sum,
    gradient_coefficients,
    gradient_from_lse,
    load_logit,
    store_element,
    write_pending,
)
from xent_numba.backends.cpu.regimes.long_stats import statistics
from xent_numba.backends.cpu.regimes.staging import flush_tail
from xent_numba.backends.cpu.row.epilogue import (
    RowStatistics,
    gradient_factors,
    inverse_from_lse,
    log_sum,
    row_loss,
    target_exp,
)
from xent_numba.backends.cpu.row.operands import (
    apply_weight,
    dense_target_of,
    is_ignored,
    known_target_sum,
    label,
    label_weight_of,
    row_pointer,
    store_loss,
    value_or_one,
    vtype_of,
)
from xent_numba.backends.cpu.row.transform import chain_rule, scale_or_one
from xent_numba.backends.cpu.simd.cast import minus_ones, promote
from xent_numba.backends.cpu.simd.exp_shifted import Shift
from xent_numba.backends.cpu.simd.load_store import (
    advance,
    load,
    load_n,
    load_scalar,
    stack_buffer,
    store_scalar,
    stride,
)
from xent_numba.backends.cpu.simd.reduce import extract_lane
from xent_numba.backends.cpu.simd.vector import lanes_of, one_lane, splat


class LossBuffer(NamedTuple):
    """Rows whose losses are still to be taken: pointers to a vector of each value."""

    row_max: Any
    sum_exp_others: Any
    target_gap: Any
    target_sum: Any
    x_y: Any
    label_weight: Any
    scale: Any  # the sample weight


@optional
def _lanes(label_weight: Any, vtype64: Any) -> Any:
    return one_lane(label_weight, vtype64)


# ------------------------------------------------------------------------------------------------ losses
@inline
def loss_buffer(vtype64: Any) -> Any:
    return LossBuffer(
        stack_buffer(vtype64, 1), stack_buffer(vtype64, 1), stack_buffer(vtype64, 1), stack_buffer(vtype64, 1),
        stack_buffer(vtype64, 1), stack_buffer(vtype64, 1), stack_buffer(vtype64, 1),
    )  # fmt: skip


@inline
def buffer_row(pending: Any, k: int, row: Any, x_y: float, label_weight: Any, scale: float) -> None:
    store_scalar(pending.row_max, k, row.row_max)
    store_scalar(pending.sum_exp_others, k, row.sum_exp_others)
    store_scalar(pending.target_gap, k, row.target_gap)
    store_scalar(pending.target_sum, k, row.target_sum)
    store_scalar(pending.x_y, k, x_y)
    store_scalar(pending.scale, k, scale)
    if label_weight is not None:
        store_scalar(pending.label_weight, k, label_weight)


@optional
def _label_weight_lanes(label_weight: Any, pending: Any, vtype64: Any) -> Any:
    return load(pending.label_weight, 0, vtype64)


@inline
def buffered_losses(pending: Any, label_weight: Any, s: Any, z: float, vtype: Any) -> Any:
    """The losses of the rows that wait, times their sample weights."""
    vtype64 = promote(vtype)
    row = RowStatistics(
        load(pending.row_max, 0, vtype64),
        load(pending.sum_exp_others, 0, vtype64),
        load(pending.target_gap, 0, vtype64),
        load(pending.target_sum, 0, vtype64),
    )
    x_y, hard_lanes = load(pending.x_y, 0, vtype64), _label_weight_lanes(label_weight, pending, vtype64)
    total = row.sum_exp_others + target_exp(row, hard_lanes, x_y, s, vtype)
    value = row_loss(row, hard_lanes, x_y, log_sum(row, hard_lanes, x_y, total), s, z)
    return apply_weight(value, load(pending.scale, 0, vtype64))


# ------------------------------------------------------------------------------------------------ gradients
@inline
def _target_part(t: Any, y: int) -> Any:
    """u_y, of a target that has no distribution."""
    if t is None:
        return 0.0
    return t.beta * _weight_at(t.weight, y)


@inline
def _weight_at(weight: Any, y: int) -> Any:
    if weight is None:
        return 1.0
    return load_scalar(weight, y)


@inline
def value_at_target(y: int, value: float, k: float, p: Any, t: Any, f: Any, vtype: Any) -> Any:
    """The gradient at the target's own class."""
    if y < 0:
        return 0.0
    x = load_n(p, y, 1, splat(0.0, vtype))
    return np.float64(extract_lane(chain_rule(splat((value - _target_part(t, y)) * k, vtype), x, f), 0))


@inline
def row_gradient_factors(row: Any, label_weight: Any, x_y: float, s: Any, z: float, vtype: Any) -> Any:
    """The factors of one row; its log-sum-exp is taken only where a z-loss needs it."""
    vtype64 = promote(vtype)
    r = RowStatistics(
        one_lane(row.row_max, vtype64),
        one_lane(row.sum_exp_others, vtype64),
        one_lane(row.target_gap, vtype64),
        one_lane(row.target_sum, vtype64),
    )
    h, x = _lanes(label_weight, vtype64), one_lane(x_y, vtype64)
    e_y = target_exp(r, h, x, s, vtype)
    total = r.sum_exp_others + e_y
    lse = total
    if z != 0.0:
        lse = one_lane(row.row_max * scale_or_one(s), vtype64) + log_sum(r, h, x, total)
    return gradient_factors(r, h, e_y, one_lane(1.0, vtype64) / total, lse, z)


@specialize
def _no_gradient(lse: Any, grad: Any, call: Any, vtype: Any) -> Any:
    """Nothing to write yet; None where nothing will be, or where it needs no statistics."""
    if isinstance(lse, types.NoneType):
        return lambda lse, grad, call, vtype: _empty_gradient(grad, call, vtype)
    return lambda lse, grad, call, vtype: None


@optional
def _empty_gradient(grad: Any, call: Any, vtype: Any) -> Any:
    p = row_pointer(call.logits, 0, 0)
    t = dense_target_of(call.dense, row_pointer(call.distribution, 0, 0), call.dense_weight)
    progress = stack_buffer(minus_ones(vtype), 1)
    store_scalar(progress, 0, 0)
    store_scalar(progress, 1, 0)
    slope = gradient_coefficients(0.0, 0.0, 0.0, call.scale, vtype)
    return PendingGradient(
        p, row_pointer(grad, 0, 0), 0, -1, 0.0, slope, t, call.streaming, stack_buffer(vtype, 2), progress
    )


@inline
def _next_gradient(
    job: Any,
    out: Any,
    p: Any,
    n: int,
    y: int,
    row: Any,
    x_y: float,
    label_weight: Any,
    k: float,
    t: Any,
    call: Any,
    vtype: Any,
) -> Any:
    """To write the gradient of a row, when that of the row before is written."""
    if job is None:
        return None
    by = row_gradient_factors(row, label_weight, x_y, call.scale, call.z_loss, vtype)
    c = row.row_max if row.row_max > -np.inf else 0.0
    value = value_at_target(y, extract_lane(by.at_target, 0), k, p, t, call.transform, vtype)
    store_scalar(job.progress, 0, 0)
    slope = gradient_coefficients(c, extract_lane(by.p_factor, 0) * k, k, call.scale, vtype)
    return PendingGradient(p, out, n, y, value, slope, t, job.streaming, job.staging, job.progress)


@inline
def _finish_gradient(job: Any, call: Any, last: bool, vtype: Any) -> None:
    """Write what is left of a gradient; and what stays in the stage, unless the next row begins where it ends."""
    if job is not None:
        write_pending(job, job.n, call.transform, call.scale, vtype)
        carry = load_scalar(job.progress, 1)
        if carry > 0 and (last or stride(call.grad, 1) != job.n):
            flush_tail(job.staging, carry, advance(job.out, job.n), vtype)
            store_scalar(job.progress, 1, 0)


@inline
def _gradient_from_saved(
    out: Any, p: Any, n: int, y: int, saved: float, label_weight: Any, k: float, t: Any, call: Any, vtype: Any
) -> None:
    vtype64 = promote(vtype)
    f, s, z = call.transform, call.scale, call.z_loss
    row_max = np.float64(extract_lane(splat(saved / scale_or_one(s), vtype), 0))
    x_y = one_lane(load_logit(p, max(y, 0), f, vtype), vtype64)
    h, lse, zero = _lanes(label_weight, vtype64), one_lane(saved, vtype64), one_lane(0.0, vtype64)
    row = RowStatistics(
        one_lane(row_max, vtype64),
        zero,
        zero,
        one_lane(dense_target_sum(n, t, known_target_sum(call.dense), vtype), vtype64),
    )
    e_y, inverse = target_exp(row, h, x_y, s, vtype), inverse_from_lse(row, lse, s)
    p_factor = extract_lane(gradient_factors(row, h, e_y, inverse, lse, z).p_factor, 0) * k
    x = load_n(p, max(y, 0), 1, splat(0.0, vtype))  # before it is overwritten, if the gradient is made in place
    slope = GradientCoefficients(Shift(splat(row_max, vtype), splat(0.0, vtype)), p_factor, k, True)
    sum_exp_others = gradient_from_lse(p, out, n, y, slope, f, s, t, call.streaming, vtype)
    row = RowStatistics(row.row_max, one_lane(sum_exp_others, vtype64), zero, row.target_sum)
    if y >= 0:
        value = (extract_lane(gradient_factors(row, h, e_y, inverse, lse, z).at_target, 0) - _target_part(t, y)) * k
        store_element(out, y, extract_lane(chain_rule(splat(value, vtype), x, f), 0), vtype)


@inline
def _zero_row(out: Any, n: int, vtype: Any) -> None:
    """A gradient of 0."""
    if out is not None:
        for j in range(n):
            store_element(out, j, 0.0, vtype)


# ------------------------------------------------------------------------------------------------ rows
@inline
def _one_row(call: Any, labels: Any, lse: Any, i: int, k: int, pending: Any, job: Any, vtype: Any) -> Any:
    """Leave what the loss of row i is made of at k, and its gradient as the job; that of the row before is written."""
    width, n = call.logits.shape[1:]
    a = i // width
    b = i - a * width
    y = label(labels, i, n, call.ignored)
    out = row_pointer(call.grad, a, b)
    if is_ignored(labels, y):
        _finish_gradient(job, call, True, vtype)
        _zero_row(out, n, vtype)
        # what comes to a loss of 0
        buffer_row(
            pending, k, RowStatistics(0.0, 0.0, 0.0, 0.0), 0.0, label_weight_of(call.confidence, call.weight, y), 0.0
        )
        return job
    p = row_pointer(call.logits, a, b)
    t = dense_target_of(call.dense, row_pointer(call.distribution, a, b), call.dense_weight)
    label_weight = label_weight_of(call.confidence, call.weight, y)
    scale = value_or_one(call.sample_weight, i)
    factor_of_row = scale * value_or_one(call.upstream, i) * call.grad_scale
    if lse is not None:
        _gradient_from_saved(out, p, n, y, lse[i], label_weight, factor_of_row, t, call, vtype)
        return job
    row = statistics(p, n, y, call.transform, call.scale, t, job, vtype)
    x_y = load_logit(p, max(y, 0), call.transform, vtype)
    buffer_row(pending, k, row, x_y, label_weight, scale)
    _finish_gradient(job, call, b == 0, vtype)
    return _next_gradient(job, out, p, n, y, row, x_y, label_weight, factor_of_row, t, call, vtype)


@inline
def long_rows(call: Any, start: int, stop: int, group: int, partials: Any) -> None:
    """Add the losses of rows start … stop, in their order, to the partial sums of their groups."""
    vtype = vtype_of(call)
    lanes = lanes_of(vtype)
    pending = loss_buffer(promote(vtype))
    job = _no_gradient(call.lse, call.grad, call, vtype)
    for first in range(start, stop, lanes):
        rows = min(lanes, stop - first)
        for k in range(rows):
            job = _one_row(call, call.labels, call.lse, first + k, k, pending, job, vtype)
        _store_losses(call.lse, call, pending, first, rows, group, partials, vtype)
    _finish_gradient(job, call, True, vtype)


@inline
def _store_losses(
    saved: Any, call: Any, pending: Any, first: int, rows: int, group: int, partials: Any, vtype: Any
) -> None:
    """Take the losses that wait; there are none where only the gradient is wanted."""
    if saved is None:
        losses = buffered_losses(pending, call.confidence, call.scale, call.z_loss, vtype)
        for k in range(rows):
            one = extract_lane(losses, k)
            store_loss(call.rows, first + k, one)
            partials[(first + k) // group] += one
