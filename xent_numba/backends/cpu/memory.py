"""How vectors come from memory and go there: any alignment, part of a vector, past the caches, transposed.

float16 and bfloat16 have no array type in Numba on the CPU.  Their memory is passed as uint16 and int16 arrays: the
signedness is only the tag that tells the two formats apart.  They are float32 from here on inwards, and are rounded
once, to nearest even, on the way out.
"""

from __future__ import annotations

import sys
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.extending import intrinsic

from xent_numba.backends.cpu.simd import LINE, Vector, broadcast, integers, ir_vector, llvm_call, suffix

_STORED = {
    types.int32: ir.IntType(32),
    types.int64: ir.IntType(64),
    types.float32: ir.FloatType(),
    types.float64: ir.DoubleType(),
    types.uint16: ir.IntType(16),  # float16
    types.int16: ir.IntType(16),  # bfloat16
}


_UPPER = 1 if sys.byteorder == "little" else 0  # which 16 bits of 32 are the upper ones


def _size(dtype: types.Type) -> int:
    return int(dtype.bitwidth) // 8


def _raw(p: types.CPointer, vector: Vector) -> ir.VectorType:
    """A vector of what `p` points to."""
    return ir.VectorType(_STORED[p.dtype], vector.lanes)


def _constants(vector: ir.VectorType, value: int) -> Any:
    return ir.Constant(vector, [value] * vector.count)


def _decode(builder: Any, raw: Any, dtype: types.Type, vector: Vector) -> Any:
    """Bits as stored to the lanes they stand for."""
    wide, lanes = ir_vector(vector), vector.lanes
    if isinstance(vector.dtype, types.Integer):
        return raw if raw.type == wide else builder.sext(raw, wide)
    if dtype == types.uint16:
        raw, dtype = builder.bitcast(raw, ir.VectorType(ir.HalfType(), lanes)), types.float16
    elif dtype == types.int16:
        bits = ir.VectorType(ir.IntType(32), lanes)
        raw = builder.shl(builder.zext(raw, bits), _constants(bits, 16))
        raw, dtype = builder.bitcast(raw, ir.VectorType(ir.FloatType(), lanes)), types.float32
    if dtype.bitwidth < vector.dtype.bitwidth:
        return builder.fpext(raw, wide)
    return builder.fptrunc(raw, wide) if dtype.bitwidth > vector.dtype.bitwidth else raw


def _encode(builder: Any, value: Any, dtype: types.Type) -> Any:
    """Lanes to bits as stored, rounded once, to nearest even."""
    lanes = value.type.count
    if isinstance(value.type.element, ir.DoubleType) and dtype != types.float64:
        single = builder.fptrunc(value, ir.VectorType(ir.FloatType(), lanes))
        value = single if dtype == types.float32 else _to_odd(builder, value, single)
    if dtype == types.uint16:
        half = builder.fptrunc(value, ir.VectorType(ir.HalfType(), lanes))
        return builder.bitcast(half, ir.VectorType(ir.IntType(16), lanes))
    if dtype == types.int16:
        word = ir.VectorType(ir.IntType(32), lanes)
        bits = builder.bitcast(value, word)
        odd = builder.and_(builder.lshr(bits, _constants(word, 16)), _constants(word, 1))
        rounded = builder.add(bits, builder.add(odd, _constants(word, 0x7FFF)))
        quiet = builder.or_(bits, _constants(word, 0x400000))  # rounding could carry a NaN into infinity
        rounded = builder.select(builder.fcmp_unordered("uno", value, value), quiet, rounded)
        # The upper halves, not truncated: LLVM 22 makes of a truncating store of one lane a store of all 32 bits.
        halves = builder.bitcast(rounded, ir.VectorType(ir.IntType(16), 2 * lanes))
        upper = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [2 * i + _UPPER for i in range(lanes)])
        return builder.shuffle_vector(halves, halves, upper)
    return value


def _to_odd(builder: Any, value: Any, nearest: Any) -> Any:
    """float64 lanes as float32 that round to 16 bits as they themselves would: cut off, and odd where that was inexact.

    `nearest` are the lanes rounded to nearest.
    """
    word = ir.VectorType(ir.IntType(32), value.type.count)
    size = llvm_call(builder, f"llvm.fabs.{suffix(value.type)}", value.type, [value])
    back = builder.fpext(nearest, value.type)
    back = llvm_call(builder, f"llvm.fabs.{suffix(value.type)}", value.type, [back])
    bits = builder.bitcast(nearest, word)
    one = _constants(word, 1)
    too_large = builder.fcmp_ordered(">", back, size)
    inexact = builder.fcmp_ordered("!=", back, size)
    cut = builder.select(too_large, builder.sub(bits, one), bits)
    return builder.bitcast(builder.select(inexact, builder.or_(cut, one), bits), nearest.type)


