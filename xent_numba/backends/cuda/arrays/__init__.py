"""Losses and softmax of arrays that are on a CUDA device already: zero-copy, on the caller's stream, in its library.

api           the functions that `xent_numba.api` and `probabilities` call for such arrays
inputs        one call validated, by the same functions and in the same words as for NumPy arrays
label_scan    labels and weights checked by a kernel, at once or later, and the denominators
slabs         arrays of any shape as operands of calls on (A, B, C) views
adopt         arrays of other libraries as stand-ins with their shape, strides and address; results in the same library
dlpack        reading a DLPack capsule
"""
