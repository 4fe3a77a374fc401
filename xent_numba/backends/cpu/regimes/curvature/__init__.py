"""Second derivatives: Hessian-vector products, and gradients with the diagonal of the Hessian.

operands   the arguments of a call
elements   what is written for some classes of a long row, from the exponentials of their logits
long       one long row after the other
kernels    the kernels that Python calls
"""
