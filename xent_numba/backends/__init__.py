"""The implementations of the loss functions, and how one of them is chosen.

protocol     what a backend is given and must provide: `Problem`, `Slab`, `LabelScan`, `Backend`
registry     which backends exist, which one a call gets, and why another cannot run
diagnosis    what to say of a Numba that does not work here: the versions that are installed, and those that were tested
reference/   the numpy backend: plain NumPy in float64, simple and slow; the tests compare the others with it
compensated  sums, products and exponentials of the reference that keep track of rounding errors
njit         the njit backend: what calls its kernels, and when they run in parallel
njit_rows    its kernels: plain `@njit` functions for some rows, and one `prange`; the ones to read first
njit_blocks  what these do to a number, and to a block of a row
cpu/         the cpu backend: Numba kernels with explicit vectors
cuda/        the cuda backend: Numba kernels for NVIDIA GPUs

To add a backend, write a module with an object `BACKEND` that has the attributes of `protocol.Backend`, and give it a
line in `registry.IMPLEMENTATIONS`.  `reference` shows the least that is needed.  The tests run on every backend that is
available.  CONTRIBUTING.md lists the other places that name the backends.
"""
