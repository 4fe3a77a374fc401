"""From the statistics of a row to its loss, its log-sum-exp, and the factors of its output.

With a sparse target the statistics run over the other classes only.  The label's own logit joins here, so that a tiny
loss is log1p(Σ of the others) and the label's gradient −Σ p_j over the others, never 1 − (1 − tiny).  With a dense
target the statistics leave out one class that has the maximum, whose exponential is 1: the loss is
T log1p(Σ of the others) + Σ t_j (max − z_j), which has no cancellation, and a one-hot distribution keeps its digits.

The maximum starts at the lowest finite number, not at −inf: merging the statistics of two threads then never meets
inf − inf.  A row that has nothing above −inf has the sum 0, and becomes NaN here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from xent_numba.backends.cuda.hw import intrinsics as hw
from xent_numba.backends.cuda.hw.access import access
from xent_numba.backends.cuda.row.focal import focal_function
from xent_numba.backends.cuda.row.spec import ITEMSIZE, Spec
from xent_numba.backends.cuda.row.target import class_weight


class RowStatistics(NamedTuple):
    """What one pass over a row, or over a part of it, has found; z are the transformed logits."""

    row_max: Any  # max z_j; with a sparse target, of the other classes
    # Σ exp(z_j − row_max), of all classes where there is no target; with a sparse target, of the other classes; with a
    # dense one, of all but one class that has the maximum, so −1 where nothing is above −inf
    sum_exp_others: Any
    target_gap: Any  # Σ t_j (row_max − z_j) of a dense target
    target_sum: Any  # Σ t_j of a dense target


class OutputFactors(NamedTuple):
    """What turns the logits of a row into its output, up to the derivative of the transform.

    A gradient with a sparse target is p_factor · exp(z_j − row_max), and at_target at the label; with a dense one it is
    (p_factor · exp(z_j − row_max) − t_j) · scale, and where z_j is the maximum (p_factor − t_j + at_target) · scale:
    there the difference may be as small as the rounding error of p_factor, which at_target makes up for.  A softmax is
    p_factor · exp(z_j − row_max); a log_softmax is z_j − row_max − p_factor.
    """

    row_max: Any
    p_factor: Any
    at_target: Any
    scale: Any


def epilogue_function(spec: Spec, real: Any, exp: Any) -> Any:
    """(args, row, y, RowStatistics, z_y) -> (loss, log-sum-exp, OutputFactors)."""
    factors = _row_factors(spec, real)
    if spec.saved_lse:
        return _from_saved_lse(spec, real, factors)
    if spec.dense:
        return _of_dense_target(spec, real, factors)
    return _of_sparse_target(spec, real, exp, factors) if spec.labels else _of_no_target(spec, real)


def _row_factors(spec: Spec, real: Any) -> Any:
    """(args, row) -> (factor of the row's loss, factor of its gradient, coefficient of lse²)."""
    sample_weight = factor_of_row("sample_weight", spec.sample_weight, real)
    grad_output = factor_of_row("grad_output", spec.grad_output, real)
    one, zero = real(1), real(0)
    z_coefficient: Any = hw.device(lambda args: real(args.z_coefficient)) if spec.z_loss else hw.device(lambda _: zero)
    grad_scale: Any = hw.device(lambda args: one)
    ratio: Any = hw.device(lambda args: one)
    if spec.output == "grad":
        grad_scale = hw.device(lambda args: real(args.grad_scale))
    if spec.device_scales:
        # (1 / denominator, ratio of the two denominators), written by the deferred scan of the labels
        ratio = hw.device(lambda args: real(hw.load_f64(args.device_scales + 8)))
        if spec.output == "grad":
            grad_scale = hw.device(lambda args: real(hw.load_f64(args.device_scales) * args.grad_scale))

    @hw.device
    def row_factors(args: Any, row: Any) -> Any:
        s = sample_weight(args, row)
        return s, s * grad_scale(args) * grad_output(args, row), z_coefficient(args) * ratio(args)

    return row_factors


def factor_of_row(name: str, dtype: str, real: Any) -> Any:
    """(args, row) -> the row's "sample_weight" or "grad_output" in the type `real`, 1 where there are none."""
    one = real(1)
    if not dtype:
        return hw.device(lambda args, row: one)
    load, size = access(dtype).load, ITEMSIZE[dtype]
    if name == "sample_weight":
        return hw.device(lambda args, row: real(load(args.sample_weight + size * row)))
    return hw.device(lambda args, row: real(load(args.grad_output + args.grad_output_row * row)))


def _of_sparse_target(spec: Spec, real: Any, exp: Any, row_factors: Any) -> Any:
    """The epilogue of a label without smoothing."""
    weight, focal_factors = class_weight(spec, real), focal_function(spec, real)
    z_loss, focal = spec.z_loss, spec.focal
    two, zero, nan, inf = real(2), real(0), real(np.nan), real(np.inf)

    @hw.device
    def epilogue(args: Any, row: Any, y: Any, stats: Any, z_y: Any) -> Any:
        max_others, sum_at_max_others, _, _ = stats
        row_max = hw.fmax(max_others, z_y)
        sum_exp_others, e_y = sum_at_max_others * exp(max_others - row_max), exp(z_y - row_max)
        total = sum_exp_others + e_y
        if not (total > zero and row_max < inf):  # nothing above −inf, or a +inf or NaN
            sum_exp_others, total = nan, nan
        log_total = hw.log1p(sum_exp_others) if z_y >= max_others else hw.log(total)
        lse = row_max + log_total
        w, nll = weight(args, y), (row_max - z_y) + log_total
        loss = w * nll if w > zero else zero * lse
        if focal:
            in_loss, in_gradient = focal_factors(args, e_y / total, sum_exp_others / total, nll)
            loss, w = in_loss * loss, in_gradient * w
        sample_weight, scale, z_coefficient = row_factors(args, row)
        inverse = scale / total
        if z_loss:
            slope = two * z_coefficient * lse
            loss += z_coefficient * lse * lse
            p_factor, at_target = (w + slope) * inverse, (slope * e_y - w * sum_exp_others) * inverse
        else:
            p_factor, at_target = w * inverse, -(w * sum_exp_others) * inverse
        loss = sample_weight * loss if sample_weight > zero else zero * lse
        return loss, lse, OutputFactors(row_max, p_factor, at_target, scale)

    return epilogue


def _of_dense_target(spec: Spec, real: Any, row_factors: Any) -> Any:
    """The epilogue of a distribution, or of a label with smoothing."""
    z_loss = spec.z_loss
    one, two, zero, nan, inf = real(1), real(2), real(0), real(np.nan), real(np.inf)

    @hw.device
    def epilogue(args: Any, row: Any, y: Any, stats: Any, z_y: Any) -> Any:
        row_max, sum_exp_others, target_gap, slope = stats
        total = one + sum_exp_others
        if not (total > zero and row_max < inf and z_y == z_y):  # z_y: NaN for a bad label
            sum_exp_others, total = nan, nan
        log_total = hw.log1p(sum_exp_others)
        lse = row_max + log_total
        loss = slope * log_total + target_gap
        sample_weight, scale, z_coefficient = row_factors(args, row)
        if z_loss:
            loss += z_coefficient * lse * lse
            slope += two * z_coefficient * lse
        loss = sample_weight * loss if sample_weight > zero else zero * lse
        p_factor = slope / total
        lost = ((slope - p_factor) - p_factor * sum_exp_others) / total  # slope / total − p_factor
        return loss, lse, OutputFactors(row_max, p_factor, lost, scale)

    return epilogue


def _of_no_target(spec: Spec, real: Any) -> Any:
    """The epilogue of softmax, log_softmax and logsumexp."""
    logarithm, keeps_infinities = spec.output == "log_softmax", spec.lse
    one, zero, nan, inf, minus_inf = real(1), real(0), real(np.nan), real(np.inf), real(-np.inf)

    @hw.device
    def epilogue(args: Any, row: Any, y: Any, stats: Any, z_y: Any) -> Any:
        row_max, sum_exp, _, _ = stats
        if keeps_infinities:  # log of a sum, not a normalisation: of −inf alone it is −inf, of any +inf it is +inf
            lse = row_max + hw.log(sum_exp) if sum_exp > zero or sum_exp != sum_exp else minus_inf
            return zero, lse, OutputFactors(row_max, zero, zero, one)
        total = sum_exp if sum_exp > zero and row_max < inf else nan
        log_total = hw.log(total)
        p_factor = log_total if logarithm else one / total
        return zero, row_max + log_total, OutputFactors(row_max, p_factor, zero, one)

    return epilogue


def _from_saved_lse(spec: Spec, real: Any, row_factors: Any) -> Any:
    """The epilogue where log Σ exp is given: p_j = exp(z_j − lse), and p_y − 1 = expm1(z_y − lse).

    A float64 lse is the sum of its rounding to float32 and a residual.  The first stands for the maximum, the second
    goes to the factors: exp(z − lse) = exp(z − rounded) · exp(−residual).  A focal factor needs 1 − p_y with all its
    digits, and so the sum of the other classes' p_j.
    """
    weight, focal_factors, focal = class_weight(spec, real), focal_function(spec, real), spec.focal
    load, size = access(spec.saved_lse).load, ITEMSIZE[spec.saved_lse]
    dense, zero, half, one, two, has_label = spec.dense, real(0), real(0.5), real(1), real(2), bool(spec.labels)
    minus_inf, inf, nan = hw.f64(-np.inf), hw.f64(np.inf), real(np.nan)

    @hw.device
    def epilogue(args: Any, row: Any, y: Any, stats: Any, z_y: Any) -> Any:
        saved = hw.f64(load(args.saved_lse + size * row))
        lse = real(saved) if minus_inf < saved < inf else nan
        if has_label and (y < 0 or y >= args.n_classes):
            lse = nan
        residual = real(saved - hw.f64(lse))
        _, scale, z_coefficient = row_factors(args, row)
        slope = two * z_coefficient * lse
        residual_factor = hw.exp(-residual)
        if dense:
            return zero, lse, OutputFactors(lse, (stats.target_sum + slope) * residual_factor, zero, scale)
        w = weight(args, y)
        log_p_y = (z_y - lse) - residual
        if focal:
            q = stats.sum_exp_others * hw.exp((stats.row_max - lse) - residual)
            q = one if q > one else q
            _, in_gradient = focal_factors(args, hw.exp(log_p_y), q, -hw.log1p(-q) if q < half else -log_p_y)
            w *= in_gradient
        at_target = w * (-q if focal else hw.expm1(log_p_y)) + slope * hw.exp(log_p_y)
        return zero, lse, OutputFactors(lse, (w + slope) * residual_factor * scale, at_target * scale, scale)

    return epilogue
