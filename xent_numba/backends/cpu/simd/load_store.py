"""Memory operations: addresses, buffers on the stack, and loads and stores of vectors, of parts of them and of scalars.

An array enters a kernel as the pointer to its first element (`pointer`), and all later accesses are `load(p, i, vtype)`
and the like, with i counted in elements.  No alignment is assumed.  A load converts from the dtype in memory to that of
the vector, and a store converts back (see `storage`).
"""

from __future__ import annotations

from typing import Any

from numba import types
from numba.extending import intrinsic

from xent_numba.backends.cpu.compile.inline import inline
from xent_numba.backends.cpu.compile.numba_private import ir
from xent_numba.backends.cpu.plan import CACHE_LINE
from xent_numba.backends.cpu.simd.storage import (
    decode,
    element_pointer,
    encode,
    first_n_mask,
    masked_load,
    masked_store,
    size_of,
    stored_vector,
    vector_pointer,
)
from xent_numba.backends.cpu.simd.vector import broadcast, integer_constants, ir_vector, llvm_call, llvm_suffix, splat


# ------------------------------------------------------------------------------------------------ addresses
@intrinsic
def pointer(typingctx: Any, array: Any) -> Any:
    """The address of the first element of an array; None for None."""
    if isinstance(array, types.NoneType):
        return types.none(array), lambda context, builder, sig, args: context.get_dummy_value()

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return context.make_array(array)(context, builder, args[0]).data

    return types.CPointer(array.dtype)(array), codegen


@intrinsic
def stride(typingctx: Any, array: Any, axis: Any) -> Any:
    """The stride of an axis (a literal), in elements.

    Bytes become elements by a shift: a division would take as long as ten logits.
    """
    if not isinstance(axis, types.IntegerLiteral):
        return None
    shift = size_of(array.dtype).bit_length() - 1

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        strides = context.make_array(array)(context, builder, args[0]).strides
        return builder.ashr(builder.extract_value(strides, axis.literal_value), ir.IntType(64)(shift))

    return types.int64(array, axis), codegen


@intrinsic
def advance(typingctx: Any, p: Any, elements: Any) -> Any:
    """The pointer `p + elements`; None for None."""
    if isinstance(p, types.NoneType):
        return types.none(p, elements), lambda context, builder, sig, args: context.get_dummy_value()

    return p(p, elements), element_pointer


@intrinsic
def stack_buffer(typingctx: Any, vtype: Any, vectors: Any) -> Any:
    """Uninitialised memory on the stack for `vectors` (a literal) vectors of `vtype`, aligned to cache lines."""
    if not isinstance(vectors, types.IntegerLiteral):
        return None
    count = vectors.literal_value

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        with builder.goto_entry_block():  # not cgutils.alloca_once, which would fill the buffer with zeros
            memory = builder.alloca(ir.ArrayType(ir_vector(vtype), count))
        memory.align = CACHE_LINE
        return builder.bitcast(memory, ir_vector(vtype).element.as_pointer())

    return types.CPointer(vtype.dtype)(vtype, vectors), codegen


# ------------------------------------------------------------------------------------------------ scalars
@intrinsic
def load_scalar(typingctx: Any, p: Any, i: Any) -> Any:
    """The element p[i], only for arrays in a dtype that Numba has: not for float16 and bfloat16."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.load(element_pointer(context, builder, sig, args))

    return p.dtype(p, i), codegen


@intrinsic
def store_scalar(typingctx: Any, p: Any, i: Any, value: Any) -> Any:
    """p[i] = value, only for arrays in a dtype that Numba has: not for float16 and bfloat16."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        where = element_pointer(context, builder, sig, args)
        builder.store(context.cast(builder, args[2], value, p.dtype), where)
        return context.get_dummy_value()

    return types.void(p, i, value), codegen


