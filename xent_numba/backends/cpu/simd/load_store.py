"""How vectors come from memory and go there: any alignment, part of a vector, past the caches."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core.extending import intrinsic

from xent_numba.backends.cpu.compile.inline import inline
from xent_numba.backends.cpu.plan import CACHE_LINE
from xent_numba.backends.cpu.simd.storage import (
    decode,
    encode,
    first_n_mask,
    integer_constants,
    masked_load,
    masked_store,
    size_of,
    stored_vector,
)
from xent_numba.backends.cpu.simd.vector import Vector, broadcast, ir_vector, llvm_call, llvm_suffix


def _vector_pointer(context: Any, builder: Any, sig: Any, args: Any, vector: ir.VectorType) -> Any:
    """The address of args[0][args[1]], as one of vectors."""
    index = context.cast(builder, args[1], sig.args[1], types.int64)
    return builder.bitcast(builder.gep(args[0], [index]), vector.as_pointer())


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
    shift = size_of(array.dtype).bit_length() - 1

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
def elements_to_alignment(typingctx: Any, p: Any, i: Any, vtype: Any) -> Any:
    """How many elements from p[i] to where a whole vector may be streamed, at least 0; -1 if never."""
    size = size_of(p.dtype)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        where = builder.gep(args[0], [context.cast(builder, args[1], sig.args[1], types.int64)])
        word = ir.IntType(64)
        bytes_to_go = builder.and_(builder.neg(builder.ptrtoint(where, word)), word(size * vtype.lanes - 1))
        odd = builder.icmp_unsigned("!=", builder.and_(bytes_to_go, word(size - 1)), word(0))
        return builder.select(odd, word(-1), builder.lshr(bytes_to_go, word(size.bit_length() - 1)))

    return types.int64(p, i, vtype), codegen


@intrinsic
def stack_buffer(typingctx: Any, vtype: Any, vectors: Any) -> Any:
    """Memory on the stack for `vectors` (a literal) vectors such as `vtype`, aligned to lines."""
    if not isinstance(vectors, types.IntegerLiteral):
        return None
    count = vectors.literal_value

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        with builder.goto_entry_block():  # not cgutils.alloca_once, which fills it with zeros, each time
            memory = builder.alloca(ir.ArrayType(ir_vector(vtype), count))
        memory.align = CACHE_LINE
        return builder.bitcast(memory, ir_vector(vtype).element.as_pointer())

    return types.CPointer(vtype.dtype)(vtype, vectors), codegen


@intrinsic
def zero_vector(typingctx: Any, p: Any) -> Any:
    """The zero vector, one line wide, of the arithmetic that `p` is computed in: float64 for float64, else float32."""
    dtype = types.float64 if p.dtype == types.float64 else types.float32
    vector = Vector(dtype, CACHE_LINE // size_of(dtype))

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return ir.Constant(ir_vector(vector), None)

    return vector(p), codegen


@intrinsic
def load_scalar(typingctx: Any, p: Any, i: Any) -> Any:
    """The one value p[i]."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load(builder.gep(args[0], [context.cast(builder, args[1], sig.args[1], types.int64)]))

    return p.dtype(p, i), codegen


@intrinsic
def store_scalar(typingctx: Any, p: Any, i: Any, value: Any) -> Any:
    """p[i] = value."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        where = builder.gep(args[0], [context.cast(builder, args[1], sig.args[1], types.int64)])
        builder.store(context.cast(builder, args[2], value, p.dtype), where)
        return context.get_dummy_value()

    return types.void(p, i, value), codegen


# ------------------------------------------------------------------------------------------------ loads and stores
@intrinsic
def load(typingctx: Any, p: Any, i: Any, vtype: Any) -> Any:
    """The lanes from p[i] on, as a vector such as `vtype`."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        raw = builder.load(
            _vector_pointer(context, builder, sig, args, stored_vector(p, vtype)), align=size_of(p.dtype)
        )
        return decode(builder, raw, p.dtype, vtype)

    return vtype(p, i, vtype), codegen


