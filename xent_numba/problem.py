"""From what the user passed to one normalised, validated value.  Every error a user can cause is raised here (or in
`inputs` and `options`, from here), before anything is written and the same for every backend.

The labels are read once, by the backend's scan: it finds the first bad label and the denominators, so a kernel
knows its final scale before it starts and writes each element of the gradient exactly once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from xent_numba.inputs import as_factors, as_labels, as_logits, as_target, as_weights, check_out
from xent_numba.layout import canonical, count, place, row_shape
from xent_numba.options import DEFAULT_IGNORE_INDEX
from xent_numba.reduction import loss_dtype

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import ArrayLike, NDArray

    from xent_numba.backends import Backend, LabelScan
    from xent_numba.options import Options

    Array = NDArray[Any]
    Weights = NDArray[np.float64] | None


class Problem(NamedTuple):
    """One validated cross-entropy call, in canonical form.

    All arrays are views with the class axis moved last and the other axes merged, in C order, to two row
    dimensions (A, B), jointly for logits, distribution and gradient, so no layout is copied.  A = 1 wherever
    all row axes merge into one.  No dimension is 0.
    """

    logits: Array  # (A, B, C) float64 | float32 | float16 | bfloat16, any strides
    labels: Array | None  # (A, B) int32 | int64, index targets, already scanned
    distribution: Array | None  # (A, B, C), one of the logits dtypes, distribution targets
    weight: Weights  # (C,) contiguous
    sample_weight: Weights  # (A, B) contiguous
    ignore: tuple[int, ...]  # () where nothing is ignored; each fits int64
    label_smoothing: float  # ε
    logit_scale: float
    softcap: float | None
    z_coefficient: float  # what multiplies lse² in a row: λ, or λ·D1/D2 for a mean (D1, D2: the two denominators)
    denominator: float  # the reduced loss is Σ rows / denominator: 1, or D1 for a mean; never 0
    grad_scale: float  # 1 / denominator, times a scalar grad_output
    n_threads: int | None


class Slab(NamedTuple):
    """What one call of a backend computes, and where it writes.  Nearly every call has a single slab."""

    problem: Problem
    rows: Array | None  # (A, B) of the loss dtype: where the loss of each row goes, if anywhere
    grad: Array | None  # (A, B, C)
    lse: Weights  # (A, B) contiguous, given by the user
    grad_output: Weights  # (A, B) contiguous, per row


class Prepared(NamedTuple):
    """A call ready to run: its slabs, in C order of the rows, and the arrays that they fill."""

    slabs: tuple[Slab, ...]  # () where there are no rows, or the denominator is 0: results are as they should be
    rows: Array | None  # in the shape of class indices
    grad: Array | None  # in the shape of the logits; the user's own array where one was passed
    denominator: float
    dtype: type[np.float32] | type[np.float64]  # of the loss


_INT64 = np.dtype(np.int64)
_FLOAT32 = np.dtype(np.float32)
_FLOAT64 = np.dtype(np.float64)
_make_problem = tuple.__new__  # a third of the cost of the constructors, on the lean path
_ROWS = "that of the logits without the class axis"


def prepare(
    backend: Backend,
    options: Options,
    logits: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None,
    sample_weight: ArrayLike | None,
    *,
    want_rows: bool = False,
    want_grad: bool = False,
    out: object = None,
    out_name: str = "out",
    lse: ArrayLike | None = None,
    grad_output: ArrayLike | None = None,
) -> Prepared:
    """Validate one call and bring it into canonical form.

    `want_rows`: the caller needs the loss of each row when reduction is "none".  `want_grad`: into `out`, or
    into a new array where that is None.
    """
    if (
        weight is None
        and sample_weight is None
        and out is None
        and lse is None
        and grad_output is None
        and logits.__class__ is np.ndarray
        and target.__class__ is np.ndarray
    ):
        lean = _prepare_lean(backend, options, logits, target, want_rows, want_grad)
        if lean is not None:
            return lean
    x, axis = as_logits(logits, options.axis)
    given, is_distribution = as_target(target, x, axis)
    rows_shape = row_shape(x.shape, axis)
    classes = x.shape[axis]
    w = None if weight is None else as_weights(weight, "weight", (classes,), "one per class")
    s = None if sample_weight is None else as_weights(sample_weight, "sample_weight", rows_shape, _ROWS)
    saved = None if lse is None else as_factors(lse, "lse", rows_shape, _ROWS)
    scale, upstream = _grad_output(grad_output, options.reduction, rows_shape)
    labels, q = None, None
    ignore: tuple[int, ...] = ()
    if is_distribution:
        if options.ignore_index != DEFAULT_IGNORE_INDEX:
            raise ValueError(
                f"ignore_index = {options.ignore_index} needs class indices; with a distribution as target, leave rows "
                "out with a sample_weight of 0"
            )
        q = given
    else:
        labels, ignore = as_labels(given, options.ignore, options.ignore_beyond)
    dtype = loss_dtype(x.dtype)
    grad = None
    if want_grad:
        grad = np.empty_like(x) if out is None else check_out(
            out, out_name, x.shape, x.dtype, x, labels, q, w, s, saved, upstream
        )  # fmt: skip
    n_rows = count(rows_shape)
    mean = options.reduction == "mean"
    d1 = d2 = 1.0  # the denominators of the loss and of its z-loss
    if n_rows == 0:
        d1 = 0.0 if mean else 1.0
    elif labels is not None:
        found = _scan(backend, options, ignore, given, labels, classes, w, s)
        if mean:
            d1, d2 = found.weight_sum, found.sample_sum
    elif mean:
        d1 = d2 = float(n_rows) if s is None else float(np.add.reduce(s, axis=None))
    rows = np.empty(rows_shape, dtype) if want_rows and options.reduction == "none" else None
    result = grad if out is None else out
    if n_rows == 0 or d1 == 0.0:
        if grad is not None:
            grad.fill(0)
        return Prepared((), rows, result, d1, dtype)  # type: ignore[arg-type]

    layout = canonical(axis, x, q, grad)
    per_row = (-1, layout.a, layout.b)
    problem = Problem(
        x, None, None, w, None, ignore, options.label_smoothing, options.logit_scale, options.softcap,
        options.z_loss * (d1 / d2), d1, scale / d1, options.n_threads,
    )  # fmt: skip
    flat = [None if array is None else array.reshape(per_row) for array in (labels, s, rows, saved, upstream)]
    slabs = []
    for i, (x_view, q_view, grad_view) in enumerate(layout.slabs()):
        labels_i, s_i, rows_i, lse_i, upstream_i = (None if array is None else array[i] for array in flat)
        part = problem._replace(logits=x_view, labels=labels_i, distribution=q_view, sample_weight=s_i)
        slabs.append(Slab(part, rows_i, grad_view, lse_i, upstream_i))
    return Prepared(tuple(slabs), rows, result, d1, dtype)  # type: ignore[arg-type]


def _prepare_lean(
    backend: Backend, options: Options, logits: Array, target: Array, want_rows: bool, want_grad: bool
) -> Prepared | None:
    """The same result for the commonest call with the fewest steps: 2-D floats, int64 labels, no arrays besides."""
    float_type = logits.dtype
    if float_type is _FLOAT32:
        dtype: type[np.float32] | type[np.float64] = np.float32
    elif float_type is _FLOAT64:
        dtype = np.float64
    else:
        return None
    shape = logits.shape
    if target.dtype is not _INT64 or len(shape) != 2 or target.shape != shape[:1] or options.axis not in (-1, 1):
        return None
    n, classes = shape
    if n == 0 or classes == 0 or not target.flags.aligned:
        return None
    labels = target[None]
    found = backend.scan_labels(labels, classes, options.ignore, None, None, options.n_threads)
    if found.first_bad >= 0:
        return None  # the long way words the error
    denominator = 1.0
    if options.reduction == "mean":
        denominator = found.weight_sum
        if denominator == 0.0:
            return None
    grad = np.empty_like(logits) if want_grad else None
    rows = np.empty(n, dtype) if want_rows and options.reduction == "none" else None
    problem: Problem = _make_problem(
        Problem,
        (
            logits[None], labels, None, None, None, options.ignore, options.label_smoothing, options.logit_scale,
            options.softcap, options.z_loss, denominator, 1.0 / denominator, options.n_threads,
        ),
    )  # fmt: skip
    slab: Slab = _make_problem(
        Slab, (problem, None if rows is None else rows[None], None if grad is None else grad[None], None, None)
    )
    return _make_problem(Prepared, ((slab,), rows, grad, denominator, dtype))


def _scan(
    backend: Backend,
    options: Options,
    ignore: tuple[int, ...],
    given: Array,
    labels: Array,
    classes: int,
    weight: Weights,
    sample_weight: Weights,
) -> LabelScan:
    """The backend's pass over the labels; IndexError at the first one that is out of range and not ignored."""
    shape = canonical_rows(labels)
    found = backend.scan_labels(
        labels.reshape(shape),
        classes,
        ignore,
        weight,
        None if sample_weight is None else sample_weight.reshape(shape),
        options.n_threads,
    )
    if found.first_bad >= 0:
        where = place(found.first_bad, given.shape)
        value = int(given.reshape(-1)[found.first_bad])
        raise IndexError(
            f"target{where} = {value} is out of range for {classes} classes (ignore_index = {options.ignore_index})"
        )
    return found


