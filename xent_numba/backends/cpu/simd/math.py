"""exp, log1p and tanh of whole vectors: branch-free, NaN-safe.

exp(d), d ≤ 0:  2^n · exp(r), n = round(d / ln 2), |r| ≤ ln(2)/2, exp(r) = 1 + r + r²·q(r).  q is the polynomial of
least largest relative error (Remez), its coefficients rounded: 3.7e-9 of exp for float32, 1.1e-17 for float64, a tenth
of an ulp or less.  Adding
1.5·2^p rounds to n and leaves n in the last bits; with the exponent's bias added too, one shift makes 2^n of them.
At n = -bias that is exactly 0, and smaller arguments are clamped to it: so exp(-inf) is 0, and NaN passes through
every step.

log1p(q), q ≥ 0, float64 only:  log(u) + (q - (u - 1)) / u with u = 1 + q, the last term being what rounding took from
u. log as in fdlibm: u = 2^k · (1 + f), s = f / (2 + f), a polynomial in s².

On AVX-512 processors float32 has an exp of its own, in `avx512`.

tanh(u), float64 only: from E = exp(-2|u|), with the odd series where 1 - E would cancel.
"""

from __future__ import annotations

from typing import Any

from numba import types

from xent_numba.backends.cpu.compile.inline import inline, specialize
from xent_numba.backends.cpu.simd import exp_avx512 as avx512
from xent_numba.backends.cpu.simd.cast import (
    bitcast_to_float,
    bitcast_to_int,
    convert_to_float,
    demote_to_float32,
    promote,
)
from xent_numba.backends.cpu.simd.vector import fma, polynomial, select, shift_left, shift_right, splat

