"""The mathematics of one row, which all regimes share.

Every option is one effective target t and one transform of the logits x_j:

    z_j = s · f(x_j)                                          transform
    t_j = label_weight · [j = y] + u_j,  T = Σ t_j            target
    loss = T · lse(z) − Σ t_j z_j + z_coefficient · lse(z)²   epilogue
    ∂loss/∂z_j = (T + 2 z_coefficient · lse) p_j − t_j        epilogue;  p = softmax(z)

The symbols, here and in all regimes:

    x_j, z_j         a logit as given, and after scale and softcap.  In the statistics x_j is the logit after f
    s                |logit_scale|, `scale`; f contains its sign.  With a softcap f contains all of it, and s is 1
    y                the class of the label; −1 for an ignored row, or without labels
    ε, w_j           label_smoothing, and the class weights
    label_weight     (1 − ε) w_y, the part of the target that only the label's class has
    u_j              the dense part of the target, which all classes have: w_j (α q_j + β), q a distribution
    t_j, T           the effective target, which need not add up to 1, and its sum T
    row_max          m = max x_j over all classes of the row, the label's included
    sum_exp_others   Σ exp(s (x_j − m)) over all classes but the label's, relative to that same m; for a distribution,
                     over all but that of its `epilogue.Top`, which is treated as a label of the weight u_y
    target_gap       Σ u_j (m − x_j); target_sum is Σ u_j, without the label_weight
    lse              log Σ exp(z_j) = s m + log S, with S = Σ exp(s (x_j − m)) over all classes

operands     the arguments of a kernel, and what they mean for one row
transform    f, of logit_scale and softcap, and its derivative
target       u_j, the dense part of the target: label smoothing and distributions
measures     sums of a row that the losses do not need: for entropies and for products with p
order        the order of the classes of a row, for argmax and rank
epilogue     what one pass over a row finds out; the loss and the factors of the gradient that follow from it
curvature    the factors of second derivatives: Hessian-vector products, and the diagonal of the Hessian
focal        the factors of a focal loss, by which the label_weight is multiplied in the loss and in the gradient

A value is a vector: of neighbouring classes of one row in some regimes, of one class of many rows in others.  The
functions here serve both; those of `target` that differ are named …_lanes in the second case.

To add an option: give it a field of `Operands`, None or empty where it is off, and fill it in `cpu.arguments`; use it
in `transform`, `target` or `epilogue`, whichever line of the equation it changes; say in `cpu.fallback` which values
the reference must compute.  Only an option that needs another sum over the classes changes a regime: add the sum to
`RowStatistics` and to the passes in `regimes`: long.statistics, packed.row and lanes.tile.  A sum that losses do not
need is one of `measures`.
"""
