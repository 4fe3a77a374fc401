"""A SIMD vector as a Numba type, with its operators and the operations on each lane.

Numba vectorises loops over arrays only where LLVM finds it legal and profitable: in an order of its choice, never for a
maximum, and never with non-temporal stores.  Here a vector is a value, and a kernel states each operation.
`load(p, i, vtype)` gives the 16 float32 (or 8 float64) of one cache line; `+ - * /`, `fma`, `maximum` and `select` act
on every lane.  LLVM turns each operation into one AVX-512 instruction, two AVX ones, or four of SSE or NEON.

The number of lanes and the order of every sum are the same everywhere, and the accuracy that is promised too; the bits
of results are not.  They are the same on processors with the same instructions, for one version of Numba and LLVM.
With AVX-512, float32 exponentials and reciprocals are computed differently (`exp_avx512`, `math.divide`); without a
fused multiply-add, `fma` rounds twice, and remainders and the errors of products are computed in parts (`math`,
`exp_shifted`).

A vector of one lane (`one_lane`) is a scalar in a register, so a function written for a vector of rows, one row in each
lane, serves a single long row as well.

`vtype`: Numba chooses code by the types of arguments, and a type itself cannot be an argument.  So where an operation
has to know which vector to make, it takes a parameter `vtype`: any vector of that type, usually `zero_vector(p)`,
passed only for its type.  Its value is never read and costs no instruction.
"""

from __future__ import annotations

import operator
from typing import Any

from numba import types
from numba.extending import intrinsic, lower_builtin, models, register_model, type_callable

from xent_numba.backends.cpu.compile.numba_private import get_or_insert_function, ir
from xent_numba.backends.cpu.plan import CACHE_LINE


class Vector(types.Type):
    """The Numba type of a vector: `lanes` values of a scalar type `dtype`."""

    def __init__(self, dtype: types.Type, lanes: int) -> None:
        self.dtype, self.lanes = dtype, lanes
        super().__init__(name=f"{dtype}x{lanes}")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    """How Numba represents a `Vector`: as one LLVM vector."""

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
    """The type of a vector of integers with as many lanes of the same width."""
    return Vector(types.int32 if vector.dtype.bitwidth == 32 else types.int64, vector.lanes)


def llvm_call(builder: Any, name: str, result: Any, args: list[Any]) -> Any:
    """Call an LLVM intrinsic by its name."""
    function = get_or_insert_function(builder.module, ir.FunctionType(result, [a.type for a in args]), name)
    return builder.call(function, args)


def llvm_suffix(vector: ir.VectorType) -> str:
    """How the names of LLVM's intrinsics spell a vector type, as in `v16f32`."""
    scalar = {ir.FloatType(): "f32", ir.DoubleType(): "f64", ir.HalfType(): "f16"}.get(vector.element)
    return f"v{vector.count}{scalar or f'i{vector.element.width}'}"


def integer_constants(vector: ir.VectorType, value: int) -> Any:
    """A constant integer in every lane."""
    return ir.Constant(vector, [value] * vector.count)


def broadcast(builder: Any, value: Any, lanes: int) -> Any:
    """Generate the code that copies a scalar to every lane."""
    vector = ir.VectorType(value.type, lanes)
    undefined = ir.Constant(vector, ir.Undefined)
    single = builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(single, undefined, ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes))


def larger(builder: Any, x: Any, y: Any) -> Any:
    """Generate the code of `maximum`: the larger of two lanes, y where either is NaN."""
    return builder.select(builder.fcmp_ordered(">", x, y), x, y)


