"""The threading policy: whether a call runs in parallel, and with how many threads.

Numba's threading layers end or hang the process where they are used in a way that they do not support:

    workqueue    when two Python threads are in a parallel region at once
    omp          (GNU OpenMP) in a forked child of a process that has used it
    tbb          in a child forked from another thread than the one that started it

Kernels also run serially, release the GIL, and give the same bits either way, so no call is refused or has to wait:

- A forked child runs serially if the threads of its parent had been started, by Numba or by another user of OpenMP
  (`xent_numba.forks` knows).
- Under workqueue, one Python thread at a time runs in parallel, and the others run serially meanwhile (see
  `parallel_for`, whose machine code takes the lock).
- Where the threads cannot be started, as NUMBA_THREADING_LAYER asks for a layer that is not installed, all calls run
  serially, after one warning.
- Small problems run serially, since waking the threads costs more than they save.

A fork waits until no other thread compiles: otherwise the child would wait forever for a lock that no thread of its own
holds.

One failure is beyond this module: under workqueue, Numba ends a process in which a parallel function of the user's own
runs in one thread while a call of this package, or another such function, runs in parallel in another.  The layers omp
and tbb allow that.
"""

from __future__ import annotations

import numba

from xent_numba import forks
from xent_numba.backends.cpu.compile.numba_private import (
    current_thread_count,
    global_compiler_lock,
    thread_start_lock,
    threading_layer,
    threads_started,
)
from xent_numba.backends.cpu.runtime.parallel_for import loop_descriptor
from xent_numba.backends.diagnosis import quoted, warn_once
from xent_numba.interrupts import uninterrupted

forks.inner_locks += [global_compiler_lock, thread_start_lock]
_failed = False  # whether Numba has failed to start its threads


def available() -> int:
    """How many threads a parallel call without `n_threads` uses."""
    return 1 if forks.orphaned else _numba_thread_count()


def layer() -> str:
    """The name of the threading layer, or the setting that will choose it once the threads are started."""
    return threading_layer() or f"{numba.config.THREADING_LAYER} (not started)"


def _numba_thread_count() -> int:
    """numba.get_num_threads(), which starts the threads, without its locks, which Ctrl-C could leave locked.

    1 where the threads cannot be started.
    """
    global _failed
    if threads_started():
        return current_thread_count()
    if not _failed:
        try:
            with uninterrupted():
                numba.get_num_threads()
            return current_thread_count()
        except Exception as error:  # whatever Numba, or the library of a layer, may raise
            _failed = True
            warn_once("threads", f"Numba cannot start its threads, so backend 'cpu' uses only one: {quoted(error)}")
    return 1


def thread_count(n_threads: int | None) -> int:
    """How many threads a parallel call with this `n_threads` uses."""
    threads = _numba_thread_count()
    return threads if n_threads is None or not threads_started() else min(n_threads, numba.config.NUMBA_NUM_THREADS)


def parallel_loop(n_threads: int | None, worthwhile: bool) -> int:
    """The loop descriptor that `parallel_for` takes to run a call in parallel; 0 if it is to run serially.

    `worthwhile`: whether the problem is large enough for several threads.
    """
    if not worthwhile or n_threads == 1 or forks.orphaned or numba.config.NUMBA_NUM_THREADS == 1:
        return 0
    threads = thread_count(n_threads)
    if threads == 1:
        return 0
    return loop_descriptor(threads, threading_layer() == "workqueue")
