"""The cpu backend: Numba kernels, explicitly vectorised, over all rows in parallel.

From the bottom up, each folder using only those before it:

compile/     what Numba is told: functions to be inlined into kernels, kernels, the compile cache
simd/        vectors as values: arithmetic, loads and stores, conversions, exp and log
runtime/     the one parallel loop, and when threads may be used
row/         the mathematics of one row: transform, target, statistics, loss, factors of the gradient
regimes/     the loops over rows, one for each kind of shape

plan         which regime computes a call, and every threshold
fallback     which calls and rows the reference backend computes instead, and the limits of the kernels
arguments    from a `Problem` to the arguments of a kernel
backend      the methods of the backend

A call of `cross_entropy` goes from `backend` through `fallback` (are all numbers in range?), `arguments` (the fields of
`row.operands.Operands`) and `plan` (a `Plan`) to a kernel of `regimes.entry`.  That shares out chunks of rows by
`runtime.parallel_for`; the regime computes each chunk with `row` and `simd`, and leaves one partial sum of losses per
group of rows, which go back to the caller.

To add a dtype of logits: give Numba a type for it in `arguments.native`, teach `simd.storage` to load and store it, and
say in `arguments` and `fallback` whether it computes in float32 or float64.
"""
