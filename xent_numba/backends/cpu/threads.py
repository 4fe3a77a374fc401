"""When a call may run in parallel: the whole threading policy.

Numba's layers end or hang the process where they are used as they cannot be: `workqueue` when two Python threads are
in a parallel region at once, `omp` (GNU OpenMP) in the child of a fork whose parent has used it, `tbb` in the child of
a fork from another thread than the one that started it.  Kernels exist in a serial form that releases the GIL and gives
the same bits, so that a call is never refused and never has to wait:

- a forked child of a process whose threads had been started, by Numba or another user of OpenMP, runs serially
  (`xent_numba.forks` knows);
- under workqueue one thread at a time runs in parallel, the others serially meanwhile;
- small work runs serially, since waking the threads costs more than it brings.

A fork waits until no other thread compiles: the child would wait for ever for a lock that nobody is left to release.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numba
from numba.core.compiler_lock import global_compiler_lock
from numba.np.ufunc import parallel as numba_parallel

from xent_numba import forks
from xent_numba.backends.cpu import parallel as parallel_loop

_one_at_a_time = threading.Lock()


def _before_fork() -> None:
    global_compiler_lock.acquire()
    numba_parallel._backend_init_thread_lock.acquire()


def _after_fork() -> None:
    numba_parallel._backend_init_thread_lock.release()
    global_compiler_lock.release()


def _after_fork_in_child() -> None:
    global _one_at_a_time
    _after_fork()
    _one_at_a_time = threading.Lock()  # whoever held it is in the parent


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)


def available() -> int:
    """How many threads a call without `n_threads` would use."""
    if forks.orphaned:
        return 1
    return int(numba.get_num_threads())


def layer() -> str:
    """The threading layer, once it has been started."""
    return (
        numba.threading_layer() if numba_parallel._is_initialized else f"{numba.config.THREADING_LAYER} (not started)"
    )


@contextmanager
def parallel(n_threads: int | None, worthwhile: bool) -> Iterator[int]:
    """The address of the loop to run in parallel by, with so many threads until the end of the block; 0: serially."""
    if not worthwhile or n_threads == 1 or forks.orphaned or numba.config.NUMBA_NUM_THREADS == 1:
        yield 0
        return
    before = numba.get_num_threads()  # starts the threads
    wanted = before if n_threads is None else min(n_threads, numba.config.NUMBA_NUM_THREADS)
    if wanted == 1:
        yield 0
        return
    lock = _one_at_a_time
    alone = numba_parallel._threading_layer == "workqueue"
    if alone and not lock.acquire(blocking=False):
        yield 0
        return
    try:
        if wanted != before:
            numba.set_num_threads(wanted)
        yield parallel_loop.address()
    finally:
        if wanted != before:
            numba.set_num_threads(before)
        if alone:
            lock.release()