def _fmuladd(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """Generate the code of `fma`."""
    return llvm_call(builder, f"llvm.fmuladd.{llvm_suffix(a.type)}", a.type, [a, b, c])


# ------------------------------------------------------------------------------------------------ operators
def _operator(op: Any, result: Any, lower: Any) -> None:
    """Define a Python operator on two vectors of one type.

    `result(type)` is the type of the result; `lower(builder, is_float, x, y)` generates the instruction.
    """

    @type_callable(op)
    def typer(context: Any) -> Any:
        return lambda a, b: result(a) if isinstance(a, Vector) and a == b else None

    @lower_builtin(op, Vector, Vector)
    def lowered(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return lower(builder, isinstance(sig.args[0].dtype, types.Float), *args)


def _arithmetic(op: Any, float_instruction: str, int_instruction: str) -> None:
    """Define an arithmetic operator by the names of its two LLVM instructions."""

    def lower(builder: Any, is_float: bool, x: Any, y: Any) -> Any:
        return getattr(builder, float_instruction if is_float else int_instruction)(x, y)

    _operator(op, lambda a: a, lower)


def _comparison(op: Any, symbol: str) -> None:
    """Define a comparison, which gives a mask and is false where a lane is NaN."""

    def lower(builder: Any, is_float: bool, x: Any, y: Any) -> Any:
        return (builder.fcmp_ordered if is_float else builder.icmp_signed)(symbol, x, y)

    _operator(op, lambda a: Vector(types.boolean, a.lanes), lower)


_arithmetic(operator.add, "fadd", "add")
_arithmetic(operator.sub, "fsub", "sub")
_arithmetic(operator.mul, "fmul", "mul")
_arithmetic(operator.truediv, "fdiv", "sdiv")
_arithmetic(operator.and_, "", "and_")
_arithmetic(operator.or_, "", "or_")
_comparison(operator.gt, ">")
_comparison(operator.lt, "<")
_comparison(operator.eq, "==")


# ------------------------------------------------------------------------------------------------ making vectors
@intrinsic
def zero_vector(typingctx: Any, p: Any) -> Any:
    """Zeros, one cache line wide, of the dtype in which `p` is computed: float64 for float64, else float32."""
    dtype = types.float64 if p.dtype == types.float64 else types.float32
    vector = Vector(dtype, CACHE_LINE * 8 // dtype.bitwidth)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return ir.Constant(ir_vector(vector), None)

    return vector(p), codegen


@intrinsic
def zero_float64_vector(typingctx: Any) -> Any:
    """Zeros, one cache line wide, of float64."""
    vector = Vector(types.float64, CACHE_LINE // 8)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return ir.Constant(ir_vector(vector), None)

    return vector(), codegen


@intrinsic
def minus_ones(typingctx: Any, vtype: Any) -> Any:
    """-1 as int64 in every lane, with as many lanes as `vtype`."""
    result = Vector(types.int64, vtype.lanes)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return ir.Constant(ir_vector(result), [-1] * vtype.lanes)

    return result(vtype), codegen


@intrinsic
def splat(typingctx: Any, value: Any, vtype: Any) -> Any:
    """A scalar in every lane of a vector of `vtype`."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return broadcast(builder, context.cast(builder, args[0], sig.args[0], vtype.dtype), vtype.lanes)

    return vtype(value, vtype), codegen


@intrinsic
def one_lane(typingctx: Any, value: Any, vtype: Any) -> Any:
    """A scalar as a vector of one lane, of the dtype of `vtype`."""
    result = Vector(vtype.dtype, 1)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return broadcast(builder, context.cast(builder, args[0], sig.args[0], vtype.dtype), 1)

    return result(value, vtype), codegen


@intrinsic
def iota(typingctx: Any, vtype: Any) -> Any:
    """0, 1, 2, …, as integers of the width of the lanes of `vtype`."""
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


# ------------------------------------------------------------------------------------------------ lane by lane
@intrinsic
def fma(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """a·b + c, rounded once where the processor has a fused multiply-add, else twice."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _fmuladd(builder, *args)

    return a(a, b, c), codegen


def polynomial(coefficients: tuple[float, ...]) -> Any:
    """Make the operation that evaluates this polynomial (highest power first) by Horner's rule, a chain of `fma`."""

    @intrinsic
    def evaluate(typingctx: Any, x: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            constants = [ir.Constant(args[0].type, [c] * x.lanes) for c in coefficients]
            value = constants[0]
            for constant in constants[1:]:
                value = _fmuladd(builder, value, args[0], constant)
            return value

        return x(x), codegen

    return evaluate


@intrinsic
def select(typingctx: Any, mask: Any, yes: Any, no: Any) -> Any:
    """`yes` in the lanes where the mask is set, `no` in the others."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.select(*args)

    return yes(mask, yes, no), codegen


@intrinsic
def is_nan(typingctx: Any, a: Any) -> Any:
    """The mask of the lanes that are NaN."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.fcmp_unordered("uno", args[0], args[0])

    return Vector(types.boolean, a.lanes)(a), codegen


@intrinsic
def maximum(typingctx: Any, a: Any, b: Any) -> Any:
    """The larger of two lanes; `b` where either is NaN, so with the accumulator as `b`, NaN is skipped."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return larger(builder, *args)

    return a(a, b), codegen


def _bit_shift(instruction: str) -> Any:
    """Make the operation that shifts integer lanes by the same number of bits, with this LLVM instruction."""

    def shift(typingctx: Any, bits: Any, count: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            amount = context.cast(builder, args[1], sig.args[1], bits.dtype)
            return getattr(builder, instruction)(args[0], broadcast(builder, amount, bits.lanes))

        return bits(bits, count), codegen

    return intrinsic(shift)


# shift_left(bits, count), and shift_right(bits, count), which keeps the sign.
shift_left, shift_right = _bit_shift("shl"), _bit_shift("ashr")


# ------------------------------------------------------------------------------------------------ scalars
@intrinsic
def opaque(typingctx: Any, n: Any) -> Any:
    """The integer n, hidden from the optimiser.

    As the length of a loop, a constant would make LLVM unroll the loop completely and run out of registers.
    """

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.asm(ir.FunctionType(ir.IntType(64), [ir.IntType(64)]), "", "=r,0", args, False)

    return types.int64(types.int64), codegen
