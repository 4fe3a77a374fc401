"""From the arguments of the functions of a linear head to a `Head`: the counterpart of `loss`.

Their logits never exist as a whole.  What the loss checks about logits is checked on an array of their shape that takes
no memory.  So target, weights and labels meet the same checks and the same words, and the denominators are known before
the first product.
"""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from xent_numba.prepare.checked import besides_logits, check_inputs
from xent_numba.prepare.denominators import denominators
from xent_numba.prepare.inputs import as_array, as_floats, as_out, check_apart, check_shape
from xent_numba.prepare.options import as_count, as_names
from xent_numba.results import empty_like

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from numpy.typing import NDArray

    from xent_numba.backends.protocol import Backend
    from xent_numba.prepare.checked import Checked
    from xent_numba.prepare.options import Options

    Array = NDArray[Any]

WRT = ("input", "linear_weight", "linear_bias")


class Vector(NamedTuple):
    """The direction of a Hessian-vector product, in dtypes of logits."""

    linear_weight: Array  # (C, D)
    linear_bias: Array | None  # (C,)


class Head(NamedTuple):
    """One validated call.  Its logits are input @ linear_weight.T + linear_bias, of C classes."""

    options: Options
    input: Any  # (…, D): an array in one of the dtypes of logits, or a CSR matrix of SciPy
    linear_weight: Array  # (C, D) in one of the dtypes of logits
    linear_bias: Array | None  # (C,) in one of the dtypes of logits
    dtype: np.dtype[Any]  # of the arithmetic and the logits: float32 or float64
    checked: Checked  # the arguments of the loss; its logits are an array of their shape that takes no memory
    denominators: tuple[float, float]  # of the loss and of its z-loss
    batch_chunk_size: int | None
    vector: Vector | None  # of a Hessian-vector product

    @property
    def rows_shape(self) -> tuple[int, ...]:
        """The shape of class indices."""
        return self.checked.logits.shape[:-1]

    @property
    def is_final(self) -> bool:
        """Whether there is nothing to compute: no rows, or a denominator of 0, where all gradients are 0."""
        return self.denominators[0] == 0.0 or not self.checked.logits.size


class Results(NamedTuple):
    """Arrays for input, linear_weight and linear_bias; None for what is not wanted."""

    filled: tuple[Array | None, ...]
    returned: tuple[Any, ...]  # the same, or what the user passed to be written to


def prepare_head(
    backend: Backend,
    options: Options,
    head: tuple[Any, Any, Any],
    loss: tuple[Any, Any, Any],
    batch_chunk_size: object,
    vector: tuple[Any, Any] | None = None,
) -> Head:
    """Validate one call.

    `head`: input, linear_weight and linear_bias.  `loss`: target, weight and sample_weight.  `vector`: those of a
    Hessian-vector product, for linear_weight and linear_bias.
    """
    chunk = as_count("batch_chunk_size", batch_chunk_size, "a size that is chosen by the shape")
    x, w = _as_input(head[0]), _as_weight(head[1])
    _check_features(x.shape, w.shape)
    b = None if head[2] is None else as_floats(head[2], "linear_bias")
    if b is not None:
        check_shape(b.shape, "linear_bias", w.shape[:1], "one per class, as linear_weight has them")
    direction = None if vector is None else _as_vector(vector, w, b)
    arrays = (x, w, b, *(direction or ()))
    dtype = np.dtype(np.float64 if any(a is not None and a.dtype.char == "d" for a in arrays) else np.float32)
    rows_shape = x.shape[:-1]
    logits = np.broadcast_to(dtype.type(0), (*rows_shape, w.shape[0]))
    _check_target(loss[0], x.shape, w.shape)
    checked = check_inputs(options, (logits, *loss, None, None))
    checked, d1, d2 = denominators(backend, options, checked, math.prod(rows_shape))
    return Head(options, x, w, b, dtype, checked, (d1, d2), chunk, direction)


def check_wrt(wrt: object, head: Head) -> tuple[str, ...]:
    """The arguments to differentiate with respect to, as far as they are there."""
    try:
        names = as_names("wrt", (wrt,) if isinstance(wrt, str) else tuple(wrt), WRT)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"wrt = {wrt!r} must be names among {', '.join(map(repr, WRT))}") from None
    if "input" in names and not isinstance(head.input, np.ndarray):
        raise ValueError(
            "input is a sparse matrix, and its gradient would be a dense array of shape "
            f"{head.input.shape}; write wrt={tuple(name for name in names if name != 'input')}"
        )
    return tuple(name for name in names if name != "linear_bias" or head.linear_bias is not None)


