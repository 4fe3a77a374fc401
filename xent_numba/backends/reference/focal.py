"""The focal factor q^γ of a loss, where q = 1 − p is the probability of all classes but the label's.

With L = −log p, the loss of a row is q^γ L.  Its derivatives follow from dp/dz_j = p (δ_jy − p_j):

    gradient     φ (p_j − δ_jy)                                    φ = q^γ + γ q^(γ−1) p L
    Hessian      φ (p_j δ_jk − p_j p_k) − ψ (p_j − δ_jy) (p_k − δ_ky)    ψ = p dφ/dp

so the focal factor changes nothing but the weight of the label: to q^γ in the loss, and to φ in the gradient.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float64s = NDArray[np.float64]

_LEAST = float(np.finfo(np.float64).tiny)


class FocalFactors(NamedTuple):
    """What multiplies the loss of a row and its derivatives, as (R, 1)."""

    loss: Float64s  # q^γ, between 0 and 1
    gradient: Float64s  # φ, between 0 and 1 + γ
    curvature: Float64s  # ψ, of either sign


def focal_factors(gamma: float, p: Float64s, q: Float64s) -> FocalFactors:
    """The `FocalFactors` of rows (R, 1), from p at the label and q = 1 − p, which is a sum of the other probabilities.

    Both have all their digits where they are tiny, and so have the factors.  With L = −log p and r = p L / q, which is
    1 in the limit q → 0, and 0 for p = 0:

        φ = q^γ (1 + γ r)        ψ = γ q^(γ−1) (p L − 2 p − (γ − 1) p r)

    Where γ = 0 they are 1, 1 and 0.  Where q = 0 they are 0: what ψ multiplies is then no larger than q².
    """
    if gamma == 0.0:
        one = np.ones_like(p)
        return FocalFactors(one, one, 0.0 * one)
    log_q = np.minimum(np.where(p < 0.5, np.log1p(-p), np.log(q)), 0.0)  # a saved lse may be a little too small
    power = np.exp(gamma * log_q)
    vanishes = q < _LEAST
    nll = np.where(q < 0.5, -np.log1p(-q), -np.log(p))
    p_nll = np.where(p == 0.0, 0.0, p * nll)
    ratio = np.where(vanishes, 1.0, p_nll / q)
    curvature = gamma * np.exp((gamma - 1.0) * log_q) * (p_nll - 2.0 * p - (gamma - 1.0) * p * ratio)
    return FocalFactors(
        np.where(vanishes, 0.0, power),
        np.where(vanishes, 0.0, power * (1.0 + gamma * ratio)),
        np.where(vanishes, 0.0, curvature),
    )
