"""Kernels: the compiled functions that Python calls, each kept on disk."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

from numba.core.registry import CPUDispatcher

from xent_numba.backends.cpu.cache import Cache

# NumPy's error model: no division raises.  No reference counting: nobody here owns memory, and counting, atomically,
# costs more than the arithmetic of a short row.
OPTIONS = {"nopython": True, "nogil": True, "error_model": "numpy", "_nrt": False}


class Kernel(CPUDispatcher):
    """A function that Python calls and Numba compiles, or finds on disk."""

    def __init__(self, function: Callable[..., Any], **options: Any) -> None:
        super().__init__(function, {}, {**OPTIONS, **options})
        self._cache = Cache(self)

    def compile(self, sig: Any) -> Any:
        """Compile, without the garbage collector: it would look at all of Numba's objects over and over (15 %)."""
        pause = gc.isenabled()
        if pause:
            gc.disable()
        try:
            return super().compile(sig)
        finally:
            if pause:
                gc.enable()


def kernel(function: Any = None, **options: Any) -> Any:
    """Make a function a `Kernel`, with Numba's options if there are any."""
    if function is None:
        return lambda function: Kernel(function, **options)
    return Kernel(function, **options)
