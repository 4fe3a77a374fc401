"""Reductions: from the lanes of a vector to one scalar, and from each of many vectors to one lane."""

from __future__ import annotations

from typing import Any

from numba import types
from numba.extending import intrinsic

from xent_numba.backends.cpu.compile.numba_private import ir
from xent_numba.backends.cpu.plan import CACHE_LINE
from xent_numba.backends.cpu.simd.storage import buffer_vector
from xent_numba.backends.cpu.simd.vector import larger, llvm_call


# ------------------------------------------------------------------------------------------------ of one vector
@intrinsic
def any_true(typingctx: Any, mask: Any) -> Any:
    """Whether the mask is set in any lane."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        bits = builder.bitcast(args[0], ir.IntType(mask.lanes))
        return builder.icmp_unsigned("!=", bits, ir.Constant(bits.type, 0))

    return types.boolean(mask), codegen


@intrinsic
def first_true(typingctx: Any, mask: Any) -> Any:
    """The first lane in which the mask is set, or the number of lanes."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        bits = builder.bitcast(args[0], ir.IntType(mask.lanes))
        count = llvm_call(builder, f"llvm.cttz.i{mask.lanes}", bits.type, [bits, ir.Constant(ir.IntType(1), 0)])
        return builder.zext(count, ir.IntType(64))

    return types.int64(mask), codegen


@intrinsic
def first_true_of_four(typingctx: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """The first lane in which a mask is set, of the lanes of four masks one after another, or the number of lanes."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        word = ir.IntType(4 * a.lanes)
        bits = word(0)
        for k, mask in enumerate(args):
            part = builder.zext(builder.bitcast(mask, ir.IntType(a.lanes)), word)
            bits = builder.or_(bits, builder.shl(part, word(k * a.lanes)))
        count = llvm_call(builder, f"llvm.cttz.i{word.width}", word, [bits, ir.Constant(ir.IntType(1), 0)])
        return count if word.width == 64 else builder.zext(count, ir.IntType(64))

    return types.int64(a, b, c, d), codegen


@intrinsic
def extract_lane(typingctx: Any, a: Any, k: Any) -> Any:
    """The scalar in lane k."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.extract_element(args[0], context.cast(builder, args[1], sig.args[1], types.int32))

    return a.dtype(a, k), codegen


def _fold(builder: Any, value: Any, combine: Any) -> Any:
    """Combine the lower half of the lanes with the upper half until one is left: always in the same order."""
    while value.type.count > 1:
        half = value.type.count // 2
        undefined = ir.Constant(value.type, ir.Undefined)
        index = ir.VectorType(ir.IntType(32), half)
        low = builder.shuffle_vector(value, undefined, ir.Constant(index, list(range(half))))
        high = builder.shuffle_vector(value, undefined, ir.Constant(index, list(range(half, 2 * half))))
        value = combine(low, high)
    return builder.extract_element(value, ir.Constant(ir.IntType(32), 0))


@intrinsic
def reduce_max(typingctx: Any, a: Any) -> Any:
    """The largest lane; no lane may be NaN."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _fold(builder, args[0], lambda x, y: larger(builder, x, y))

    return a.dtype(a), codegen


@intrinsic
def reduce_add(typingctx: Any, a: Any) -> Any:
    """The sum of the lanes."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return _fold(builder, args[0], builder.fadd)

    return a.dtype(a), codegen


# ------------------------------------------------------------------------------------------------ of many vectors
def _reduce_each(combine: Any) -> Any:
    """Make the operation that reduces as many vectors as a vector has lanes, read from aligned memory.

    Lane r of the result is the reduction of vector r, in the order of `_fold`.  Each round combines pairs of vectors,
    lower halves with upper halves of rows, so that a vector holds twice as many rows with half as many lanes each.
    """

    def reduce_each(typingctx: Any, memory: Any, vtype: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            lanes, index = vtype.lanes, ir.VectorType(ir.IntType(32), vtype.lanes)
            vectors = [builder.load(buffer_vector(builder, args[0], r, vtype), align=CACHE_LINE) for r in range(lanes)]
            half = lanes // 2  # half the lanes that a row has in a vector
            while half:
                low = [2 * half * (c // (2 * half)) + c % half + lanes * (c % (2 * half) // half) for c in range(lanes)]
                low, high = (ir.Constant(index, [c + offset for c in low]) for offset in (0, half))
                pairs = [(vectors[k], vectors[k + half]) for k in range(half)]
                vectors = [
                    combine(builder, *(builder.shuffle_vector(a, b, lanes_) for lanes_ in (low, high)))
                    for a, b in pairs
                ]
                half //= 2
            return vectors[0]

        return vtype(memory, vtype), codegen

    return intrinsic(reduce_each)


# reduce_add_each(memory, vtype), reduce_max_each(memory, vtype): lane r is the sum, or the largest, of vector r.
reduce_add_each = _reduce_each(lambda builder, x, y: builder.fadd(x, y))
reduce_max_each = _reduce_each(larger)