def canonical_rows(labels: Array) -> tuple[int, int]:
    """An (A, B) shape for labels: with A the first axis where that avoids a copy."""
    view = canonical(-1, labels[..., None])
    return (view.a, view.b) if not view.lead else (1, labels.size)


def _grad_output(
    value: ArrayLike | None, reduction: str, rows_shape: tuple[int, ...]
) -> tuple[float, NDArray[np.float64] | None]:
    """Upstream gradient as a factor of the whole and one per row."""
    if value is None:
        return 1.0, None
    if reduction == "none":
        if np.ndim(value) == 0:  # one for all rows
            return float(as_factors(value, "grad_output", (), "")), None
        return 1.0, as_factors(value, "grad_output", rows_shape, f"{_ROWS}, as reduction is 'none'")
    return float(as_factors(value, "grad_output", (), f"one number, as reduction is {reduction!r}")), None


class Rowwise(NamedTuple):
    """A softmax-like call ready to run: pairs of (A, B, C) logits and their result, and what they fill."""

    slabs: tuple[tuple[Array, Array], ...]
    result: Array


def prepare_rowwise(options: Options, logits: ArrayLike, out: object, *, reduces: bool) -> Rowwise:
    """Validate a call whose result has the logits' shape and dtype, or (`reduces`) that of the losses of the rows."""
    x, axis = as_logits(logits, options.axis)
    rows_shape = row_shape(x.shape, axis)
    shape = rows_shape if reduces else x.shape
    dtype = np.dtype(loss_dtype(x.dtype)) if reduces else x.dtype
    if out is not None:
        array = check_out(out, "out", shape, dtype, x)
    else:
        array = np.empty(shape, dtype) if reduces else np.empty_like(x)
    result: Array = array if out is None else out  # type: ignore[assignment]
    if array.size == 0:
        return Rowwise((), result)
    layout = canonical(axis, x, np.expand_dims(array, axis) if reduces else array)
    slabs = []
    for x_view, view in layout.slabs():
        slabs.append((x_view, view[..., 0] if reduces else view))
    return Rowwise(tuple(slabs), result)
