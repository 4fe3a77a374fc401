"""exp(x − c) for sums over a row, without the error of rounding x − c.

That rounding error matters in sums: where thousands of classes have the same logit, all their terms have the same
error, and it does not average out.  With the symbols of `math` (x = n ln 2 + r):

- In float64, the rounding error of x − c is computed and added to r.
- In float32, the range reduction is that of x, not of x − c, and the whole number m = round(c / ln 2) is subtracted
  from n, which is exact and costs nothing.  One factor for the whole row is left, exp(m ln 2 − c).  Where |c| is so
  large that m ln 2 is no longer exact, x − c is, wherever exp(x − c) is not 0.

A `Shift` is what is subtracted from the logits of a row.  Throughout, s is |logit_scale|, or None for 1.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from numba import types

from xent_numba.backends.cpu.compile.inline import inline, specialize
from xent_numba.backends.cpu.compile.processor import processor
from xent_numba.backends.cpu.simd.cast import bitcast_to_float, bitcast_to_int, convert_to_float, promote
from xent_numba.backends.cpu.simd.exp_avx512 import LN2, LOG2E
from xent_numba.backends.cpu.simd.math import (
    FLOAT32_LANES,
    exp,
    exp_adjusted,
    exp_scaled,
    exp_scaled_adjusted,
    unscale,
)
from xent_numba.backends.cpu.simd.reduce import any_true, extract_lane
from xent_numba.backends.cpu.simd.vector import fma, one_lane, select, shift_left, shift_right, splat

_MOVED_POWERS = 96  # the largest power of 2, up or down, that an exponential is multiplied by in `scale_for_product`
EXACT_SHIFT_LIMIT = 2048.0  # the |c| from which on x − c is exact wherever exp(x − c) is not 0


# ------------------------------------------------------------------------------------------------ of a difference
@inline
def _finite_error(error: Any) -> Any:
    """A rounding error; 0 where it is NaN, as it is for −inf, or so large that the exponential is 0 anyway."""
    return select(error * error < splat(1.0, error), error, splat(0.0, error))


@specialize
def _product_error(a: Any, b: Any, product: Any) -> Any:
    """The rounding error of `product`, which is a · b as rounded; NaN where it overflows."""
    if processor().fuses:
        return lambda a, b, product: fma(a, b, splat(0.0, a) - product)
    half_of_bits = 2.0**12 if a.dtype == types.float32 else 2.0**27

    def of_parts(a: Any, b: Any, product: Any) -> Any:  # Dekker: the products of halves of the digits are exact
        a_high, b_high = _upper_digits(a, half_of_bits), _upper_digits(b, half_of_bits)
        a_low, b_low = a - a_high, b - b_high
        return ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low

    return of_parts


@inline
def _upper_digits(a: Any, half_of_bits: float) -> Any:
    """The upper half of the digits of a."""
    shifted = splat(half_of_bits + 1.0, a) * a
    return shifted - (shifted - a)


@inline
def _difference(a: Any, b: Any, s: Any) -> Any:
    """s · (a − b) as rounded, and its rounding error."""
    d = a - b
    back = a - d
    error = (a - (d + back)) + (back - b)  # Knuth's two-sum
    if s is None:
        return d, _finite_error(error)
    scale = splat(s, d)
    product = d * scale
    return product, _finite_error(_product_error(d, scale, product) + error * scale)


def _of_product(exponential: Any) -> Any:
    """Make the function of (a, b, s) that gives `exponential` of s · (a − b), as if that were not rounded."""

    def of_product(a: Any, b: Any, s: Any) -> Any:
        d, error = _difference(a, b, s)
        e = exponential(d)
        return fma(e, error, e)

    return of_product


@specialize
def exp_scaled_difference(a: Any, b: Any, s: Any) -> Any:
    """`exp_scaled` of s · (a − b), as if the argument were not rounded, where that matters."""
    if a.dtype == types.float32 or a.lanes == FLOAT32_LANES:
        if isinstance(s, types.NoneType):
            return lambda a, b, s: exp_scaled(a - b)
        return _of_product(exp_scaled)

    def in_float64(a: Any, b: Any, s: Any) -> Any:
        d, error = _difference(a, b, s)
        return exp_scaled_adjusted(d, error)

    return in_float64


@specialize
def _exp_scaled_of_rounded(a: Any, b: Any, s: Any) -> Any:
    """`exp_scaled` of s · (a − b), with at most one rounding of the argument."""
    if isinstance(s, types.NoneType):
        return lambda a, b, s: exp_scaled(a - b)
    return _of_product(exp_scaled)


@inline
def exp_scaled_clamped_difference(a: Any, b: Any, s: Any) -> Any:
    """`exp_scaled_difference` for a b that may be far too small, as a saved lse is where the user's is not right."""
    highest = b + splat(_highest_difference(s), b)
    return exp_scaled_difference(select(a > highest, highest, a), b, s)


@specialize
def _highest_difference(s: Any) -> Any:
    """The largest a − b for which 2^32 · exp(s · (a − b)) is finite in float32, or a little less."""
    if isinstance(s, types.NoneType):
        return lambda s: 60.0
    return lambda s: 60.0 / s


