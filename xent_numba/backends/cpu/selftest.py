"""Whether the installed Numba can compile, cache and run what this backend consists of.

The backend rests on private parts of Numba and llvmlite, which may change with any release.  What is missing shows when
the backend is imported; what has changed shows here, before the first call, in a kernel that has one of each part: an
inline function, one that depends on the types of its arguments, vectors, the parallel loop (run serially, so that no
thread is started), and a round trip through the format of the cache.

A test that has passed is noted in the directory of the cache, and is not repeated with the same versions, sources and
processor.  Where there is no such directory, each process tests once.  That takes up to half a second, most of which
Numba needs before it can compile anything; the test itself adds 0.1 s of processor time to the 3.5 s of a first call.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types

from xent_numba.backends.cpu.compile.cache import Cache, has_passed, note_passed
from xent_numba.backends.cpu.compile.inline import inline, specialize
from xent_numba.backends.cpu.compile.kernel import Kernel, address
from xent_numba.backends.cpu.compile.numba_private import global_compiler_lock
from xent_numba.backends.cpu.runtime import threads
from xent_numba.backends.cpu.runtime.parallel_for import parallel_for
from xent_numba.backends.cpu.simd.load_store import load, pointer, stride
from xent_numba.backends.cpu.simd.reduce import reduce_add
from xent_numba.backends.cpu.simd.vector import zero_vector
from xent_numba.backends.diagnosis import unusable
from xent_numba.interrupts import uninterrupted

ROWS = np.arange(16.0).reshape(2, 8)
FACTOR = 0.5
RIGHT = [84.0, 596.0]  # Σ (x² + x) · FACTOR of each row, without rounding
_found: list[str | None] = []  # what `why_not` says, once it is known


@specialize
def _scaled(value: Any, factor: Any) -> Any:
    """value · factor, or the value where the factor is None."""
    if isinstance(factor, types.NoneType):
        return lambda value, factor: value
    return lambda value, factor: value * factor


@inline
def _row(rows: Any, factor: Any, sums: Any, k: int) -> None:
    """Compute row k."""
    p = pointer(rows)
    x = load(p, k * stride(rows, 0), zero_vector(p))
    sums[k] = _scaled(reduce_add(x * x + x), factor)


def _sums(rows: Any, factor: Any, sums: Any, loop: int) -> None:
    """The kernel: Σ (x² + x) · factor of each row of (N, 8) float64."""
    parallel_for(_row, (rows, factor, sums), sums.size, loop)


class _InMemory(Cache):
    """A cache without a disk: one function, in the bytes that its file would consist of."""

    content: bytes | None = None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep a compiled function."""
        self._file(sig, data.codegen)  # only its name, which is made with private names too
        if self._impl.check_cachable(data):
            self.content = self.pack(data)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The function that is kept, if any."""
        target_context.refresh()
        return None if self.content is None else self.unpack(self.content, target_context)


def why_not() -> str | None:
    """None if this backend works with the installed Numba, else a sentence that says what does not, and what to do.

    It is found once in a process, with the lock that any compilation takes, and that a fork waits for.
    """
    if not _found:
        with uninterrupted(), global_compiler_lock:
            if not _found:
                _found.append(_outcome())
    return _found[0]


def _outcome() -> str | None:
    """What `why_not` says, found anew."""
    try:
        if has_passed():
            return None
        problem = _problem()
    except (MemoryError, RecursionError):  # of this call, not of this Numba
        raise
    except Exception as error:  # whatever a changed Numba may raise
        return unusable("the self-test of its kernels failed", error)
    if problem is None:
        note_passed()
        return None
    return unusable(f"the self-test of its kernels failed ({problem})")


def _problem() -> str | None:
    """What is wrong with the results of the kernel, compiled and loaded from the cache; None if all is well."""
    compiled, loaded = Kernel(_sums), Kernel(_sums)
    compiled._cache = loaded._cache = _InMemory(compiled)
    for kernel, how in ((compiled, "compiled"), (loaded, "loaded from the cache")):
        sums = np.zeros(len(ROWS))
        kernel("", ROWS, FACTOR, sums, 0)
        if sums.tolist() != RIGHT:
            return f"a kernel, {how}, computes {sums.tolist()} instead of {RIGHT}"
    if not loaded.stats.cache_hits:
        return "a compiled kernel cannot be loaded"
    if not all(address(result) for result in loaded.overloads.values()):
        return "a kernel has no address"
    threads.layer()
    return None
