"""exp of sixteen float32 in eleven AVX-512 instructions, two of which no other processor has.

exp(d) = 2^n · exp(r) with n = round(16 d / ln 2) / 16.  `vpermps` looks 2^(n mod 1) up among sixteen values held in one
register, by the last four bits of n; |r| ≤ ln(2)/32, so 1 + r + r²/2 + r³/6 suffices (1e-8); `vscalefps` multiplies by
2^⌊n⌋ and, under its mask, leaves 0 where d is too small.  Error below 1.2 + |d| / 20 ulp: what ln 2 lost to rounding
counts n times.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding
import numba
from llvmlite import ir
from numba import types
from numba.core.extending import intrinsic

from xent_numba.backends.cpu.pieces import inline
from xent_numba.backends.cpu.simd import Vector, fma, ir_vector, llvm_call, splat

LANES = 16
LN2 = 0.693147182464599609375  # ln 2 as float32: 2e-9 n off, which is nothing beside the rounding of n ln 2


def _has_avx512() -> bool:
    features, name = numba.config.CPU_FEATURES, numba.config.CPU_NAME
    if features is not None:
        return "+avx512f" in features
    return name is None and bool(llvmlite.binding.get_host_cpu_features().get("avx512f"))


AVAILABLE = _has_avx512()
_LOWEST = -87.33  # exp of less is below the smallest normal number


def _roots(up: int) -> Any:
    """A function of bits: 2^(k/16 + up), k the last four bits of each lane."""
    roots = [2.0 ** (k / 16 + up) for k in range(16)]

    @intrinsic
    def root(typingctx: Any, bits: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            table = ir.Constant(ir_vector(bits), roots)
            index = builder.bitcast(args[0], ir.VectorType(ir.IntType(32), LANES))
            return llvm_call(builder, "llvm.x86.avx512.permvar.sf.512", table.type, [table, index])

        return bits(bits), codegen

    return root


@intrinsic
def _times_power(typingctx: Any, value: Any, n: Any, d: Any, lowest: Any) -> Any:
    """value · 2^⌊n⌋, 0 where d < lowest; where d is NaN, so is the result."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        value_, n_, d_, lowest_ = args
        kept = builder.bitcast(builder.fcmp_unordered(">=", d_, lowest_), ir.IntType(LANES))
        current_rounding = ir.Constant(ir.IntType(32), 4)
        zero = ir.Constant(value_.type, None)
        name = "llvm.x86.avx512.mask.scalef.ps.512"
        return llvm_call(builder, name, value_.type, [value_, n_, zero, kept, current_rounding])

    return value(value, n, d, lowest), codegen


@intrinsic
def reciprocal(typingctx: Any, a: Any) -> Any:
    """1 / a of sixteen float32, to 14 bits."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        everywhere = ir.Constant(ir.IntType(LANES), -1)
        zero = ir.Constant(args[0].type, None)
        return llvm_call(builder, "llvm.x86.avx512.rcp14.ps.512", zero.type, [args[0], zero, everywhere])

    return a(a), codegen


def suits(vector: Vector) -> bool:
    """Whether `exp` takes this type of vector, on this processor."""
    return AVAILABLE and vector.dtype == types.float32 and vector.lanes == LANES


def exponential(up: int) -> Any:
    """2^(up − m) · exp(d), m whole, for d ≤ 88 + m ln 2 or NaN, as a piece."""
    root_of, lowest = _roots(up), _LOWEST - up * LN2

    @inline
    def exp(d: Any, m: Any) -> Any:
        ln2 = splat(LN2, d)
        rounder = splat(786432.0, d)  # 1.5·2^19: rounds to sixteenths
        shift = rounder - m
        biased = fma(d, splat(1.4426950408889634, d), shift)
        r = fma(shift - biased, ln2, d)
        root = root_of(biased)
        p = fma(fma(splat(1.0 / 6.0, d), r, splat(0.5, d)), r, splat(1.0, d)) * r
        return _times_power(fma(root, p, root), biased - rounder, d, fma(m, ln2, splat(lowest, d)))

    return exp
