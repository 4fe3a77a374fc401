"""The kernels: which threads share a row, and how often it is read.

The regimes, among which `plan` chooses:

tile        a thread per row, at most 32 packed classes; rows are moved through shared memory
columns     a thread per row, where neighbouring rows lie side by side
warp        a warp per row, the row in its registers
split       several blocks per row: few rows with very many classes
block       a block per row, the row in its registers
online      a block per row of any length and stride, read twice

What has no regime of its own reads rows element by element, by `sweep`, in the shapes of "online" and "columns":

from_top    row statistics and second derivatives, measured from the top class of a row
distilled   a student beside its teacher
sharded     some of the classes of each row

Other modules:

registers   the body of warp and block: a row that is read once
held        a thread's share of a row in its registers, for registers and online
sweep       the loop over the elements of a row, with kernels of a block or of a thread per row
labels      kernels over whole arrays: the scan of the labels with the denominators, and the sum of the losses

A regime has a function `build(spec, ...)` that returns the Python function of its kernel; `launch` compiles and
launches it.  split has three kernels, and so three such functions (`build_statistics`, `build_epilogue`,
`build_output`); labels has five.  `registers.row_in_registers` and `online.row_in_two_reads` return a device function,
not a kernel; the latter also serves columns, and the passes in `online` serve split.

To add a function of rows without a regime: a builder (spec, threads, batch) of a device function (args, row, thread),
as `from_top.row_from_top` is; its fields in `row.spec`, its choice in `launch.build`, and its kernels in
benchmarks/cuda_codegen.py.

To add a regime: a module with a builder here; its thresholds, and when it is chosen, in `plan`; its launch in `launch`;
and a line in the tables of tests/cuda/test_cuda_sim.py and benchmarks/cuda_codegen.py.
"""
