"""The gradient of a long row whose log-sum-exp is known: in one pass, as its statistics are not needed."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from xent_numba.backends.cpu.compile.inline import inline, specialize
from xent_numba.backends.cpu.regimes.long.epilogue import chain_rule_at_target, target_at
from xent_numba.backends.cpu.regimes.long.gradient import GradientScalars, subtract_dense_target
from xent_numba.backends.cpu.regimes.long.outputs import store_element
from xent_numba.backends.cpu.row.epilogue import RowStatistics, gradient_factors, inverse_from_lse, target_exp
from xent_numba.backends.cpu.row.operands import label_weight_of
from xent_numba.backends.cpu.row.target import dense_target_n, exclude_target, is_distribution_type
from xent_numba.backends.cpu.row.transform import apply_transform, chain_rule, scale_or_one
from xent_numba.backends.cpu.simd.cache_control import elements_to_alignment, stream
from xent_numba.backends.cpu.simd.cast import promote
from xent_numba.backends.cpu.simd.exp_shifted import exp_scaled_clamped_difference
from xent_numba.backends.cpu.simd.load_store import first_n_or, load_n, store_n
from xent_numba.backends.cpu.simd.math import compensated_add, unscale
from xent_numba.backends.cpu.simd.reduce import any_true, extract_lane, reduce_add
from xent_numba.backends.cpu.simd.vector import lanes_of, one_lane, splat


# ------------------------------------------------------------------------------------------------ the class left out
class LeftOut(NamedTuple):
    """The class that a sum leaves out: that of the label; for a distribution, the largest."""

    y: Any  # −1 where there is none
    e: Any  # its exponential, as scaled in the sum; for a label, any number
    x: Any  # its logit as given


@specialize
def _first_left_out(dense: Any, row: Any, vtype: Any) -> Any:
    """The `LeftOut` before the first class has been read."""
    if is_distribution_type(dense):
        return lambda dense, row, vtype: LeftOut(np.int64(-1), -1.0, 0.0)

    def of_label(dense: Any, row: Any, vtype: Any) -> Any:
        x = load_n(row.logits, max(row.y, 0), 1, splat(0.0, vtype))
        return LeftOut(row.y, 0.0, np.float64(extract_lane(x, 0)))

    return of_label


@specialize
def _next_left_out(dense: Any, left_out: Any, e: Any, x: Any, i: int, count: int) -> Any:
    """The `LeftOut` after the `count` classes from i on, with the exponentials e and the logits x."""
    if is_distribution_type(dense):
        return lambda dense, left_out, e, x, i, count: _larger(left_out, e, x, i, count)
    return lambda dense, left_out, e, x, i, count: left_out


@inline
def _larger(left_out: Any, e: Any, x: Any, i: int, count: int) -> Any:
    """The class with the largest exponential: `left_out`, or one of the `count` classes from i on."""
    if any_true(e > splat(left_out.e, e)):
        for k in range(count):
            if extract_lane(e, k) > left_out.e:
                left_out = LeftOut(np.int64(i + k), np.float64(extract_lane(e, k)), np.float64(extract_lane(x, k)))
    return left_out


# ------------------------------------------------------------------------------------------------ one pass
@inline
def _gradient_from_lse(row: Any, output: Any, scalars: Any, vtype: Any) -> Any:
    """Write the gradient of a whole row as if it had no label; returns Σ exp(s (x_j − centre)) over all classes but the
    `LeftOut`, and that.

    The gradient at the class left out is computed from this sum, which a saved log-sum-exp does not tell.
    """
    lanes, out = lanes_of(vtype), output.p
    zero, centre = splat(0.0, vtype), splat(scalars.centre, vtype)
    p_factor = splat(scalars.p_factor * unscale(vtype), vtype)
    sum_exp_others, error, readmitted = promote(zero), promote(zero), 0.0
    left_out = _first_left_out(row.dense, row, vtype)
    head = elements_to_alignment(out, 0, vtype) if output.streaming else -1
    i = 0
    while i < row.classes:
        first = head if head > 0 and i == 0 else lanes
        count = min(first, row.classes - i)
        x = load_n(row.logits, i, count, zero)
        e = exp_scaled_clamped_difference(apply_transform(x, row.transform), centre, row.scale)
        before = left_out
        left_out = _next_left_out(row.dense, before, e, x, i, count)
        if left_out.y != before.y and before.y >= 0:
            readmitted += before.e
        others = first_n_or(exclude_target(e, i, left_out.y), count, zero)
        sum_exp_others, error = compensated_add(sum_exp_others, error, promote(others))
        g = subtract_dense_target(e * p_factor, scalars.u_factor, row.dense, i, count)
        g = chain_rule(g, x, row.transform)
        if count == lanes and head >= 0:
            stream(out, i, g)
        else:
            store_n(out, i, count, g)
        i += count
    return (reduce_add(sum_exp_others + error) + readmitted) * unscale(vtype), left_out


@inline
def _dense_target_sum(dense: Any, coefficients: Any, classes: int, vtype: Any) -> Any:
    """Σ u_j of a row, from its `DenseTarget` and the `DenseCoefficients` of the call."""
    if dense is None:
        return 0.0
    return _distribution_sum(dense, dense.q, classes, coefficients.target_sum, vtype)


@inline
def _distribution_sum(dense: Any, q: Any, classes: int, known: float, vtype: Any) -> Any:
    """Σ u_j of a row with a dense target, which is `known` unless q points to a distribution."""
    if q is None:
        return known
    lanes = lanes_of(vtype)
    target_sum, error = promote(splat(0.0, vtype)), promote(splat(0.0, vtype))
    for i in range(0, classes, lanes):
        u = dense_target_n(dense, i, min(lanes, classes - i), vtype)
        target_sum, error = compensated_add(target_sum, error, promote(u))
    return reduce_add(target_sum + error)


# ------------------------------------------------------------------------------------------------ rows
@inline
def gradient_from_saved(row: Any, output: Any, saved_lse: float, factor: float, operands: Any, vtype: Any) -> None:
    """Write the gradient of a row whose log-sum-exp is known; `factor` multiplies all of it."""
    vtype64 = promote(vtype)
    scale, z_coefficient = row.scale, operands.z_coefficient
    # The shift that stands in for the maximum: lse / s, rounded to the arithmetic of the logits.
    saved_shift = np.float64(extract_lane(splat(saved_lse / scale_or_one(scale), vtype), 0))
    lse, zero = one_lane(saved_lse, vtype64), one_lane(0.0, vtype64)
    label_weight = _known_label_weight(operands.confidence, operands.weight, row.y)
    target_sum = _dense_target_sum(row.dense, operands.dense, row.classes, vtype)
    stats = RowStatistics(one_lane(saved_shift, vtype64), zero, zero, one_lane(target_sum, vtype64), None, None)
    inverse = inverse_from_lse(stats, lse, scale)
    weight = one_lane(label_weight, vtype64)
    p_factor = extract_lane(gradient_factors(stats, weight, zero, inverse, lse, z_coefficient).p_factor, 0) * factor
    scalars = GradientScalars(saved_shift, p_factor, factor, 0.0)  # the gradient at the label is computed below
    sum_exp_others, left_out = _gradient_from_lse(row, output, scalars, vtype)
    if left_out.y >= 0:
        label_weight, target_sum = _split_target(row.dense, label_weight, target_sum, left_out.y, vtype)
        stats = RowStatistics(
            stats.row_max, one_lane(sum_exp_others, vtype64), zero, one_lane(target_sum, vtype64), None, None
        )
        x = splat(left_out.x, vtype)
        x_y = one_lane(np.float64(extract_lane(apply_transform(x, row.transform), 0)), vtype64)
        e_y, weight = target_exp(stats, x_y, scale, vtype), one_lane(label_weight, vtype64)
        at_target = extract_lane(gradient_factors(stats, weight, e_y, inverse, lse, z_coefficient).at_target, 0)
        store_element(output.p, left_out.y, chain_rule_at_target(row, left_out.y, x, at_target, factor, vtype), vtype)


@inline
def _known_label_weight(confidence: Any, weight: Any, y: int) -> Any:
    """(1 − ε) w_y; 0 for a distribution."""
    if confidence is None:
        return 0.0
    return label_weight_of(confidence, weight, y)


@specialize
def _split_target(dense: Any, label_weight: float, target_sum: float, y: int, vtype: Any) -> Any:
    """The label_weight and Σ u_j, which for a distribution has all of the target before, and then all but u_y."""
    if not is_distribution_type(dense):
        return lambda dense, label_weight, target_sum, y, vtype: (label_weight, target_sum)

    def of_distribution(dense: Any, label_weight: float, target_sum: float, y: int, vtype: Any) -> Any:
        u = target_at(dense, y, vtype)
        return u, target_sum - u

    return of_distribution
