"""exp, log1p and tanh of vectors, branch-free and NaN-safe, and the arithmetic of compensated and scaled sums.

exp(d), d ≤ 0:  2^n · exp(r) with n = round(d / ln 2), |r| ≤ ln(2) / 2, and exp(r) = 1 + r + r²·q(r).  The polynomial q
has the least largest relative error (Remez), and its coefficients are rounded; the relative error of exp(r) is 3.7e-9
in float32 and 1.1e-17 in float64, a tenth of an ulp or less.  Adding 1.5·2^p (p: the bits of the mantissa) rounds to a
whole number and leaves n in the last bits of the sum; with the bias of the exponent added too, one shift turns these
bits into 2^n.  At n = -bias that is exactly 0, and smaller arguments are clamped to this n: so exp(-inf) is 0.  NaN
passes through every step.  On processors with AVX-512, float32 has another algorithm, in `exp_avx512`.

log1p(q), q ≥ 0, in float64:  log(u) + (q - (u - 1)) / u with u = 1 + q; the last term corrects the rounding of u.  The
logarithm is that of fdlibm: u = 2^k · (1 + f), s = f / (2 + f), and a polynomial in s².

tanh(u), in float64:  from E = exp(-2|u|), with the odd power series where 1 - E would cancel.

Vectors of sixteen float64 lanes stand for float32 logits, and vectors of eight for float64 logits: the epilogue of rows
is computed in float64 either way, but the result is rounded to the dtype of the logits.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from numba import types

from xent_numba.backends.cpu.compile.inline import inline, specialize
from xent_numba.backends.cpu.compile.processor import processor
from xent_numba.backends.cpu.simd import exp_avx512
from xent_numba.backends.cpu.simd.cast import (
    bitcast_to_float,
    bitcast_to_int,
    convert_to_float,
    demote_to_float32,
    promote,
)
from xent_numba.backends.cpu.simd.exp_avx512 import LN2, LOG2E
from xent_numba.backends.cpu.simd.vector import fma, polynomial, select, shift_left, shift_right, splat

FLOAT32_LANES = 16  # lanes of a vector that stands for float32 logits, whatever its dtype
# `exp_scaled` is 2^bits · exp, for float32 and for float64.
EXP_SCALE_BITS32, EXP_SCALE_BITS64 = 32, 64


# ------------------------------------------------------------------------------------------------ exp
class _RangeReduction(NamedTuple):
    """The constants with which d becomes n ln 2 + r, and n becomes 2^n."""

    ln2_high: float
    ln2_low: float  # ln 2 − ln2_high; not used in float32, where it would change nothing
    rounder: float  # 1.5·2^mantissa_bits + bias
    lowest: float  # −bias · ln 2
    mantissa_bits: int


# ln 2 in two parts, the higher with so few digits that its product with n is exact.
_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
# The same of LN2, the ln 2 of float32; both products are exact.
_LN2_SHORT = 0.693359375
_LN2_SHORT_REST = LN2 - _LN2_SHORT
_RANGE_REDUCTION32 = _RangeReduction(LN2, 0.0, 12582912.0 + 127.0, -88.02969193111305, 23)
_RANGE_REDUCTION64 = _RangeReduction(_LN2_HIGH, _LN2_LOW, 6755399441055744.0 + 1023.0, -709.0895657128241, 52)
# Coefficients of q, highest power first.
_EXP_COEFFICIENTS32 = (
    0.0013814598646664403656,
    0.0083687168797280689481,
    0.041668388045313982903,
    0.1666652063170949765,
    0.49999993447796486929,
)
_EXP_COEFFICIENTS64 = (
    2.5000061625530303156e-8,
    2.7630248385322646046e-7,
    2.755758637378518267e-6,
    0.000024801493098887392696,
    0.00019841269506578723932,
    0.001388888894363013416,
    0.0083333333334944616639,
    0.041666666666530158494,
    0.16666666666666412523,
    0.50000000000000106271,
)
_exp_polynomial32, _exp_polynomial64 = polynomial(_EXP_COEFFICIENTS32), polynomial(_EXP_COEFFICIENTS64)


@specialize
def _remainder(minus_n: Any, d: Any) -> Any:
    """d − n · LN2 in float32, rounded once: without a fused multiply-add in two steps, the first without rounding."""
    if processor().fuses:
        return lambda minus_n, d: fma(minus_n, splat(LN2, d), d)
    return lambda minus_n, d: minus_n * splat(_LN2_SHORT_REST, d) + (minus_n * splat(_LN2_SHORT, d) + d)


def _exponential(scale_bits32: int, scale_bits64: int) -> Any:
    """Make an exponential of (d, adjustment) that is scaled by 2^scale_bits, with the bits for float32 or float64.

    In float32, the adjustment m is a whole number and subtracted from n: the result is 2^(scale_bits − m) · exp(d), for
    d ≤ m ln 2.  In float64, it is tiny and added to r: the result is 2^scale_bits · exp(d + adjustment), for d ≤ 0.
    """
    with_avx512 = exp_avx512.exponential(scale_bits32)

    def choose(d: Any, adjustment: Any) -> Any:
        if exp_avx512.supports(d):
            return lambda d, adjustment: with_avx512(d, adjustment)
        float32 = d.dtype == types.float32
        ln2_high, ln2_low, rounder, lowest, mantissa_bits = _RANGE_REDUCTION32 if float32 else _RANGE_REDUCTION64
        scale_bits = scale_bits32 if float32 else scale_bits64
        rounder, lowest = rounder + scale_bits, lowest - scale_bits * 0.6931471805599453

        def in_float32(d: Any, m: Any) -> Any:
            floor = fma(m, splat(ln2_high, d), splat(lowest, d))
            d = select(d < floor, floor, d)
            shift = splat(rounder, d) - m
            biased = fma(d, splat(LOG2E, d), shift)
            r = _remainder(shift - biased, d)
            one = splat(1.0, d)
            p = fma(fma(_exp_polynomial32(r), r, one), r, one)
            return p * bitcast_to_float(shift_left(bitcast_to_int(biased), mantissa_bits), d)

        def in_float64(d: Any, correction: Any) -> Any:
            floor = splat(lowest, d)
            d = select(d < floor, floor, d)
            shift = splat(rounder, d)
            biased = fma(d, splat(LOG2E, d), shift)
            minus_n = shift - biased
            r = fma(minus_n, splat(ln2_low, d), fma(minus_n, splat(ln2_high, d), d) + correction)
            one = splat(1.0, d)
            p = fma(fma(_exp_polynomial64(r), r, one), r, one)
            return p * bitcast_to_float(shift_left(bitcast_to_int(biased), mantissa_bits), d)

        return in_float32 if float32 else in_float64

    return specialize(choose)


# exp and exp_scaled with an adjustment, for `exp_shifted`.
exp_adjusted = _exponential(0, 0)
exp_scaled_adjusted = _exponential(EXP_SCALE_BITS32, EXP_SCALE_BITS64)


@inline
def exp(d: Any) -> Any:
    """exp(d) for d ≤ 0 or NaN; 0 where the result would be subnormal.

    The error is about 1 ulp, and |d| / 20 ulp more in float32.
    """
    return exp_adjusted(d, splat(0.0, d))


@inline
def exp_scaled(d: Any) -> Any:
    """2^32 · exp(d) in float32, 2^64 · exp(d) in float64, for d ≤ 0 or NaN; see `unscale`.

    A sum of these keeps all digits even where the loss is as small as the smallest normal number.
    """
    return exp_scaled_adjusted(d, splat(0.0, d))


@specialize
def unscale(vtype: Any) -> Any:
    """The factor, a float64, that undoes the scale of a sum of `exp_scaled` of vectors of `vtype`."""
    factor = 2.0**-EXP_SCALE_BITS32 if vtype.dtype == types.float32 else 2.0**-EXP_SCALE_BITS64
    return lambda vtype: factor


@inline
def clamp_exp_arg(d: Any) -> Any:
    """d, but at most the largest argument of `exp`, which it exceeds where the user's saved lse is too small."""
    highest = splat(88.0, d)
    return select(d > highest, highest, d)


