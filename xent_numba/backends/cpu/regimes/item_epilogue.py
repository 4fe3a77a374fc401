"""The epilogue of a vector of rows: their labels and weights, and from their statistics to losses and gradient factors.

Each row is a lane.  Lanes without a row, in an item that is not full, compute something harmless that is not stored.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from xent_numba.backends.cpu.compile.inline import inline, optional
from xent_numba.backends.cpu.regimes.lanes.gradient import ScaledFactors, zero_ignored
from xent_numba.backends.cpu.row.epilogue import (
    RowStatistics,
    gradient_factors,
    inverse_from_lse,
    log_sum,
    row_loss,
    target_exp,
)
from xent_numba.backends.cpu.row.focal import focal_factors_of, focal_weight
from xent_numba.backends.cpu.row.operands import apply_weight
from xent_numba.backends.cpu.row.transform import scale_or_one
from xent_numba.backends.cpu.simd.cast import demote, promote, truncate_integers
from xent_numba.backends.cpu.simd.load_store import first_n_or, load, load_n, pointer, stack_buffer, store_scalar
from xent_numba.backends.cpu.simd.math import apply_scale, divide
from xent_numba.backends.cpu.simd.reduce import extract_lane
from xent_numba.backends.cpu.simd.vector import lanes_of, minus_ones, select, splat


# ------------------------------------------------------------------------------------------------ operands of the rows
@optional
def labels_of(labels: Any, item: Any, classes: int, ignored_classes: Any, vtype: Any) -> Any:
    """The class of each row, −1 where the row is ignored or the lane has none; None where there are no labels.

    The scan of the labels has made sure that those out of range are ignored ones.
    """
    nothing = minus_ones(vtype)
    if item.rows == lanes_of(vtype):
        y = load(pointer(labels), item.first_row, nothing)
    else:
        y = load_n(pointer(labels), item.first_row, item.rows, nothing)
    for value in ignored_classes:
        y = select(y == splat(value, y), nothing, y)
    y = select(y < splat(classes, y), y, nothing)
    return truncate_integers(select(y < splat(0, y), nothing, y), vtype)


@inline
def row_values(array: Any, item: Any, vtype64: Any) -> Any:
    """The values of the rows in an array of one per row, in float64; 1 where the array is empty."""
    if array.size == 0:
        return splat(1.0, vtype64)
    memory = stack_buffer(vtype64, 1)
    for r in range(lanes_of(vtype64)):
        store_scalar(memory, r, array[item.first_row + r] if r < item.rows else 0.0)
    return load(memory, 0, vtype64)


@inline
def label_weights(confidence: Any, weight: Any, y: Any, vtype64: Any) -> Any:
    """(1 − ε) w_y of each row with a label."""
    if weight.size == 0:
        return splat(confidence, vtype64)
    memory = stack_buffer(vtype64, 1)
    for r in range(lanes_of(vtype64)):
        store_scalar(memory, r, confidence * weight[max(extract_lane(y, r), 0)])
    return load(memory, 0, vtype64)


@optional
def saved_values(saved_lse: Any, item: Any, vtype: Any) -> Any:
    """The saved log-sum-exp of each row, in float64; None where none are given."""
    return row_values(saved_lse, item, promote(vtype))


@optional
def saved_shift_of(saved: Any, scale: Any, vtype: Any) -> Any:
    """Saved log-sum-exps divided by the scale, which take the place of the maxima; None where none are given."""
    return demote(saved / splat(scale_or_one(scale), saved), vtype)


# ------------------------------------------------------------------------------------------------ losses
class ItemEpilogue(NamedTuple):
    """What the losses and the gradient of a vector of rows have in common, in float64."""

    stats: Any  # `RowStatistics`
    target_logit: Any  # after the transform
    label_weight: Any  # (1 − ε) w_y; for a distribution, the target at its `Top`
    target_exp: Any  # exp(scale · (target_logit − row_max))
    sum_exp: Any
    log_sum: Any  # log of `sum_exp`
    focal: Any  # `FocalFactors` of the label_weight
    sample_weight: Any


@inline
def item_epilogue(operands: Any, stats: Any, target_logit: Any, label_weight: Any, item: Any, vtype: Any) -> Any:
    """The `ItemEpilogue` of rows with these statistics, and these logits and weights at their labels."""
    stats = RowStatistics(promote(stats.row_max), stats.sum_exp_others, stats.target_gap, stats.target_sum, None, None)
    e_y = target_exp(stats, target_logit, operands.scale, vtype)
    sum_exp = stats.sum_exp_others + e_y
    log_s = log_sum(stats, target_logit, sum_exp)
    sample_weight = row_values(operands.sample_weight, item, promote(vtype))
    focal = focal_factors_of(operands.focal_gamma, stats, target_logit, e_y, sum_exp, operands.scale)
    return ItemEpilogue(stats, target_logit, label_weight, e_y, sum_exp, log_s, focal, sample_weight)


@inline
def _mask_losses(loss: Any, y: Any, rows: int) -> Any:
    """The losses, 0 in lanes that have no row or an ignored one."""
    if y is None:
        return first_n_or(loss, rows, splat(0.0, loss))
    return zero_ignored(loss, y)


@inline
def item_losses(operands: Any, epilogue: Any, y: Any, rows: int) -> Any:
    """The losses times their sample weights, 0 in lanes that have no row or an ignored one."""
    loss = row_loss(
        epilogue.stats,
        focal_weight(epilogue.label_weight, epilogue.focal.loss),
        epilogue.target_logit,
        epilogue.log_sum,
        operands.scale,
        operands.z_coefficient,
    )
    return _mask_losses(apply_weight(loss, epilogue.sample_weight), y, rows)


@inline
def store_losses(out: Any, item: Any, losses: Any) -> None:
    """out[…] = the losses of the rows; nothing where the array is empty."""
    if out.size:
        for r in range(lanes_of(losses)):
            if r < item.rows:
                out[item.first_row + r] = extract_lane(losses, r)


# ------------------------------------------------------------------------------------------------ gradient
@inline
def _inverse_sum(saved: Any, epilogue: Any, scale: Any) -> Any:
    """1 / S, from a saved log-sum-exp where there is one."""
    sum_exp = epilogue.sum_exp
    if saved is None:
        return divide(splat(1.0, sum_exp), sum_exp)
    return inverse_from_lse(epilogue.stats, saved, scale)


@inline
def _lse(saved: Any, epilogue: Any, scale: Any) -> Any:
    """The log-sum-exps: the saved ones where there are any."""
    if saved is None:
        return apply_scale(epilogue.stats.row_max, scale) + epilogue.log_sum
    return saved


@inline
def scaled_factors(operands: Any, saved: Any, epilogue: Any, item: Any, vtype: Any) -> Any:
    """The `ScaledFactors` of exp(scale · (x − row_max)), p_factor in float64: with sample weights and all else."""
    inverse = _inverse_sum(saved, epilogue, operands.scale)
    factors = gradient_factors(
        epilogue.stats,
        focal_weight(epilogue.label_weight, epilogue.focal.gradient),
        epilogue.target_exp,
        inverse,
        _lse(saved, epilogue, operands.scale),
        operands.z_coefficient,
    )
    grad_output = row_values(operands.grad_output, item, inverse)
    scale = epilogue.sample_weight * grad_output * splat(operands.grad_scale, grad_output)
    return ScaledFactors(factors.p_factor * scale, demote(scale, vtype), demote(factors.at_target * scale, vtype), None)
