"""The one parallel loop that all kernels share.

Numba compiles a `prange` loop three times over, each time with its whole body: two seconds for a kernel here.  So the
loop stands in a function of its own, which calls its body by address and knows nothing of it.  A kernel is compiled
once and runs serially or in parallel, as its caller says: `parallel_for` takes the address of a description of the
loop, or 0 to run serially.

What must be undone at the end, the number of threads and the lock under `workqueue`, is done and undone by the loop
itself: between Python's instructions a Ctrl-C can come, and in machine code nothing can.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.core import cgutils
from numba.core.extending import intrinsic

from xent_numba.backends.cpu.compile.kernel import kernel

_WORD = ir.IntType(64)
_INT = ir.IntType(32)
_BYTES = ir.IntType(8).as_pointer()
_BODY = ir.FunctionType(ir.VoidType(), (_BYTES, _WORD))  # (arguments, k)
_LOOP = ir.FunctionType(ir.VoidType(), (_WORD,) * 4)  # (address of a body, of its arguments, n, of a description)
_ADDRESS, _THREADS, _LOCK = range(3)  # words of a description: of the loop, how many, of a lock or 0


@intrinsic
def parallel_for(typing_context: Any, piece: Any, args: Any, n: Any, loop: Any) -> Any:
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
                address = builder.load(builder.inttoptr(loop, _WORD.as_pointer()))
                shared = builder.inttoptr(address, _LOOP.as_pointer())
                builder.call(shared, (builder.ptrtoint(body, _WORD), builder.ptrtoint(memory, _WORD), n, loop))
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


@intrinsic
def _load_word(typing_context: Any, description: Any, index: Any) -> Any:
    """One word of a description."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        address, index = values
        return builder.load(builder.gep(builder.inttoptr(address, _WORD.as_pointer()), [index]))

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def _try_acquire(typing_context: Any, lock: Any) -> Any:
    """Whether a lock was free, and is held from now on."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        place = builder.inttoptr(values[0], _WORD.as_pointer())
        return builder.extract_value(builder.cmpxchg(place, _WORD(0), _WORD(1), "acquire", "monotonic"), 1)

    return types.boolean(types.int64), codegen


@intrinsic
def _release(typing_context: Any, lock: Any) -> Any:
    """Free a lock."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        place = builder.inttoptr(values[0], _WORD.as_pointer())
        builder.store_atomic(_WORD(0), place, "release", 8)
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@intrinsic
def _set_threads(typing_context: Any, n: Any) -> Any:
    """Let the parallel loops of this thread have n threads; how many they had.  Without Numba's checks."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        get = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_WORD, ()), "get_num_threads")
        put = cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.VoidType(), (_INT,)), "set_num_threads")
        before = builder.call(get, ())
        builder.call(put, (builder.trunc(values[0], _INT),))
        return before

    return types.int64(types.int64), codegen


@kernel(parallel=True)
def _loop(body: int, arguments: int, n: int, description: int) -> None:
    lock = _load_word(description, _LOCK)
    if lock and not _try_acquire(lock):
        for k in range(n):
            _call(body, arguments, k)
        return
    before = _set_threads(_load_word(description, _THREADS))
    for k in prange(n):
        _call(body, arguments, k)
    _set_threads(before)
    if lock:
        _release(lock)


@cache
def _address() -> int:
    takes = (types.int64,) * 4
    _loop.compile(types.void(*takes))
    compiled = _loop.overloads[takes]
    return int(compiled.library.get_pointer_to_function(compiled.fndesc.llvm_cfunc_wrapper_name))


_one_at_a_time = np.zeros(1, np.int64)
_descriptions: list[np.ndarray] = []  # for as long as the process: machine code knows their addresses


@cache
def loop_descriptor(threads: int, one_at_a_time: bool) -> int:
    """The address of a description: what `parallel_for` takes to run in parallel, by so many threads.

    With `one_at_a_time`, while one thread of Python is in the loop, the loops of the others are serial.
    """
    description = np.zeros(3, np.int64)
    description[_ADDRESS] = _address()
    description[_THREADS] = threads
    description[_LOCK] = _one_at_a_time.ctypes.data if one_at_a_time else 0
    _descriptions.append(description)
    return int(description.ctypes.data)
