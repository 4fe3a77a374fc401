"""exp(x − c) for a sum over a row, where the rounding of x − c would count: thousands of equal terms have it in common.

With the symbols of `vmath`: in float64 what rounding took is added to r.  In float32 exp(x) is reduced itself, to
x = n ln 2 + r, and m = round(c / ln 2) is taken off n, for nothing; what is left is one factor for the row,
exp(m ln 2 − c).  Where |c| is so large that m ln 2 is not exact, x − c is, wherever exp of it is not 0.  `Shift` is
what is taken off.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from numba import types

from xent_numba.backends.cpu.compile.inline import inline, specialize
from xent_numba.backends.cpu.simd.cast import promote
from xent_numba.backends.cpu.simd.exp_avx512 import LN2
from xent_numba.backends.cpu.simd.math import FLOAT32_LANES, exp, exp_adjusted, exp_scaled, exp_scaled_adjusted
from xent_numba.backends.cpu.simd.reduce import any_true
from xent_numba.backends.cpu.simd.vector import fma, select, splat

EXACT_SHIFT_LIMIT = 2048.0  # |c| from which on x − c is exact where it matters


@inline
def _finite_error(lost: Any) -> Any:
    """What rounding took, 0 where it is NaN, as from −inf, or so large that exp of the rest is 0."""
    return select(lost * lost < splat(1.0, lost), lost, splat(0.0, lost))


@inline
def _difference(a: Any, b: Any, s: Any) -> Any:
    """s · (a − b), and what rounding took from it."""
    d = a - b
    back = a - d
    lost = (a - (d + back)) + (back - b)  # Knuth's
    if s is None:
        return d, _finite_error(lost)
    by = splat(s, d)
    product = d * by
    return product, _finite_error(fma(d, by, splat(0.0, d) - product) + lost * by)


def _of_product(exponential: Any) -> Any:
    """A function of (a, b, s): an exponential of s · (a − b), as if that were not rounded."""

    def of_product(a: Any, b: Any, s: Any) -> Any:
        d, lost = _difference(a, b, s)
        e = exponential(d)
        return fma(e, lost, e)

    return of_product


@specialize
def exp_scaled_difference(a: Any, b: Any, s: Any) -> Any:
    """`exp_scaled` of s · (a − b), as if it were not rounded where that counts."""
    if a.dtype == types.float32 or a.lanes == FLOAT32_LANES:
        if isinstance(s, types.NoneType):
            return lambda a, b, s: exp_scaled(a - b)
        return _of_product(exp_scaled)

    def in_float64(a: Any, b: Any, s: Any) -> Any:
        d, lost = _difference(a, b, s)
        return exp_scaled_adjusted(d, lost)

    return in_float64


@specialize
def _exp_difference(a: Any, b: Any, s: Any) -> Any:
    """exp of s · (a − b), rounded before exp once and not twice."""
    if isinstance(s, types.NoneType):
        return lambda a, b, s: exp(a - b)
    return _of_product(exp)


class Shift(NamedTuple):
    """near + m ln 2, of ln 2 as rounded to float32: what is taken off the logits of a row."""

    residual: Any
    exponent: Any


@specialize
def shift_of(c: Any, s: Any) -> Any:
    """The shift next to c, which is not −inf: c itself in float64, or where s · (x − c) is asked for."""
    if c.dtype == types.float64 or not isinstance(s, types.NoneType):
        return lambda c, s: Shift(c, splat(0.0, c))

    def in_float32(c: Any, s: Any) -> Any:
        zero, rounder = splat(0.0, c), splat(12582912.0, c)
        m = fma(c, splat(1.4426950408889634, c), rounder) - rounder
        inside = c * c < splat(EXACT_SHIFT_LIMIT * EXACT_SHIFT_LIMIT, c)
        return Shift(select(inside, zero, c), select(inside, m, zero))

    return in_float32


@inline
def shift_value(shift: Any) -> Any:
    """near + m ln 2, exactly, in float64."""
    residual = promote(shift.residual)
    return fma(promote(shift.exponent), splat(LN2, residual), residual)


def _shifted(by: Any, of_difference: Any) -> Any:
    """A function of (x, shift, s): an exponential of s · (x − shift)."""

    def choose(x: Any, shift: Any, s: Any) -> Any:
        if isinstance(shift[0], types.NoneType):
            return lambda x, shift, s: by(x, shift.exponent)
        if x.dtype == types.float32 and isinstance(s, types.NoneType):
            return lambda x, shift, s: by(x - shift.residual, shift.exponent)
        return lambda x, shift, s: of_difference(x, shift.residual, s)

    return specialize(choose)


exp_shifted, exp_shifted_scaled = (
    _shifted(exp_adjusted, _exp_difference),
    _shifted(exp_scaled_adjusted, exp_scaled_difference),
)


@specialize
def has_residual(shift: Any, s: Any) -> Any:
    """Whether something must be taken off the logits themselves, which `drop_residual` leaves out."""
    residual = shift[0]
    if residual.dtype == types.float64 or not isinstance(s, types.NoneType):
        return lambda shift, s: False
    return lambda shift, s: any_true(shift.residual * shift.residual > splat(0.0, shift.residual))


@specialize
def drop_residual(shift: Any, s: Any) -> Any:
    """The same shift where it is not far, which nearly none is: it has an instruction less."""
    residual = shift[0]
    if residual.dtype == types.float64 or not isinstance(s, types.NoneType):
        return lambda shift, s: shift
    return lambda shift, s: Shift(None, shift.exponent)


@specialize
def rescale_to_max(shift: Any, c: Any, s: Any) -> Any:
    """What makes a sum of exp(x − shift) one of exp(x − c), c being what the shift is next to."""
    if c.dtype == types.float64 or not isinstance(s, types.NoneType):
        return lambda shift, c, s: splat(1.0, promote(c))
    return lambda shift, c, s: exp(shift_value(shift) - promote(c))
