"""Vectors of one type as vectors of another: wider, narrower, of integers, of bits."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core.extending import intrinsic

from xent_numba.backends.cpu.simd.vector import LINE, Vector, integers, ir_vector


@intrinsic
def widen(typingctx: Any, a: Any) -> Any:
    """The lanes as float64."""
    wide = Vector(types.float64, a.lanes)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return args[0] if a == wide else builder.fpext(args[0], ir_vector(wide))

    return wide(a), codegen


@intrinsic
def widest(typingctx: Any, like: Any) -> Any:
    """The zero vector of as many float64 as a line holds."""
    result = Vector(types.float64, LINE // 8)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return ir.Constant(ir_vector(result), None)

    return result(like), codegen


@intrinsic
def narrow(typingctx: Any, a: Any, like: Any) -> Any:
    """The float64 lanes rounded to the dtype of `like`."""
    result = Vector(like.dtype, a.lanes)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return args[0] if a == result else builder.fptrunc(args[0], ir_vector(result))

    return result(a, like), codegen


@intrinsic
def to_float32(typingctx: Any, a: Any) -> Any:
    """The float64 lanes rounded to float32."""
    result = Vector(types.float32, a.lanes)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.fptrunc(args[0], ir_vector(result))

    return result(a), codegen


@intrinsic
def whole(typingctx: Any, like: Any) -> Any:
    """-1 in every lane, as int64."""
    result = Vector(types.int64, like.lanes)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return ir.Constant(ir_vector(result), [-1] * like.lanes)

    return result(like), codegen


@intrinsic
def shortened(typingctx: Any, a: Any, like: Any) -> Any:
    """int64 lanes as integers as wide as the lanes of `like`."""
    result = integers(like)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return args[0] if a == result else builder.trunc(args[0], ir_vector(result))

    return result(a, like), codegen


@intrinsic
def as_bits(typingctx: Any, a: Any) -> Any:
    """The bits of floats as integers."""
    result = integers(a)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir_vector(result))

    return result(a), codegen


@intrinsic
def as_floats(typingctx: Any, bits: Any, like: Any) -> Any:
    """Bits as the floats they are."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir_vector(like))

    return like(bits, like), codegen


@intrinsic
def convert(typingctx: Any, whole: Any, like: Any) -> Any:
    """Signed integers to floats of the same value."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.sitofp(args[0], ir_vector(like))

    return like(whole, like), codegen
