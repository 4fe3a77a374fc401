"""Casts: the value of each lane in another dtype, and the bits of each lane as another dtype."""

from __future__ import annotations

from typing import Any

from numba import types
from numba.extending import intrinsic

from xent_numba.backends.cpu.simd.vector import Vector, integer_vector, ir_vector


# ------------------------------------------------------------------------------------------------ values
@intrinsic
def promote(typingctx: Any, a: Any) -> Any:
    """Floating-point lanes as float64."""
    result = Vector(types.float64, a.lanes)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return args[0] if a == result else builder.fpext(args[0], ir_vector(result))

    return result(a), codegen


@intrinsic
def demote(typingctx: Any, a: Any, vtype: Any) -> Any:
    """float64 lanes rounded to the dtype of `vtype`."""
    result = Vector(vtype.dtype, a.lanes)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return args[0] if a == result else builder.fptrunc(args[0], ir_vector(result))

    return result(a, vtype), codegen


@intrinsic
def demote_to_float32(typingctx: Any, a: Any) -> Any:
    """float64 lanes rounded to float32."""
    result = Vector(types.float32, a.lanes)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.fptrunc(args[0], ir_vector(result))

    return result(a), codegen


@intrinsic
def truncate_integers(typingctx: Any, a: Any, vtype: Any) -> Any:
    """int64 lanes as integers of the width of the lanes of `vtype`."""
    result = integer_vector(vtype)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return args[0] if a == result else builder.trunc(args[0], ir_vector(result))

    return result(a, vtype), codegen


@intrinsic
def convert_to_float(typingctx: Any, integers: Any, vtype: Any) -> Any:
    """Signed integer lanes as floating-point lanes of `vtype` with the same values."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.sitofp(args[0], ir_vector(vtype))

    return vtype(integers, vtype), codegen


# ------------------------------------------------------------------------------------------------ bits
@intrinsic
def bitcast_to_int(typingctx: Any, a: Any) -> Any:
    """The bits of floating-point lanes, as integers of the same width."""
    result = integer_vector(a)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir_vector(result))

    return result(a), codegen


@intrinsic
def bitcast_to_float(typingctx: Any, bits: Any, vtype: Any) -> Any:
    """Integer lanes, taken as the bits of floating-point lanes of `vtype`."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir_vector(vtype))

    return vtype(bits, vtype), codegen