# ------------------------------------------------------------------------------------------------ arithmetic
@inline
def apply_scale(d: Any, s: Any) -> Any:
    """s · d, or d where s is None."""
    if s is None:
        return d
    return d * splat(s, d)


@specialize
def compensated_add(total: Any, lost: Any, x: Any) -> Any:
    """(total + x, lost + the rounding error of that), of float64 lanes: over thousands of equal terms, it matters.

    Where there are 16 lanes, which stand for float32 logits, `lost` stays as it is: float64 has digits to spare.
    """
    if total.lanes == FLOAT32_LANES:
        return lambda total, lost, x: (total + x, lost)

    def two_sum(total: Any, lost: Any, x: Any) -> Any:
        whole = total + x
        part = whole - total
        return whole, lost + ((total - (whole - part)) + (x - part))

    return two_sum


@inline
def with_error(total: Any, error: Any) -> Any:
    """A total and its rounding error of `compensated_add`, added; the total alone where that is infinite."""
    return select(error == error, total + error, total)


@specialize
def has_guard_digits(vtype: Any) -> Any:
    """Whether float64 has more digits than the logits, that is, whether `vtype` is float32."""
    float32 = vtype.dtype == types.float32
    return lambda vtype: float32


@specialize
def divide(a: Any, b: Any) -> Any:
    """a / b of float64 lanes: correctly rounded where there are 8, to 46 bits where 16 stand for float32 logits.

    Newton steps from a float32 reciprocal, or from an AVX-512 approximation of one, take a third of the time of a
    float64 division.
    """
    if a.lanes != FLOAT32_LANES:
        return lambda a, b: a / b

    def from_reciprocal(a: Any, b: Any) -> Any:
        short = demote_to_float32(b)
        return a * _newton_step(b, promote(splat(1.0, short) / short))

    def from_approximation(a: Any, b: Any) -> Any:
        approximation = promote(exp_avx512.approximate_reciprocal(demote_to_float32(b)))
        return a * _newton_step(b, _newton_step(b, approximation))

    return from_approximation if exp_avx512.is_available() else from_reciprocal