def check_outs(outs: Mapping[str, object], wanted: tuple[str, ...], head: Head, names: dict[str, str]) -> Results:
    """The arrays that a call fills, and those that it returns: new ones, or the user's own.

    `outs` and `names` say, for each argument of the head, what the user passed to receive the array of its shape and
    dtype, and what that is called.  It must be apart from all inputs and from the others.
    """
    arrays: dict[str, Array] = {}
    inputs = [*_memory(head.input), head.linear_weight, head.linear_bias, *besides_logits(head.checked)]
    for argument, out in outs.items():
        name, like = names[argument], getattr(head, argument)
        if out is None:
            continue
        if argument not in wanted:
            why = "there is no linear_bias" if like is None else f"wrt does not name {argument!r}"
            raise ValueError(f"{name} is given, but {why}")
        array = as_out(out, name, like.shape, like.dtype)
        for other in inputs:
            check_apart(array, name, other, "an input")
        for earlier, other in arrays.items():
            check_apart(array, name, other, names[earlier])
        arrays[argument] = array
    for argument in wanted:
        if argument not in arrays:
            arrays[argument] = empty_like(getattr(head, argument))
    filled = tuple(arrays.get(argument) for argument in WRT)
    given = [outs.get(argument) for argument in WRT]
    returned = tuple(array if out is None else out for array, out in zip(filled, given, strict=True))
    return Results(filled, returned)


def is_sparse(value: object) -> bool:
    """Whether this is a sparse matrix or array of SciPy, found out without importing it."""
    sparse = sys.modules.get("scipy.sparse")
    return sparse is not None and bool(sparse.issparse(value))


def _as_input(value: Any) -> Any:
    """The features of the rows: an array, or a CSR matrix of float64 or float32."""
    if is_sparse(value):
        if value.format != "csr" or value.ndim != 2:
            form = f"{value.ndim}-D matrix in {value.format.upper()} format"
            raise TypeError(f"input is a sparse {form}; it must be a matrix in CSR format: pass input.tocsr()")
        if value.dtype.kind not in "biuf" or not value.dtype.isnative:
            raise TypeError(f"input has dtype {value.dtype}; a sparse matrix must be real numbers")
        return value if value.dtype.char in "df" else value.astype(np.float64)
    x = as_floats(value, "input")
    if x.ndim == 0:
        raise ValueError("input is a single number; it needs at least one axis, the features")
    return x


def _as_weight(value: Any) -> Array:
    """linear_weight as (C, D)."""
    if is_sparse(value):
        raise TypeError("linear_weight is a sparse matrix; pass linear_weight.toarray()")
    w = as_floats(value, "linear_weight")
    if w.ndim != 2:
        raise ValueError(f"linear_weight has shape {w.shape}; it must have two axes, (classes, features)")
    if w.shape[0] == 0:
        raise ValueError(f"linear_weight of shape {w.shape} has no classes along its first axis")
    return w


def _as_vector(vector: tuple[Any, Any], w: Array, b: Array | None) -> Vector:
    """The direction of a Hessian-vector product; 0 for a bias of which nothing is said."""
    v, v_bias = as_floats(vector[0], "vector"), vector[1]
    check_shape(v.shape, "vector", w.shape, "that of linear_weight")
    if v_bias is None:
        return Vector(v, None)
    if b is None:
        raise ValueError("bias_vector is given, but there is no linear_bias")
    v_bias = as_floats(v_bias, "bias_vector")
    check_shape(v_bias.shape, "bias_vector", b.shape, "that of linear_bias")
    return Vector(v, v_bias)


def _check_features(x: tuple[int, ...], w: tuple[int, ...]) -> None:
    """ValueError where input and linear_weight do not have the same number of features."""
    if x[-1] != w[1]:
        raise ValueError(
            f"input of shape {x} does not fit linear_weight of shape {w}: the last axis of both is the features, "
            f"and there are {x[-1]} of them in input and {w[1]} in linear_weight"
            + ("; pass linear_weight.T" if x[-1] == w[0] else "")
        )


def _check_target(target: Any, x: tuple[int, ...], w: tuple[int, ...]) -> None:
    """ValueError for a target that has neither the shape of class indices nor that of the logits."""
    indices, logits = x[:-1], (*x[:-1], w[0])
    shape = as_array(target, "target").shape
    if shape not in (indices, logits):
        raise ValueError(
            f"target of shape {shape} does not fit input of shape {x} and linear_weight of shape {w}: class indices "
            f"have shape {indices}, a distribution over the classes has shape {logits}"
        )


def _memory(x: Any) -> tuple[Array, ...]:
    """The arrays that hold an input."""
    return (x,) if isinstance(x, np.ndarray) else (x.data, x.indices, x.indptr)
