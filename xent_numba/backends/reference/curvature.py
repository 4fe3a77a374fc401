"""The second derivatives of the loss of a block of rows: Hessian-vector products, and the diagonal of the Hessian.

With ∂loss/∂z = T p − t + 2 λ lse p and ∂p/∂z = diag p − p pᵀ, the Hessian of a row with respect to z = f(x) is

    H = (T + 2 λ lse) (diag p − p pᵀ) + 2 λ p pᵀ

and with respect to x it is diag f' · H · diag f' + diag (f'' ∂loss/∂z).  The last term is 0 without a softcap.  A focal
loss has T = w φ, and subtracts w ψ (p − e) (p − e)ᵀ, where e is 1 at the label and 0 elsewhere.

Two sums never cancel.  1 − p_j is the sum of the other probabilities where p_j may be nearly 1.  And v_j − ⟨p, v⟩ is
computed from the differences of v to its value at the most likely class, so that it keeps its digits where p is nearly
1 there, and v is nearly the same everywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from xent_numba.backends.compensated import sum_of
from xent_numba.backends.reference.loss import block_gradient, label_factors
from xent_numba.backends.reference.statistics import sum_without

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xent_numba.backends.protocol import Problem
    from xent_numba.backends.reference.loss import Target
    from xent_numba.backends.reference.statistics import Stats

    Float64s = NDArray[np.float64]


class _Factors(NamedTuple):
    """The factors of the terms of H, each (R, 1)."""

    spread: Float64s  # T + 2 λ lse, of diag p − p pᵀ
    focal: Float64s | None  # −w ψ, of (p − e) (p − e)ᵀ; None without a focal_gamma
    square: float  # 2 λ, of p pᵀ


def _factors(stats: Stats, target: Target, problem: Problem) -> _Factors:
    """The `_Factors` of a block."""
    total, focal, zeta = target.w if target.t is None else sum_of(target.t), None, problem.z_coefficient
    if problem.focal_gamma:
        by_label = label_factors(stats, target.y, problem.focal_gamma)
        total, focal = target.w * by_label.gradient, -target.w * by_label.curvature
    return _Factors(total + 2.0 * zeta * stats.lse if zeta else total, focal, 2.0 * zeta)


def _from_label(stats: Stats, target: Target) -> Float64s:
    """p − e as (R, C)."""
    p = stats.exps / stats.sums
    np.put_along_axis(p, target.y, -sum_without(stats.exps, target.y) / stats.sums, axis=1)
    return p


def block_hvp(stats: Stats, target: Target, problem: Problem, v: Float64s) -> Float64s:
    """H v as (R, C), all with respect to z."""
    p, factors = stats.exps / stats.sums, _factors(stats, target, problem)
    v_top = np.take_along_axis(v, stats.first, axis=1)
    above = v - v_top
    mean_above = sum_of(p * above)
    product = factors.spread * p * (above - mean_above)
    if factors.square:
        product = product + factors.square * p * (v_top + mean_above)
    if factors.focal is not None:
        along = mean_above - np.take_along_axis(above, target.y, axis=1)
        product = product + factors.focal * along * _from_label(stats, target)
    return product


def block_hessian_diag(stats: Stats, target: Target, problem: Problem) -> Float64s:
    """The diagonal of H as (R, C), with respect to z."""
    p, factors = stats.exps / stats.sums, _factors(stats, target, problem)
    others = 1.0 - p
    np.put_along_axis(others, stats.first, stats.others / stats.sums, axis=1)
    diag = factors.spread * p * others
    if factors.square:
        diag = diag + factors.square * p * p
    if factors.focal is not None:
        diag = diag + factors.focal * _from_label(stats, target) ** 2
    return diag


def transform_term(z: Float64s, slope: Float64s, stats: Stats, target: Target, problem: Problem) -> Float64s:
    """f'' ∂loss/∂z as (R, C), what the curvature of a softcap adds to the diagonal with respect to x; 0 without one.

    f' = s sech²(s x / c) has the derivative f'' = −2 (s / c) tanh(s x / c) f', and tanh(s x / c) is z / c.
    """
    if problem.softcap is None:
        return np.zeros((1, 1))
    bend = -2.0 * (problem.logit_scale / problem.softcap) * (z / problem.softcap) * slope
    return bend * block_gradient(stats, target, problem)
