"""From the statistics of long rows to their losses and gradients.

The statistics of a row are float64 scalars.  Losses, whose logarithms are the costly part, are computed for a vector of
rows at a time, which wait in a `LossBuffer`; the factors of a gradient are needed before the next row is read, and are
computed for each row by itself, in one lane.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from xent_numba.backends.cpu.compile.inline import inline, optional
from xent_numba.backends.cpu.regimes.long.gradient import GradientScalars
from xent_numba.backends.cpu.row.epilogue import RowStatistics, gradient_factors, log_sum, row_loss, target_exp
from xent_numba.backends.cpu.row.operands import apply_weight, label_weight_of, value_or_one
from xent_numba.backends.cpu.row.transform import chain_rule, load_logit
from xent_numba.backends.cpu.simd.cast import promote
from xent_numba.backends.cpu.simd.load_store import load, load_n, load_scalar, stack_buffer, store_scalar
from xent_numba.backends.cpu.simd.math import apply_scale
from xent_numba.backends.cpu.simd.reduce import extract_lane
from xent_numba.backends.cpu.simd.vector import one_lane, splat


class RowTerms(NamedTuple):
    """What the loss of one row is computed from: float64 scalars."""

    stats: Any  # `RowStatistics`
    x_y: float  # f of the logit at the label's class
    label_weight: Any  # (1 − ε) w_y, or None for a distribution
    sample_weight: float


@inline
def row_terms(operands: Any, row: Any, stats: Any, i: int, vtype: Any) -> Any:
    """The `RowTerms` of row i from its `RowInput` and `RowStatistics`."""
    return RowTerms(
        stats,
        load_logit(row.logits, max(row.y, 0), row.transform, vtype),
        label_weight_of(operands.confidence, operands.weight, row.y),
        value_or_one(operands.sample_weight, i),
    )


@inline
def gradient_factor(operands: Any, i: int) -> Any:
    """What multiplies the whole gradient of row i."""
    return value_or_one(operands.sample_weight, i) * value_or_one(operands.grad_output, i) * operands.grad_scale


# ------------------------------------------------------------------------------------------------ losses
class LossBuffer(NamedTuple):
    """Rows whose losses are not computed yet: pointers to a vector of float64 for each of the `RowTerms`."""

    row_max: Any
    sum_exp_others: Any
    target_gap: Any
    target_sum: Any
    x_y: Any
    label_weight: Any
    sample_weight: Any


@inline
def loss_buffer(vtype64: Any) -> Any:
    """A new `LossBuffer` on the stack."""
    return LossBuffer(
        stack_buffer(vtype64, 1), stack_buffer(vtype64, 1), stack_buffer(vtype64, 1), stack_buffer(vtype64, 1),
        stack_buffer(vtype64, 1), stack_buffer(vtype64, 1), stack_buffer(vtype64, 1),
    )  # fmt: skip


@inline
def buffer_row(buffer: Any, k: int, terms: Any) -> None:
    """Put the `RowTerms` of a row at lane k."""
    stats = terms.stats
    store_scalar(buffer.row_max, k, stats.row_max)
    store_scalar(buffer.sum_exp_others, k, stats.sum_exp_others)
    store_scalar(buffer.target_gap, k, stats.target_gap)
    store_scalar(buffer.target_sum, k, stats.target_sum)
    store_scalar(buffer.x_y, k, terms.x_y)
    store_scalar(buffer.sample_weight, k, terms.sample_weight)
    _buffer_label_weight(terms.label_weight, buffer, k)


@optional
def _buffer_label_weight(label_weight: Any, buffer: Any, k: int) -> Any:
    """Put a label weight, if there is one, at lane k."""
    store_scalar(buffer.label_weight, k, label_weight)


@optional
def _buffered_label_weights(confidence: Any, buffer: Any, vtype64: Any) -> Any:
    """The label weights of all lanes; None for a distribution."""
    return load(buffer.label_weight, 0, vtype64)


@inline
def buffered_losses(buffer: Any, operands: Any, vtype: Any) -> Any:
    """The losses of the rows in a buffer, times their sample weights."""
    vtype64 = promote(vtype)
    stats = RowStatistics(
        load(buffer.row_max, 0, vtype64),
        load(buffer.sum_exp_others, 0, vtype64),
        load(buffer.target_gap, 0, vtype64),
        load(buffer.target_sum, 0, vtype64),
    )
    x_y, label_weight = load(buffer.x_y, 0, vtype64), _buffered_label_weights(operands.confidence, buffer, vtype64)
    total = stats.sum_exp_others + target_exp(stats, label_weight, x_y, operands.scale, vtype)
    log_s = log_sum(stats, label_weight, x_y, total)
    loss = row_loss(stats, label_weight, x_y, log_s, operands.scale, operands.z_coefficient)
    return apply_weight(loss, load(buffer.sample_weight, 0, vtype64))


# ------------------------------------------------------------------------------------------------ gradients
@optional
def one_lane_or_none(value: Any, vtype64: Any) -> Any:
    """A float64 scalar in the first lane of a vector; None for None."""
    return one_lane(value, vtype64)


@inline
def _row_gradient_factors(terms: Any, scale: Any, z_coefficient: float, vtype: Any) -> Any:
    """The `GradientFactors` of one row, in one lane.  Its log-sum-exp is computed only where a z-loss needs it."""
    vtype64 = promote(vtype)
    stats = RowStatistics(
        one_lane(terms.stats.row_max, vtype64),
        one_lane(terms.stats.sum_exp_others, vtype64),
        one_lane(terms.stats.target_gap, vtype64),
        one_lane(terms.stats.target_sum, vtype64),
    )
    label_weight, x_y = one_lane_or_none(terms.label_weight, vtype64), one_lane(terms.x_y, vtype64)
    e_y = target_exp(stats, label_weight, x_y, scale, vtype)
    total = stats.sum_exp_others + e_y
    lse = total
    if z_coefficient != 0.0:
        lse = apply_scale(stats.row_max, scale) + log_sum(stats, label_weight, x_y, total)
    return gradient_factors(stats, label_weight, e_y, one_lane(1.0, vtype64) / total, lse, z_coefficient)


@inline
def gradient_scalars(row: Any, terms: Any, factor: float, z_coefficient: float, vtype: Any) -> Any:
    """The `GradientScalars` of a row; `factor` multiplies its whole gradient."""
    factors = _row_gradient_factors(terms, row.scale, z_coefficient, vtype)
    row_max = terms.stats.row_max
    return GradientScalars(
        row_max if row_max > -math.inf else 0.0,
        extract_lane(factors.p_factor, 0) * factor,
        factor,
        _gradient_at_target(row, extract_lane(factors.at_target, 0), factor, vtype),
    )


@inline
def _gradient_at_target(row: Any, at_target: float, factor: float, vtype: Any) -> Any:
    """The gradient at the label's class, from `GradientFactors.at_target`; 0 for a row without a label."""
    if row.y < 0:
        return 0.0
    x_y = load_n(row.logits, row.y, 1, splat(0.0, vtype))
    return chain_rule_at_target(row, x_y, at_target, factor, vtype)


@inline
def chain_rule_at_target(row: Any, x_y: Any, at_target: float, factor: float, vtype: Any) -> Any:
    """The gradient at the label's class, which exists; its logit as given is in the first lane of x_y."""
    g = splat((at_target - _label_dense_target(row.dense, row.y)) * factor, vtype)
    return np.float64(extract_lane(chain_rule(g, x_y, row.transform), 0))


@inline
def _label_dense_target(dense: Any, y: int) -> Any:
    """u_y of a row with a label, whose dense target has no distribution."""
    if dense is None:
        return 0.0
    return dense.beta * _weight_or_one(dense.weight, y)


@inline
def _weight_or_one(weight: Any, y: int) -> Any:
    """The class weight of y; 1 where there are none."""
    if weight is None:
        return 1.0
    return load_scalar(weight, y)
