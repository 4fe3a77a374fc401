"""CUDA kernels in Numba.  Importing this imports no CUDA: that happens when a call is made.

- call: a call as addresses and strides, and the spec and arguments that follow from it
- dispatch: which regime, which launch shape, and why
- tile, warp, block, online, split, columns: a regime each; registers is what warp and block share
- rowmath, closing: the mathematics of a row, composed from the options that are on
- rows, access: where rows lie, and how elements and 128-bit vectors are read and written
- reduce: maximum and sums over the threads of a row
- intrinsics: what Numba has no word for; the only module that touches its internals
- scan, launches: labels and sums on the device
- host: the backend protocol, for NumPy arrays
- arrays, deferred: the public functions, for arrays that are on the device already
- adopt, dlpack, slabs: such arrays of any library and shape, without copying them
- device, memory: whether there is one, and memory on it
"""