@inline
def _newton_step(b: Any, inverse: Any) -> Any:
    """An approximation of 1 / b with twice as many correct digits as `inverse`."""
    return fma(inverse, splat(1.0, b) - b * inverse, inverse)


# ------------------------------------------------------------------------------------------------ log1p
# Constants of fdlibm's e_log.c; coefficients with the highest power of s² first.
_LOG_COEFFICIENTS = (
    1.479819860511658591e-01,
    1.531383769920937332e-01,
    1.818357216161805012e-01,
    2.222219843214978396e-01,
    2.857142874366239149e-01,
    3.999999999940941908e-01,
    6.666666666666735130e-01,
)
_SQRT_HALF_BITS = 0x3FE6A09E667F3BCD
_ONE_BITS = 0x3FF0000000000000
_log_polynomial = polynomial(_LOG_COEFFICIENTS)


@specialize
def _log_correction(error: Any, u: Any) -> Any:
    """error / u: what to add to log u where u was rounded with this error.

    For float32 logits the error alone: it matters only where u is nearly 1.
    """
    if error.lanes == FLOAT32_LANES:
        return lambda error, u: error
    return lambda error, u: error / u


@inline
def log1p(q: Any) -> Any:
    """log(1 + q) of float64 lanes for finite q ≥ 0; the error is about 1 ulp."""
    one = splat(1.0, q)
    u = one + q
    return log_of_rounded(u, q - (u - one))


@inline
def log_of_rounded(u: Any, error: Any) -> Any:
    """log(u + error) of float64 lanes for normal u and the error of its rounding; NaN where that is NaN."""
    one = splat(1.0, u)
    bits = bitcast_to_int(u)
    sqrt_half = splat(_SQRT_HALF_BITS, bits)
    moved = bits + splat(_ONE_BITS - _SQRT_HALF_BITS, bits)
    k = convert_to_float(shift_right(moved, 52) - splat(1023, bits), u)
    f = bitcast_to_float((moved & splat(0x000FFFFFFFFFFFFF, bits)) + sqrt_half, u) - one
    s = divide(f, splat(2.0, u) + f)
    z = s * s
    half_square = splat(0.5, u) * f * f
    correction = _log_correction(error, u)
    low = fma(k, splat(_LN2_LOW, u), s * (half_square + z * _log_polynomial(z))) + correction
    return fma(k, splat(_LN2_HIGH, u), f - (half_square - low))


# ------------------------------------------------------------------------------------------------ tanh
_tanh_polynomial = polynomial(
    (
        -929569 / 638512875,
        21844 / 6081075,
        -1382 / 155925,
        62 / 2835,
        -17 / 315,
        2 / 15,
        -1 / 3,
        1.0,
    )
)


@inline
def tanh(u: Any) -> Any:
    """tanh of float64 lanes; the error is about 2 ulp; NaN stays NaN."""
    zero, one = splat(0.0, u), splat(1.0, u)
    size = select(u < zero, zero - u, u)
    # 1 - E cancels below |u| = 1/8; there tanh u = u · (1 - u²/3 + 2u⁴/15 - …).
    z = u * u
    series = u * _tanh_polynomial(z)
    e = exp(splat(-2.0, u) * size)
    quotient = (one - e) / (one + e)
    return select(size < splat(0.125, u), series, select(u < zero, zero - quotient, quotient))