def _at(context: Any, builder: Any, sig: Any, args: Any, vector: ir.VectorType) -> Any:
    """The address of args[0][args[1]], as one of vectors."""
    index = context.cast(builder, args[1], sig.args[1], types.int64)
    return builder.bitcast(builder.gep(args[0], [index]), vector.as_pointer())


def _first(builder: Any, count: Any, vector: Vector) -> Any:
    """The mask of the first `count` lanes."""
    word = integers(vector)
    lane = ir.Constant(ir_vector(word), list(range(vector.lanes)))
    if word.dtype == types.int32:
        count = builder.trunc(count, ir.IntType(32))
    return builder.icmp_signed("<", lane, broadcast(builder, count, vector.lanes))


def _masked_load(builder: Any, where: Any, mask: Any, p: Any, vector: Vector) -> Any:
    """The lanes under the mask, decoded; 0 in the others, whose memory is not touched."""
    raw = _raw(p, vector)
    args = [where, ir.Constant(ir.IntType(32), _size(p.dtype)), mask, ir.Constant(raw, None)]
    lanes = _decode(builder, llvm_call(builder, f"llvm.masked.load.{suffix(raw)}.p0", raw, args), p.dtype, vector)
    # Where an operation under the same mask follows, LLVM 22 folds the load into it and then takes it out again without
    # its mask: past the end of the array.  Nothing folds through a fence.
    floats = ir.VectorType(ir.FloatType() if vector.dtype.bitwidth == 32 else ir.DoubleType(), vector.lanes)
    name = f"llvm.arithmetic.fence.{suffix(floats)}"
    return builder.bitcast(llvm_call(builder, name, floats, [builder.bitcast(lanes, floats)]), lanes.type)


def _masked_store(builder: Any, where: Any, mask: Any, raw: Any, size: int) -> None:
    align = ir.Constant(ir.IntType(32), size)
    llvm_call(builder, f"llvm.masked.store.{suffix(raw.type)}.p0", ir.VoidType(), [raw, where, align, mask])


# ------------------------------------------------------------------------------------------------ addresses
@intrinsic
def pointer(typingctx: Any, array: Any) -> Any:
    """The address of the first element of an array; None stays None."""
    if isinstance(array, types.NoneType):
        return types.none(array), lambda context, builder, sig, args: context.get_dummy_value()

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return context.make_array(array)(context, builder, args[0]).data

    return types.CPointer(array.dtype)(array), codegen


@intrinsic
def stride(typingctx: Any, array: Any, axis: Any) -> Any:
    """A stride (the axis is a literal) in elements; by shift, for a division would cost as much as ten logits."""
    if not isinstance(axis, types.IntegerLiteral):
        return None
    shift = _size(array.dtype).bit_length() - 1

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        strides = context.make_array(array)(context, builder, args[0]).strides
        return builder.ashr(builder.extract_value(strides, axis.literal_value), ir.IntType(64)(shift))

    return types.int64(array, axis), codegen


@intrinsic
def advance(typingctx: Any, p: Any, elements: Any) -> Any:
    """`p + elements`; None stays None."""
    if isinstance(p, types.NoneType):
        return types.none(p, elements), lambda context, builder, sig, args: context.get_dummy_value()

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.gep(args[0], [context.cast(builder, args[1], sig.args[1], types.int64)])

    return p(p, elements), codegen


@intrinsic
def to_line(typingctx: Any, p: Any, i: Any, like: Any) -> Any:
    """How many elements from p[i] to where a whole vector may be streamed, at least 0; -1 if never."""
    size = _size(p.dtype)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        where = builder.gep(args[0], [context.cast(builder, args[1], sig.args[1], types.int64)])
        word = ir.IntType(64)
        bytes_to_go = builder.and_(builder.neg(builder.ptrtoint(where, word)), word(size * like.lanes - 1))
        odd = builder.icmp_unsigned("!=", builder.and_(bytes_to_go, word(size - 1)), word(0))
        return builder.select(odd, word(-1), builder.lshr(bytes_to_go, word(size.bit_length() - 1)))

    return types.int64(p, i, like), codegen


@intrinsic
def scratch(typingctx: Any, like: Any, vectors: Any) -> Any:
    """Memory on the stack for `vectors` (a literal) vectors such as `like`, aligned to lines."""
    if not isinstance(vectors, types.IntegerLiteral):
        return None
    count = vectors.literal_value

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        with builder.goto_entry_block():  # not cgutils.alloca_once, which fills it with zeros, each time
            memory = builder.alloca(ir.ArrayType(ir_vector(like), count))
        memory.align = LINE
        return builder.bitcast(memory, ir_vector(like).element.as_pointer())

    return types.CPointer(like.dtype)(like, vectors), codegen


