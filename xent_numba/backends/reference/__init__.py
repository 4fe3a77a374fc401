"""The numpy backend: plain NumPy in float64, simple and slow; the tests compare the other backends with it.

backend      the methods of the protocol: loops over blocks of rows
blocks       blocks of rows in float64, weights and the transform of the logits
statistics   maxima, sums of exponentials, logsumexp
loss         the loss and its gradient
focal        what a focal factor multiplies the loss and its derivatives with
shards       the statistics and the gradient of some of the classes

A block has shape (R, C): R rows, C classes.  A quantity with one value for each row has shape (R, 1).  Two rules avoid
cancellation; they stand at the top of `statistics` and `loss`.
"""

from xent_numba.backends.reference.backend import Reference

BACKEND = Reference()

__all__ = ["BACKEND", "Reference"]
