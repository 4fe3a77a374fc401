"""From the statistics of long rows to their losses and gradients.

The statistics of a row are float64 scalars.  Losses, whose logarithms are the costly part, are computed for a vector of
rows at a time, which wait in a `LossBuffer`; the factors of a gradient are needed before the next row is read, and are
computed for each row by itself, in one lane.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import types

from xent_numba.backends.cpu.compile.inline import inline, optional, specialize
from xent_numba.backends.cpu.regimes.long.gradient import GradientScalars
from xent_numba.backends.cpu.row.epilogue import (
    RowStatistics,
    Top,
    gradient_factors,
    label_of_top,
    log_sum,
    row_loss,
    target_exp,
)
from xent_numba.backends.cpu.row.focal import focal_factors_of, focal_weight
from xent_numba.backends.cpu.row.operands import RowInput, apply_weight, label_weight_of, value_or_one
from xent_numba.backends.cpu.row.target import dense_target_n, smoothing_at
from xent_numba.backends.cpu.row.transform import chain_rule, load_logit
from xent_numba.backends.cpu.simd.cast import promote
from xent_numba.backends.cpu.simd.load_store import load, load_n, stack_buffer, store_scalar
from xent_numba.backends.cpu.simd.math import apply_scale
from xent_numba.backends.cpu.simd.reduce import extract_lane
from xent_numba.backends.cpu.simd.vector import one_lane, splat


class RowTerms(NamedTuple):
    """What the loss of one row is computed from: float64 scalars."""

    stats: Any  # `RowStatistics`
    x_y: float  # f of the logit at the label's class
    label_weight: float  # (1 − ε) w_y; for a distribution, the target at its `Top`
    sample_weight: float


@inline
def row_terms(operands: Any, row: Any, stats: Any, i: int, vtype: Any) -> Any:
    """The `RowTerms` of row i from its `RowInput`, which is `labelled`, and `RowStatistics`."""
    x_y = load_logit(row.logits, max(row.y, 0), row.transform, vtype)
    return _terms_of(stats.top, stats, x_y, operands, row, value_or_one(operands.sample_weight, i), vtype)


@specialize
def _terms_of(top: Any, stats: Any, x_y: float, operands: Any, row: Any, sample_weight: float, vtype: Any) -> Any:
    """The `RowTerms` of a row with a label, where `top` is None, or with a distribution."""
    if isinstance(top, types.NoneType):
        return lambda top, stats, x_y, operands, row, sample_weight, vtype: RowTerms(
            stats, x_y, label_weight_of(operands.confidence, operands.weight, row.y), sample_weight
        )

    def of_top(top: Any, stats: Any, x_y: float, operands: Any, row: Any, sample_weight: float, vtype: Any) -> Any:
        u = target_at(row.dense, row.y, vtype)
        return RowTerms(label_of_top(stats, u), top.x, u, sample_weight)

    return of_top


@inline
def target_at(dense: Any, y: int, vtype: Any) -> Any:
    """u_y of a row with a distribution, as a float64."""
    return np.float64(extract_lane(dense_target_n(dense, max(y, 0), 1, vtype), 0))


@inline
def in_one_lane(stats: Any, vtype: Any) -> Any:
    """The `RowStatistics` of a row, float64 scalars, as vectors of one lane; without what was measured."""
    vtype64 = promote(vtype)
    return RowStatistics(
        one_lane(stats.row_max, vtype64),
        one_lane(stats.sum_exp_others, vtype64),
        one_lane(stats.target_gap, vtype64),
        one_lane(stats.target_sum, vtype64),
        _top_in_one_lane(stats.top, vtype64),
        None,
    )


@optional
def _top_in_one_lane(top: Any, vtype64: Any) -> Any:
    """A `Top` with its logit as a vector of one lane."""
    return Top(top.y, one_lane(top.x, vtype64))


@specialize
def labelled(row: Any, top: Any) -> Any:
    """The `RowInput` with the class of a `Top` as that of the label; unchanged for None."""
    if isinstance(top, types.NoneType):
        return lambda row, top: row
    return lambda row, top: RowInput(
        row.logits, row.classes, top.y, row.dense, row.transform, row.scale, row.top, row.measures
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
    store_scalar(buffer.label_weight, k, terms.label_weight)
    store_scalar(buffer.sample_weight, k, terms.sample_weight)


@inline
def buffered_losses(buffer: Any, operands: Any, vtype: Any) -> Any:
    """The losses of the rows in a buffer, times their sample weights."""
    vtype64 = promote(vtype)
    stats = RowStatistics(
        load(buffer.row_max, 0, vtype64),
        load(buffer.sum_exp_others, 0, vtype64),
        load(buffer.target_gap, 0, vtype64),
        load(buffer.target_sum, 0, vtype64),
        None,
        None,
    )
    x_y, label_weight = load(buffer.x_y, 0, vtype64), load(buffer.label_weight, 0, vtype64)
    e_y = target_exp(stats, x_y, operands.scale, vtype)
    total = stats.sum_exp_others + e_y
    log_s = log_sum(stats, x_y, total)
    focal = focal_factors_of(operands.focal_gamma, stats, x_y, e_y, total, operands.scale)
    label_weight = focal_weight(label_weight, focal.loss)
    loss = row_loss(stats, label_weight, x_y, log_s, operands.scale, operands.z_coefficient)
    return apply_weight(loss, load(buffer.sample_weight, 0, vtype64))


# ------------------------------------------------------------------------------------------------ gradients
@inline
def _row_gradient_factors(terms: Any, operands: Any, vtype: Any) -> Any:
    """The `GradientFactors` of one row, in one lane.  Its log-sum-exp is computed only where a z-loss needs it."""
    vtype64, scale, z_coefficient = promote(vtype), operands.scale, operands.z_coefficient
    stats = in_one_lane(terms.stats, vtype)
    label_weight, x_y = one_lane(terms.label_weight, vtype64), one_lane(terms.x_y, vtype64)
    e_y = target_exp(stats, x_y, scale, vtype)
    total = stats.sum_exp_others + e_y
    focal = focal_factors_of(operands.focal_gamma, stats, x_y, e_y, total, scale)
    label_weight = focal_weight(label_weight, focal.gradient)
    lse = total
    if z_coefficient != 0.0:
        lse = apply_scale(stats.row_max, scale) + log_sum(stats, x_y, total)
    return gradient_factors(stats, label_weight, e_y, one_lane(1.0, vtype64) / total, lse, z_coefficient)


@inline
def gradient_scalars(row: Any, terms: Any, factor: float, operands: Any, vtype: Any) -> Any:
    """The `GradientScalars` of a row; `factor` multiplies its whole gradient."""
    factors = _row_gradient_factors(terms, operands, vtype)
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
    return chain_rule_at_target(row, row.y, x_y, at_target, factor, vtype)


@inline
def chain_rule_at_target(row: Any, y: int, x_y: Any, at_target: float, factor: float, vtype: Any) -> Any:
    """The gradient at the label's class y, which exists; its logit as given is in the first lane of x_y."""
    g = splat((at_target - smoothing_at(row.dense, y)) * factor, vtype)
    return np.float64(extract_lane(chain_rule(g, x_y, row.transform), 0))
