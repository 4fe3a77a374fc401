"""Hessian-vector products, and the gradient with the diagonal of the Hessian, of a row measured from its top class.

With T = Σ t_j and the z-loss coefficient ζ, a row has ∂loss/∂z = T p − t + 2ζ lse p and the Hessian, for z = f(x),

    H = A (diag p − p pᵀ) + 2ζ p pᵀ,   A = T + 2ζ lse

For x it is diag f' · H · diag f' + diag (f'' ∂loss/∂z); the last term is 0 without a softcap.  At the top class, where
p may be nearly 1, 1 − p is the sum of the others; v − ⟨p, v⟩ is the difference of two numbers relative to the top.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from xent_numba.backends.cuda.hw import intrinsics as hw
from xent_numba.backends.cuda.row.epilogue import row_factors_function
from xent_numba.backends.cuda.row.spec import Spec
from xent_numba.backends.cuda.row.target import class_weight, target_reader

if TYPE_CHECKING:
    from xent_numba.backends.cuda.row.address import AddressFunctions
    from xent_numba.backends.cuda.row.functions import RowFunctions


class CurvatureFactors(NamedTuple):
    """What turns the logits of a row into its second derivatives."""

    row_max: Any
    top: Any  # int64: the top class
    inverse: Any  # 1 / S, NaN for a row without a value
    others: Any  # 1 − p of the top class
    target_sum: Any  # T
    slope: Any  # 2ζ lse
    twice_z: Any  # 2ζ
    slope_v_top: Any  # f' v at the top class
    mean_above: Any  # ⟨p, f' v⟩ less that
    scale: Any  # of the row


def curvature_epilogue(spec: Spec, maths: RowFunctions) -> Any:
    """(args, row, y, RowFromTop) -> CurvatureFactors."""
    real, dense, z_loss = maths.real, spec.dense, spec.z_loss
    weight, row_factors = class_weight(spec, real), row_factors_function(spec, real)
    one, two, zero, nan, inf, minus_inf = real(1), real(2), real(0), real(np.nan), real(np.inf), real(-np.inf)

    @hw.device
    def epilogue(args: Any, row: Any, y: Any, found: Any) -> Any:
        row_max, others, _, target_sum = found.stats
        valid = minus_inf < row_max < inf and (dense or 0 <= y < args.n_classes)
        inverse = one / (one + others) if valid else nan
        _, scale, z_coefficient = row_factors(args, row)
        twice_z, slope = zero, zero
        if z_loss:
            twice_z = two * z_coefficient
            slope = twice_z * (row_max + hw.log1p(others))
        if not dense:
            target_sum = weight(args, y)
        return CurvatureFactors(
            row_max, found.top.j, inverse, others * inverse, target_sum, slope, twice_z, found.top.slope_v,
            found.measured.stream * inverse, scale,
        )  # fmt: skip

    return epilogue


def curvature_visit(spec: Spec, maths: RowFunctions, memory: AddressFunctions) -> Any:
    """(args, (CurvatureFactors, y, q, out, second output), 0, j, x_j, v_j) -> 0: stores the output of a class."""
    real, transform, derivative, exp = maths.real, maths.transform, maths.derivative, maths.exp
    store, out_stride, second_out_stride = memory.access.store, memory.out_stride, memory.second_out_stride
    product, z_loss, bends = spec.output == "hvp", spec.z_loss, spec.softcap and not spec.gauss_newton
    target = target_reader(spec, real, memory.distribution_stride)
    one, two, stored = real(1), real(2), maths.stored

    @hw.device
    def visit(args: Any, fixed: Any, state: Any, j: Any, x: Any, v: Any) -> Any:
        factors, y, q, out, second_out = fixed
        z, slope = transform(args, x), derivative(args, x)
        is_top = j == factors.top
        p = factors.inverse if is_top else exp(z - factors.row_max) * factors.inverse
        others = factors.others if is_top else one - p
        curved = factors.target_sum + factors.slope
        bend = -two * (real(args.scale_over_cap) * (z / real(args.softcap))) * slope if bends else real(0)
        gradient = real(0)
        if bends or not product:
            t_j = target(args, q, j, y)
            gradient = (factors.target_sum - t_j) * p - t_j * others
            if z_loss:
                gradient += factors.slope * p
        if product:
            value = p * (curved * ((slope * v - factors.slope_v_top) - factors.mean_above))
            if z_loss:
                value += factors.twice_z * p * (factors.slope_v_top + factors.mean_above)
            value *= slope
            if bends:
                value += bend * gradient * v
            store(out + j * out_stride(args), stored(value * factors.scale))
        else:
            diagonal = curved * p * others
            if z_loss:
                diagonal += factors.twice_z * p * p
            diagonal *= slope * slope
            if bends:
                diagonal += bend * gradient
            store(out + j * out_stride(args), stored(gradient * slope * factors.scale))
            store(second_out + j * second_out_stride(args), stored(diagonal * factors.scale))
        return state

    return visit
