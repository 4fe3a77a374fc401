"""The public functions and classes: signatures, docstrings, and a few lines of glue.

loss            cross_entropy, cross_entropy_and_grad
gradient        cross_entropy_grad
layer           CrossEntropyLoss
curvature       cross_entropy_hvp, cross_entropy_grad_and_hessian_diag
probabilities   softmax, log_softmax, logsumexp
linear          linear_cross_entropy, linear_cross_entropy_and_grad, and the result of the latter
linear_curvature  linear_cross_entropy_hvp, and its result
statistics      row_statistics, and its result
evaluation      evaluate, and its result
distillation    distillation_loss, distillation_loss_and_grad
shards          partial_cross_entropy
parts           PartialCrossEntropy, what that returns
signatures      the types in the signatures, for type checkers

Of the package, only the command line uses them.  To add a function: a module here, its preparation in `prepare`, its
method in `backends.protocol` and in each backend that has kernels for it, and its name in `xent_numba.__all__`.
"""
