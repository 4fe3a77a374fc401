"""The array arguments of a loss, validated and converted."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from xent_numba.prepare.inputs import PER_ROW, as_factors, as_grad_output, as_logits, as_weights
from xent_numba.prepare.layout import row_shape
from xent_numba.prepare.misuse import raise_if_swapped
from xent_numba.prepare.target import as_labels, as_target, check_focal_gamma, check_ignore_index

if TYPE_CHECKING:
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray

    from xent_numba.prepare.options import Options

    Array = NDArray[Any]
    Weights = NDArray[np.float64] | None
    # The arrays of one call as the user passed them: logits, target, weight, sample_weight, lse and grad_output.
    # Not a NamedTuple, because making one takes a thirtieth of the time of a small call.
    Inputs = tuple[Any, Any, Any, Any, Any, Any]

_make = tuple.__new__  # half the cost of a NamedTuple's constructor


class Checked(NamedTuple):
    """`Inputs` after validation and conversion."""

    logits: Array  # floating point, in the layout of the user's
    axis: int  # of the classes, counted from the front
    target: Array  # class indices as passed, before `labels` was made of them
    is_distribution: bool  # which has `labels` too where it is one-hot
    labels: Array | None  # int32 or int64
    ignore: tuple[int, ...]  # values among the labels that mark ignored rows
    distribution: Array | None
    weight: Weights
    sample_weight: Weights
    lse: Weights
    upstream: Weights  # a grad_output with one value for each row
    scale: float  # a scalar grad_output, else 1


def check_inputs(options: Options, inputs: Inputs) -> Checked:
    """Validate and convert every array argument."""
    logits, any_target, weight, sample_weight, lse, grad_output = inputs
    try:
        x, axis = as_logits(logits, options.axis)
        target, is_distribution = as_target(any_target, x, axis)
    except (TypeError, ValueError) as error:
        raise_if_swapped(error, logits, any_target)
        raise
    rows_shape, classes = row_shape(x.shape, axis), x.shape[axis]
    w = None if weight is None else as_weights(weight, "weight", (classes,), "one per class")
    s = None if sample_weight is None else as_weights(sample_weight, "sample_weight", rows_shape, PER_ROW)
    saved = None if lse is None else as_factors(lse, "lse", rows_shape, PER_ROW)
    scale, upstream = as_grad_output(grad_output, options.reduction, rows_shape)
    if is_distribution:
        check_ignore_index(options)
        check_focal_gamma(options)
        labels, q = (target, None) if target.dtype.kind == "i" else (None, target)
        return _make(Checked, (x, axis, target, True, labels, (), q, w, s, saved, upstream, scale))
    labels, ignore = as_labels(target, options.ignore, options.ignore_beyond)
    return _make(Checked, (x, axis, target, False, labels, ignore, None, w, s, saved, upstream, scale))


def besides_logits(checked: Checked) -> tuple[Array | None, ...]:
    """The arrays that kernels read besides the logits; None for those that a call does not have."""
    _, _, _, _, labels, _, q, *per_class_or_row, _ = checked
    return labels, q, *per_class_or_row
