"""The one parallel loop that all kernels share.

Numba compiles the body of a `prange` loop three times, which takes two seconds for a kernel of this size.  So the
`prange` loop is in a function of its own, `_shared_loop`, which is given the address of its body and calls it for each
index.  It is an ordinary `@njit(parallel=True)`, except that it is cached as kernels are, and that kernels call its
machine code by address.  A kernel is compiled once and runs serially or in parallel, as its caller says: `parallel_for`
takes the address of a loop descriptor (`loop_descriptor`), or 0 to run serially.

The loop itself sets the number of threads, and takes the lock that the `workqueue` layer needs, and restores both.  All
of that is machine code, which a Ctrl-C does not interrupt; between Python instructions it could, and would leave the
lock held or the number of threads changed.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import njit, prange, types
from numba.extending import intrinsic

from xent_numba.backends.cpu.compile.cache import cached
from xent_numba.backends.cpu.compile.kernel import address, compiling
from xent_numba.backends.cpu.compile.numba_private import alloca_once_value, for_range, get_or_insert_function, ir

_WORD = ir.IntType(64)
_INT = ir.IntType(32)
_BYTES = ir.IntType(8).as_pointer()
_BODY = ir.FunctionType(ir.VoidType(), (_BYTES, _WORD))  # (packed arguments, k)
_LOOP = ir.FunctionType(ir.VoidType(), (_WORD,) * 4)  # (address of a body, of its arguments, n, of a descriptor)
_LOOP_ADDRESS, _THREADS, _LOCK = range(3)  # words of a descriptor: of the loop, how many, of a lock or 0


@intrinsic
def parallel_for(typingctx: Any, function: Any, args: Any, n: Any, descriptor: Any) -> Any:
    """function(*args, k) for each k < n: in order if `descriptor` is 0, otherwise in parallel by its shared loop.

    `function` is an inline function, `args` a tuple.
    """
    arg_types = (*args.types, types.int64)
    call_type = function.get_call_type(typingctx, arg_types, {})

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        _, packed, n, descriptor = values
        compiled = function.dispatcher.get_compiled(call_type)
        context.active_code_library.add_linking_library(compiled.library)
        body = ir.Function(builder.module, _BODY, f"{context.active_code_library.name}.{builder.module.name}.body")
        body.linkage = "internal"
        body.attributes.add("noinline")  # one copy, for the serial and the parallel loop
        inner = ir.IRBuilder(body.append_basic_block("entry"))
        unpacked = inner.load(inner.bitcast(body.args[0], packed.type.as_pointer()))
        arguments = [inner.extract_value(unpacked, i) for i in range(len(args))]
        callee = context.declare_function(builder.module, compiled.fndesc)
        context.call_conv.call_function(inner, callee, call_type.return_type, arg_types, [*arguments, body.args[1]])
        inner.ret_void()

        memory = builder.bitcast(alloca_once_value(builder, packed), _BYTES)
        serial = builder.icmp_unsigned("==", descriptor, _WORD(0))
        with builder.if_else(serial) as (then, otherwise):
            with then, for_range(builder, n) as k:
                builder.call(body, (memory, k.index))
            with otherwise:
                address = builder.load(builder.inttoptr(descriptor, _WORD.as_pointer()))
                loop = builder.inttoptr(address, _LOOP.as_pointer())
                builder.call(loop, (builder.ptrtoint(body, _WORD), builder.ptrtoint(memory, _WORD), n, descriptor))
        return context.get_dummy_value()

    return types.void(function, args, types.int64, types.int64), codegen


@intrinsic
def _call(typingctx: Any, body: Any, arguments: Any, k: Any) -> Any:
    """Call a loop body by its address, with the address of its packed arguments."""

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        body, arguments, k = values
        builder.call(builder.inttoptr(body, _BODY.as_pointer()), (builder.inttoptr(arguments, _BYTES), k))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), codegen


@intrinsic
def _load_word(typingctx: Any, descriptor: Any, index: Any) -> Any:
    """One word of a loop descriptor."""

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        address, index = values
        return builder.load(builder.gep(builder.inttoptr(address, _WORD.as_pointer()), [index]))

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def _try_acquire(typingctx: Any, lock: Any) -> Any:
    """Take the lock at this address if it is free; whether it was."""

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        place = builder.inttoptr(values[0], _WORD.as_pointer())
        return builder.extract_value(builder.cmpxchg(place, _WORD(0), _WORD(1), "acquire", "monotonic"), 1)

    return types.boolean(types.int64), codegen


@intrinsic
def _release(typingctx: Any, lock: Any) -> Any:
    """Release the lock at this address."""

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        place = builder.inttoptr(values[0], _WORD.as_pointer())
        builder.store_atomic(_WORD(0), place, "release", 8)
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@intrinsic
def _set_threads(typingctx: Any, n: Any) -> Any:
    """Set how many threads the parallel loops of this thread have, without Numba's checks; how many they had before."""

    def codegen(context: Any, builder: Any, sig: Any, values: Any) -> Any:
        getter = get_or_insert_function(builder.module, ir.FunctionType(_WORD, ()), "get_num_threads")
        setter = get_or_insert_function(builder.module, ir.FunctionType(ir.VoidType(), (_INT,)), "set_num_threads")
        before = builder.call(getter, ())
        builder.call(setter, (builder.trunc(values[0], _INT),))
        return before

    return types.int64(types.int64), codegen


@cached
@njit(parallel=True, error_model="numpy")
def _shared_loop(body: int, arguments: int, n: int, descriptor: int) -> None:
    """Call the body for each k < n, in parallel; serially if another thread holds the lock of the descriptor."""
    lock = _load_word(descriptor, _LOCK)
    if lock and not _try_acquire(lock):
        for k in range(n):
            _call(body, arguments, k)
        return
    before = _set_threads(_load_word(descriptor, _THREADS))
    for k in prange(n):
        _call(body, arguments, k)
    _set_threads(before)
    if lock:
        _release(lock)


@cache
def _loop_address() -> int:
    """The address of the machine code of `_shared_loop`, which is compiled at the first call."""
    arg_types = (types.int64,) * 4
    with compiling("_shared_loop"):
        _shared_loop.compile(types.void(*arg_types))
    return address(_shared_loop.overloads[arg_types])


_lock = np.zeros(1, np.int64)  # 1 while a thread is in a parallel loop that excludes others
_descriptors: list[np.ndarray] = []  # never freed, since machine code knows their addresses


@cache
def loop_descriptor(threads: int, exclusive: bool) -> int:
    """The address of a loop descriptor for this many threads, which `parallel_for` takes.

    If `exclusive`, the loops of other Python threads run serially while one thread is in a parallel loop.
    """
    descriptor = np.zeros(3, np.int64)
    descriptor[_LOOP_ADDRESS] = _loop_address()
    descriptor[_THREADS] = threads
    descriptor[_LOCK] = _lock.ctypes.data if exclusive else 0
    _descriptors.append(descriptor)
    return int(descriptor.ctypes.data)
