"""Kernels: the compiled functions that Python calls, each kept on disk.

Numba would find the types of all arguments at each call, 2 µs for the twenty of an `Operands`, and compile again for
arrays that are contiguous or read-only, which makes no difference to these kernels.  So the caller names the types by a
signature key of its own, and as far as Numba knows, three-dimensional arrays have any strides and all arrays can be
written to.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba import types
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import CPUDispatcher

from xent_numba.backends.cpu.compile.cache import Cache

# NumPy's error model: no division raises.  No reference counting: nobody here owns memory, and counting, atomically,
# costs more than the arithmetic of a short row.
OPTIONS = {"nopython": True, "nogil": True, "error_model": "numpy", "_nrt": False}


class Kernel(CPUDispatcher):
    """A function that Python calls as kernel(code, *args), and Numba compiles, or finds on disk.

    Arguments of one code are of one type each: this is not checked, and nothing could be worse than a wrong one.
    """

    def __init__(self, function: Callable[..., Any], **options: Any) -> None:
        super().__init__(function, {}, {**OPTIONS, **options})
        self._cache = Cache(self)
        self._entries: dict[Any, Callable[..., Any]] = {}

    def __call__(self, code: Any, *args: Any) -> Any:
        """Run the machine code for arguments of these types."""
        entry = self._entries.get(code)
        if entry is None:
            entry = self._entries[code] = self._entry(args)
        return entry(*args)

    def _entry(self, args: Any) -> Callable[..., Any]:
        signature = tuple(_type_of(arg) for arg in args)
        if signature not in self.overloads:
            self.compile(signature)
        found: Callable[..., Any] = self.overloads[signature].entry_point
        return found

    def compile(self, sig: Any) -> Any:
        """Compile, without the garbage collector: it would look at all of Numba's objects over and over (15 %).

        It is off within the lock alone, for which a fork waits: no child is left without it.
        """
        with global_compiler_lock:
            enabled = gc.isenabled()
            try:
                gc.disable()
                return super().compile(sig)
            finally:
                if enabled:
                    gc.enable()


def kernel(function: Any = None, **options: Any) -> Any:
    """Make a function a `Kernel`, with Numba's options if there are any."""
    if function is None:
        return lambda function: Kernel(function, **options)
    return Kernel(function, **options)


def signature_key(value: Any) -> Any:
    """A code for the types of some arguments, from themselves."""
    if isinstance(value, tuple):
        return type(value), *(signature_key(part) for part in value)
    if isinstance(value, np.ndarray):
        return value.dtype.char, value.ndim, value.ndim == 3 or value.flags.c_contiguous
    return type(value)


def _type_of(value: Any) -> Any:
    if type(value) is tuple:  # a named tuple, of numbers only, keeps its class
        return types.Tuple([_type_of(part) for part in value])
    kind = numba.typeof(value)
    if not isinstance(kind, types.Array):
        return kind
    return types.Array(kind.dtype, kind.ndim, "A" if kind.ndim == 3 else kind.layout)