# log2(e); ln 2 in two parts, the second of which is nothing to float32; 1.5·2^p + bias; -bias·ln 2; bits of a
# mantissa
_REDUCE32 = (1.4426950408889634, avx512.LN2, 0.0, 12582912.0 + 127.0, -88.02969193111305, 23)
_REDUCE64 = (
    1.4426950408889634,
    6.93147180369123816490e-01,
    1.90821492927058770002e-10,
    6755399441055744.0 + 1023.0,
    -709.0895657128241,
    52,
)
# q, highest power first
_Q32 = (
    0.0013814598646664403656,
    0.0083687168797280689481,
    0.041668388045313982903,
    0.1666652063170949765,
    0.49999993447796486929,
)
_Q64 = (
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
# fdlibm's e_log.c, highest power of s² first
_LOG = (
    1.479819860511658591e-01,
    1.531383769920937332e-01,
    1.818357216161805012e-01,
    2.222219843214978396e-01,
    2.857142874366239149e-01,
    3.999999999940941908e-01,
    6.666666666666735130e-01,
)
FLOAT32_LANES = 16
_SQRT_HALF_BITS = 0x3FE6A09E667F3BCD
_ONE_BITS = 0x3FF0000000000000


_tanh_series = polynomial(
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
_q32, _q64, _log_series = polynomial(_Q32), polynomial(_Q64), polynomial(_LOG)


# 2^up · exp: sums of small terms lose nothing to the smallest normal number when they are taken so much higher up.
EXP_SCALE_BITS32, EXP_SCALE_BITS64 = 32, 64


def _exponential(up32: int, up64: int) -> Any:
    """By type of vector, 2^(up − m) · exp(d) for d ≤ m ln 2 in float32, or 2^up · exp(d + m), m tiny, in float64."""
    in_avx512 = avx512.exponential(up32)

    def choose(d: Any, m: Any) -> Any:
        if avx512.supports(d):
            return lambda d, m: in_avx512(d, m)
        log2e, ln2_high, ln2_low, magic, lowest, mantissa = _REDUCE32 if d.dtype == types.float32 else _REDUCE64
        up = up32 if d.dtype == types.float32 else up64
        magic, lowest = magic + up, lowest - up * 0.6931471805599453

        def in_float32(d: Any, m: Any) -> Any:
            floor = fma(m, splat(ln2_high, d), splat(lowest, d))
            d = select(d < floor, floor, d)
            shift = splat(magic, d) - m
            biased = fma(d, splat(log2e, d), shift)
            r = fma(shift - biased, splat(ln2_high, d), d)
            one = splat(1.0, d)
            return fma(fma(_q32(r), r, one), r, one) * bitcast_to_float(shift_left(bitcast_to_int(biased), mantissa), d)

        def in_float64(d: Any, m: Any) -> Any:
            floor = splat(lowest, d)
            d = select(d < floor, floor, d)
            shift = splat(magic, d)
            biased = fma(d, splat(log2e, d), shift)
            minus_n = shift - biased
            r = fma(minus_n, splat(ln2_low, d), fma(minus_n, splat(ln2_high, d), d) + m)
            one = splat(1.0, d)
            return fma(fma(_q64(r), r, one), r, one) * bitcast_to_float(shift_left(bitcast_to_int(biased), mantissa), d)

        return in_float32 if d.dtype == types.float32 else in_float64

    return specialize(choose)


exp_adjusted, exp_scaled_adjusted = _exponential(0, 0), _exponential(EXP_SCALE_BITS32, EXP_SCALE_BITS64)


@inline
def exp(d: Any) -> Any:
    """exp(d) for d ≤ 0 or NaN; error about 1 ulp, and |d| / 20 more in float32; 0 for what is not normal."""
    return exp_adjusted(d, splat(0.0, d))


@inline
def exp_scaled(d: Any) -> Any:
    """2^32 or 2^64 times that, so that a sum has all digits of a loss as small as the smallest normal number.

    See `unscale`.
    """
    return exp_scaled_adjusted(d, splat(0.0, d))


@specialize
def unscale(vtype: Any) -> Any:
    """What brings a sum of `exp_scaled` of vectors such as `vtype` down again, in float64."""
    factor = 2.0**-EXP_SCALE_BITS32 if vtype.dtype == types.float32 else 2.0**-EXP_SCALE_BITS64
    return lambda vtype: factor


@inline
def apply_scale(d: Any, s: Any) -> Any:
    """s · d, or d where s is None."""
    if s is None:
        return d
    return d * splat(s, d)


@inline
def clamp_exp_arg(d: Any) -> Any:
    """d, or the largest argument of `exp` where a saved lse that is too small would pass it."""
    highest = splat(88.0, d)
    return select(d > highest, highest, d)


@specialize
def compensated_add(total: Any, lost: Any, x: Any) -> Any:
    """A sum of float64 lanes and what rounding took from it, with x added: over thousands of equal terms, that counts.

    Where there are 16 lanes, which stand for float32 logits, nothing is kept: their sums have digits to spare.
    """
    if total.lanes == FLOAT32_LANES:
        return lambda total, lost, x: (total + x, lost)

    def knuth(total: Any, lost: Any, x: Any) -> Any:
        whole = total + x
        part = whole - total
        return whole, lost + ((total - (whole - part)) + (x - part))

    return knuth


@specialize
def has_guard_digits(vtype: Any) -> Any:
    """Whether float64 has more digits than the logits."""
    short = vtype.dtype == types.float32
    return lambda vtype: short


@specialize
def divide(a: Any, b: Any) -> Any:
    """a / b of float64 lanes: to 46 bits where there are 16, which stand for float32 logits, and rounded where there
    are 8.

    Newton steps from a float32 reciprocal, or from an AVX-512 approximation of one, cost a third of a float64 division.
    """
    if a.lanes != FLOAT32_LANES:
        return lambda a, b: a / b

    def from_reciprocal(a: Any, b: Any) -> Any:
        short = demote_to_float32(b)
        return a * _newton_step(b, promote(splat(1.0, short) / short))

    def from_approximation(a: Any, b: Any) -> Any:
        return a * _newton_step(b, _newton_step(b, promote(avx512.approximate_reciprocal(demote_to_float32(b)))))

    return from_approximation if avx512.AVAILABLE else from_reciprocal


@inline
def _newton_step(b: Any, inverse: Any) -> Any:
    """1 / b to twice as many digits."""
    return fma(inverse, splat(1.0, b) - b * inverse, inverse)


@specialize
def _rounding_error_of_log(lost: Any, u: Any) -> Any:
    """lost / u, what rounding of u took from log u; for float32, `lost` alone, which matters where u is nearly 1."""
    if lost.lanes == FLOAT32_LANES:
        return lambda lost, u: lost
    return lambda lost, u: lost / u


@inline
def log1p(q: Any) -> Any:
    """log(1 + q) of float64 lanes for q ≥ 0, finite; error about 1 ulp."""
    one = splat(1.0, q)
    u = one + q
    bits = bitcast_to_int(u)
    root = splat(_SQRT_HALF_BITS, bits)
    moved = bits + splat(_ONE_BITS - _SQRT_HALF_BITS, bits)
    k = convert_to_float(shift_right(moved, 52) - splat(1023, bits), q)
    f = bitcast_to_float((moved & splat(0x000FFFFFFFFFFFFF, bits)) + root, q) - one
    s = divide(f, splat(2.0, q) + f)
    z = s * s
    half = splat(0.5, q) * f * f
    correction = _rounding_error_of_log(q - (u - one), u)
    low = fma(k, splat(1.90821492927058770002e-10, q), s * (half + z * _log_series(z))) + correction
    return fma(k, splat(6.93147180369123816490e-01, q), f - (half - low))


@inline
def tanh(u: Any) -> Any:
    """tanh of float64 lanes; error about 2 ulp; NaN stays NaN."""
    zero, one = splat(0.0, u), splat(1.0, u)
    size = select(u < zero, zero - u, u)
    # 1 - E cancels below |u| = 1/8: there tanh = u·(1 - u²/3 + 2u⁴/15 - …)
    z = u * u
    series = u * _tanh_series(z)
    e = exp(splat(-2.0, u) * size)
    far = (one - e) / (one + e)
    return select(size < splat(0.125, u), series, select(u < zero, zero - far, far))
