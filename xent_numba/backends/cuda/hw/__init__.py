"""What the kernels ask of the hardware, below any mathematics.

sizes           how large a warp, a vector and a grid are
numba_private   every internal name of numba-cuda and of its LLVM builder, and why it is needed
intrinsics      scalar and 128-bit loads and stores, conversions, exp2, shuffles, barriers; launches
access          reading and writing one element or one vector of each storage dtype
reduce          maximum and sums over the threads of a row, and a compensated sum of one thread

To add a storage dtype: its loads, stores and conversions go into `intrinsics` (and `tests/support/cudasim.py`, which
stands in for it in the simulator), its `Access` into `access`, its size into `row.spec.ITEMSIZE`.
"""
