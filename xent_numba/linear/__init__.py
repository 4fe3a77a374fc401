"""The linear head: a loss of input @ linear_weight.T + linear_bias, computed a chunk of rows at a time.

products   the matrix products: logits from features, and gradients of features and weights from those of logits
rows       some rows of an array with any leading axes
library    what the loop needs of a library of arrays, and NumPy as such a library, with these products and rows
chunks     how many rows a chunk has, and the loop: the logits of a chunk, their loss or gradient in place, what follows
outcome    a prepared head, computed by a backend: loss, gradients or Hessian-vector product

device_libraries  CuPy and PyTorch as libraries of the same loop, with their products and rows
device            arrays on a GPU: checked, their chunks given to the CUDA kernels

The public functions are in `functions.linear` and `functions.linear_curvature`, their arguments are checked in
`prepare.linear`.  A backend sees chunks of logits, and nothing of the products.
"""
