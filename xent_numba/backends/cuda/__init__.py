"""CUDA kernels in Numba.  Importing this imports no CUDA: that happens when a call is made.

The parts, from the bottom to the top:

hw/          loads, stores, exp2, shuffles and reductions; every internal name of numba-cuda
row/         the mathematics of one row as device functions, composed from the options that are on
regimes/     the kernels: which threads share a row, and how often it is read
runtime/     the device and its memory
plan         which regime computes a call, with what launch shape, and why: every threshold
launch       builds, caches and launches the kernels of a plan, of the label scan and of sums
deferred     public: `deferred_checks`, calls that do not wait for the check of labels and weights
arrays/      calls on arrays that are on the device already: validated, scanned, launched without a copy
backend      the backend protocol, for NumPy arrays, which are copied over in chunks

A call, as `backend` or `arrays` prepare it, is one `row.operands.Operands`: addresses, strides and options.
`launch.run` derives from it the `Spec` that the kernels are compiled for and their arguments, asks `plan` for the
regime, and launches.

To add a regime see `regimes`, to add a storage dtype `hw`, to add an option `row`.  Without a GPU,
tests/cuda/test_cuda_sim.py runs the kernels in Numba's simulator and tests/cuda/test_cuda_codegen.py compiles them.
"""
