"""How lanes are stored: in fewer bits, and only some of them.

float16 and bfloat16 have no array type in Numba on the CPU.  Their memory is passed as uint16 and int16 arrays: the
signedness is only the tag that tells the two formats apart.  They are float32 from here on inwards, and are rounded
once, to nearest even, on the way out.
"""

from __future__ import annotations

import sys
from typing import Any

from llvmlite import ir
from numba import types

from xent_numba.backends.cpu.simd.vector import Vector, broadcast, integer_vector, ir_vector, llvm_call, llvm_suffix

_STORED = {
    types.int32: ir.IntType(32),
    types.int64: ir.IntType(64),
    types.float32: ir.FloatType(),
    types.float64: ir.DoubleType(),
    types.uint16: ir.IntType(16),  # float16
    types.int16: ir.IntType(16),  # bfloat16
}
_UPPER = 1 if sys.byteorder == "little" else 0  # which 16 bits of 32 are the upper ones


def size_of(dtype: types.Type) -> int:
    """Bytes of a value as stored."""
    return int(dtype.bitwidth) // 8


def stored_vector(p: types.CPointer, vector: Vector) -> ir.VectorType:
    """A vector of what `p` points to."""
    return ir.VectorType(_STORED[p.dtype], vector.lanes)


def integer_constants(vector: ir.VectorType, value: int) -> Any:
    """An integer in every lane."""
    return ir.Constant(vector, [value] * vector.count)


def decode(builder: Any, raw: Any, dtype: types.Type, vector: Vector) -> Any:
    """Bits as stored to the lanes they stand for."""
    wide, lanes = ir_vector(vector), vector.lanes
    if isinstance(vector.dtype, types.Integer):
        return raw if raw.type == wide else builder.sext(raw, wide)
    if dtype == types.uint16:
        raw, dtype = builder.bitcast(raw, ir.VectorType(ir.HalfType(), lanes)), types.float16
    elif dtype == types.int16:
        bits = ir.VectorType(ir.IntType(32), lanes)
        raw = builder.shl(builder.zext(raw, bits), integer_constants(bits, 16))
        raw, dtype = builder.bitcast(raw, ir.VectorType(ir.FloatType(), lanes)), types.float32
    if dtype.bitwidth < vector.dtype.bitwidth:
        return builder.fpext(raw, wide)
    return builder.fptrunc(raw, wide) if dtype.bitwidth > vector.dtype.bitwidth else raw


def encode(builder: Any, value: Any, dtype: types.Type) -> Any:
    """Lanes to bits as stored, rounded once, to nearest even."""
    lanes = value.type.count
    if isinstance(value.type.element, ir.DoubleType) and dtype != types.float64:
        single = builder.fptrunc(value, ir.VectorType(ir.FloatType(), lanes))
        value = single if dtype == types.float32 else _round_to_odd(builder, value, single)
    if dtype == types.uint16:
        half = builder.fptrunc(value, ir.VectorType(ir.HalfType(), lanes))
        return builder.bitcast(half, ir.VectorType(ir.IntType(16), lanes))
    if dtype == types.int16:
        word = ir.VectorType(ir.IntType(32), lanes)
        bits = builder.bitcast(value, word)
        odd = builder.and_(builder.lshr(bits, integer_constants(word, 16)), integer_constants(word, 1))
        rounded = builder.add(bits, builder.add(odd, integer_constants(word, 0x7FFF)))
        quiet = builder.or_(bits, integer_constants(word, 0x400000))  # rounding could carry a NaN into infinity
        rounded = builder.select(builder.fcmp_unordered("uno", value, value), quiet, rounded)
        # The upper halves, not truncated: LLVM 22 makes of a truncating store of one lane a store of all 32 bits.
        halves = builder.bitcast(rounded, ir.VectorType(ir.IntType(16), 2 * lanes))
        upper = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [2 * i + _UPPER for i in range(lanes)])
        return builder.shuffle_vector(halves, halves, upper)
    return value


def _round_to_odd(builder: Any, value: Any, nearest: Any) -> Any:
    """float64 lanes as float32 that round to 16 bits as they themselves would: cut off, and odd where that was inexact.

    `nearest` are the lanes rounded to nearest.
    """
    word = ir.VectorType(ir.IntType(32), value.type.count)
    size = llvm_call(builder, f"llvm.fabs.{llvm_suffix(value.type)}", value.type, [value])
    back = builder.fpext(nearest, value.type)
    back = llvm_call(builder, f"llvm.fabs.{llvm_suffix(value.type)}", value.type, [back])
    bits = builder.bitcast(nearest, word)
    one = integer_constants(word, 1)
    too_large = builder.fcmp_ordered(">", back, size)
    inexact = builder.fcmp_ordered("!=", back, size)
    cut = builder.select(too_large, builder.sub(bits, one), bits)
    return builder.bitcast(builder.select(inexact, builder.or_(cut, one), bits), nearest.type)


def first_n_mask(builder: Any, count: Any, vector: Vector) -> Any:
    """The mask of the first `count` lanes."""
    word = integer_vector(vector)
    lane = ir.Constant(ir_vector(word), list(range(vector.lanes)))
    if word.dtype == types.int32:
        count = builder.trunc(count, ir.IntType(32))
    return builder.icmp_signed("<", lane, broadcast(builder, count, vector.lanes))


def masked_load(builder: Any, where: Any, mask: Any, p: Any, vector: Vector) -> Any:
    """The lanes under the mask, decoded; 0 in the others, whose memory is not touched."""
    raw = stored_vector(p, vector)
    args = [where, ir.Constant(ir.IntType(32), size_of(p.dtype)), mask, ir.Constant(raw, None)]
    lanes = decode(builder, llvm_call(builder, f"llvm.masked.load.{llvm_suffix(raw)}.p0", raw, args), p.dtype, vector)
    # Where an operation under the same mask follows, LLVM 22 folds the load into it and then takes it out again without
    # its mask: past the end of the array.  Nothing folds through a fence.
    floats = ir.VectorType(ir.FloatType() if vector.dtype.bitwidth == 32 else ir.DoubleType(), vector.lanes)
    name = f"llvm.arithmetic.fence.{llvm_suffix(floats)}"
    return builder.bitcast(llvm_call(builder, name, floats, [builder.bitcast(lanes, floats)]), lanes.type)


def masked_store(builder: Any, where: Any, mask: Any, raw: Any, size: int) -> None:
    """Write the lanes under the mask, `size` bytes each, and touch no other memory."""
    align = ir.Constant(ir.IntType(32), size)
    llvm_call(builder, f"llvm.masked.store.{llvm_suffix(raw.type)}.p0", ir.VoidType(), [raw, where, align, mask])
