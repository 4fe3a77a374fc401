"""The one parallel loop that all kernels share.

Numba compiles a `prange` loop three times over, each time with its whole body: two seconds for a kernel here.  So the
loop stands in a function of its own, which calls its body by address and knows nothing of it.  A kernel is compiled
once and runs serially or in parallel, as its caller says: `each` takes the address of the loop, or 0 to run serially.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from llvmlite import ir
from numba import prange, types
from numba.core import cgutils
from numba.core.extending import intrinsic

from xent_numba.backends.cpu.kernel import kernel

_WORD = ir.IntType(64)
_BYTES = ir.IntType(8).as_pointer()
_BODY = ir.FunctionType(ir.VoidType(), (_BYTES, _WORD))  # (arguments, k)
_LOOP = ir.FunctionType(ir.VoidType(), (_WORD, _WORD, _WORD))  # (address of a body, of its arguments, n)


@intrinsic
def each(typing_context: Any, piece: Any, args: Any, n: Any, loop: Any) -> Any:
    """piece(*args, k) for each k < n, one after the other, or by the loop at an address that is not 0."""
    takes = (*args.types, types.int64)
    called = piece.get_call_type(typing_context, takes, {})

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        _, packed, n, loop = values
        compiled = piece.dispatcher.get_compiled(called)
        context.active_code_library.add_linking_library(compiled.library)
        body = ir.Function(builder.module, _BODY, f"{context.active_code_library.name}.{builder.module.name}.body")
        body.linkage = "internal"
        body.attributes.add("noinline")  # one copy, for both ways
        inner = ir.IRBuilder(body.append_basic_block("entry"))
        given = inner.load(inner.bitcast(body.args[0], packed.type.as_pointer()))
        arguments = [inner.extract_value(given, i) for i in range(len(args))]
        function = context.declare_function(builder.module, compiled.fndesc)
        context.call_conv.call_function(inner, function, called.return_type, takes, [*arguments, body.args[1]])
        inner.ret_void()

        memory = builder.bitcast(cgutils.alloca_once_value(builder, packed), _BYTES)
        serially = builder.icmp_unsigned("==", loop, _WORD(0))
        with builder.if_else(serially) as (then, otherwise):
            with then, cgutils.for_range(builder, n) as k:
                builder.call(body, (memory, k.index))
            with otherwise:
                shared = builder.inttoptr(loop, _LOOP.as_pointer())
                builder.call(shared, (builder.ptrtoint(body, _WORD), builder.ptrtoint(memory, _WORD), n))
        return context.get_dummy_value()

    return types.void(piece, args, types.int64, types.int64), codegen


@intrinsic
def _call(typing_context: Any, body: Any, arguments: Any, k: Any) -> Any:
    """Call a body by its address."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        body, arguments, k = values
        builder.call(builder.inttoptr(body, _BODY.as_pointer()), (builder.inttoptr(arguments, _BYTES), k))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@kernel(parallel=True)
def _loop(body: int, arguments: int, n: int) -> None:
    for k in prange(n):
        _call(body, arguments, k)


@cache
def address() -> int:
    """Where the loop is: what `each` takes to run in parallel."""
    takes = (types.int64,) * 3
    _loop.compile(types.void(*takes))
    compiled = _loop.overloads[takes]
    return int(compiled.library.get_pointer_to_function(compiled.fndesc.llvm_cfunc_wrapper_name))
