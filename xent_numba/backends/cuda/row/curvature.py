"""Hessian-vector products, and the gradient with the diagonal of the Hessian, of a row measured from its top class.

With T = Σ t_j and the z-loss coefficient ζ, a row has ∂loss/∂z = T p − t + 2ζ lse p and the Hessian, for z = f(x),

    H = A (diag p − p pᵀ) + 2ζ p pᵀ,   A = T + 2ζ lse

For x it is diag f' · H · diag f' + diag (f'' ∂loss/∂z); the last term is 0 without a softcap.  A focal factor
multiplies T by φ, and adds −T ψ (p − e) (p − e)ᵀ to H, where e is 1 at the label and 0 elsewhere (see `row.focal`).

At the top class, where p may be nearly 1, 1 − p is the sum of the others; v − ⟨p, v⟩ is the difference of two numbers
relative to the top.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from xent_numba.backends.cuda.hw import intrinsics as hw
from xent_numba.backends.cuda.row.epilogue import row_factors_function
from xent_numba.backends.cuda.row.focal import focal_curvature, focal_function
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
    focal: Any  # −T ψ, and for a product times ⟨p, f' v⟩ less f' v at the label
    others_of_label: Any  # 1 − p of the label, where there is a focal factor
    scale: Any  # of the row


def curvature_epilogue(spec: Spec, maths: RowFunctions) -> Any:
    """(args, row, y, z_y, f' v at y, RowFromTop) -> CurvatureFactors."""
    real, exp, dense, z_loss = maths.real, maths.exp, spec.dense, spec.z_loss
    focal, product = spec.focal, spec.output == "hvp"
    focal_factors, focal_psi = focal_function(spec, real), focal_curvature(spec, real)
    weight, row_factors = class_weight(spec, real), row_factors_function(spec, real)
    one, two, zero, nan, inf, minus_inf = real(1), real(2), real(0), real(np.nan), real(np.inf), real(-np.inf)

    @hw.device
    def epilogue(args: Any, row: Any, y: Any, z_y: Any, slope_v_y: Any, found: Any) -> Any:
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
        mean_above = found.measured.stream * inverse
        along, others_of_label = zero, zero
        if focal:
            is_top = y == found.top.j
            e_y = one if is_top else exp(z_y - row_max)
            p, nll = e_y * inverse, (row_max - z_y) + hw.log1p(others)
            others_of_label = (others if is_top else one + others - e_y) * inverse
            along = -target_sum * focal_psi(args, p, others_of_label, nll)
            if product:
                along *= mean_above - (slope_v_y - found.top.slope_v)
            _, in_gradient = focal_factors(args, p, others_of_label, nll)
            target_sum *= in_gradient
        return CurvatureFactors(
            row_max, found.top.j, inverse, others * inverse, target_sum, slope, twice_z, found.top.slope_v, mean_above,
            along, others_of_label, scale,
        )  # fmt: skip

    return epilogue


def curvature_visit(spec: Spec, maths: RowFunctions, memory: AddressFunctions) -> Any:
    """(args, (CurvatureFactors, y, q, out, second output), 0, j, x_j, v_j) -> 0: stores the output of a class."""
    real, transform, derivative, exp = maths.real, maths.transform, maths.derivative, maths.exp
    store, out_stride, second_out_stride = memory.access.store, memory.out_stride, memory.second_out_stride
    product, z_loss, bends = spec.output == "hvp", spec.z_loss, spec.softcap and not spec.gauss_newton
    target = target_reader(spec, real, memory.distribution_stride)
    zero, one, two, stored = real(0), real(1), real(2), maths.stored
    dense, focal = spec.dense, spec.focal

    @hw.device
    def visit(args: Any, fixed: Any, state: Any, j: Any, x: Any, v: Any) -> Any:
        factors, y, q, out, second_out = fixed
        z, slope = transform(args, x), derivative(args, x)
        is_top = j == factors.top
        p = factors.inverse if is_top else exp(z - factors.row_max) * factors.inverse
        others = factors.others if is_top else one - p
        spread = factors.target_sum + factors.slope
        bend = -two * (real(args.scale_over_cap) * (z / real(args.softcap))) * slope if bends else zero
        gradient = zero
        lead = -factors.others_of_label if j == y else p
        if bends or not product:
            t_j = target(args, q, j, y) if dense else (factors.target_sum if j == y else zero)
            gradient = (factors.target_sum - t_j) * p - t_j * others
            if z_loss:
                gradient += factors.slope * p
        if product:
            value = p * (spread * ((slope * v - factors.slope_v_top) - factors.mean_above))
            if z_loss:
                value += factors.twice_z * p * (factors.slope_v_top + factors.mean_above)
            if focal:
                value += factors.focal * lead
            value *= slope
            if bends:
                value += bend * gradient * v
            store(out + j * out_stride(args), stored(value * factors.scale))
        else:
            diagonal = spread * p * others
            if z_loss:
                diagonal += factors.twice_z * p * p
            if focal:
                diagonal += factors.focal * lead * lead
            diagonal *= slope * slope
            if bends:
                diagonal += bend * gradient
            store(out + j * out_stride(args), stored(gradient * slope * factors.scale))
            store(second_out + j * second_out_stride(args), stored(diagonal * factors.scale))
        return state

    return visit
