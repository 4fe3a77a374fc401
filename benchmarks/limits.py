"""What the memory of this machine allows: the fastest pass that only reads, and the fastest copy, both in parallel."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit, prange

from xent_numba.backends.cpu.simd.cache_control import prefetch_l1, prefetch_l2, stream
from xent_numba.backends.cpu.simd.load_store import load, pointer
from xent_numba.backends.cpu.simd.reduce import reduce_max
from xent_numba.backends.cpu.simd.vector import maximum, zero_vector

BLOCK = 1 << 16  # float32 that a thread takes at a time
NEAR, FAR = 1024, 4096  # float32 that software prefetch runs ahead


def aligned(count: int, dtype: Any) -> np.ndarray:
    """An array that is aligned to a cache line; its pages are touched, so that no measurement pays for them."""
    size = count * np.dtype(dtype).itemsize
    memory = np.zeros(size + 64, np.uint8)
    memory[:: 1 << 12] = 1
    start = -memory.ctypes.data % 64
    return memory[start : start + size].view(dtype)


@functools.cache
def _make(ahead: int) -> tuple[Any, Any]:
    """(read, copy) with software prefetch that far ahead; 0: none."""
    prefetch = prefetch_l2 if ahead == FAR else prefetch_l1

    @njit(parallel=True, nogil=True)
    def read(x: Any, tops: Any) -> None:
        n, p = x.size, pointer(x)
        for k in prange(tops.size):
            vtype = zero_vector(p)
            a = vtype
            b = c = d = a
            for i in range(k * BLOCK, min(n, (k + 1) * BLOCK) - 63, 64):
                if ahead:
                    prefetch(p, i + ahead)
                    prefetch(p, i + ahead + 16)
                    prefetch(p, i + ahead + 32)
                    prefetch(p, i + ahead + 48)
                a, b = maximum(load(p, i, vtype), a), maximum(load(p, i + 16, vtype), b)
                c, d = maximum(load(p, i + 32, vtype), c), maximum(load(p, i + 48, vtype), d)
            tops[k] = reduce_max(maximum(maximum(a, b), maximum(c, d)))

    @njit(parallel=True, nogil=True)
    def copy(x: Any, out: Any, tops: Any) -> None:
        n, p, q = x.size, pointer(x), pointer(out)
        for k in prange(tops.size):
            vtype = zero_vector(p)
            for i in range(k * BLOCK, min(n, (k + 1) * BLOCK) - 63, 64):
                if ahead:
                    prefetch(p, i + ahead)
                    prefetch(p, i + ahead + 16)
                    prefetch(p, i + ahead + 32)
                    prefetch(p, i + ahead + 48)
                a, b = load(p, i, vtype), load(p, i + 16, vtype)
                c, d = load(p, i + 32, vtype), load(p, i + 48, vtype)
                stream(q, i, a)
                stream(q, i + 16, b)
                stream(q, i + 32, c)
                stream(q, i + 48, d)

    return read, copy


def limits(x: np.ndarray, out: np.ndarray) -> dict[str, list[Callable[[], object]]]:
    """The variants of "read" and "copy" for flat arrays aligned to cache lines; the best of each is the limit."""
    words, target = (array[: array.nbytes // 4 * 4 // array.itemsize].view(np.float32) for array in (x, out))
    tops = np.empty(-(-words.size // BLOCK), np.float32)
    found: dict[str, list[Callable[[], object]]] = {"read": [], "copy": []}
    for ahead in (0, NEAR, FAR):
        read, copy = _make(ahead)
        found["read"].append(lambda read=read: read(words, tops))
        found["copy"].append(lambda copy=copy: copy(words, target, tops))
    return found
