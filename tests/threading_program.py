"""What `test_threads` runs in processes of its own: one argument, the name of a function here.

Calls that are large enough to run in parallel, against the reference backend, from every kind of thread and process.
Each step says its name before it starts, so that a hang or an abort can be told from the output.
"""

from __future__ import annotations

import hashlib
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


def make_cases() -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows long and short, and few of very many classes: each way of walking them, in parallel groups."""
    rng = np.random.default_rng(4)
    shapes = [(300, 257), (20011, 5), (2, 140_001)]
    return [(rng.normal(scale=3.0, size=s).astype(np.float32), rng.integers(0, s[1], s[0])) for s in shapes]


CASES = make_cases()
RIGHT = [xn.cross_entropy_and_grad(x, y, backend="numpy") for x, y in CASES]


def results(n_threads: int | None = None) -> str:
    """Run every case; the digest of all bits, once they are seen to be right."""
    digest = hashlib.sha256()
    for (x, y), (right_loss, right_grad) in zip(CASES, RIGHT, strict=True):
        loss, grad = xn.cross_entropy_and_grad(x, y, backend="cpu", n_threads=n_threads)
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
    n_threads()
    from xent_numba.backends.cpu import threads as policy

    step(f"layer {policy.layer()}")
    print(f"bits: {bits}")


def n_threads() -> None:
    """Honoured for the call, restored after it, and of this thread alone."""
    import numba

    from xent_numba.backends.cpu import backend, drivers

    most = numba.config.NUMBA_NUM_THREADS
    seen: list[int] = []
    kernel = drivers.long

    def spy(*args) -> object:
        if args[-1]:  # the loop of a call in parallel
            seen.append(numba.get_num_threads())
            other = threading.Thread(target=lambda: seen.append(numba.get_num_threads()))
            other.start()
            other.join()
        return kernel(*args)

    drivers.long = spy
    x, y = CASES[0]
    assert backend.drivers is drivers
    step("n_threads is honoured and restored")
    for wanted in {2, most, most + 7}:
        if wanted > 1:
            xn.cross_entropy_and_grad(x, y, backend="cpu", n_threads=wanted)
            assert seen == [min(wanted, most), most], seen
            assert numba.get_num_threads() == most
            seen.clear()
    xn.cross_entropy_and_grad(x, y, backend="cpu", n_threads=1)
    assert seen == []
    step("numba.set_num_threads of the caller counts, and is left alone")
    numba.set_num_threads(1)
    xn.cross_entropy_and_grad(x, y, backend="cpu")
    assert seen == []
    assert numba.get_num_threads() == 1
    numba.set_num_threads(most)
    step("restored after an error")
    drivers.long = lambda *args: 1 // 0
    try:
        xn.cross_entropy_and_grad(x, y, backend="cpu", n_threads=2)
    except ZeroDivisionError:
        assert numba.get_num_threads() == most
    else:
        raise AssertionError("no error")
    drivers.long = kernel


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
    step("interrupted first calls")
    first = 0
    for delay in (0.05, 0.1):
        first += interrupted(lambda: xn.cross_entropy_and_grad(x, y, backend="cpu"), delay)
    step(f"{first} of 2 interrupted; warm calls")
    bits = results()
    import numba

    most = numba.get_num_threads()
    count = sum(interrupted(lambda: forever(x, y), delay) for delay in (0.01, 0.013, 0.017, 0.02, 0.03, 0.05))
    step(f"{count} interrupted")
    assert count == 6
    assert numba.get_num_threads() == most
    from xent_numba.backends.cpu import threads as policy

    with policy.parallel(2, True) as yes:
        assert yes or most == 1
    same(bits)
    assert in_threads(3, 2) == {bits}


def forever(x: np.ndarray, y: np.ndarray) -> None:
    while True:
        xn.cross_entropy_and_grad(x, y, backend="cpu", n_threads=2)


def interrupted(function, delay: float) -> bool:
    """Whether Ctrl-C after that many seconds came before the function was done."""
    timer = threading.Timer(delay, lambda: os.kill(os.getpid(), signal.SIGINT))
    try:
        timer.start()
        function()
        timer.join()
        time.sleep(0.05)  # for the signal to be handled
    except KeyboardInterrupt:
        timer.join()
        return True
    return False


if __name__ == "__main__":
    globals()[sys.argv[1]]()
    print("done")
