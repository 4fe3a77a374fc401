"""The second derivatives of rows: from their statistics to the factors of Hessian-vector products and diagonals.

With A = T + 2 z_coefficient · lse, the Hessian of a row with respect to z is

    H = A (diag p − p pᵀ) + 2 z_coefficient p pᵀ − ψ (p − e_y) (p − e_y)ᵀ

where the last term is that of a focal loss (`focal`), and that with respect to x is f' H f', plus f'' ∂loss/∂z on the
diagonal.  With u = f' v, the value u_top at the class of the row's `Top`, and mean = ⟨p, u⟩ − u_top,

    (H u)_j = p_j (A (u_j − u_top) − offset),  offset = A mean − 2 z_coefficient (u_top + mean) − κ
    H_jj = p_j (A (1 − p_j) + 2 z_coefficient p_j) − ψ p_j²

with κ = ψ (u_y − ⟨p, u⟩).  At the class y of the label, p_j in the term of ψ is −(1 − p_y), and 1 − p_j is the sum of
the others over S at the label and at the `Top`, so that nothing cancels where p_j may be nearly 1.

f'' is 0 without a softcap; with one, f'' = bend · f · f' with bend = −2 scale / cap².

The statistics leave out the `Top`.  Values are vectors of float64 with one row in each lane.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from numba import types

from xent_numba.backends.cpu.compile.inline import inline, specialize
from xent_numba.backends.cpu.row.epilogue import RowStatistics, gradient_factors, log_sum, target_exp
from xent_numba.backends.cpu.row.focal import focal_curvature_of, focal_factors_of, focal_weight
from xent_numba.backends.cpu.row.measures import largest_of
from xent_numba.backends.cpu.row.transform import Softcap, apply_transform, chain_rule, is_instance_type
from xent_numba.backends.cpu.simd.cast import demote, promote
from xent_numba.backends.cpu.simd.math import apply_scale
from xent_numba.backends.cpu.simd.vector import select, splat


class RowCurvature(NamedTuple):
    """What gradients and second derivatives of rows are made of."""

    inverse: Any  # 1 / S
    spread: Any  # A
    at_target: Any  # the gradient ∂loss/∂z at the label, but for the smoothing there
    psi: Any  # ψ times the label_weight; 0 without a focal loss
    p_y: Any
    q_y: Any  # 1 − p_y
    p_top: Any
    q_top: Any  # 1 − p at the `Top`


@inline
def row_curvature(operands: Any, stats: Any, label_weight: Any, x_y: Any, is_top: Any, vtype: Any) -> Any:
    """The `RowCurvature` of rows whose label has this label_weight and f(x_y); `is_top`: that it is the `Top`'s class.

    For a distribution, the label is the `Top`, and its target is taken out of the dense one.
    """
    scale, gamma, z_coefficient = operands.scale, operands.focal_gamma, operands.z_coefficient
    e_top = target_exp(stats, stats.top.x, scale, vtype)
    total = stats.sum_exp_others + e_top
    e_y = select(is_top, e_top, target_exp(stats, x_y, scale, vtype))
    others = select(is_top, stats.sum_exp_others, total - e_y)
    of_label = RowStatistics(stats.row_max, others, stats.target_gap, stats.target_sum, None, None)
    psi = focal_curvature_of(gamma, of_label, x_y, e_y, total, scale)
    weight = focal_weight(label_weight, focal_factors_of(gamma, of_label, x_y, e_y, total, scale).gradient)
    inverse = splat(1.0, total) / total
    lse = total
    if z_coefficient != 0.0:
        lse = apply_scale(stats.row_max, scale) + log_sum(stats, stats.top.x, total)
    factors = gradient_factors(of_label, weight, e_y, inverse, lse, z_coefficient)
    return RowCurvature(
        inverse,
        weight + stats.target_sum + splat(2.0 * z_coefficient, lse) * lse,
        factors.at_target,
        label_weight * psi,
        e_y * inverse,
        others * inverse,
        e_top * inverse,
        stats.sum_exp_others * inverse,
    )


# ------------------------------------------------------------------------------------------------ one class
@inline
def diagonal_at(found: Any, p: Any, q: Any, of_psi: Any, z_coefficient: float) -> Any:
    """H_jj with respect to z, from p_j and q = 1 − p_j; `of_psi` is p_j, or 1 − p_j at the label."""
    return p * (found.spread * q + splat(2.0 * z_coefficient, p) * p) - found.psi * of_psi * of_psi


@inline
def magnitude_of(spread: Any) -> Any:
    """What is moved from the spread of rows, and from all that is added to it, to the factor of p: a spread above 1.

    The product of p and a tiny factor then is a normal number wherever the second derivative is one.
    """
    square = spread * spread
    is_large = (square > splat(1.0, spread)) & (square < splat(math.inf, spread))
    return select(is_large, spread, splat(1.0, spread))


@inline
def demote_finite(value: Any, vtype: Any) -> Any:
    """The value in the dtype of `vtype`, finite if it is: ψ of a row that is certain of its label multiplies zeros."""
    most = promote(largest_of(splat(0.0, vtype)))
    least = splat(0.0, most) - most
    return demote(select(value > most, most, select(value < least, least, value)), vtype)


@inline
def offset_without_focal(spread: Any, mean: Any, u_top: Any, z_coefficient: float) -> Any:
    """The offset of (H u)_j without κ, where `spread` is A."""
    return spread * mean - splat(2.0 * z_coefficient, mean) * (u_top + mean)


# ------------------------------------------------------------------------------------------------ the transform
@specialize
def add_bend(h: Any, bend: float, g: Any, x: Any, transform: Any) -> Any:
    """h + f''/f' · g for the logits x as given; h without a softcap."""
    if not is_instance_type(transform, Softcap):
        return lambda h, bend, g, x, transform: h
    return lambda h, bend, g, x, transform: h + splat(bend, h) * apply_transform(x, transform) * g


@inline
def diagonal_of_x(h: Any, g: Any, bend: float, x: Any, transform: Any) -> Any:
    """∂²loss/∂x² from h = ∂²loss/∂z² and g = ∂loss/∂z, for the logits x as given."""
    return chain_rule(add_bend(chain_rule(h, x, transform), bend, g, x, transform), x, transform)


@specialize
def is_bent(transform: Any) -> Any:
    """Whether f'' is not 0: with a softcap."""
    bent = is_instance_type(transform, Softcap)
    return lambda transform: bent


def _has_label_formula(transform: Any, gamma: Any) -> bool:
    """Whether second derivatives at the label are another formula than elsewhere, for these Numba types."""
    return is_instance_type(transform, Softcap) or not isinstance(gamma, types.NoneType)


@specialize
def needs_label(transform: Any, gamma: Any) -> Any:
    """Whether second derivatives at the label are another formula than elsewhere."""
    needed = _has_label_formula(transform, gamma)
    return lambda transform, gamma: needed


@specialize
def y_if_needed(transform: Any, gamma: Any, y: Any) -> Any:
    """y where `needs_label`; otherwise None, for no class with a value of its own."""
    if _has_label_formula(transform, gamma):
        return lambda transform, gamma, y: y
    return lambda transform, gamma, y: None
