"""The arguments of the loss kernels, and what each of them means for one row.

`Operands` holds all arguments of a call; `RowInput` is what one row of many classes is computed from.  A part that a
call does not have is None, and the machine code of that call has no instructions for it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import types

from xent_numba.backends.cpu.compile.inline import inline, optional, specialize
from xent_numba.backends.cpu.row.target import DenseTarget
from xent_numba.backends.cpu.row.transform import Softcap, is_instance_type
from xent_numba.backends.cpu.simd.load_store import advance, pointer, stride
from xent_numba.backends.cpu.simd.vector import select, splat, zero_float64_vector, zero_vector


class Operands(NamedTuple):
    """The arguments of a call: N = A·B rows of C classes.  (A, B, C) arrays have any strides, others are contiguous.

    An array that is read for every logit is None where a call lacks it: then the machine code lacks it too.  An array
    that is read once per row has size 0 instead: testing for that once per row costs nothing, whereas separate machine
    code for every combination of options would.  `labels` and `saved_lse` are None too, because a call without them is
    computed in another way.
    """

    logits: Any  # (A, B, C)
    labels: Any  # (N,), or None for a distribution
    distribution: Any  # (A, B, C), or None
    dense_weight: Any  # (C,) class weights for a dense target, in the arithmetic of the logits; or None
    weight: Any  # (C,) float64, for the class of the label; or (0,)
    sample_weight: Any  # (N,) float64, or (0,)
    grad_output: Any  # (N,) float64, the gradient of what follows with respect to each loss; or (0,)
    saved_lse: Any  # (N,) float64, the log-sum-exp of each row, saved by an earlier call; or None
    row_losses: Any  # (N,) where the loss of each row is written; or (0,)
    grad: Any  # (A, B, C) where the gradient is written, or None
    ignored_classes: Any  # (K,) int64, the classes that are ignored
    confidence: Any  # 1 − label_smoothing, or None for a distribution
    dense: Any  # `DenseCoefficients`, or None without a dense target
    transform: Any  # `Sign`, `Softcap` or None
    scale: Any  # |logit_scale|, or None where it is 1 or part of the softcap
    z_coefficient: float  # the coefficient of lse²
    focal_gamma: Any  # γ, or None where it is 0
    grad_scale: float  # what multiplies every gradient, including logit_scale where there is no softcap
    streaming: bool  # whether the gradient is written past the caches


class RowInput(NamedTuple):
    """What the loss of one row is computed from, for rows whose classes lie side by side."""

    logits: Any  # pointer to the C logits x_j
    classes: int  # C
    y: int  # the class of the label, or −1
    dense: Any  # `DenseTarget`, or None
    transform: Any
    scale: Any
    # None: the sum leaves out class y.  Else it leaves out the `Top` of the row, whatever y is: True, or an integer, of
    # how many classes the maximum is to be found first, lest one that is a little larger comes later again and again.
    top: Any
    measures: Any  # the `Measures` that are wanted beside the sum; None without a `Top`


@optional
def wants_top(distribution: Any) -> Any:
    """The field `top` of a row with a distribution; None for None."""
    return True


@inline
def row_input(operands: Any, a: int, b: int) -> Any:
    """The `RowInput` of row (a, b)."""
    rows_per_a, classes = operands.logits.shape[1:]
    return RowInput(
        row_pointer(operands.logits, a, b),
        classes,
        label(operands.labels, a * rows_per_a + b, classes, operands.ignored_classes),
        dense_target_of(operands.dense, row_pointer(operands.distribution, a, b), operands.dense_weight),
        operands.transform,
        operands.scale,
        wants_top(operands.distribution),
        None,
    )


@inline
def vtype_of(operands: Any) -> Any:
    """A vector of the type in which a call is computed (its value has no meaning).

    This is float64 for float64 logits or a float64 distribution, and for a softcap, where float32 would lose digits
    that a small loss has.
    """
    return _compute_type(pointer(operands.logits), pointer(operands.distribution), operands.transform)


@specialize
def _compute_type(logits: Any, q: Any, transform: Any) -> Any:
    """A vector of the arithmetic for pointers to logits and to a distribution, or None, and a transform."""
    if not isinstance(q, types.NoneType) and q.dtype == types.float64:
        return lambda logits, q, transform: zero_vector(q)
    if is_instance_type(transform, Softcap):
        return lambda logits, q, transform: zero_float64_vector()
    return lambda logits, q, transform: zero_vector(logits)


# ------------------------------------------------------------------------------------------------ one value per row
@inline
def value_or_one(array: Any, i: int) -> Any:
    """array[i], or 1 where the array is empty."""
    return array[i] if array.size else 1.0


@inline
def is_among(few: Any, y: int) -> bool:
    """Whether y is one of a few labels."""
    for value in few:  # noqa: SIM110 - Numba has no any()
        if y == value:
            return True
    return False


@inline
def label(labels: Any, i: int, classes: int, ignored_classes: Any) -> Any:
    """The class of row i; −1 where the row is ignored, or the call has no labels.

    Labels out of range are ignored ones: the scan of the labels has raised an error for all others.
    """
    if labels is None:
        return np.int64(-1)
    y = np.int64(labels[i])
    if y < 0 or y >= classes or is_among(ignored_classes, y):
        return np.int64(-1)
    return y


@inline
def is_ignored(labels: Any, y: int) -> bool:
    """Whether a row with this result of `label` is ignored."""
    if labels is None:
        return False
    return y < 0


@optional
def label_weight_of(confidence: Any, weight: Any, y: int) -> Any:
    """(1 − ε) w_y, the hard part of the target at class y; None for a distribution."""
    return confidence * value_or_one(weight, max(y, 0))


@inline
def store_loss(row_losses: Any, i: int, value: float) -> None:
    """row_losses[i] = value, if the losses of the rows are asked for."""
    if row_losses.size:
        row_losses[i] = value


@inline
def apply_weight(loss: Any, weight: Any) -> Any:
    """loss · weight, where a weight of 0 gives 0 for an infinite loss too, but NaN for NaN."""
    zero = splat(0.0, loss)
    silent = select(loss == loss, zero, loss)
    return select(weight == zero, silent, loss * weight)


# ------------------------------------------------------------------------------------------------ rows of arrays
@optional
def row_pointer(array: Any, a: int, b: int) -> Any:
    """The address of array[a, b, 0]; None for None."""
    return advance(pointer(array), a * stride(array, 0) + b * stride(array, 1))


@optional
def dense_target_of(dense: Any, q: Any, weight: Any) -> Any:
    """The dense target of one row, or of a tile of rows, from `Operands.dense` and a pointer to its part of q."""
    return DenseTarget(q, pointer(weight), dense.alpha, dense.beta)
