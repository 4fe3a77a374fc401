"""The cpu backend: Numba kernels, explicitly vectorised, over all rows in parallel.

From the bottom up, each folder using only those before it:

compile/     what Numba is told: functions to be inlined into kernels, kernels, the compile cache
simd/        vectors as values: arithmetic, loads and stores, conversions, exp and log
runtime/     the one parallel loop, and when threads may be used
row/         the mathematics of one row: transform, target, statistics, loss, factors of the gradient
regimes/     the loops over rows, one for each kind of shape

plan         which regime computes a call, and every threshold that chooses a kernel.  It only computes with numbers
             and imports nothing of the package, so the folders above may import its constants
fallback     which calls and rows the reference backend computes instead, and the limits of the kernels
arguments    from a `Problem` to the arguments of a kernel
shards       the same for a `Shard`, and which of its kernels computes it
row_statistics   the arguments and the kernel of a call of `row_statistics`
curvature    the arguments of the kernels of second derivatives, and the rows that the reference computes
distillation from a `DistillationProblem` to the call of a kernel, and what the reference computes of it
selftest     whether the installed Numba can compile, cache and run all this, tested once for each version
backend      the methods of the backend

A call of `cross_entropy` goes from `backend` through `fallback` (are all numbers in range?), `arguments` (the fields of
`row.operands.Operands`) and `plan` (a `Plan`) to a kernel of `regimes.entry`.  That shares out chunks of rows by
`runtime.parallel_for`; the regime computes each chunk with `row` and `simd`, and leaves one partial sum of losses per
group of rows, which go back to the caller.

Words that the modules share (`row` lists the symbols of the mathematics):

row          the C logits of one example; a call has A · B of them, as its arrays are (A, B, C)
regime       a way to compute rows, for one kind of shape: long, split, packed or lanes
work item    what a regime computes at a time: one row, or a vector of rows (up to 16, or 8 in float64)
group        work items whose losses are added in order to one partial sum, however many threads there are
chunk        successive groups that one thread computes; its size may depend on the number of threads
tile         memory on the stack for a vector of rows: transposed in `lanes`, one row after another in `packed`
packed       in a tile that is not transposed, so that a vector holds neighbouring classes of one row
carry        how many elements of an unfinished cache line of the result wait in a buffer for those that follow
dense        of a target: with a value for every class, as distributions and label smoothing make it
epilogue     from the statistics of rows to their losses and gradient factors

To add a dtype of logits: Numba compiles no 16-bit floats for the CPU, so such arrays are passed under an integer dtype
of the same size, their tag, and signedness tells two of them apart: uint16 is float16, int16 is bfloat16.  Choose a
tag, make `arguments.native` view the array as that (it takes every dtype that it does not know for bfloat16), and teach
`simd.storage` to load and store it.  Its arithmetic is float32, unless three places say float64:
`simd.vector.zero_vector` and `row.operands._compute_type` when a kernel is compiled, and
`fallback.computes_in_float64` at each call.  They must agree.
"""
