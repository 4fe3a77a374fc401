"""Memory for large results, and what becomes of it when nobody holds them any more.

A fresh gigabyte costs more than the loss and gradient written to it: the system clears it page by page.  So what a
large result was written to is kept when the last array on it is gone, and the next result of about that size gets it:
a loop of steps finds its memory as a call with `grad_out` does.  At most `keep()` bytes wait like that, and none where
memory runs out.

Memory comes back at any time: wherever Python lets go of an array or collects garbage, in any thread, be it in the
middle of a function of this module.  So what is done with the memory that waits is one step of a list each, which
nothing comes between, and nothing here waits for a lock.
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
DEFAULT = 1 << 10
LEAST = 1 << 24  # bytes of a result from which on this is worth it
LINE = 64  # bytes


@cache
def keep() -> int:
    """How many bytes may wait.  Read when first needed: an import must not fail over it."""
    given = os.environ.get(VARIABLE) or str(DEFAULT)
    if not given.isdecimal():
        raise ValueError(f"{VARIABLE} = {given!r} must be a whole number of MiB, or 0 to keep no memory of results")
    return int(given) << 20


class _Memory(np.ndarray):
    """Bytes that arrays are made on.  A type of its own, so that NumPy does not look through it for their owner."""

    claim: weakref.ref[Any]  # takes it back when what was lent is gone


class _Lent(np.ndarray):
    """What one result lies on.  A type of its own too: a view of it holds it, not the memory behind its back."""


def _alone() -> int:
    """The number of references that Python counts to something which one variable holds."""
    something = object()
    return sys.getrefcount(something)


ALONE = _alone()
_waiting: list[_Memory] = []  # the one freed last at the end


def empty_like(array: Array) -> Array:
    """As np.empty_like, but on memory of an earlier result if there is some."""
    try:
        return _made(array)
    except MemoryError:
        if not _waiting:
            raise
        _waiting.clear()
        return _made(array)


def _made(array: Array) -> Array:
    if array.nbytes < LEAST or type(array) is not np.ndarray or not _in_c_order(array) or not keep():
        return np.empty_like(array)
    needed = array.nbytes + LINE
    memory = _found(needed)
    if memory is None:
        memory = _Memory.__new__(_Memory, (needed,), np.uint8)
    start = -memory.ctypes.data % LINE
    given_out = memory[start : start + array.nbytes].view(_Lent)
    memory.claim = weakref.ref(given_out, partial(_take_back, memory, _waiting, keep()))
    return np.ndarray(array.shape, array.dtype, buffer=given_out)


def _in_c_order(array: Array) -> bool:
    """Whether np.empty_like makes a C-contiguous array of it, as of rows that are padded."""
    steps = array.strides
    return steps[-1] > 0 and all(outer >= inner for outer, inner in pairwise(steps))


def _found(needed: int) -> _Memory | None:
    """Memory that waits and is large enough, but not by more than a quarter."""
    for _ in range(len(_waiting)):
        try:
            memory = _waiting.pop()
        except IndexError:  # another thread was quicker
            return None
        if sys.getrefcount(memory) != ALONE:  # who looked for the base of a base holds it: let it be theirs
            continue
        if needed <= memory.nbytes <= needed + needed // 4:
            return memory
        _waiting.insert(0, memory)
    return None


def _take_back(memory: _Memory, waiting: list[_Memory], most: int, _: object, size: Any = attrgetter("nbytes")) -> None:
    """Nobody holds an array on it any more.

    As short as can be, since Ctrl-C has no effect in what the end of an object calls; and without a name of this
    module, as these may be gone before the last result is.
    """
    waiting.append(memory)
    while sum(map(size, waiting)) > most:
        del waiting[:1]
