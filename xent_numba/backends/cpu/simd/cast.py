"""Vectors of one type as vectors of another: wider, narrower, of integers, of bits."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core.extending import intrinsic

from xent_numba.backends.cpu.plan import CACHE_LINE
from xent_numba.backends.cpu.simd.vector import Vector, integer_vector, ir_vector


@intrinsic
def promote(typingctx: Any, a: Any) -> Any:
    """The lanes as float64."""
    wide = Vector(types.float64, a.lanes)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return args[0] if a == wide else builder.fpext(args[0], ir_vector(wide))

    return wide(a), codegen


@intrinsic
def zero_float64_vector(typingctx: Any, vtype: Any) -> Any:
    """The zero vector of as many float64 as a line holds."""
    result = Vector(types.float64, CACHE_LINE // 8)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return ir.Constant(ir_vector(result), None)

    return result(vtype), codegen


@intrinsic
def demote(typingctx: Any, a: Any, vtype: Any) -> Any:
    """The float64 lanes rounded to the dtype of `vtype`."""
    result = Vector(vtype.dtype, a.lanes)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return args[0] if a == result else builder.fptrunc(args[0], ir_vector(result))

    return result(a, vtype), codegen


@intrinsic
def demote_to_float32(typingctx: Any, a: Any) -> Any:
    """The float64 lanes rounded to float32."""
    result = Vector(types.float32, a.lanes)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.fptrunc(args[0], ir_vector(result))

    return result(a), codegen


@intrinsic
def minus_ones(typingctx: Any, vtype: Any) -> Any:
    """-1 in every lane, as int64."""
    result = Vector(types.int64, vtype.lanes)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return ir.Constant(ir_vector(result), [-1] * vtype.lanes)

    return result(vtype), codegen


@intrinsic
def truncate_integers(typingctx: Any, a: Any, vtype: Any) -> Any:
    """int64 lanes as integers as wide as the lanes of `vtype`."""
    result = integer_vector(vtype)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return args[0] if a == result else builder.trunc(args[0], ir_vector(result))

    return result(a, vtype), codegen


@intrinsic
def bitcast_to_int(typingctx: Any, a: Any) -> Any:
    """The bits of floats as integers."""
    result = integer_vector(a)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir_vector(result))

    return result(a), codegen


@intrinsic
def bitcast_to_float(typingctx: Any, bits: Any, vtype: Any) -> Any:
    """Bits as the floats they are."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir_vector(vtype))

    return vtype(bits, vtype), codegen


@intrinsic
def convert_to_float(typingctx: Any, whole: Any, vtype: Any) -> Any:
    """Signed integers to floats of the same value."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.sitofp(args[0], ir_vector(vtype))

    return vtype(whole, vtype), codegen