# ------------------------------------------------------------------------------------------------ vectors
@intrinsic
def load(typingctx: Any, p: Any, i: Any, vtype: Any) -> Any:
    """The vector p[i], p[i + 1], … in the type of `vtype`."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        where = vector_pointer(context, builder, sig, args, stored_vector(p, vtype))
        return decode(builder, builder.load(where, align=size_of(p.dtype)), p.dtype, vtype)

    return vtype(p, i, vtype), codegen


@intrinsic
def load_n(typingctx: Any, p: Any, i: Any, count: Any, fill: Any) -> Any:
    """Load `count` elements from p[i] on; the other lanes are those of `fill`, and their memory is not touched."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        mask = first_n_mask(builder, context.cast(builder, args[2], sig.args[2], types.int64), fill)
        where = vector_pointer(context, builder, sig, args, stored_vector(p, fill))
        return builder.select(mask, masked_load(builder, where, mask, p, fill), args[3])

    return fill(p, i, count, fill), codegen


@inline
def load_part(p: Any, i: Any, count: Any, vtype: Any) -> Any:
    """The vector p[i], p[i + 1], …; only its first `count` elements, and 0 in the other lanes, if that is not None."""
    if count is None:
        return load(p, i, vtype)
    return load_n(p, i, count, splat(0.0, vtype))


@intrinsic
def first_n_or(typingctx: Any, value: Any, count: Any, fill: Any) -> Any:
    """The first `count` lanes of `value`, and the other lanes of `fill`."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        mask = first_n_mask(builder, context.cast(builder, args[1], sig.args[1], types.int64), fill)
        return builder.select(mask, args[0], args[2])

    return fill(fill, count, fill), codegen


@intrinsic
def gather(typingctx: Any, p: Any, index: Any, vtype: Any) -> Any:
    """p[index] for the index in each lane; `p` must have the dtype of the lanes, so not 16-bit storage."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector, word = ir_vector(vtype), ir.IntType(64)
        words = ir.VectorType(word, vtype.lanes)
        offset = args[1] if args[1].type == words else builder.sext(args[1], words)
        offset = builder.mul(offset, integer_constants(words, size_of(p.dtype)))
        address = builder.add(broadcast(builder, builder.ptrtoint(args[0], word), vtype.lanes), offset)
        pointers = builder.inttoptr(address, ir.VectorType(args[0].type, vtype.lanes))
        align = ir.Constant(ir.IntType(32), size_of(p.dtype))
        all_lanes = ir.Constant(ir.VectorType(ir.IntType(1), vtype.lanes), [1] * vtype.lanes)
        name = f"llvm.masked.gather.{llvm_suffix(vector)}.v{vtype.lanes}p0"
        return llvm_call(builder, name, vector, [pointers, align, all_lanes, ir.Constant(vector, ir.Undefined)])

    return vtype(p, index, vtype), codegen


@intrinsic
def store(typingctx: Any, p: Any, i: Any, value: Any) -> Any:
    """Write all lanes to p[i], p[i + 1], …, in the dtype of `p`."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        where = vector_pointer(context, builder, sig, args, stored_vector(p, value))
        builder.store(encode(builder, args[2], p.dtype), where, align=size_of(p.dtype))
        return context.get_dummy_value()

    return types.void(p, i, value), codegen


@inline
def store_if_wanted(p: Any, i: Any, value: Any) -> None:
    """`store`, where p is not None."""
    if p is not None:
        store(p, i, value)


@intrinsic
def store_n(typingctx: Any, p: Any, i: Any, count: Any, value: Any) -> Any:
    """Write the first `count` lanes to p[i], p[i + 1], … in the dtype of `p`; no other memory is touched."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        mask = first_n_mask(builder, context.cast(builder, args[2], sig.args[2], types.int64), value)
        where = vector_pointer(context, builder, sig, args, stored_vector(p, value))
        masked_store(builder, where, mask, encode(builder, args[3], p.dtype), size_of(p.dtype))
        return context.get_dummy_value()

    return types.void(p, i, count, value), codegen
