"""float16 for processors without instructions that convert it: its bits to float32 and back, in integer arithmetic.

For these processors LLVM calls a library function for every lane, which the just-in-time linker does not have: the call
would go to address 0.  (On x86, the instructions are F16C, which came after AVX.)  Subnormal numbers, infinities and
NaN are converted as the instructions do it, and float32 is rounded to nearest even.

As in `storage`, these are functions of an LLVM IR builder.  A float16 has 10 bits of mantissa below 5 of exponent, a
float32 has 23 below 8; the biases of the exponents differ by 112.
"""

from __future__ import annotations

from typing import Any

from xent_numba.backends.cpu.compile.numba_private import ir
from xent_numba.backends.cpu.simd.vector import integer_constants

_DROPPED = 13  # bits of the mantissa of a float32 that a float16 does not have
_REBIAS = 112 << 23
_SMALLEST_NORMAL = 113 << 23  # the smallest normal float16, as the bits of a float32
_INFINITY = 143 << 23  # 2^16, to which the exponent of an infinite float16 becomes; all larger numbers are infinite
_FLOAT32_INFINITY = 0x7F800000
_ROUNDING_SUBNORMALS = 126 << 23  # 0.5: the last bit of numbers in [0.5, 1) is worth the smallest subnormal float16


def float32_from_half(builder: Any, raw: Any) -> Any:
    """The bits of float16 lanes, as 16-bit integers, converted to float32."""
    word = ir.VectorType(ir.IntType(32), raw.type.count)
    single = ir.VectorType(ir.FloatType(), raw.type.count)

    def constant(value: int) -> Any:
        return integer_constants(word, value)

    half = builder.zext(raw, word)
    sign = builder.shl(builder.and_(half, constant(0x8000)), constant(16))
    size = builder.shl(builder.and_(half, constant(0x7FFF)), constant(_DROPPED))
    normal = builder.add(size, constant(_REBIAS))
    infinite = builder.add(normal, constant(_REBIAS))  # an exponent of 31 becomes 255
    # With the exponent of the smallest normal number, a subnormal one is that number too large.
    smallest = constant(_SMALLEST_NORMAL)
    too_large = builder.bitcast(builder.or_(size, smallest), single)
    subnormal = builder.bitcast(builder.fsub(too_large, builder.bitcast(smallest, single)), word)
    bits = builder.select(builder.icmp_signed("<", normal, constant(_INFINITY)), normal, infinite)
    bits = builder.select(builder.icmp_signed("<", normal, smallest), subnormal, bits)
    return builder.bitcast(builder.or_(bits, sign), single)


def half_from_float32(builder: Any, value: Any) -> Any:
    """float32 lanes rounded to float16, to nearest even: its bits, as the lower halves of 32-bit integers."""
    word = ir.VectorType(ir.IntType(32), value.type.count)

    def constant(value: int) -> Any:
        return integer_constants(word, value)

    bits = builder.bitcast(value, word)
    size = builder.and_(bits, constant(0x7FFFFFFF))
    sign = builder.lshr(builder.and_(bits, constant(-0x80000000)), constant(16))
    # Half of the last bit that is kept, less one if that bit is even, carries into it where it has to be rounded up;
    # from the largest float16, into the exponent of infinity.
    odd = builder.and_(builder.lshr(size, constant(_DROPPED)), constant(1))
    rounded = builder.add(builder.sub(size, constant(_REBIAS)), builder.add(odd, constant((1 << _DROPPED - 1) - 1)))
    normal = builder.lshr(rounded, constant(_DROPPED))
    # The processor rounds subnormal numbers, by an addition that leaves no bits for more than they have.
    half = constant(_ROUNDING_SUBNORMALS)
    in_last_bits = builder.fadd(builder.bitcast(size, value.type), builder.bitcast(half, value.type))
    subnormal = builder.sub(builder.bitcast(in_last_bits, word), half)
    not_finite = builder.select(
        builder.icmp_signed(">", size, constant(_FLOAT32_INFINITY)), constant(0x7E00), constant(0x7C00)
    )
    result = builder.select(builder.icmp_signed("<", size, constant(_SMALLEST_NORMAL)), subnormal, normal)
    result = builder.select(builder.icmp_signed("<", size, constant(_INFINITY)), result, not_finite)
    return builder.or_(result, sign)
