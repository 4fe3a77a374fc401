"""One call of the kernels, and what each of its parts means for one row; what is None costs nothing."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from xent_numba.backends.cpu.memory import advance, pointer
from xent_numba.backends.cpu.simd import inline, select, splat, unless_none
from xent_numba.backends.cpu.terms import Dense


class Call(NamedTuple):
    """All that a kernel needs.  (A, B, C) arrays have any strides, the others are contiguous."""

    logits: Any  # (A, B, C)
    labels: Any  # (A·B,), or None for a distribution
    q: Any  # (A, B, C) distribution, or None
    dense_weight: Any  # (C,) class weights in the arithmetic of the logits, for a dense target, or None
    weight: Any  # (C,) float64, for the class of the label, or None
    sample_weight: Any  # (A·B,), or None
    upstream: Any  # (A·B,) gradient from above, or None
    lse: Any  # (A·B,) saved log-sum-exp, or None
    rows: Any  # (A·B,) where the losses go, or None
    grad: Any  # (A, B, C) where the gradient goes, or None
    ignored: Any  # labels in range that are ignored, or None
    hard: Any  # 1 − ε, or None for a distribution
    dense: Any  # (α, β, Σ u of a row without a distribution), or None
    f: Any  # Flip, Cap or None
    s: Any  # |logit_scale|, or None for 1
    z: Any  # z-loss coefficient, or None
    grad_scale: float  # with the part of f' that is the same everywhere: logit_scale without a softcap
    streaming: bool  # whether the gradient goes past the caches


@inline
def at(array: Any, i: int) -> Any:
    """array[i], or 1 where there is no array."""
    if array is None:
        return 1.0
    return array[i]


@inline
def weight_of(weight: Any, y: int) -> Any:
    """weight[y], or 1 where there are no weights."""
    if weight is None:
        return 1.0
    return weight[y]


@inline
def is_among(ignored: Any, y: int) -> bool:
    """Whether y is one of a few labels."""
    if ignored is None:
        return False
    for value in ignored:
        if y == value:
            return True
    return False


@inline
def label(labels: Any, i: int, classes: int, ignored: Any) -> Any:
    """The class of a row; −1 where it is ignored, or has none.  The scan saw to it that labels out of range are ignored."""
    if labels is None:
        return np.int64(-1)
    y = np.int64(labels[i])
    if y < 0 or y >= classes or is_among(ignored, y):
        return np.int64(-1)
    return y


@inline
def is_ignored(labels: Any, y: int) -> bool:
    """Whether the row with this `label` is ignored."""
    if labels is None:
        return False
    return y < 0


@inline
def put_row(rows: Any, i: int, value: float) -> None:
    """rows[i] = value, if there are rows."""
    if rows is not None:
        rows[i] = value


@unless_none
def row_pointer(array: Any, a: int, b: int) -> Any:
    """The address of array[a, b, 0]."""
    return advance(pointer(array), (a * array.strides[0] + b * array.strides[1]) // array.itemsize)


@inline
def stride(array: Any, axis: int) -> Any:
    """A stride in elements."""
    if array is None:
        return 0
    return array.strides[axis] // array.itemsize


@unless_none
def dense(dense: Any, q: Any, weight: Any) -> Any:
    """The dense part of the target of one row, or of a tile of rows."""
    return Dense(q, pointer(weight), dense[0], dense[1])


@inline
def known_mass(dense: Any) -> Any:
    """Σ u of a row that has no distribution."""
    if dense is None:
        return 0.0
    return dense[2]


@inline
def times(loss: Any, scale: Any) -> Any:
    """loss · scale, where a scale of 0 silences even an infinite loss, but not NaN."""
    zero = splat(0.0, loss)
    silent = select(loss == loss, zero, loss)
    return select(scale == zero, silent, loss * scale)
