"""Whether a fork has left this process without the threads that Numba or GNU OpenMP believes it has.

A forked child is a copy of its parent with a single thread.  In it, GNU OpenMP would wait forever for the others, and
Numba ends the process to prevent that.  It does not matter who started the threads: this package, the user's own Numba
functions or another library.  So forks are watched from the import of this package on, without importing Numba.

A fork waits for the locks that a thread may hold while it compiles or starts threads: otherwise the child would wait
forever for a lock that no thread of its own will release.  They are all taken here, since backends may be imported in
any order, and locks that are not always taken in the same order can block each other.

Where this process was forked before that import, only the Linux kernel can tell.  Threads that were started after the
fork are then taken for threads of the parent, and calls run serially although they need not.  That is the safe error.
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any

PF_FORKNOEXEC = 0x40  # include/linux/sched.h: forked, and no other program started since


def _threads_are_started() -> bool:
    """Whether Numba has started threads, or GNU OpenMP is loaded, which does not say whether it has."""
    if getattr(sys.modules.get("numba.np.ufunc.parallel"), "_is_initialized", False):
        return True
    try:
        ctypes.CDLL("libgomp.so.1", mode=os.RTLD_NOLOAD)
    except (AttributeError, OSError):  # GNU OpenMP is not loaded, or the system has no RTLD_NOLOAD
        return False
    return True


def _is_forked() -> bool:
    """Whether this process was forked and has not started another program since; False where /proc does not say."""
    try:
        with open("/proc/self/stat", "rb") as file:
            return bool(int(file.read().rpartition(b")")[2].split()[6]) & PF_FORKNOEXEC)
    except (OSError, LookupError, ValueError):
        return False


def _before_fork() -> None:
    """Take all locks."""
    global _held
    locks = (*outer_locks, *inner_locks)
    for lock in locks:
        lock.acquire()
    _held = locks


def _after_fork() -> None:
    """Release them, in the parent and in the child."""
    for lock in reversed(_held):
        lock.release()


def _after_fork_in_child() -> None:
    """Note in a new child that its threads are missing."""
    global orphaned
    orphaned = orphaned or _threads_are_started()
    _after_fork()


outer_locks: list[Any] = []  # those of this package, which a thread takes before it calls Numba
inner_locks: list[Any] = []  # those of Numba, in the order in which Numba takes them
_held: tuple[Any, ...] = ()
orphaned = _threads_are_started() and _is_forked()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
