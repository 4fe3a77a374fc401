"""The mathematics of one row and where it lies in memory, as device functions composed from the options that are on.

operands     one call: addresses, strides and options; from them the spec and the arguments of its kernels
spec         what a kernel is compiled for, and the named tuple of its arguments
address      where rows lie; loading and storing their vectors, whole or in part
transform    z = f(x) of a logit (logit_scale, softcap), its derivative, and the exponential
target       labels, class weights and the effective target
focal        the focal factor of a label's weight
epilogue     from the statistics of a row to its loss, and to the factors of its output
output       what is stored: the gradient or a softmax of each class, the loss or log-sum-exp of each row
functions    all of these for one spec, as the kernels use them

To add an option: a field of `Operands` and of `Spec`, its arguments in `spec.arguments_type` and
`operands.kernel_arguments`, and what it does to a row in `transform`, `target` or `epilogue`.
"""
