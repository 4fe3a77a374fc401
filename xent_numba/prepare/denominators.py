"""The one pass over the labels, by the backend's `scan_labels`: the first bad label, and the denominators of a mean."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xent_numba.prepare.inputs import scaled_up, without_extremes
from xent_numba.prepare.target import raise_bad_label
from xent_numba.reduction import exact_sum

if TYPE_CHECKING:
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray

    from xent_numba.backends.protocol import Backend, LabelScan
    from xent_numba.prepare.checked import Checked
    from xent_numba.prepare.options import Options

    Array = NDArray[Any]
    Weights = NDArray[np.float64] | None

TINY = 1e-290  # a smaller denominator may have lost digits to underflow, and its inverse may overflow


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
    found = _scan_of(backend, options, checked)
    if not mean:
        return checked, 1.0, 1.0
    if found.weight_sum < TINY and not (w is None and s is None):  # the weights that count are far below the largest
        w, s = (None if weights is None else scaled_up(weights) for weights in (w, s))
        checked = checked._replace(weight=w, sample_weight=s)
        found = _scan_of(backend, options, checked)
    return checked, found.weight_sum, found.sample_sum


def _scan_of(backend: Backend, options: Options, checked: Checked) -> LabelScan:
    """`scan` of the labels of a call."""
    assert checked.labels is not None
    arrays = checked.target, checked.labels, checked.weight, checked.sample_weight
    return scan(backend, options, arrays, checked.ignore, checked.logits.shape[checked.axis])


def scan(
    backend: Backend,
    options: Options,
    arrays: tuple[Array, Array, Weights, Weights],
    ignore: tuple[int, ...],
    classes: int,
) -> LabelScan:
    """The backend's pass over the labels; IndexError for the first one that is out of range and not ignored.

    The arrays: class indices as passed, the labels made of them, class weights and sample weights.
    """
    target, labels, weight, s = arrays
    # (A, B), with A the first axis of labels that are not contiguous.  That is a view of slices and of columns; only
    # less regular layouts are copied.
    shape = (1, -1) if labels.ndim < 2 or labels.flags.c_contiguous else (labels.shape[0], -1)
    s = None if s is None else s.reshape(shape)
    found = backend.scan_labels(labels.reshape(shape), classes, ignore, weight, s, options.n_threads)
    if found.first_bad >= 0:
        value = int(target.reshape(-1)[found.first_bad])
        raise_bad_label(found.first_bad, value, target.shape, classes, options)
    return found
