"""Second derivatives: Hessian-vector products, and gradients with the diagonal of the Hessian.

operands            the arguments of a call
elements            what is written for some classes of a long row, from the exponentials of their logits
tile_elements       the same for a class of a vector of rows
long                one long row after the other
long_label          the label of a long row
lanes               a vector of rows, one row in each lane
packed              Hessian-vector products of a vector of rows, each along its classes
packed_statistics   the sums that these need
kernels             the kernels that Python calls

`row.curvature` has the mathematics.
"""
