"""A vector of rows, one a lane: what a call says of each, and from their statistics to losses and factors."""

from __future__ import annotations

from typing import Any, NamedTuple

from xent_numba.backends.cpu.compile.inline import inline, optional
from xent_numba.backends.cpu.regimes.lanes_tile import zero_ignored
from xent_numba.backends.cpu.row.epilogue import (
    RowStatistics,
    gradient_factors,
    inverse_from_lse,
    log_sum,
    row_loss,
    target_exp,
)
from xent_numba.backends.cpu.row.operands import apply_weight
from xent_numba.backends.cpu.row.transform import scale_or_one
from xent_numba.backends.cpu.simd.cast import demote, minus_ones, promote, truncate_integers
from xent_numba.backends.cpu.simd.load_store import first_n_or, load, load_n, pointer, stack_buffer, store_scalar
from xent_numba.backends.cpu.simd.math import apply_scale, divide
from xent_numba.backends.cpu.simd.reduce import extract_lane
from xent_numba.backends.cpu.simd.vector import lanes_of, select, splat


@optional
def labels_of(labels: Any, i: int, rows: int, classes: int, ignored: Any, vtype: Any) -> Any:
    """The class of each row, −1 in lanes without one; None where there are no labels."""
    nothing = minus_ones(vtype)
    y = load(pointer(labels), i, nothing) if rows == lanes_of(vtype) else load_n(pointer(labels), i, rows, nothing)
    for value in ignored:
        y = select(y == splat(value, y), nothing, y)
    y = select(y < splat(classes, y), y, nothing)  # what is out of range is ignored: the scan saw to it
    return truncate_integers(select(y < splat(0, y), nothing, y), vtype)


@inline
def row_values(array: Any, i: int, rows: int, vtype64: Any) -> Any:
    """array[i + r] in lane r, or 1 where the array is empty."""
    if array.size == 0:
        return splat(1.0, vtype64)
    memory = stack_buffer(vtype64, 1)
    for r in range(lanes_of(vtype64)):
        store_scalar(memory, r, array[i + r] if r < rows else 0.0)
    return load(memory, 0, vtype64)


@optional
def label_weights(confidence: Any, weight: Any, y: Any, vtype64: Any) -> Any:
    """(1 − ε) w_y of each row; None for a distribution."""
    if weight.size == 0:
        return splat(confidence, vtype64)
    memory = stack_buffer(vtype64, 1)
    for r in range(lanes_of(vtype64)):
        store_scalar(memory, r, confidence * weight[max(extract_lane(y, r), 0)])
    return load(memory, 0, vtype64)


@optional
def saved_shift(lse: Any, i: int, rows: int, s: Any, vtype: Any) -> Any:
    """What stands in for the maximum where a log-sum-exp is saved: it, without the scale."""
    given = row_values(lse, i, rows, promote(vtype))
    return demote(given / splat(scale_or_one(s), given), vtype)


@inline
def inverse_sum(lse: Any, row: Any, total: Any, i: int, rows: int, s: Any, vtype: Any) -> Any:
    """1 / S."""
    if lse is None:
        return divide(splat(1.0, total), total)
    return inverse_from_lse(row, row_values(lse, i, rows, promote(vtype)), s)


@inline
def lse_of(saved: Any, row: Any, log_s: Any, i: int, rows: int, s: Any) -> Any:
    if saved is None:
        return apply_scale(row.row_max, s) + log_s
    return row_values(saved, i, rows, log_s)


@inline
def store_losses(out: Any, i: int, rows: int, loss: Any) -> None:
    if out.size:
        for r in range(lanes_of(loss)):
            if r < rows:
                out[i + r] = extract_lane(loss, r)


@inline
def mask_losses(loss: Any, y: Any, rows: int) -> Any:
    """The loss, 0 in lanes that have no row or an ignored one."""
    if y is None:
        return first_n_or(loss, rows, splat(0.0, loss))
    return zero_ignored(loss, y)


# ------------------------------------------------------------------------------------------------ the end of a row
class GroupEpilogue(NamedTuple):
    """What loss and gradient of the rows have in common."""

    row: Any  # in float64
    x_y: Any
    label_weight: Any
    e_y: Any
    total: Any
    log_s: Any
    scale: Any  # the sample weights


@inline
def group_epilogue(call: Any, row: Any, x_y: Any, y: Any, i: int, rows: int, vtype: Any) -> Any:
    """Of the rows from i on, with their statistics and the logits at their targets."""
    vtype64 = promote(vtype)
    row = RowStatistics(promote(row.row_max), row.sum_exp_others, row.target_gap, row.target_sum)
    label_weight = label_weights(call.confidence, call.weight, y, vtype64)
    e_y = target_exp(row, label_weight, x_y, call.scale, vtype)
    total = row.sum_exp_others + e_y
    log_s = log_sum(row, label_weight, x_y, total)
    return GroupEpilogue(row, x_y, label_weight, e_y, total, log_s, row_values(call.sample_weight, i, rows, vtype64))


@inline
def group_losses(call: Any, end: Any, y: Any, rows: int) -> Any:
    """The losses times their sample weights, 0 in lanes without a row and in ignored ones."""
    value = row_loss(end.row, end.label_weight, end.x_y, end.log_s, call.scale, call.z_loss)
    return mask_losses(apply_weight(value, end.scale), y, rows)


@inline
def gradient_scales(call: Any, lse: Any, end: Any, i: int, rows: int, vtype: Any) -> Any:
    """The factor of exp(s (x − top)) in float64, that of u, and the value at the target: all times their scale."""
    vtype64 = promote(vtype)
    inverse = inverse_sum(lse, end.row, end.total, i, rows, call.scale, vtype)
    by = gradient_factors(
        end.row, end.label_weight, end.e_y, inverse, lse_of(lse, end.row, end.log_s, i, rows, call.scale), call.z_loss
    )
    k = end.scale * row_values(call.upstream, i, rows, vtype64) * splat(call.grad_scale, vtype64)
    return by.p_factor * k, demote(k, vtype), demote(by.at_target * k, vtype)
