"""What `test_threads` runs in processes of its own: one argument, the name of a function here.

The backend is the one that the environment variable BACKEND names, or cpu.

Calls that are large enough to run in parallel, against the reference backend, from every kind of thread and process.
Each step says its name before it starts, so that a hang or an abort can be told from the output.
"""

from __future__ import annotations

import hashlib
import importlib.abc
import multiprocessing
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

import xent_numba as xn

PATIENCE = 120  # seconds for a child
BACKEND = os.environ.get("BACKEND", "cpu")


def make_cases() -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows long and short, and few of very many classes: every regime, in parallel groups."""
    rng = np.random.default_rng(4)
    shapes = [(300, 257), (20011, 5), (2003, 100), (2, 140_001)]
    return [(rng.normal(scale=3.0, size=s).astype(np.float32), rng.integers(0, s[1], s[0])) for s in shapes]


CASES = make_cases()
RIGHT = [xn.cross_entropy_and_grad(x, y, backend="numpy") for x, y in CASES]


def results(n_threads: int | None = None) -> str:
    """Run every case; the digest of all bits, once they are seen to be right."""
    digest = hashlib.sha256()
    for (x, y), (right_loss, right_grad) in zip(CASES, RIGHT, strict=True):
        loss, grad = xn.cross_entropy_and_grad(x, y, backend=BACKEND, n_threads=n_threads)
        np.testing.assert_allclose(loss, right_loss, rtol=1e-5)
        np.testing.assert_allclose(grad, right_grad, rtol=1e-4, atol=1e-9)
        digest.update(loss.tobytes() + grad.tobytes())
    return digest.hexdigest()


def step(name: str) -> None:
    print(f"step: {name}", flush=True)


def in_threads(count: int, repeats: int) -> set[str]:
    """The digests that Python threads find which all start at once."""
    barrier = threading.Barrier(count)

    def work(_: int) -> set[str]:
        barrier.wait(PATIENCE)
        return {results() for _ in range(repeats)}

    with ThreadPoolExecutor(count) as pool:
        return set().union(*pool.map(work, range(count)))


def same(bits: str) -> None:
    assert results() == bits, "other bits"


def pool_of(method: str, bits: str) -> None:
    pool = multiprocessing.get_context(method).Pool(2)
    try:
        assert pool.map_async(results, [None] * 4).get(PATIENCE) == [bits] * 4
        pool.close()
    except BaseException:
        pool.terminate()
        raise
    finally:
        pool.join()


# ------------------------------------------------------------------------------------------------ what is run
def threads() -> None:
    """Python threads, none of which has called before; then n_threads."""
    step("cold, six threads at once")
    (bits,) = in_threads(6, 2)
    step("warm, four threads at once")
    assert in_threads(4, 5) == {bits}
    step("any number of threads")
    assert {results(n) for n in (1, 2, 3, 1000, None)} == {bits}
    if BACKEND == "cpu":
        n_threads()
    import numba

    assert numba.get_num_threads() == numba.config.NUMBA_NUM_THREADS
    step(f"layer {numba.threading_layer()}")
    print(f"bits: {bits}")


def n_threads() -> None:
    """Honoured for the call, restored after it, and of this thread alone."""
    import numba
    from numba.core.caching import NullCache
    from numba.np.ufunc.parallel import _iget_num_threads

    from xent_numba.backends.cpu.compile.inline import inline
    from xent_numba.backends.cpu.compile.kernel import kernel
    from xent_numba.backends.cpu.runtime import threads as policy
    from xent_numba.backends.cpu.runtime.parallel_for import parallel_for

    @inline
    def note(seen, k):
        seen[k] = _iget_num_threads()

    @kernel
    def observe(seen, loop):
        parallel_for(note, (seen,), seen.size, loop)

    observe._cache = NullCache()  # which knows of changes of the package alone
    most = numba.config.NUMBA_NUM_THREADS

    def observed(n: int | None) -> set[int]:
        seen = np.zeros(1000, np.int64)
        loop = policy.parallel_loop(n, True)
        observe(loop == 0, seen, loop)
        return {0} if loop == 0 else set(seen.tolist())

    step("n_threads is honoured and restored")
    for wanted in (1, 2, most, most + 7, None):
        threads = most if wanted is None else min(wanted, most)
        assert observed(wanted) == {threads if threads > 1 else 0}
        assert numba.get_num_threads() == most
    step("numba.set_num_threads of the caller counts, and is left alone")
    numba.set_num_threads(1)
    assert observed(None) == {0}
    assert observed(2) == {2}
    assert numba.get_num_threads() == 1
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(observed, None).result(PATIENCE) == {most}
    numba.set_num_threads(most)


def spawns() -> None:
    """Fresh processes beside one that has run in parallel."""
    bits = results()
    for method in ("spawn", "forkserver") if hasattr(os, "fork") else ("spawn",):
        step(method)
        pool_of(method, bits)


def interrupts() -> None:
    """Ctrl-C in the middle of a long call, again and again, and at the first call."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job is started without it
    x = np.zeros((1 << 16, 100), np.float32)
    y = np.zeros(1 << 16, np.int64)
    step("Ctrl-C in an import that Numba puts off until it compiles")
    late = InterruptedImport("numba.cpython.unicode")
    sys.meta_path.insert(0, late)
    try:
        xn.cross_entropy(x[:10], y[:10], backend=BACKEND)
    except KeyboardInterrupt:
        assert late.interrupted
    else:
        raise AssertionError("not imported late: choose another module")
    step("interrupted first calls")
    first = 0
    for delay in (0.05, 0.1):
        first += interrupted(lambda: xn.cross_entropy_and_grad(x, y, backend=BACKEND), delay)
    step(f"{first} of 2 interrupted; warm calls")
    bits = results()
    count = sum(interrupted(lambda: forever(x, y), delay) for delay in (0.01, 0.013, 0.017, 0.02, 0.03, 0.05))
    step(f"{count} interrupted")
    assert count == 6
    nothing_stays_taken()
    step("short calls")
    rng = np.random.default_rng(5)
    # An alarm comes to the microsecond.  It is a Ctrl-C to njit, which postpones that, and no other signal.
    raises = signal.default_int_handler if BACKEND == "cpu" else lambda *_: signal.raise_signal(signal.SIGINT)
    signal.signal(signal.SIGALRM, raises)
    for _ in range(3000):
        try:
            signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-5, 3e-4), 5.0)  # once more if the first one is lost
            forever(x[:400], y[:400])
        except KeyboardInterrupt:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            nothing_stays_taken()
    same(bits)
    assert in_threads(3, 2) == {bits}


