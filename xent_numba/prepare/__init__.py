"""From the arguments of a public function to what a backend is given: checked arrays, canonical shapes, denominators.

loss       `prepare`: a call of a loss function becomes `protocol.Slab`s, each with a `protocol.Problem`
curvature  the same for Hessian-vector products, and for the gradient with the diagonal of the Hessian
rowwise    `prepare_rowwise`: the same for softmax, log_softmax and logsumexp, which have neither target nor reduction
statistics `prepare_statistics`: the same for row_statistics, which has class indices or no target, and no reduction
distillation  `prepare_distillation`: the same for the distillation losses, of two arrays of logits
evaluation what only evaluate has: a target that must be given, and the numbers of classes of a top-k accuracy
shards     `prepare_shard`: the same for some of the classes, which partial_cross_entropy takes
linear     `prepare_head`: the same for the logits of a linear head, which do not exist
checked    the array arguments of a loss, validated and converted
denominators  `scan`: the one pass over the labels; what a mean divides by
options    the scalar options: checked, and cached by value
inputs     one function for each kind of array argument: conversion to a known dtype and shape
target     the same for the target: class indices or a distribution
layout     shapes and strides: any array as a view (A, B, C), with the classes last and nothing copied
aligned    arrays with misaligned elements: copied in and out, a block of rows at a time
one_hot    integer targets in the shape of the logits: one-hot rows, replaced by their class indices
labels     why something else than integers cannot be class indices, and what to write instead
tensors    tensors of PyTorch and JAX on the host: bfloat16 read in place, gradients not lost unnoticed
misuse     arguments in the names or the order of other libraries: what to write instead

Every error about an argument is raised here or, for a backend, in the registry before: always before anything is
written, and in the same words on every backend:

    a scalar option of the wrong type or out of range                options.make_options, as_temperature, as_flag, …
    an argument that a function does not have                        misuse.explain_misuse
    the target passed first                                          misuse.raise_if_swapped
    a dtype, shape, byte order or mask that cannot be used           inputs.as_logits, as_factors, …, target.as_target
    a tensor whose gradient would be lost                            tensors.refuse_gradient
    a name of a field that is unknown or repeated                    statistics.check_fields
    a `top_k` below 1 or above the number of classes                 evaluation.check_top_k
    labels that are not integers                                     labels.raise_not_labels
    integers in the shape of the logits that are not one-hot         one_hot.one_hot_classes
    a weight that is negative or not finite                          inputs.raise_bad_weight
    a label out of range                                             target.raise_bad_label
    `ignore_index` or `focal_gamma` next to a distribution           target.check_ignore_index, check_focal_gamma
    a distribution where only class indices will do                  target.refuse_distribution
    no target where one is needed                                    statistics.check_fields, evaluation.check_target
    a shard with classes beyond `n_classes`                          options.class_range, shards.prepare_shard
    an `out` or `grad_out` that does not fit or overlaps an input    inputs.as_out, check_out, check_in_place, …
    shapes of a linear head that do not fit each other               linear.prepare_head
    names in `wrt` that are unknown, or of a sparse input            linear.check_wrt
    a sparse matrix in another format, or that is no input           linear.prepare_head
    a `diag_out` that is not apart from logits and gradient          curvature.check_diag
    a vector of another shape or type                                inputs.as_vector
    an unknown backend, or one that cannot run here                  backends.registry.select, before this folder

Parts of a loss that do not belong together, or lack classes or labels, are errors of `sharding.checks`.

Arrays on a GPU take another way, through `backends.cuda.arrays`, and the same functions raise their errors.

To add an option, see CONTRIBUTING.md.  Here it takes a field of `options.Options`, its check in `options._build`, a
field of `protocol.Problem`, and the line of `loss.make_slabs` that fills it.  It must also enter `Options.is_plain`,
unless `plain_arguments` of the cpu backend passes it on.  If it is an array, it becomes an element of `checked.Inputs`,
with a check in `inputs`.
"""
