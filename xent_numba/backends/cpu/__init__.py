"""The cpu backend: Numba kernels, explicitly vectorised, over all rows in parallel.

simd, memory, vmath   vectors as values, their loads and stores, exp and log1p
terms, call, finish   what each option means to a kernel; from the statistics of a row to its loss
statistics, gradient  one long row            } long, wide: rows of a call
columns               many short rows at once }
drivers, labels       the loops over rows and labels, serial and parallel
threads, cache        when threads may be used; how compiled code is kept
backend               the entry points
"""

from xent_numba.backends.cpu.backend import BACKEND

__all__ = ["BACKEND"]
