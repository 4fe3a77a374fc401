"""Kernels: the compiled functions that Python calls, each cached on disk.

Numba's own dispatcher finds the types of all arguments at every call, which takes 2 µs for the eighteen fields of an
`Operands`, and it compiles separate code for contiguous and for read-only arrays, though these kernels need only one.
So the caller passes a signature key that stands for the types (`signature_key`).  For compilation, three-dimensional
arrays count as having any strides, and every array as writable.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numba
import numpy as np
from numba import types

from xent_numba.backends.cpu.compile.cache import Cache
from xent_numba.backends.cpu.compile.numba_private import CPUDispatcher, global_compiler_lock
from xent_numba.backends.diagnosis import unusable
from xent_numba.interrupts import uninterrupted

# NumPy's error model: no division raises.  No reference counting: kernels own no memory, and atomic counting would cost
# more than the arithmetic of a short row.
OPTIONS = {"nopython": True, "nogil": True, "error_model": "numpy", "_nrt": False}


class Kernel(CPUDispatcher):
    """A function that Python calls as kernel(key, *args), and that Numba compiles or loads from disk.

    All calls with the same signature key must have arguments of the same types.  This is not checked: with other types,
    the machine code would misread its arguments.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function, {}, dict(OPTIONS))
        self._cache = Cache(self)
        self._entries: dict[Any, Callable[..., Any]] = {}

    def __call__(self, key: Any, *args: Any) -> Any:
        """Run the machine code for arguments with this signature key."""
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = self._entry(args)
        return entry(*args)

    def _entry(self, args: Any) -> Callable[..., Any]:
        """The entry point for arguments of these types, compiled if need be."""
        signature = tuple(_type_of(arg) for arg in args)
        if signature not in self.overloads:
            self.compile(signature)
        found: Callable[..., Any] = self.overloads[signature].entry_point
        return found

    def compile(self, sig: Any) -> Any:
        """Compile, or load from disk, for a signature."""
        with compiling(self.py_func.__name__):
            return super().compile(sig)


def kernel(function: Any) -> Any:
    """Make a function a `Kernel`: `@kernel`."""
    return Kernel(function)


@contextmanager
def compiling(name: str) -> Iterator[None]:
    """Around a compilation: the garbage collector is off, which would traverse all of Numba's objects again and again.

    That saves 15 % of the time.  It is off only while the compiler lock is held, and a fork waits for that lock, so no
    child inherits it off.  Ctrl-C waits until the end, since Numba imports some of its modules only now.  An error says
    that it is one of the compiler.
    """
    with uninterrupted(), global_compiler_lock:
        enabled = gc.isenabled()
        try:
            gc.disable()
            yield
        except Exception as error:
            error.add_note(unusable(f"compiling {name!r} failed"))
            raise
        finally:
            if enabled:
                gc.enable()


def address(compiled: Any) -> int:
    """The address of the machine code of a compile result, as a C function of the same arguments."""
    return int(compiled.library.get_pointer_to_function(compiled.fndesc.llvm_cfunc_wrapper_name))


def signature_key(value: Any) -> Any:
    """A hashable key for the type of an argument, or for the types in a tuple of arguments."""
    if type(value) is tuple:
        return tuple([signature_key(part) for part in value])
    if isinstance(value, tuple):  # a named tuple of numbers, of which the class is enough
        return type(value)
    if isinstance(value, np.ndarray):
        return value.dtype.char, value.ndim, value.ndim == 3 or value.flags.c_contiguous
    return type(value)


def _type_of(value: Any) -> Any:
    """The Numba type of an argument: arrays are writable, and those of three dimensions have any strides."""
    if type(value) is tuple:  # a named tuple, of numbers only, keeps its class
        return types.Tuple([_type_of(part) for part in value])
    kind = numba.typeof(value)
    if not isinstance(kind, types.Array):
        return kind
    return types.Array(kind.dtype, kind.ndim, "A" if kind.ndim == 3 else kind.layout)
