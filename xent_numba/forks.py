"""Whether a fork has left this process without the threads that Numba or GNU OpenMP believes it has.

A child is a copy of its parent with one thread.  GNU OpenMP waits for ever for the others, and Numba ends the process
to prevent that, whoever had started them: this package, the user's own Numba functions, another library.  So the fork
is noticed here from the import of the package on, long before Numba is needed, and without importing it.

In a process that was itself forked before that import, only the kernel of Linux knows of it.  Threads that were started
since the fork then count as the parent's: its calls are serial where they need not be, rather than its last.
"""

from __future__ import annotations

import ctypes
import os
import sys

PF_FORKNOEXEC = 0x40  # include/linux/sched.h: forked, and no other program started since


def _threads_are_started() -> bool:
    """Whether Numba has started its threads, or GNU OpenMP is loaded, by whomever: it does not tell what it started."""
    if getattr(sys.modules.get("numba.np.ufunc.parallel"), "_is_initialized", False):
        return True
    try:
        ctypes.CDLL("libgomp.so.1", mode=os.RTLD_NOLOAD)
    except (AttributeError, OSError):  # a system without either
        return False
    return True


def _is_forked() -> bool:
    try:
        with open("/proc/self/stat", "rb") as file:
            return bool(int(file.read().rpartition(b")")[2].split()[6]) & PF_FORKNOEXEC)
    except (OSError, LookupError, ValueError):
        return False


def _after_fork_in_child() -> None:
    global orphaned
    orphaned = orphaned or _threads_are_started()


orphaned = _threads_are_started() and _is_forked()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
