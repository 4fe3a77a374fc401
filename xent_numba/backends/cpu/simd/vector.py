"""Vectors as a Numba type, so that a kernel says what each instruction does.

Numba's loops over arrays vectorise when LLVM pleases: in an order it chooses, never for a maximum, never into a
non-temporal store.  Here a vector is a value.  `memory.load(p, i, like)` gives the 16 float32 (or 8 float64) of one
cache line, `+ - * /`, `fma`, `maximum` and `select` act on every lane.  LLVM makes of each operation one AVX-512
instruction, two of AVX or four of SSE or NEON; lanes and the order of every sum stay the same, and so do the bits.

A vector of one lane is a scalar in registers: `lane(x, k)` takes one out, and what is written for many rows at once
(one row a lane, `columns.py`) serves a single long row too (`long.py`).
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models, register_default
from numba.core.extending import intrinsic, lower_builtin, type_callable


class Vector(types.Type):
    """`lanes` values of `dtype` in one value."""

    def __init__(self, dtype: types.Type, lanes: int) -> None:
        self.dtype, self.lanes = dtype, lanes
        super().__init__(name=f"{dtype}x{lanes}")


@register_default(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Vector) -> None:
        super().__init__(dmm, fe_type, ir_vector(fe_type))


_IR = {
    types.float32: ir.FloatType(),
    types.float64: ir.DoubleType(),
    types.int32: ir.IntType(32),
    types.int64: ir.IntType(64),
    types.boolean: ir.IntType(1),
}


def ir_vector(vector: Vector) -> ir.VectorType:
    """The LLVM type of a vector."""
    return ir.VectorType(_IR[vector.dtype], vector.lanes)


def integer_vector(vector: Vector) -> Vector:
    """The vector of integers as wide as these floats."""
    return Vector(types.int32 if vector.dtype.bitwidth == 32 else types.int64, vector.lanes)


def llvm_call(builder: Any, name: str, result: Any, args: list[Any]) -> Any:
    """A call of an LLVM intrinsic by name."""
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, [a.type for a in args]), name)
    return builder.call(function, args)


def llvm_suffix(vector: ir.VectorType) -> str:
    """How LLVM writes a vector type in the names of its intrinsics."""
    scalar = {ir.FloatType(): "f32", ir.DoubleType(): "f64", ir.HalfType(): "f16"}.get(vector.element)
    return f"v{vector.count}{scalar or f'i{vector.element.width}'}"


def broadcast(builder: Any, value: Any, lanes: int) -> Any:
    """A scalar in every lane."""
    vector = ir.VectorType(value.type, lanes)
    undefined = ir.Constant(vector, ir.Undefined)
    single = builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(single, undefined, ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes))


# ------------------------------------------------------------------------------------------------ operators
def _operator(op: Any, result: Any, lower: Any) -> None:
    """Define `op` on two vectors of one type: `result(type)` is what it gives, `lower` writes its instruction."""

    @type_callable(op)
    def typer(context: Any) -> Any:
        return lambda a, b: result(a) if isinstance(a, Vector) and a == b else None

    @lower_builtin(op, Vector, Vector)
    def lowered(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return lower(builder, isinstance(sig.args[0].dtype, types.Float), *args)


def _arithmetic(op: Any, floating: str, integer: str) -> None:
    _operator(op, lambda a: a, lambda builder, real, x, y: getattr(builder, floating if real else integer)(x, y))


def _comparison(op: Any, symbol: str) -> None:
    def lower(builder: Any, real: bool, x: Any, y: Any) -> Any:
        return (builder.fcmp_ordered if real else builder.icmp_signed)(symbol, x, y)

    _operator(op, lambda a: Vector(types.boolean, a.lanes), lower)


_arithmetic(operator.add, "fadd", "add")
_arithmetic(operator.sub, "fsub", "sub")
_arithmetic(operator.mul, "fmul", "mul")
_arithmetic(operator.truediv, "fdiv", "sdiv")
_arithmetic(operator.and_, "", "and_")
_comparison(operator.gt, ">")
_comparison(operator.lt, "<")
_comparison(operator.eq, "==")


# ------------------------------------------------------------------------------------------------ making vectors
@intrinsic
def splat(typingctx: Any, value: Any, vtype: Any) -> Any:
    """`value` in every lane of a vector such as `vtype`."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return broadcast(builder, context.cast(builder, args[0], sig.args[0], vtype.dtype), vtype.lanes)

    return vtype(value, vtype), codegen


@intrinsic
def iota(typingctx: Any, vtype: Any) -> Any:
    """0, 1, 2, … as integers as wide as the lanes of `vtype`."""
    result = integer_vector(vtype)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return ir.Constant(ir_vector(result), list(range(vtype.lanes)))

    return result(vtype), codegen


@intrinsic
def lanes_of(typingctx: Any, vtype: Any) -> Any:
    """The number of lanes, a compile-time constant."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return ir.Constant(ir.IntType(64), vtype.lanes)

    return types.int64(vtype), codegen


@intrinsic
def one_lane(typingctx: Any, value: Any, vtype: Any) -> Any:
    """`value` as a vector of one lane of the dtype of `vtype`."""
    result = Vector(vtype.dtype, 1)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return broadcast(builder, context.cast(builder, args[0], sig.args[0], vtype.dtype), 1)

    return result(value, vtype), codegen


# ------------------------------------------------------------------------------------------------ lane by lane
@intrinsic
def fma(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """a·b + c, rounded once wherever the processor has the instruction."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return llvm_call(builder, f"llvm.fmuladd.{llvm_suffix(args[0].type)}", args[0].type, list(args))

    return a(a, b, c), codegen


def polynomial(coefficients: tuple[float, ...]) -> Any:
    """The polynomial with these coefficients, highest power first, as a function of a vector: a chain of `fma`."""

    @intrinsic
    def evaluate(typingctx: Any, x: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            constants = [ir.Constant(args[0].type, [c] * x.lanes) for c in coefficients]
            value = constants[0]
            for constant in constants[1:]:
                name = f"llvm.fmuladd.{llvm_suffix(args[0].type)}"
                value = llvm_call(builder, name, args[0].type, [value, args[0], constant])
            return value

        return x(x), codegen

    return evaluate


@intrinsic
def select(typingctx: Any, mask: Any, yes: Any, no: Any) -> Any:
    """`yes` where the mask is set, else `no`."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.select(*args)

    return yes(mask, yes, no), codegen


@intrinsic
def maximum(typingctx: Any, a: Any, b: Any) -> Any:
    """The larger of the two, `b` where either is NaN: with the accumulator as `b`, NaN is passed over."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", *args), *args)

    return a(a, b), codegen


def _shift(name: str) -> Any:
    def shift(typingctx: Any, bits: Any, by: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            places = context.cast(builder, args[1], sig.args[1], bits.dtype)
            return getattr(builder, name)(args[0], broadcast(builder, places, bits.lanes))

        return bits(bits, by), codegen

    return intrinsic(shift)


shift_left = _shift("shl")
shift_right = _shift("ashr")


@intrinsic
def opaque(typing_context: Any, n: Any) -> Any:
    """n, which LLVM cannot see: it would unroll a loop over all of so many, and run out of registers."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.asm(ir.FunctionType(ir.IntType(64), [ir.IntType(64)]), "", "=r,0", args, False)

    return types.int64(types.int64), codegen
