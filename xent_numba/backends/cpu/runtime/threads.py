"""When a call may run in parallel: the whole threading policy.

Numba's layers end or hang the process where they are used as they cannot be: `workqueue` when two Python threads are
in a parallel region at once, `omp` (GNU OpenMP) in the child of a fork whose parent has used it, `tbb` in the child of
a fork from another thread than the one that started it.  Kernels exist in a serial form that releases the GIL and gives
the same bits, so that a call is never refused and never has to wait:

- a forked child of a process whose threads had been started, by Numba or another user of OpenMP, runs serially
  (`xent_numba.forks` knows);
- under workqueue one thread at a time runs in parallel, the others serially meanwhile (machine code sees to it, in
  `parallel`: no Ctrl-C leaves a lock or another number of threads behind);
- small work runs serially, since waking the threads costs more than it brings.

A fork waits until no other thread compiles: the child would wait for ever for a lock that nobody is left to release.

One thing is beyond this module: under workqueue, Numba ends a process in which a parallel function of the user's own
runs in one thread while a call here, or another such function, runs in another.  The layers omp and tbb allow it.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext

import numba
from numba.core.compiler_lock import global_compiler_lock
from numba.np.ufunc import parallel as numba_parallel

from xent_numba import forks
from xent_numba.backends.cpu.runtime.parallel_for import loop_descriptor
from xent_numba.interrupts import uninterrupted


def _before_fork() -> None:
    global_compiler_lock.acquire()
    numba_parallel._backend_init_thread_lock.acquire()


def _after_fork() -> None:
    numba_parallel._backend_init_thread_lock.release()
    global_compiler_lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)


def available() -> int:
    """How many threads a call without `n_threads` would use."""
    return 1 if forks.orphaned else _numbas()


def layer() -> str:
    """The threading layer, once it has been started."""
    return (
        numba.threading_layer() if numba_parallel._is_initialized else f"{numba.config.THREADING_LAYER} (not started)"
    )


def _numbas() -> int:
    """numba.get_num_threads(), which starts the threads, without its locks: a Ctrl-C could leave them locked."""
    if not numba_parallel._is_initialized:
        with uninterrupted():
            numba.get_num_threads()
    return int(numba_parallel._get_num_threads())


def wanted(n_threads: int | None) -> int:
    """How many threads a parallel call with this `n_threads` has."""
    threads = _numbas()
    return threads if n_threads is None else min(n_threads, numba.config.NUMBA_NUM_THREADS)


_serially = nullcontext(0)


def parallel(n_threads: int | None, worthwhile: bool) -> AbstractContextManager[int]:
    """What `parallel_for` takes to run in parallel by so many threads; 0: serially."""
    if not worthwhile or n_threads == 1 or forks.orphaned or numba.config.NUMBA_NUM_THREADS == 1:
        return _serially
    threads = wanted(n_threads)
    if threads == 1:
        return _serially
    return nullcontext(loop_descriptor(threads, numba_parallel._threading_layer == "workqueue"))
