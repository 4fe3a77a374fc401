"""How lanes are stored in memory: the storage dtypes, element addresses, and accesses to some of the lanes only.

Numba cannot compile float16 for the CPU, and has no bfloat16.  Their memory is passed to the kernels as uint16 and
int16 arrays; the signedness serves only as a tag that tells the two formats apart.  `decode` makes float32 lanes of
either, all arithmetic is done in float32 or wider, and `encode` rounds the result once, to nearest even.

These are functions of an LLVM IR builder, called while the code of an operation is generated; the operations that
kernels call are in `load_store`, `cache_control` and `transpose`.  To add a storage dtype, see the package docstring.
"""

from __future__ import annotations

import sys
from typing import Any

from numba import types

from xent_numba.backends.cpu.compile.numba_private import ir
from xent_numba.backends.cpu.compile.processor import processor
from xent_numba.backends.cpu.simd.half import float32_from_half, half_from_float32
from xent_numba.backends.cpu.simd.vector import (
    Vector,
    broadcast,
    integer_constants,
    integer_vector,
    ir_vector,
    llvm_call,
    llvm_suffix,
)

# Each Numba dtype that an array may have, and the LLVM type of one element in memory.
_STORED = {
    types.int32: ir.IntType(32),
    types.int64: ir.IntType(64),
    types.float32: ir.FloatType(),
    types.float64: ir.DoubleType(),
    types.uint16: ir.IntType(16),  # float16
    types.int16: ir.IntType(16),  # bfloat16
}
_UPPER_HALF = 1 if sys.byteorder == "little" else 0  # index of the upper 16 bits in 32 bits, seen as two halves


def size_of(dtype: types.Type) -> int:
    """Bytes of one element in memory."""
    return int(dtype.bitwidth) // 8


def stored_vector(p: types.CPointer, vector: Vector) -> ir.VectorType:
    """The LLVM type of as many elements as `vector` has lanes, in the dtype that `p` points to."""
    return ir.VectorType(_STORED[p.dtype], vector.lanes)


def element_pointer(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    """The address of p[i], where p and i are the first two arguments of an intrinsic."""
    return builder.gep(args[0], [context.cast(builder, args[1], sig.args[1], types.int64)])


def vector_pointer(context: Any, builder: Any, sig: Any, args: Any, vector: ir.VectorType) -> Any:
    """The address of p[i] as a pointer to an LLVM vector, where p and i are the first two arguments."""
    return builder.bitcast(element_pointer(context, builder, sig, args), vector.as_pointer())


def buffer_vector(builder: Any, memory: Any, k: int, vector: Vector) -> Any:
    """The address of vector k of a buffer that holds vectors side by side."""
    where = builder.gep(memory, [ir.IntType(64)(k * vector.lanes)])
    return builder.bitcast(where, ir_vector(vector).as_pointer())


# ------------------------------------------------------------------------------------------------ dtypes in memory
def decode(builder: Any, raw: Any, dtype: types.Type, vector: Vector) -> Any:
    """Elements of storage dtype `dtype`, as loaded, converted to lanes of type `vector`."""
    result, lanes = ir_vector(vector), vector.lanes
    if isinstance(vector.dtype, types.Integer):
        return raw if raw.type == result else builder.sext(raw, result)
    if dtype == types.uint16 and processor().converts_half:
        raw, dtype = builder.bitcast(raw, ir.VectorType(ir.HalfType(), lanes)), types.float16
    elif dtype == types.uint16:
        raw, dtype = float32_from_half(builder, raw), types.float32
    elif dtype == types.int16:
        bits = ir.VectorType(ir.IntType(32), lanes)
        raw = builder.shl(builder.zext(raw, bits), integer_constants(bits, 16))
        raw, dtype = builder.bitcast(raw, ir.VectorType(ir.FloatType(), lanes)), types.float32
    if dtype.bitwidth < vector.dtype.bitwidth:
        return builder.fpext(raw, result)
    return builder.fptrunc(raw, result) if dtype.bitwidth > vector.dtype.bitwidth else raw


def encode(builder: Any, value: Any, dtype: types.Type) -> Any:
    """Lanes converted to elements of storage dtype `dtype`, rounded once, to nearest even."""
    lanes = value.type.count
    if isinstance(value.type.element, ir.DoubleType) and dtype != types.float64:
        nearest = builder.fptrunc(value, ir.VectorType(ir.FloatType(), lanes))
        value = nearest if dtype == types.float32 else _round_to_odd(builder, value, nearest)
    if dtype == types.uint16 and not processor().converts_half:
        return _halves(builder, half_from_float32(builder, value), 1 - _UPPER_HALF)
    if dtype == types.uint16:
        half = builder.fptrunc(value, ir.VectorType(ir.HalfType(), lanes))
        return builder.bitcast(half, ir.VectorType(ir.IntType(16), lanes))
    if dtype == types.int16:
        word = ir.VectorType(ir.IntType(32), lanes)
        bits = builder.bitcast(value, word)
        odd = builder.and_(builder.lshr(bits, integer_constants(word, 16)), integer_constants(word, 1))
        rounded = builder.add(bits, builder.add(odd, integer_constants(word, 0x7FFF)))
        quiet_nan = builder.or_(bits, integer_constants(word, 0x400000))  # rounding could turn a NaN into infinity
        rounded = builder.select(builder.fcmp_unordered("uno", value, value), quiet_nan, rounded)
        return _halves(builder, rounded, _UPPER_HALF)
    return value


def _halves(builder: Any, words: Any, which: int) -> Any:
    """16 of the 32 bits of each lane, the upper or the lower ones, by their index in memory.

    They are taken by a shuffle.  With a truncation instead, LLVM 22 turns the store of one lane into a store of all 32
    bits.
    """
    lanes = words.type.count
    halves = builder.bitcast(words, ir.VectorType(ir.IntType(16), 2 * lanes))
    chosen = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [2 * i + which for i in range(lanes)])
    return builder.shuffle_vector(halves, halves, chosen)


