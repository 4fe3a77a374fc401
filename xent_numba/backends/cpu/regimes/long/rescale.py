"""Sums of exponentials relative to another shift, for the segments of a long row."""

from __future__ import annotations

from typing import Any

from xent_numba.backends.cpu.compile.inline import inline
from xent_numba.backends.cpu.simd.cast import promote
from xent_numba.backends.cpu.simd.exp_shifted import exp_scaled_difference
from xent_numba.backends.cpu.simd.math import unscale
from xent_numba.backends.cpu.simd.reduce import extract_lane
from xent_numba.backends.cpu.simd.vector import one_lane, splat


@inline
def rescale(sum_exp: Any, old: Any, new: Any, scale: Any) -> Any:
    """A sum of exp(s (x_j − old)) as one of exp(s (x_j − new)).

    The exponential is scaled, because by itself it may be too small for a normal number.
    """
    return sum_exp * exp_scaled_difference(old, new, scale) * splat(unscale(sum_exp), sum_exp)


@inline
def rescale_one(sum_exp: float, old: float, new: float, scale: Any, vtype: Any) -> Any:
    """A sum of exp(s (x_j − old)) as one of exp(s (x_j − new)), all of them float64 scalars."""
    vtype64 = promote(vtype)
    return extract_lane(rescale(one_lane(sum_exp, vtype64), one_lane(old, vtype64), one_lane(new, vtype64), scale), 0)


@inline
def own_term(top: Any, row_max: float, scale: Any, vtype: Any) -> Any:
    """exp(s (x_y − row_max)) of a `Top`; 0 for None."""
    if top is None:
        return 0.0
    return rescale_one(1.0, top.x, row_max, scale, vtype)
