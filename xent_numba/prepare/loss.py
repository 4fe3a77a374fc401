"""From what the user passed to one normalised, validated value.  Every error a user can cause is raised here (or in
`inputs` and `options`, from here), before anything is written and the same for every backend.

The labels are read once, by the backend's scan: it finds the first bad label and the denominators, so a kernel
knows its final scale before it starts and writes each element of the gradient exactly once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from xent_numba.backends.protocol import Problem, Slab
from xent_numba.prepare.inputs import (
    as_factors,
    as_labels,
    as_logits,
    as_target,
    as_weights,
    check_out,
    raised,
    without_extremes,
)
from xent_numba.prepare.layout import canonical, count, overlaps, place, row_shape
from xent_numba.prepare.options import DEFAULT_IGNORE_INDEX
from xent_numba.reduction import loss_dtype
from xent_numba.results import empty_like

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import ArrayLike, NDArray

    from xent_numba.backends.protocol import Backend, LabelScan
    from xent_numba.prepare.options import Options

    Array = NDArray[Any]
    Weights = NDArray[np.float64] | None


class Prepared(NamedTuple):
    """A call ready to run: its slabs, in C order of the rows, and the arrays that they fill."""

    slabs: tuple[Slab, ...]  # () where there are no rows, or the denominator is 0: results are as they should be
    rows: Array | None  # in the shape of class indices
    grad: Array | None  # in the shape of the logits; the user's own array where one was passed
    denominator: float
    dtype: type[np.float32] | type[np.float64]  # of the loss


TINY = 1e-290  # a denominator that may have lost digits, and whose inverse may overflow
_PLAIN_LABELS = (np.dtype(np.int64), np.dtype(np.int32))
_LAST_OF_TWO = (-1, 1)
_ndarray = np.ndarray
_FLOAT32 = np.dtype(np.float32)
_FLOAT64 = np.dtype(np.float64)
_make = tuple.__new__  # half the cost of the constructors, on the lean path
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
        logits.__class__ is _ndarray
        and target.__class__ is _ndarray
        and weight is None
        and sample_weight is None
        and lse is None
        and grad_output is None
    ):
        lean = _prepare_fast_path(backend, options, logits, target, want_rows, want_grad, out)
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
        grad = empty_like(x) if out is None else check_out(
            out, out_name, x.shape, x.dtype, x, labels, q, w, s, saved, upstream
        )  # fmt: skip
    n_rows = count(rows_shape)
    mean = options.reduction == "mean"
    if mean:  # does not change when all weights are multiplied by one number, if they enter the denominator
        s = None if s is None else without_extremes(s)
        w = w if w is None or is_distribution else without_extremes(w)
    d1 = d2 = 1.0  # the denominators of the loss and of its z-loss
    if n_rows == 0:
        d1 = 0.0 if mean else 1.0
    elif labels is not None:
        found = _scan(backend, options, ignore, given, labels, classes, w, s)
        if mean and found.weight_sum < TINY and not (w is None and s is None):  # what counts is far below the largest
            w, s = (None if weights is None else raised(weights) for weights in (w, s))
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
        options.is_plain and labels is not None and w is None and s is None,
    )  # fmt: skip
    flat = [None if array is None else array.reshape(per_row) for array in (labels, s, rows, saved, upstream)]
    slabs = []
    for i, (x_view, q_view, grad_view) in enumerate(layout.slabs()):
        labels_i, s_i, rows_i, lse_i, upstream_i = (None if array is None else array[i] for array in flat)
        part = problem._replace(logits=x_view, labels=labels_i, distribution=q_view, sample_weight=s_i)
        slabs.append(Slab(part, rows_i, grad_view, lse_i, upstream_i))
    return Prepared(tuple(slabs), rows, result, d1, dtype)  # type: ignore[arg-type]


def _prepare_fast_path(
    backend: Backend, options: Options, logits: Array, target: Array, want_rows: bool, want_grad: bool, out: object
) -> Prepared | None:
    """The same for the commonest call, in as few steps as can be: 2-D floats, plain labels, a plain `out` if any.

    None where the call is of another kind, or anything is wrong with it: the long way sorts it out.
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
    if not want_grad:
        grad = None
    elif out is None:
        grad = empty_like(logits)
    elif out.__class__ is _ndarray and _plain_out(out, logits, target):
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
            options.softcap, options.z_loss, denominator, 1.0 / denominator, options.n_threads, options.is_plain,
        ),
    )  # fmt: skip
    slab: Slab = _make(
        Slab, (problem, None if rows is None else rows[None], None if grad is None else grad[None], None, None)
    )
    return _make(Prepared, ((slab,), rows, grad, denominator, dtype))


def _plain_out(out: Array, logits: Array, labels: Array) -> bool:
    """Whether `out` is plainly right: contiguous, and the logits themselves or far from all inputs."""
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
    # (A, B) with A the first axis where labels are no plain row: a view of slices and columns, a copy of odder ones.
    shape = (1, -1) if labels.ndim < 2 or labels.flags.c_contiguous else (labels.shape[0], -1)
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