# ------------------------------------------------------------------------------------------------ of a shifted row
class Shift(NamedTuple):
    """What is subtracted from the logits of a row: residual + exponent · ln 2, with ln 2 rounded to float32.

    In float32, one of the two is 0 (and the residual None where `drop_residual` has removed it).  In float64, and with
    a logit_scale, the exponent is 0.
    """

    residual: Any
    exponent: Any


def _has_exponent(vtype: Any, s: Any) -> bool:
    """Whether a shift may have an exponent: in float32, without a logit_scale."""
    return vtype.dtype == types.float32 and isinstance(s, types.NoneType)


@specialize
def shift_of(c: Any, s: Any) -> Any:
    """The shift nearest to c, which is not −inf: c itself in float64, and with a logit_scale."""
    if not _has_exponent(c, s):
        return lambda c, s: Shift(c, splat(0.0, c))

    def in_float32(c: Any, s: Any) -> Any:
        zero, rounder = splat(0.0, c), splat(12582912.0, c)  # adding 1.5·2^23 rounds to whole numbers
        exponent = fma(c, splat(LOG2E, c), rounder) - rounder
        inside = c * c < splat(EXACT_SHIFT_LIMIT * EXACT_SHIFT_LIMIT, c)
        return Shift(select(inside, zero, c), select(inside, exponent, zero))

    return in_float32


@inline
def shift_value(shift: Any) -> Any:
    """residual + exponent · ln 2, exactly, in float64."""
    residual = promote(shift.residual)
    return fma(promote(shift.exponent), splat(LN2, residual), residual)


def _shifted(adjusted: Any, of_difference: Any) -> Any:
    """Make the function of (x, shift, s) that gives an exponential of s · (x − shift).

    `adjusted` is `exp_adjusted` or `exp_scaled_adjusted`, `of_difference` the same exponential of a difference.
    """

    def choose(x: Any, shift: Any, s: Any) -> Any:
        if isinstance(shift[0], types.NoneType):
            return lambda x, shift, s: adjusted(x, shift.exponent)
        if _has_exponent(x, s):
            return lambda x, shift, s: adjusted(x - shift.residual, shift.exponent)
        return lambda x, shift, s: of_difference(x, shift.residual, s)

    return specialize(choose)


# exp(s (x − shift)) scaled as by `exp_scaled`, for sums; and scaled as the shift of `scale_for_product` says.
exp_shifted_scaled = _shifted(exp_scaled_adjusted, exp_scaled_difference)
exp_shifted_for_product = _shifted(exp_adjusted, _exp_scaled_of_rounded)


@specialize
def scale_for_product(shift: Any, factor: Any, s: Any) -> Any:
    """(shift, factor) such that `exp_shifted_for_product` · factor is exp(s (x − shift)) · factor of the arguments.

    The exponential is scaled so that it is a normal number wherever the product is.  `factor` is a float64.
    """
    if not _has_exponent(shift[0], s):
        return lambda shift, factor, s: (shift, factor * unscale(shift.residual))
    return lambda shift, factor, s: _move_power(shift, factor)


@inline
def _move_power(shift: Any, factor: Any) -> Any:
    """(shift, factor) with the power of 2 of the factor moved to the exponent of the shift, which costs nothing.

    The factor is less than 1 then.  So the exponential is at least as large as the product, and seldom normal where the
    product is not: subnormal products are slow.
    """
    f = one_lane(factor, promote(shift.exponent))
    bits = bitcast_to_int(f)
    power = (shift_right(bits, 52) & splat(2047, bits)) - splat(1022, bits)
    highest, lowest = splat(_MOVED_POWERS, bits), splat(-_MOVED_POWERS, bits)
    power = select(power > highest, highest, select(power < lowest, lowest, power))
    inverse = bitcast_to_float(shift_left(splat(1023, bits) - power, 52), f)
    exponent = shift.exponent - splat(extract_lane(convert_to_float(power, f), 0), shift.exponent)
    return Shift(shift.residual, exponent), extract_lane(f * inverse, 0)


@specialize
def has_residual(shift: Any, s: Any) -> Any:
    """Whether any residual is not 0, so that `drop_residual` would change the shift; false where that does nothing."""
    if not _has_exponent(shift[0], s):
        return lambda shift, s: False
    return lambda shift, s: any_true(shift.residual * shift.residual > splat(0.0, shift.residual))


@specialize
def drop_residual(shift: Any, s: Any) -> Any:
    """The shift without its residual, which must be 0, as it nearly always is; that saves the subtraction of 0."""
    if not _has_exponent(shift[0], s):
        return lambda shift, s: shift
    return lambda shift, s: Shift(None, shift.exponent)


@specialize
def rescale_to_max(shift: Any, c: Any, s: Any) -> Any:
    """The factor that turns a sum of exp(x − shift) into one of exp(x − c), for shift = shift_of(c, s); in float64."""
    if not _has_exponent(c, s):
        return lambda shift, c, s: splat(1.0, promote(c))
    return lambda shift, c, s: exp(shift_value(shift) - promote(c))
