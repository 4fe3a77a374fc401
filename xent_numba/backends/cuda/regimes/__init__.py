"""The kernels: which threads share a row, and how often it is read.  `plan` chooses among the first six.

tile        a thread per row, at most 32 packed classes; rows are moved through shared memory
warp        a warp per row, the row in its registers
block       a block per row, the row in its registers
registers   what warp and block have in common: a row that is read once
columns     a thread per row, where neighbouring rows lie side by side
online      a block per row of any length and stride, read twice
split       several blocks per row: few rows with very many classes
labels      for whole arrays: the scan of the labels with the denominators, and the sum of the losses

Each has a builder `build(spec, ...)` that returns the Python function of a kernel; `launch` compiles and launches it.

To add a regime: a module with a builder here; its thresholds, and when it is chosen, in `plan`; its launch in `launch`;
and a line in the tables of tests/cuda/test_cuda_sim.py and benchmarks/cuda_codegen.py.
"""
