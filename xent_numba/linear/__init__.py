"""The linear head: a loss of input @ linear_weight.T + linear_bias, computed a chunk of rows at a time.

chunks     how many rows a chunk has, and the loop: the logits of a chunk, their loss or gradient in place, what follows
rows       some rows of an array with any leading axes
products   the matrix products: logits from features, and gradients of features and weights from those of logits

The public functions are in `functions.linear` and `functions.linear_curvature`, their arguments are checked in
`prepare.linear`.  A backend sees chunks of logits, and nothing of the products.
"""