def _round_to_odd(builder: Any, value: Any, nearest: Any) -> Any:
    """float64 lanes as float32 that round to 16 bits exactly as the float64 would, without double rounding.

    They are rounded to odd: truncated, with the last bit set where that was inexact.  `nearest` are the same lanes
    rounded to nearest.
    """
    word = ir.VectorType(ir.IntType(32), value.type.count)
    size = llvm_call(builder, f"llvm.fabs.{llvm_suffix(value.type)}", value.type, [value])
    back = builder.fpext(nearest, value.type)
    back = llvm_call(builder, f"llvm.fabs.{llvm_suffix(value.type)}", value.type, [back])
    bits = builder.bitcast(nearest, word)
    one = integer_constants(word, 1)
    too_large = builder.fcmp_ordered(">", back, size)
    inexact = builder.fcmp_ordered("!=", back, size)
    truncated = builder.select(too_large, builder.sub(bits, one), bits)
    return builder.bitcast(builder.select(inexact, builder.or_(truncated, one), bits), nearest.type)


# ------------------------------------------------------------------------------------------------ masked accesses
def first_n_mask(builder: Any, count: Any, vector: Vector) -> Any:
    """The mask of the first `count` lanes."""
    word = integer_vector(vector)
    lane = ir.Constant(ir_vector(word), list(range(vector.lanes)))
    if word.dtype == types.int32:
        count = builder.trunc(count, ir.IntType(32))
    return builder.icmp_signed("<", lane, broadcast(builder, count, vector.lanes))


def masked_load(builder: Any, where: Any, mask: Any, p: Any, vector: Vector) -> Any:
    """The lanes under the mask, decoded; the other lanes are 0, and their memory is not touched."""
    raw = stored_vector(p, vector)
    args = [where, ir.Constant(ir.IntType(32), size_of(p.dtype)), mask, ir.Constant(raw, None)]
    lanes = decode(builder, llvm_call(builder, f"llvm.masked.load.{llvm_suffix(raw)}.p0", raw, args), p.dtype, vector)
    # LLVM 22 folds the load into an operation under the same mask that follows it, and then separates the two again
    # without the mask, which reads past the end of the array.  An arithmetic fence prevents this folding.
    floats = ir.VectorType(ir.FloatType() if vector.dtype.bitwidth == 32 else ir.DoubleType(), vector.lanes)
    name = f"llvm.arithmetic.fence.{llvm_suffix(floats)}"
    return builder.bitcast(llvm_call(builder, name, floats, [builder.bitcast(lanes, floats)]), lanes.type)


def masked_store(builder: Any, where: Any, mask: Any, raw: Any, size: int) -> None:
    """Write the elements under the mask, of `size` bytes each, and touch no other memory."""
    align = ir.Constant(ir.IntType(32), size)
    llvm_call(builder, f"llvm.masked.store.{llvm_suffix(raw.type)}.p0", ir.VoidType(), [raw, where, align, mask])
