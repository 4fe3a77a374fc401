"""Kernels: the compiled functions that Python calls, each cached on disk.

Numba's own dispatcher finds the types of all arguments at every call, which takes 2 µs for the eighteen fields of an
`Operands`, and it compiles separate code for contiguous and for read-only arrays, though these kernels need only one.
So the caller passes a signature key that stands for the types (`signature_key`).  For compilation, three-dimensional
arrays count as having any strides, and every array as writable.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba import types

from xent_numba.backends.cpu.compile.cache import Cache
from xent_numba.backends.cpu.compile.numba_private import CPUDispatcher, global_compiler_lock
from xent_numba.interrupts import uninterrupted

# NumPy's error model: no division raises.  No reference counting: kernels own no memory, and atomic counting would cost
# more than the arithmetic of a short row.
OPTIONS = {"nopython": True, "nogil": True, "error_model": "numpy", "_nrt": False}


class Kernel(CPUDispatcher):
    """A function that Python calls as kernel(key, *args), and that Numba compiles or loads from disk.

    All calls with the same signature key must have arguments of the same types.  This is not checked: with other types,
    the machine code would misread its arguments.
    """

    def __init__(self, function: Callable[..., Any], **options: Any) -> None:
        super().__init__(function, {}, {**OPTIONS, **options})
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
        """Compile with the garbage collector off, which would traverse all of Numba's objects over and over (15 %).

        It is off only while the compiler lock is held, and a fork waits for that lock, so no child inherits it off.
        Ctrl-C waits until the end, since Numba imports some of its modules only now.
        """
        with uninterrupted(), global_compiler_lock:
            enabled = gc.isenabled()
            try:
                gc.disable()
                return super().compile(sig)
            finally:
                if enabled:
                    gc.enable()


def kernel(function: Any = None, **options: Any) -> Any:
    """Make a function a `Kernel`: `@kernel`, or `@kernel(parallel=True)` with further options of Numba's."""
    if function is None:
        return lambda function: Kernel(function, **options)
    return Kernel(function, **options)


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
