"""From the arguments of a loss function to a `Prepared` call: validated, in canonical form, its denominators known.

The labels are read once, by the backend's `scan_labels`, which finds the first bad label and sums the denominators.  A
kernel therefore knows its final scale before it starts, and writes each element of the gradient exactly once.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from xent_numba.backends.protocol import Problem, Slab
from xent_numba.prepare.aligned import aligned_slabs, is_aligned
from xent_numba.prepare.inputs import (
    PER_ROW,
    as_factors,
    as_grad_output,
    as_logits,
    as_weights,
    check_out,
    scaled_up,
    without_extremes,
)
from xent_numba.prepare.layout import canonical, overlaps, row_shape
from xent_numba.prepare.misuse import raise_if_swapped
from xent_numba.prepare.target import as_labels, as_target, check_focal_gamma, check_ignore_index, raise_bad_label
from xent_numba.reduction import exact_sum, loss_dtype
from xent_numba.results import empty_like

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from numpy.typing import NDArray

    from xent_numba.backends.protocol import Backend, LabelScan
    from xent_numba.prepare.options import Options

    Array = NDArray[Any]
    Weights = NDArray[np.float64] | None
    # The arrays of one call as the user passed them: logits, target, weight, sample_weight, lse and grad_output.
    # Not a NamedTuple, because making one takes a thirtieth of the time of a small call.
    Inputs = tuple[Any, Any, Any, Any, Any, Any]

TINY = 1e-290  # a smaller denominator may have lost digits to underflow, and its inverse may overflow
_PLAIN_LABELS = (np.dtype(np.int64), np.dtype(np.int32))
_LAST_OF_TWO = (-1, 1)
_ndarray = np.ndarray
_FLOAT32 = np.dtype(np.float32)
_FLOAT64 = np.dtype(np.float64)
_make = tuple.__new__  # half the cost of a NamedTuple's constructor


class Wanted(NamedTuple):
    """What a public function has to compute."""

    rows: bool  # the losses; one for each row where reduction is "none"
    grad: bool
    out_name: str  # what that function calls the argument that receives the gradient, for error messages


LOSS = Wanted(True, False, "")
LOSS_AND_GRAD = Wanted(True, True, "grad_out")
GRAD = Wanted(False, True, "out")


class Prepared(NamedTuple):
    """A call ready to run: its slabs, in C order of the rows, and the arrays that they fill."""

    slabs: Iterable[Slab]  # empty where there are no rows or the denominator is 0: the results are then final already
    rows: Array | None  # the shape of class indices
    grad: Array | None  # the shape of the logits; the user's own array where one was passed
    denominator: float
    dtype: type[np.float32] | type[np.float64]  # of the loss


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


def prepare(backend: Backend, options: Options, inputs: Inputs, wanted: Wanted, out: object = None) -> Prepared:
    """Validate one call and bring it into canonical form.

    A wanted gradient goes to `out`, or to a new array where that is None.
    """
    logits, target, weight, sample_weight, lse, grad_output = inputs
    if (
        logits.__class__ is _ndarray
        and target.__class__ is _ndarray
        and weight is None
        and sample_weight is None
        and lse is None
        and grad_output is None
    ):
        call = _prepare_fast_path(backend, options, logits, target, wanted, out)
        if call is not None:
            return call
    checked = check_inputs(options, inputs)
    x = checked.logits
    grad = None
    if wanted.grad:
        others = besides_logits(checked)
        grad = empty_like(x) if out is None else check_out(out, wanted.out_name, x.shape, x.dtype, x, *others)
    rows_shape = row_shape(x.shape, checked.axis)
    n_rows = math.prod(rows_shape)
    checked, d1, d2 = denominators(backend, options, checked, n_rows)
    dtype = loss_dtype(x.dtype)
    rows = np.empty(rows_shape, dtype) if wanted.rows and options.reduction == "none" else None
    slabs: Iterable[Slab] = ()
    if d1 != 0.0 and n_rows:
        slabs = make_slabs(options, checked, (grad, rows), (d1, d2))
    elif grad is not None:
        grad.fill(0)
    return Prepared(slabs, rows, grad if out is None else out, d1, dtype)  # type: ignore[arg-type]


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


def denominators(backend: Backend, options: Options, checked: Checked, n_rows: int) -> tuple[Checked, float, float]:
    """Scan the labels; returns the call and the denominators of its loss and of its z-loss, 1 where there is no mean.

    A mean does not change when all weights in its denominator are multiplied by one number.  So extreme weights are
    rescaled here, by powers of two, where their sum would overflow or lose digits.
    """
    has_labels, mean = not checked.is_distribution, options.reduction == "mean"
    w, s = checked.weight, checked.sample_weight
    if n_rows == 0:
        return checked, 0.0 if mean else 1.0, 1.0
    if mean and not (w is None and s is None):
        s = None if s is None else without_extremes(s)
        w = w if w is None or not has_labels else without_extremes(w)
        if w is not checked.weight or s is not checked.sample_weight:
            checked = checked._replace(weight=w, sample_weight=s)
    if not has_labels:
        if not mean:
            return checked, 1.0, 1.0
        total = float(n_rows) if s is None else exact_sum(s.reshape(-1))
        return checked, total, total
    found = _scan(backend, options, checked)
    if not mean:
        return checked, 1.0, 1.0
    if found.weight_sum < TINY and not (w is None and s is None):  # the weights that count are far below the largest
        w, s = (None if weights is None else scaled_up(weights) for weights in (w, s))
        checked = checked._replace(weight=w, sample_weight=s)
        found = _scan(backend, options, checked)
    return checked, found.weight_sum, found.sample_sum


def make_slabs(
    options: Options,
    checked: Checked,
    results: tuple[Array | None, Array | None],
    denominators: tuple[float, float],
    second_order: tuple[Array | None, Array | None] = (None, None),
) -> Iterable[Slab]:
    """The call as (A, B, C) views, several where one cannot describe the layout; misaligned arrays are copied.

    `results`: the gradient and the losses of the rows.  `second_order`: the vector of a Hessian-vector product, and the
    diagonal of the Hessian.
    """
    x, axis, _, _, labels, ignore, q, w, s, saved, upstream, scale = checked
    (grad, rows), (d1, d2), (v, diag) = results, denominators, second_order
    shared = (
        ignore, options.label_smoothing, options.logit_scale, options.softcap, options.z_loss * (d1 / d2),
        options.focal_gamma, d1, scale / d1, options.n_threads,
        options.is_plain and labels is not None and w is None and s is None,
    )  # fmt: skip
    layout = canonical(axis, x, q, grad, v, diag)
    per_row = [
        None if array is None else array.reshape(-1, layout.a, layout.b) for array in (labels, s, rows, saved, upstream)
    ]
    slabs = []
    for i, (x_view, q_view, grad_view, v_view, diag_view) in enumerate(layout.slabs()):
        labels_i, s_i, rows_i, lse_i, upstream_i = (None if array is None else array[i] for array in per_row)
        part: Problem = _make(Problem, (x_view, labels_i, q_view, w, s_i, *shared))
        slabs.append(Slab(part, rows_i, grad_view, lse_i, upstream_i, v_view, diag_view))
    return slabs if is_aligned(x, q, grad, v, diag) else aligned_slabs(slabs)


def _prepare_fast_path(
    backend: Backend, options: Options, logits: Array, target: Array, wanted: Wanted, out: object
) -> Prepared | None:
    """`prepare` for the commonest call in as few steps as possible: 2-D float32 or float64 logits and plain labels.

    For 8 × 10 logits, the general path would take longer than the kernel.  None where the call is of another kind or
    has an error in it: the general path then finds out which.
    """
    float_type = logits.dtype
    if float_type is _FLOAT32:
        dtype: type[np.float32] | type[np.float64] = np.float32
    elif float_type is _FLOAT64:
        dtype = np.float64
    else:
        return None
    shape = logits.shape
    if len(shape) != 2 or options.axis not in _LAST_OF_TWO or target.shape != shape[:1] or not logits.size:
        return None
    if target.dtype not in _PLAIN_LABELS or not target.flags.aligned or not logits.flags.aligned:
        return None
    want_rows, want_grad, _ = wanted
    if not want_grad:
        grad = None
    elif out is None:
        grad = empty_like(logits)
    elif out.__class__ is _ndarray and _is_plain_out(out, logits, target):
        grad = out
    else:
        return None
    labels = target[None]
    found = backend.scan_labels(labels, shape[1], options.ignore, None, None, options.n_threads)
    if found.first_bad >= 0:
        return None
    denominator = 1.0
    rows = None
    if options.reduction == "mean":
        denominator = found.weight_sum
        if denominator == 0.0:
            return None
    elif want_rows and options.reduction == "none":
        rows = np.empty(shape[0], dtype)
    problem: Problem = _make(
        Problem,
        (
            logits[None], labels, None, None, None, options.ignore, options.label_smoothing, options.logit_scale,
            options.softcap, options.z_loss, options.focal_gamma, denominator, 1.0 / denominator, options.n_threads,
            options.is_plain,
        ),
    )  # fmt: skip
    grad_view = None if grad is None else grad[None]
    slab: Slab = _make(Slab, (problem, None if rows is None else rows[None], grad_view, None, None, None, None))
    return _make(Prepared, ((slab,), rows, grad, denominator, dtype))


def _is_plain_out(out: Array, logits: Array, labels: Array) -> bool:
    """Whether `out` is certainly valid: C-contiguous, and either the logits themselves or apart from all inputs."""
    flags = out.flags
    return (
        out.dtype is logits.dtype
        and out.shape == logits.shape
        and flags.c_contiguous
        and flags.aligned
        and flags.writeable
        and (out is logits or not overlaps(out, logits))
        and not overlaps(out, labels)
    )


def _scan(backend: Backend, options: Options, checked: Checked) -> LabelScan:
    """The backend's pass over the labels; IndexError for the first one that is out of range and not ignored."""
    labels, s = checked.labels, checked.sample_weight
    assert labels is not None
    classes = checked.logits.shape[checked.axis]
    # (A, B), with A the first axis of labels that are not contiguous.  That is a view of slices and of columns; only
    # less regular layouts are copied.
    shape = (1, -1) if labels.ndim < 2 or labels.flags.c_contiguous else (labels.shape[0], -1)
    s = None if s is None else s.reshape(shape)
    found = backend.scan_labels(labels.reshape(shape), classes, checked.ignore, checked.weight, s, options.n_threads)
    if found.first_bad >= 0:
        value = int(checked.target.reshape(-1)[found.first_bad])
        raise_bad_label(found.first_bad, value, checked.target.shape, classes, options)
    return found
