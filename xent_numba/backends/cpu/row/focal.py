"""The focal factor q^γ of a loss, where q = 1 − p is the probability of all classes but the label's.

It changes nothing but the label_weight: to q^γ times that in the loss, and to φ times that in the gradient, with
L = −log p and

    φ = q^γ + γ q^(γ−1) p L = q^γ (1 + γ r),  r = p L / q

The derivation is in `backends.reference.focal`.  Everything is computed from p and q, neither of which is ever computed
as 1 minus the other, so that q^γ has all its digits for a p that is nearly 1.  r is between 0 and 1, so no product
overflows.  The values are vectors of float64 with one row in each lane.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from numba import types

from xent_numba.backends.cpu.compile.inline import inline, specialize
from xent_numba.backends.cpu.row.epilogue import log_sum, negative_log_p
from xent_numba.backends.cpu.simd.math import divide, exp, log_of_rounded
from xent_numba.backends.cpu.simd.vector import select, splat

_LEAST = 2.0**-1022  # the smallest normal float64


class FocalFactors(NamedTuple):
    """What multiplies the label_weight of rows; None for each where there is no focal factor."""

    loss: Any  # q^γ
    gradient: Any  # φ


@specialize
def focal_factors_of(gamma: Any, stats: Any, x_y: Any, e_y: Any, total: Any, scale: Any) -> Any:
    """The `FocalFactors` of rows with labels, from γ or None; total is S, of which e_y is the label's part."""
    if isinstance(gamma, types.NoneType):
        return lambda gamma, stats, x_y, e_y, total, scale: FocalFactors(None, None)

    def of_gamma(gamma: Any, stats: Any, x_y: Any, e_y: Any, total: Any, scale: Any) -> Any:
        inverse = divide(splat(1.0, total), total)
        nll = negative_log_p(stats, x_y, log_sum(stats, x_y, total), scale)
        return _focal_factors(gamma, e_y * inverse, stats.sum_exp_others * inverse, nll)

    return of_gamma


@inline
def _focal_factors(gamma: float, p: Any, q: Any, nll: Any) -> Any:
    """The `FocalFactors` from p, q and L; 0 where q is, NaN where it is NaN."""
    zero, one = splat(0.0, p), splat(1.0, p)
    vanishes = q < splat(_LEAST, q)
    log_q = select(vanishes, splat(-math.inf, q), _log_of_parts(q, p))
    power = exp(splat(gamma, q) * log_q)
    p_nll = select(p == zero, zero, p * nll)  # L is infinite where p is 0
    r = p_nll / select(vanishes, one, q)  # not `divide`: q may be too small for a float32
    return FocalFactors(power, power * (one + splat(gamma, q) * r))


@inline
def _log_of_parts(q: Any, p: Any) -> Any:
    """log q for normal q, where p = 1 − q is just as accurate: log1p(−p) for p < 1/2."""
    one = splat(1.0, q)
    is_small = p < splat(0.5, p)
    u = select(is_small, one - p, q)
    return log_of_rounded(u, select(is_small, (one - u) - p, q - q))


@inline
def focal_weight(label_weight: Any, factor: Any) -> Any:
    """The label_weight times one of the `FocalFactors`, which may be None."""
    if factor is None:
        return label_weight
    return label_weight * factor


@specialize
def focal_curvature_of(gamma: Any, stats: Any, x_y: Any, e_y: Any, total: Any, scale: Any) -> Any:
    """ψ = p dφ/dp of rows with labels, as `focal_factors_of` has φ; 0 where γ is None.

    ψ = γ q^(γ−1) (p L − 2 p − (γ − 1) p r), which is 0 where q is: what it multiplies is then no larger than q².
    """
    if isinstance(gamma, types.NoneType):
        return lambda gamma, stats, x_y, e_y, total, scale: splat(0.0, total)

    def of_gamma(gamma: Any, stats: Any, x_y: Any, e_y: Any, total: Any, scale: Any) -> Any:
        zero, one = splat(0.0, total), splat(1.0, total)
        inverse = divide(one, total)
        p, q = e_y * inverse, stats.sum_exp_others * inverse
        nll = negative_log_p(stats, x_y, log_sum(stats, x_y, total), scale)
        vanishes = q < splat(_LEAST, q)
        p_nll = select(p == zero, zero, p * nll)
        r = p_nll / select(vanishes, one, q)
        power = exp(splat(gamma - 1.0, q) * _log_of_parts(select(vanishes, one, q), p))
        psi = splat(gamma, q) * power * (p_nll - p - p - splat(gamma - 1.0, q) * p * r)
        return select(vanishes, zero, psi)

    return of_gamma