def nothing_stays_taken() -> None:
    """The number of threads is as it was, and no lock is held."""
    import numba
    from numba.np.ufunc import parallel as numbas

    assert numba.get_num_threads() == numba.config.NUMBA_NUM_THREADS
    if BACKEND == "cpu":
        from xent_numba.backends.cpu.runtime import parallel_for

        assert not parallel_for._lock.any()
    else:
        from xent_numba.backends import njit

        assert not njit._parallel.locked()

    def free() -> bool:
        for lock in (numbas._backend_init_thread_lock, numbas._backend_init_process_lock):
            if hasattr(lock, "acquire"):
                if not lock.acquire(False):
                    return False
                lock.release()
        return True

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(free).result(PATIENCE)


def forever(x: np.ndarray, y: np.ndarray) -> None:
    while True:
        xn.cross_entropy_and_grad(x, y, backend=BACKEND, n_threads=2)


class InterruptedImport(importlib.abc.MetaPathFinder):
    """Finds no module, but presses Ctrl-C when a certain one is looked for."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.interrupted = False

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name == self.name:
            self.interrupted = True
            os.kill(os.getpid(), signal.SIGINT)


def interrupted(function, delay: float) -> bool:
    """Whether Ctrl-C after that many seconds came before the function was done.

    Once more after some seconds: Python loses an interrupt that comes while it ends the life of an object.
    """
    done = threading.Event()

    def interrupt() -> None:
        wait = delay
        while not done.wait(wait):
            os.kill(os.getpid(), signal.SIGINT)
            wait = 5.0

    thread = threading.Thread(target=interrupt)
    try:
        thread.start()
        function()
        time.sleep(2 * delay)  # for the signal to come, and to be handled
    except KeyboardInterrupt:
        return True
    finally:
        done.set()
        thread.join()
    return False


if __name__ == "__main__":
    globals()[sys.argv[1]]()
    print("done")
