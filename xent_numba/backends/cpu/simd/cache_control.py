"""What a kernel tells the caches: prefetches, and non-temporal stores with the alignment that they need.

A non-temporal (streaming) store writes past the caches.  An ordinary store first reads the cache line that it is about
to overwrite, so for a gradient that is too large to stay in a cache, streaming saves a third of the memory traffic.
"""

from __future__ import annotations

from typing import Any

from numba import types
from numba.extending import intrinsic

from xent_numba.backends.cpu.compile.inline import inline
from xent_numba.backends.cpu.compile.numba_private import ir
from xent_numba.backends.cpu.simd.storage import element_pointer, encode, size_of, stored_vector, vector_pointer
from xent_numba.backends.cpu.simd.vector import llvm_call

# How many logits ahead of the computation the software prefetches run, into L2 and into L1.
L2_PREFETCH_DISTANCE, L1_PREFETCH_DISTANCE = 1 << 14, 1 << 11


def _prefetch(locality: int) -> Any:
    """Make a prefetch intrinsic; `locality` is LLVM's: 3 for L1, 2 for L2."""

    def prefetch(typingctx: Any, p: Any, i: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            where = builder.bitcast(element_pointer(context, builder, sig, args), ir.IntType(8).as_pointer())
            flags = [ir.Constant(ir.IntType(32), x) for x in (0, locality, 1)]  # for reading; locality; data cache
            llvm_call(builder, "llvm.prefetch.p0", ir.VoidType(), [where, *flags])
            return context.get_dummy_value()

        return types.void(p, i), codegen

    return intrinsic(prefetch)


# Prefetch the cache line of p[i] into L1 or L2.  The address need not be valid: a prefetch never faults.
prefetch_l1, prefetch_l2 = _prefetch(3), _prefetch(2)


@inline
def prefetch_ahead(p: Any, i: Any) -> None:
    """Prefetch what a loop that is now at p[i] will read later: first into L2, then, closer to its use, into L1."""
    prefetch_l2(p, i + L2_PREFETCH_DISTANCE)
    prefetch_l1(p, i + L1_PREFETCH_DISTANCE)


@intrinsic
def stream(typingctx: Any, p: Any, i: Any, value: Any) -> Any:
    """Write all lanes to p[i], p[i + 1], … with a non-temporal store; p[i] must be aligned to the stored vector."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        where = vector_pointer(context, builder, sig, args, stored_vector(p, value))
        align = size_of(p.dtype) * value.lanes
        write = builder.store(encode(builder, args[2], p.dtype), where, align=align)
        write.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))
        return context.get_dummy_value()

    return types.void(p, i, value), codegen


@intrinsic
def elements_to_alignment(typingctx: Any, p: Any, i: Any, vtype: Any) -> Any:
    """How many elements from p[i] to the first address where `stream` may write a vector of `vtype`.

    -1 if no element has such an address, because `p` is not even aligned to its elements.
    """
    size = size_of(p.dtype)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        where = element_pointer(context, builder, sig, args)
        word = ir.IntType(64)
        bytes_to_go = builder.and_(builder.neg(builder.ptrtoint(where, word)), word(size * vtype.lanes - 1))
        misaligned = builder.icmp_unsigned("!=", builder.and_(bytes_to_go, word(size - 1)), word(0))
        return builder.select(misaligned, word(-1), builder.lshr(bytes_to_go, word(size.bit_length() - 1)))

    return types.int64(p, i, vtype), codegen
