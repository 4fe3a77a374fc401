"""exp of sixteen float32 in eleven AVX-512 instructions.

exp(d) = 2^n · exp(r) with n = round(16 d / ln 2) / 16.  `vpermd` looks 2^(n mod 1) up among sixteen values held in one
register, by the last four bits of n; the others are shifted to where the exponent is, and added.  |r| ≤ ln(2)/32, so
1 + r + r²/2 + r³/6 suffices (1e-8); a mask leaves 0 where d is too small.  Error below 1.2 + |d| / 20 ulp: what ln 2
lost to rounding counts n times.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import types
from numba.extending import intrinsic

from xent_numba.backends.cpu.compile.inline import inline
from xent_numba.backends.cpu.compile.numba_private import host_cpu_features, ir
from xent_numba.backends.cpu.simd.vector import Vector, fma, llvm_call, splat

LANES = 16
LN2 = 0.693147182464599609375  # ln 2 as float32: 2e-9 n off, which is nothing beside the rounding of n ln 2


def _has_avx512() -> bool:
    features, name = numba.config.CPU_FEATURES, numba.config.CPU_NAME
    if features is not None:
        return "+avx512f" in features
    return name is None and bool(host_cpu_features().get("avx512f"))


AVAILABLE = _has_avx512()
_LOWEST = -87.33  # exp of less is below the smallest normal number


def _powers(up: int) -> Any:
    """A function of n + 1.5·2^19, n in sixteenths: 2^(n + up), where that is a normal number."""
    # Once n is where the exponent is, its last four bits are where the mantissa is, and too many: taken off here.
    roots = np.exp2(np.arange(16) / 16 + up).astype(np.float32).view(np.int32) - (np.arange(16, dtype=np.int32) << 19)

    @intrinsic
    def power(typingctx: Any, biased: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            integers = ir.VectorType(ir.IntType(32), LANES)
            bits = builder.bitcast(args[0], integers)
            name = "llvm.x86.avx512.permvar.si.512"
            root = llvm_call(builder, name, integers, [ir.Constant(integers, roots.tolist()), bits])
            exponent = builder.shl(bits, ir.Constant(integers, [19] * LANES))
            return builder.bitcast(builder.add(root, exponent), args[0].type)

        return biased(biased), codegen

    return power


@intrinsic
def _zero_below(typingctx: Any, value: Any, d: Any, lowest: Any) -> Any:
    """`value`, 0 where d < lowest; where d is NaN, `value` too."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        value_, d_, lowest_ = args
        return builder.select(builder.fcmp_unordered(">=", d_, lowest_), value_, ir.Constant(value_.type, None))

    return value(value, d, lowest), codegen


@intrinsic
def approximate_reciprocal(typingctx: Any, a: Any) -> Any:
    """1 / a of sixteen float32, to 14 bits."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        everywhere = ir.Constant(ir.IntType(LANES), -1)
        zero = ir.Constant(args[0].type, None)
        return llvm_call(builder, "llvm.x86.avx512.rcp14.ps.512", zero.type, [args[0], zero, everywhere])

    return a(a), codegen


def supports(vector: Vector) -> bool:
    """Whether `exp` takes this type of vector, on this processor."""
    return AVAILABLE and vector.dtype == types.float32 and vector.lanes == LANES


def exponential(up: int) -> Any:
    """2^(up − m) · exp(d), m whole, for d ≤ 88 + (m − up) ln 2 or NaN, as a piece."""
    power_of, lowest = _powers(up), _LOWEST - up * LN2

    @inline
    def exp(d: Any, m: Any) -> Any:
        ln2 = splat(LN2, d)
        shift = splat(786432.0, d) - m  # 1.5·2^19: rounds to sixteenths
        biased = fma(d, splat(1.4426950408889634, d), shift)
        r = fma(shift - biased, ln2, d)
        power = power_of(biased)
        p = fma(fma(splat(1.0 / 6.0, d), r, splat(0.5, d)), r, splat(1.0, d)) * r
        return _zero_below(fma(power, p, power), d, fma(m, ln2, splat(lowest, d)))

    return exp
