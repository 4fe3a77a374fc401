"""The cpu backend: Numba kernels, explicitly vectorised, over all rows in parallel.

backend, arguments    the entry points; from a problem to the arguments of a kernel
threads, cache        when threads may be used; how compiled code is kept
kernel, parallel      what Python calls; the one parallel loop
drivers, labels       the loops over rows and over labels
long, split           rows of a call one at a time; one huge row by all threads
statistics, gradient  one pass over a long row, and its gradient
batch, along          a vector of rows of middling length at a time, each along its lanes
wide, columns, tiles  a vector of short rows at a time, one row a lane; rows whose classes are apart, too
group, stage          what batch and wide have in common: the end of a row, and how rows leave for memory
probabilities         softmax and its logarithms, from the same passes; long_probabilities of one row
call, terms, finish   what each part of a call and each option means to a kernel; from statistics to a loss
vmath, shifted        exp, log1p and tanh of vectors; exp of a difference without its rounding; avx512: another exp
simd, lanes, ...      vectors as values; conversions, memory, storage and transposition are what else they do
pieces                functions that exist only to be inlined into kernels
"""
