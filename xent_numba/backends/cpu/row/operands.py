"""One call of the kernels, and what each of its parts means for one row; what is None costs nothing."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import types

from xent_numba.backends.cpu.compile.inline import inline, optional, specialize
from xent_numba.backends.cpu.row.target import DenseTarget
from xent_numba.backends.cpu.row.transform import Sign, Softcap, is_instance_type
from xent_numba.backends.cpu.simd.cast import zero_float64_vector
from xent_numba.backends.cpu.simd.load_store import advance, pointer, stride, zero_vector
from xent_numba.backends.cpu.simd.vector import select, splat


class Operands(NamedTuple):
    """All that a kernel needs.  (A, B, C) arrays have any strides, the others are contiguous.

    What is used for every logit is None when it is not there, and then the machine code lacks it.  What is used once
    a row is of size 0 instead: a branch a row is free, and machine code for each combination would not be.
    """

    logits: Any  # (A, B, C)
    labels: Any  # (A·B,), or None for a distribution
    distribution: Any  # (A, B, C), or None
    dense_weight: Any  # (C,) class weights in the arithmetic of the logits, for a dense target, or None
    weight: Any  # (C,) float64, for the class of the label, or (0,)
    sample_weight: Any  # (A·B,) or (0,)
    upstream: Any  # (A·B,) gradient from above, or (0,)
    lse: Any  # (A·B,) saved log-sum-exp, or None
    rows: Any  # (A·B,) where the losses go, or (0,)
    grad: Any  # (A, B, C) where the gradient goes, or None
    ignored: Any  # labels in range that are ignored
    confidence: Any  # 1 − ε, or None for a distribution
    dense: Any  # array of α, β and the Σ u of a row without a distribution; or None
    transform: Any  # Sign, Softcap or None; an array before `operands_of`
    scale: Any  # |logit_scale|, or None for 1
    z_loss: float  # the coefficient of lse²
    grad_scale: float  # with the part of f' that is the same everywhere: logit_scale without a softcap
    streaming: bool  # whether the gradient goes past the caches


@specialize
def transform_of(f: Any) -> Any:
    """The transform of the logits from an array, as it comes through a parallel loop, which takes no tuples."""
    if isinstance(f, types.NoneType):
        return lambda f: None
    return (lambda f: Sign(f[0])) if f.ndim == 1 else (lambda f: Softcap(f[0, 0], f[0, 1]))


@inline
def operands_of(fields: Any) -> Any:
    """A `Operands` from the plain tuple that Python passes."""
    c = Operands(*fields)
    return Operands(
        c.logits,
        c.labels,
        c.distribution,
        c.dense_weight,
        c.weight,
        c.sample_weight,
        c.upstream,
        c.lse,
        c.rows,
        c.grad,
        c.ignored,
        c.confidence,
        c.dense,
        transform_of(c.transform),
        c.scale,
        c.z_loss,
        c.grad_scale,
        c.streaming,
    )


@inline
def vtype_of(call: Any) -> Any:
    """A vector of the arithmetic of a call.

    float64 where the logits or the distribution are, and with a softcap, of which float32 would take digits that a
    small loss has.
    """
    return _compute_type(pointer(call.logits), pointer(call.distribution), call.transform)


@specialize
def _compute_type(p: Any, q: Any, f: Any) -> Any:
    if not isinstance(q, types.NoneType) and q.dtype == types.float64:
        return lambda p, q, f: zero_vector(q)
    if is_instance_type(f, Softcap):
        return lambda p, q, f: zero_float64_vector(zero_vector(p))
    return lambda p, q, f: zero_vector(p)


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
def label(labels: Any, i: int, classes: int, ignored: Any) -> Any:
    """The class of a row; −1 where it is ignored, or has none.  The scan saw to it that labels out of range are
    ignored.
    """
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
def store_loss(rows: Any, i: int, value: float) -> None:
    """rows[i] = value, if there are rows."""
    if rows.size:
        rows[i] = value


@optional
def row_pointer(array: Any, a: int, b: int) -> Any:
    """The address of array[a, b, 0]."""
    return advance(pointer(array), a * stride(array, 0) + b * stride(array, 1))


@optional
def dense_target_of(dense: Any, q: Any, weight: Any) -> Any:
    """The dense part of the target of one row, or of a tile of rows."""
    return DenseTarget(q, pointer(weight), dense[0], dense[1])


@inline
def known_target_sum(dense: Any) -> Any:
    """Σ u of a row that has no distribution."""
    if dense is None:
        return 0.0
    return dense[2]


@inline
def apply_weight(loss: Any, scale: Any) -> Any:
    """loss · scale, where a scale of 0 silences even an infinite loss, but not NaN."""
    zero = splat(0.0, loss)
    silent = select(loss == loss, zero, loss)
    return select(scale == zero, silent, loss * scale)