@intrinsic
def load_n(typingctx: Any, p: Any, i: Any, count: Any, fill: Any) -> Any:
    """As `load`, the first `count` lanes only; the others are those of `load_tile`, and their memory is not touched."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        mask = first_n_mask(builder, context.cast(builder, args[2], sig.args[2], types.int64), fill)
        where = _vector_pointer(context, builder, sig, args, stored_vector(p, fill))
        return builder.select(mask, masked_load(builder, where, mask, p, fill), args[3])

    return fill(p, i, count, fill), codegen


@intrinsic
def gather(typingctx: Any, p: Any, index: Any, vtype: Any) -> Any:
    """p[index] of every lane; `p` points to lanes, not to 16-bit storage."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector, word = ir_vector(vtype), ir.IntType(64)
        words = ir.VectorType(word, vtype.lanes)
        offset = args[1] if args[1].type == words else builder.sext(args[1], words)
        offset = builder.mul(offset, integer_constants(words, size_of(p.dtype)))
        place = builder.add(broadcast(builder, builder.ptrtoint(args[0], word), vtype.lanes), offset)
        pointers = builder.inttoptr(place, ir.VectorType(args[0].type, vtype.lanes))
        align = ir.Constant(ir.IntType(32), size_of(p.dtype))
        everywhere = ir.Constant(ir.VectorType(ir.IntType(1), vtype.lanes), [1] * vtype.lanes)
        name = f"llvm.masked.gather.{llvm_suffix(vector)}.v{vtype.lanes}p0"
        return llvm_call(builder, name, vector, [pointers, align, everywhere, ir.Constant(vector, ir.Undefined)])

    return vtype(p, index, vtype), codegen


@intrinsic
def first_n_or(typingctx: Any, value: Any, count: Any, fill: Any) -> Any:
    """The first `count` lanes of `value`, the others of `load_tile`."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        mask = first_n_mask(builder, context.cast(builder, args[1], sig.args[1], types.int64), fill)
        return builder.select(mask, args[0], args[2])

    return fill(fill, count, fill), codegen


@intrinsic
def store(typingctx: Any, p: Any, i: Any, value: Any) -> Any:
    """Write the lanes from p[i] on, in the dtype of `p`."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        where = _vector_pointer(context, builder, sig, args, stored_vector(p, value))
        builder.store(encode(builder, args[2], p.dtype), where, align=size_of(p.dtype))
        return context.get_dummy_value()

    return types.void(p, i, value), codegen


@intrinsic
def store_n(typingctx: Any, p: Any, i: Any, count: Any, value: Any) -> Any:
    """As `store`, the first `count` lanes only."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        mask = first_n_mask(builder, context.cast(builder, args[2], sig.args[2], types.int64), value)
        where = _vector_pointer(context, builder, sig, args, stored_vector(p, value))
        masked_store(builder, where, mask, encode(builder, args[3], p.dtype), size_of(p.dtype))
        return context.get_dummy_value()

    return types.void(p, i, count, value), codegen


@intrinsic
def stream(typingctx: Any, p: Any, i: Any, value: Any) -> Any:
    """As `store`, past the caches and without reading the line first; p[i] must be aligned to a vector."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        where = _vector_pointer(context, builder, sig, args, stored_vector(p, value))
        align = size_of(p.dtype) * value.lanes
        write = builder.store(encode(builder, args[2], p.dtype), where, align=align)
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
prefetch_l1, prefetch_l2 = _prefetch(3), _prefetch(2)

L2_PREFETCH_DISTANCE, L1_PREFETCH_DISTANCE = (
    1 << 14,
    1 << 11,
)  # logits between what is computed and what is asked for, into L2 and into L1


@inline
def prefetch_ahead(p: Any, i: Any) -> None:
    """Ask for what comes after p[i], in time for it to be there."""
    prefetch_l2(p, i + L2_PREFETCH_DISTANCE)
    prefetch_l1(p, i + L1_PREFETCH_DISTANCE)
