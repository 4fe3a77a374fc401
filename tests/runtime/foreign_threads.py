"""Threads that this package has not started: run with "numba" or "openmp", then a fork, and then its first import.

To be imported by what has not imported xent_numba.
"""

from __future__ import annotations

import ctypes
import os
import sys


def start(library: str) -> None:
    """Run something in parallel by that library."""
    if library == "numba":
        import numba

        @numba.njit(parallel=True)
        def total(n: int) -> int:
            found = 0
            for i in numba.prange(n):
                found += i
            return found

        assert total(10) == 45
    else:
        openmp = ctypes.CDLL("libgomp.so.1")
        body = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: None)
        openmp.GOMP_parallel(body, None, 2, 0)


if __name__ == "__main__":
    start(sys.argv[1])
    if os.fork() == 0:
        import faulthandler

        faulthandler.dump_traceback_later(100, exit=True)  # a child that hangs
        from threading_program import results

        results()
        print("step: imported after the fork", flush=True)
        os._exit(0)
    assert os.wait()[1] == 0
    print("done")
