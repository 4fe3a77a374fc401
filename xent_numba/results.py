"""Memory of large results, reused once nobody holds them.

Allocating a fresh gigabyte costs more than writing a loss and a gradient to it, because the operating system clears
every page first.  So when the last array on the memory of a large result is gone, that memory is kept, and the next
result of about the same size is placed on it.  A training loop then runs as fast as one that passes `grad_out`.

Three limits apply.  At most `keep()` bytes are kept: 1 GiB, or an eighth of the memory that the process may use where
that is less.  Everything kept is given up when an allocation fails.  And nothing is kept where reference counts cannot
prove that memory is free: on free-threaded builds of Python, and on implementations other than CPython.

Memory can be returned at any moment: wherever Python drops an array or collects garbage, in any thread, even in the
middle of a function of this module.  So the list of kept memory is only ever changed by single list operations, which
are atomic, and no code here takes a lock.
"""

from __future__ import annotations

import os
import sys
import weakref
from functools import cache, partial
from itertools import pairwise
from operator import attrgetter
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    Array = NDArray[Any]

VARIABLE = "XENT_NUMBA_KEEP"  # MiB
DEFAULT = 1 << 30  # bytes
SHARE = 8  # the default is at most one part in so many of the memory that the process may use
UNKNOWN = 1 << 28  # bytes: the default where that amount is unknown
LEAST = 1 << 24  # bytes: smaller results are cheap to allocate
LINE = 64  # bytes of a cache line
CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # versions 2 and 1


@cache
def keep() -> int:
    """How many bytes may be kept.  Read on first use, so that importing the package cannot fail over it."""
    given = os.environ.get(VARIABLE)
    if given and not given.isdecimal():
        raise ValueError(f"{VARIABLE} = {given!r} must be a whole number of MiB, or 0 to keep no memory of results")
    if not counts_are_exact():
        return 0
    if given:
        return int(given) << 20
    memory = usable_memory()
    return UNKNOWN if memory is None else min(DEFAULT, memory // SHARE)


def counts_are_exact() -> bool:
    """Whether a reference count tells how many references there are: on CPython with a global interpreter lock."""
    import sysconfig  # here, so that importing the package stays quick

    return sys.implementation.name == "cpython" and not sysconfig.get_config_var("Py_GIL_DISABLED")


def usable_memory() -> int | None:
    """Bytes of memory that this process may use: the machine's, or the limit of its container; None if unknown."""
    try:
        found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    except (AttributeError, OSError, ValueError):  # Windows has no sysconf, others may lack a name
        return None
    for path in CGROUP_LIMITS:
        try:
            with open(path, encoding="ascii") as file:
                found.append(int(file.read()))
        except (OSError, ValueError):  # no such limit, or "max"
            continue
    return min(found)


class _Memory(np.ndarray):
    """The bytes that results are placed on.  A subclass, so that NumPy does not collapse views past it."""

    claim: weakref.ref[Any]  # takes the memory back when the `_Lent` array on it is gone


class _Lent(np.ndarray):
    """The base of one result.  A subclass, so that views of the result keep this array alive, not just `_Memory`."""


def _references(holder: list[Any]) -> int:
    """The reference count of the one object that a list holds."""
    return sys.getrefcount(holder[0])


_waiting: list[_Memory] = []  # the memory that is kept, most recently freed last


def empty_like(array: Array, beside: Array | None = None) -> Array:
    """Like np.empty_like, but on the memory of an earlier result where there is some.

    Like a broadcast array is one in C order: np.empty_like would put the repeated axis first in memory.  A large result
    begins at a cache line, or is aligned as the array is that it is computed beside, so that both fill whole lines.
    """
    offset = 0 if beside is None else beside.ctypes.data % LINE
    try:
        return _made(array, offset)
    except MemoryError:
        if not _waiting:
            raise
        _waiting.clear()
        return _made(array, offset)


def _made(array: Array, offset: int) -> Array:
    """An uninitialised array like `array`; large C-contiguous ones are placed on memory that can be taken back.

    These begin `offset` bytes after the beginning of a cache line.
    """
    in_c_order = array.flags.c_contiguous or _is_broadcast(array)
    if array.nbytes < LEAST or type(array) is not np.ndarray or not (in_c_order or _in_c_order(array)) or not keep():
        return np.empty(array.shape, array.dtype) if in_c_order else np.empty_like(array)
    needed = array.nbytes + LINE
    memory = _found(needed)
    if memory is None:
        memory = _Memory.__new__(_Memory, (needed,), np.uint8)
    start = (offset - memory.ctypes.data) % LINE
    given_out = memory[start : start + array.nbytes].view(_Lent)
    memory.claim = weakref.ref(given_out, partial(_take_back, memory, _waiting, keep()))
    return np.ndarray(array.shape, array.dtype, buffer=given_out)


def _is_broadcast(array: Array) -> bool:
    """Whether an axis repeats the same memory."""
    return any(step == 0 and size > 1 for step, size in zip(array.strides, array.shape, strict=True))


def _in_c_order(array: Array) -> bool:
    """Whether np.empty_like of this array is C-contiguous, as it is for padded rows too."""
    steps = array.strides
    return steps[-1] > 0 and all(outer >= inner for outer, inner in pairwise(steps))


def _found(needed: int) -> _Memory | None:
    """Kept memory that is large enough, by no more than a quarter; None where there is none."""
    free = _references([object()])
    for _ in range(len(_waiting)):
        try:
            held = [_waiting.pop()]
        except IndexError:  # another thread took the last one
            return None
        if _references(held) != free:  # someone reached it through `base` of a `base`, and may still write to it
            continue
        if needed <= held[0].nbytes <= needed + needed // 4:
            return held[0]
        _waiting.insert(0, held[0])
    return None


def _take_back(memory: _Memory, waiting: list[_Memory], most: int, _: object, size: Any = attrgetter("nbytes")) -> None:
    """Keep the memory of a result that is gone, and give up the oldest beyond `most` bytes.

    As short as possible, because an exception raised by Ctrl-C in here would be ignored and lost.  It uses no global
    name of this module, because at interpreter exit those may be gone before the last result is.
    """
    waiting.append(memory)
    while sum(map(size, waiting)) > most:
        del waiting[:1]
