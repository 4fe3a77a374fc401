"""The cpu backend: Numba kernels, explicitly vectorised, over all rows in parallel.

backend, arguments    the entry points; from a problem to the arguments of a kernel
threads, cache        when threads may be used; how compiled code is kept
kernel, parallel      what Python calls; the one parallel loop
drivers, labels       the loops over rows and over labels
long, wide, split     rows of a call one at a time; a vector of rows at a time; one huge row by all threads
statistics, gradient  one pass over a long row, and its gradient
columns, tiles, stage many short rows at once: their arithmetic, how they come and how they go
probabilities         softmax and its logarithms, from the same passes; long_probabilities of one row
call, terms, finish   what each part of a call and each option means to a kernel; from statistics to a loss
vmath, shifted        exp, log1p and tanh of vectors; exp of a difference without its rounding; avx512: another exp
simd, lanes, ...      vectors as values; conversions, memory, storage and transposition are what else they do
pieces                functions that exist only to be inlined into kernels
"""

from xent_numba.backends.cpu.backend import BACKEND

__all__ = ["BACKEND"]
