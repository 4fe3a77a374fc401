"""What `test_threads` runs about forks, each in a process of its own: one argument, the name of a function here.

In each child a call, large enough to run in parallel, that must end, and end well.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

import foreign_threads
import numpy as np
from threading_program import BACKEND, PATIENCE, in_threads, pool_of, results, same, step

import xent_numba as xn


def in_fork(function) -> None:
    """Run it in a forked child, and see that the child ends well."""
    child = os.fork()
    if child == 0:
        try:
            function()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert status == 0, f"the child ended with status {status}"
            return
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError("the child hangs")


def forks() -> None:
    """Children of a process that has not, and then has, run in parallel."""
    step("a child forked before the first call")
    in_fork(results)
    step("the first call")
    bits = results()
    step("a child forked after it")
    in_fork(lambda: same(bits))
    step("a child of the child")
    in_fork(lambda: in_fork(lambda: same(bits)))
    step("a child that starts threads")
    in_fork(lambda: print("same" if in_threads(3, 2) == {bits} else 1 // 0))
    step("a thread that forks")
    with ThreadPoolExecutor(1) as pool:
        pool.submit(in_fork, lambda: same(bits)).result(PATIENCE)
    step("forks while other threads are in parallel loops")
    busy = threading.Event()

    def work() -> None:
        while not busy.is_set():
            same(bits)

    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(work) for _ in range(2)]
        for _ in range(3):
            in_fork(lambda: same(bits))
        busy.set()
        for future in futures:
            future.result(PATIENCE)
    step("multiprocessing")
    pool_of("fork", bits)
    step("the parent still runs in parallel")
    same(bits)


def compiling() -> None:
    """A child forked while another thread compiles, and so holds Numba's lock."""
    import numba
    from numba.core.compiler_lock import global_compiler_lock

    import xent_numba.backends.cpu.backend  # noqa: F401 - and nothing compiled

    busy = threading.Event()

    def work() -> None:
        while not busy.is_set():
            numba.njit(lambda x: x + 1)(1)

    with ThreadPoolExecutor(1) as pool:
        step("a thread that waits to compile has not turned the garbage collector off")
        with global_compiler_lock:
            future = pool.submit(xn.logsumexp, np.zeros((2, 3)), backend="cpu")
            for _ in range(50):
                assert gc.isenabled()
                time.sleep(0.01)
        future.result(PATIENCE)
        future = pool.submit(work)
        for _ in range(4):
            step("a fork")
            in_fork(lambda: numba.njit(lambda x: x + 2)(1))
        busy.set()
        future.result(PATIENCE)


def foreign() -> None:
    """Children of a process in which something else has used Numba's threads or GNU OpenMP, and nothing here has."""
    foreign_threads.start(sys.argv[2])
    step("a child forked before the first call")
    in_fork(results)
    step("a child of a child")
    in_fork(lambda: in_fork(results))
    xn.logsumexp(np.zeros((2, 3)), backend=BACKEND)  # serial
    step("a child forked after it")
    in_fork(results)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
    print("done")
