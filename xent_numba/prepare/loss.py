"""From the arguments of a loss function to a `Prepared` call: validated, in canonical form, its denominators known.

The labels are read once, before anything else (`denominators`).  A kernel therefore knows its final scale before it
starts, and writes each element of the gradient exactly once.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from xent_numba.backends.protocol import Problem, Slab
from xent_numba.prepare.aligned import aligned_slabs, is_aligned
from xent_numba.prepare.checked import besides_logits, check_inputs
from xent_numba.prepare.denominators import denominators
from xent_numba.prepare.inputs import check_out
from xent_numba.prepare.layout import canonical, overlaps, row_shape
from xent_numba.reduction import loss_dtype
from xent_numba.results import empty_like

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from numpy.typing import NDArray

    from xent_numba.backends.protocol import Backend
    from xent_numba.prepare.checked import Checked, Inputs
    from xent_numba.prepare.options import Options

    Array = NDArray[Any]

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
