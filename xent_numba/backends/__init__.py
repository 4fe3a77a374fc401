"""The implementations of the loss functions, and how one of them is chosen.

protocol    what a backend is given and must provide: `Problem`, `Slab`, `LabelScan`, `Backend`
registry    which backends exist, which one a call gets, and why another cannot run
reference   the numpy backend: plain NumPy in float64, slow and obvious, the oracle of the tests
exactly     sums and products of the reference beyond the range of float64
cpu/        Numba kernels for the processor
cuda/       Numba kernels for NVIDIA GPUs

To add a backend: a module with a `BACKEND` that has the methods of `protocol.Backend`, and a line in
`registry.IMPLEMENTATIONS`.  The tests run every backend that is available.
"""
