"""Memory for large results, and what becomes of it when nobody holds them any more.

A fresh gigabyte costs more than the loss and gradient written to it: the system clears it page by page.  So what a
large result was written to is kept when the last array on it is gone, and the next result of about that size gets it:
a loop of steps finds its memory as a call with `grad_out` does.  At most `KEEP` bytes wait like that.
"""

from __future__ import annotations

import os
import sys
import weakref
from collections import deque
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    Array = NDArray[Any]

VARIABLE = "XENT_NUMBA_KEEP"  # MiB
LEAST = 1 << 24  # bytes of a result from which on this is worth it
LINE = 64  # bytes


def _keep() -> int:
    given = os.environ.get(VARIABLE, "")
    return int(given) << 20 if given.isdecimal() else 1 << 30


class _Memory(np.ndarray):
    """Bytes that arrays are made on.  A type of its own, so that NumPy does not look through it for their owner."""


class _Lent(np.ndarray):
    """What one result lies on.  A type of its own too: a view of it holds it, not the memory behind its back."""


def _alone() -> int:
    """The number of references that Python counts to something which one variable holds."""
    something = object()
    return sys.getrefcount(something)


ALONE = _alone()
KEEP = _keep()
_waiting: deque[Array] = deque()  # the one freed last at the right; its methods are atomic


def empty_like(array: Array) -> Array:
    """As np.empty_like, but on memory of an earlier result if there is some."""
    if array.nbytes < LEAST or not KEEP or not array.flags.c_contiguous or type(array) is not np.ndarray:
        return np.empty_like(array)
    needed = array.nbytes + LINE
    memory = _found(needed)
    if memory is None:
        memory = np.ndarray.__new__(_Memory, (needed,), np.uint8)
    start = -memory.ctypes.data % LINE
    given_out = memory[start : start + array.nbytes].view(_Lent)
    weakref.finalize(given_out, _take_back, memory).atexit = False
    return np.ndarray(array.shape, array.dtype, buffer=given_out)


def _found(needed: int) -> Array | None:
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
        _waiting.appendleft(memory)
    return None


def _take_back(memory: Array) -> None:
    """Nobody holds an array on it any more."""
    _waiting.append(memory)
    while sum(one.nbytes for one in tuple(_waiting)) > KEEP:
        try:
            _waiting.popleft()
        except IndexError:
            return