@intrinsic
def blank(typingctx: Any, p: Any, q: Any) -> Any:
    """The zero vector, one line wide, of the arithmetic for what `p` and `q` (or None) point to: float64 where one of
    them is, else float32.
    """
    is_wide = p.dtype == types.float64 or (isinstance(q, types.CPointer) and q.dtype == types.float64)
    dtype = types.float64 if is_wide else types.float32
    vector = Vector(dtype, LINE // _size(dtype))

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return ir.Constant(ir_vector(vector), None)

    return vector(p, q), codegen


@intrinsic
def get(typingctx: Any, p: Any, i: Any) -> Any:
    """The one value p[i]."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load(builder.gep(args[0], [context.cast(builder, args[1], sig.args[1], types.int64)]))

    return p.dtype(p, i), codegen


@intrinsic
def put(typingctx: Any, p: Any, i: Any, value: Any) -> Any:
    """p[i] = value."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        where = builder.gep(args[0], [context.cast(builder, args[1], sig.args[1], types.int64)])
        builder.store(context.cast(builder, args[2], value, p.dtype), where)
        return context.get_dummy_value()

    return types.void(p, i, value), codegen


# ------------------------------------------------------------------------------------------------ loads and stores
@intrinsic
def load(typingctx: Any, p: Any, i: Any, like: Any) -> Any:
    """The lanes from p[i] on, as a vector such as `like`."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        raw = builder.load(_at(context, builder, sig, args, _raw(p, like)), align=_size(p.dtype))
        return _decode(builder, raw, p.dtype, like)

    return like(p, i, like), codegen


@intrinsic
def load_part(typingctx: Any, p: Any, i: Any, count: Any, fill: Any) -> Any:
    """As `load`, the first `count` lanes only; the others are those of `fill`, and their memory is not touched."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        mask = _first(builder, context.cast(builder, args[2], sig.args[2], types.int64), fill)
        where = _at(context, builder, sig, args, _raw(p, fill))
        return builder.select(mask, _masked_load(builder, where, mask, p, fill), args[3])

    return fill(p, i, count, fill), codegen


@intrinsic
def gather(typingctx: Any, p: Any, index: Any, like: Any) -> Any:
    """p[index] of every lane; `p` points to lanes, not to 16-bit storage."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector, word = ir_vector(like), ir.IntType(64)
        words = ir.VectorType(word, like.lanes)
        offset = args[1] if args[1].type == words else builder.sext(args[1], words)
        offset = builder.mul(offset, _constants(words, _size(p.dtype)))
        place = builder.add(broadcast(builder, builder.ptrtoint(args[0], word), like.lanes), offset)
        pointers = builder.inttoptr(place, ir.VectorType(args[0].type, like.lanes))
        align = ir.Constant(ir.IntType(32), _size(p.dtype))
        everywhere = ir.Constant(ir.VectorType(ir.IntType(1), like.lanes), [1] * like.lanes)
        name = f"llvm.masked.gather.{suffix(vector)}.v{like.lanes}p0"
        return llvm_call(builder, name, vector, [pointers, align, everywhere, ir.Constant(vector, ir.Undefined)])

    return like(p, index, like), codegen


@intrinsic
def keep(typingctx: Any, value: Any, count: Any, fill: Any) -> Any:
    """The first `count` lanes of `value`, the others of `fill`."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        mask = _first(builder, context.cast(builder, args[1], sig.args[1], types.int64), fill)
        return builder.select(mask, args[0], args[2])

    return fill(fill, count, fill), codegen


@intrinsic
def store(typingctx: Any, p: Any, i: Any, value: Any) -> Any:
    """Write the lanes from p[i] on, in the dtype of `p`."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        where = _at(context, builder, sig, args, _raw(p, value))
        builder.store(_encode(builder, args[2], p.dtype), where, align=_size(p.dtype))
        return context.get_dummy_value()

    return types.void(p, i, value), codegen


@intrinsic
def store_part(typingctx: Any, p: Any, i: Any, count: Any, value: Any) -> Any:
    """As `store`, the first `count` lanes only."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        mask = _first(builder, context.cast(builder, args[2], sig.args[2], types.int64), value)
        where = _at(context, builder, sig, args, _raw(p, value))
        _masked_store(builder, where, mask, _encode(builder, args[3], p.dtype), _size(p.dtype))
        return context.get_dummy_value()

    return types.void(p, i, count, value), codegen


@intrinsic
def stream(typingctx: Any, p: Any, i: Any, value: Any) -> Any:
    """As `store`, past the caches and without reading the line first; p[i] must be aligned (`to_line`)."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        where = _at(context, builder, sig, args, _raw(p, value))
        align = _size(p.dtype) * value.lanes
        write = builder.store(_encode(builder, args[2], p.dtype), where, align=align)
        write.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))
        return context.get_dummy_value()

    return types.void(p, i, value), codegen


def _prefetch(locality: int) -> Any:
    def ask(typingctx: Any, p: Any, i: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            where = builder.gep(args[0], [context.cast(builder, args[1], sig.args[1], types.int64)])
            where = builder.bitcast(where, ir.IntType(8).as_pointer())
            flags = [ir.Constant(ir.IntType(32), x) for x in (0, locality, 1)]  # to read; how near; data
            llvm_call(builder, "llvm.prefetch.p0", ir.VoidType(), [where, *flags])
            return context.get_dummy_value()

        return types.void(p, i), codegen

    return intrinsic(ask)


# Ask for the line of p[i], into L1 or L2; any address will do.
prefetch, prefetch_far = _prefetch(3), _prefetch(2)


# ------------------------------------------------------------------------------------------------ transposition
def _transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """Square of vectors to its transpose: log2(lanes) rounds of pairwise exchanges."""
    lanes = len(rows)
    index = ir.VectorType(ir.IntType(32), lanes)
    step = lanes // 2
    while step:
        low = [c if not c & step else lanes + (c ^ step) for c in range(lanes)]
        high = [(c | step) if not c & step else lanes + c for c in range(lanes)]
        swapped = list(rows)
        for r in range(lanes):
            if not r & step:
                a, b = rows[r], rows[r | step]
                swapped[r] = builder.shuffle_vector(a, b, ir.Constant(index, low))
                swapped[r | step] = builder.shuffle_vector(a, b, ir.Constant(index, high))
        rows, step = swapped, step // 2
    return rows


def _row(builder: Any, base: Any, stride: Any, r: int, rows: Any, raw: ir.VectorType) -> tuple[Any, Any]:
    """The address of row r, or of row 0 when there are not so many rows, and whether there are."""
    word = ir.IntType(64)
    there = builder.icmp_signed(">", rows, word(r))
    offset = builder.select(there, builder.mul(stride, word(r)), word(0))
    return builder.bitcast(builder.gep(base, [offset]), raw.as_pointer()), there


@intrinsic
def load_transposed(typingctx: Any, p: Any, stride: Any, rows: Any, columns: Any, tile: Any, like: Any) -> Any:
    """Put p[r·stride + c], r < rows ≤ lanes, c < columns ≤ lanes, at tile[c·lanes + r].

    All lanes × lanes elements of the tile are written; those of no row are copies of row 0, those of no column 0.
    """
    raw, lanes = _raw(p, like), like.lanes

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        base, step, count, width, out, _ = args
        mask = _first(builder, width, like)
        vectors = []
        for r in range(lanes):
            where, _ = _row(builder, base, step, r, count, raw)
            vectors.append(_masked_load(builder, where, mask, p, like))
        for c, column in enumerate(_transposed(builder, vectors)):
            where = builder.gep(out, [ir.IntType(64)(c * lanes)])
            builder.store(column, builder.bitcast(where, ir_vector(like).as_pointer()), align=LINE)
        return context.get_dummy_value()

    return types.void(p, types.int64, types.int64, types.int64, tile, like), codegen


@intrinsic
def store_transposed(typingctx: Any, tile: Any, p: Any, stride: Any, rows: Any, columns: Any, like: Any) -> Any:
    """Write tile[c·lanes + r] to p[r·stride + c] for r < rows ≤ lanes, c < columns ≤ lanes, and nothing else."""
    raw, lanes = _raw(p, like), like.lanes

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        source, base, step, count, width, _ = args
        vectors = []
        for c in range(lanes):
            where = builder.gep(source, [ir.IntType(64)(c * lanes)])
            vectors.append(builder.load(builder.bitcast(where, ir_vector(like).as_pointer()), align=LINE))
        for r, row in enumerate(_transposed(builder, vectors)):
            where, there = _row(builder, base, step, r, count, raw)
            width_here = builder.select(there, width, ir.IntType(64)(0))
            mask = _first(builder, width_here, like)
            _masked_store(builder, where, mask, _encode(builder, row, p.dtype), _size(p.dtype))
        return context.get_dummy_value()

    return types.void(tile, p, types.int64, types.int64, types.int64, like), codegen
