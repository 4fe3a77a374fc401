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

from xent_numba.prepare.inputs import as_array, as_floats, as_out, check_apart, check_shape
from xent_numba.prepare.loss import besides_logits, check_inputs, denominators
from xent_numba.prepare.options import as_count, as_names
from xent_numba.results import empty_like

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from numpy.typing import NDArray

    from xent_numba.backends.protocol import Backend
    from xent_numba.prepare.loss import Checked
    from xent_numba.prepare.options import Options

    Array = NDArray[Any]

WRT = ("input", "linear_weight", "linear_bias")
# An argument -> what receives its gradient, or its part of a Hessian-vector product.
GRADIENT_NAMES = {argument: f"{argument}_grad_out" for argument in WRT}
PRODUCT_NAMES = {"linear_weight": "out", "linear_bias": "bias_out"}


class Vector(NamedTuple):
    """The direction of a Hessian-vector product, in dtypes of logits."""

    linear_weight: Any  # (C, D)
    linear_bias: Any  # (C,), or None


class Factors(NamedTuple):
    """What the logits of C classes are made of, which are input @ linear_weight.T + linear_bias."""

    input: Any  # (…, D): an array in one of the dtypes of logits, or a CSR matrix of SciPy
    linear_weight: Any  # (C, D) in one of the dtypes of logits
    linear_bias: Any  # (C,) in one of the dtypes of logits, or None
    vector: Vector | None  # of a Hessian-vector product
    dtype: np.dtype[Any]  # of the arithmetic and the logits: float32 or float64
    batch_chunk_size: int | None

    @property
    def rows_shape(self) -> tuple[int, ...]:
        """The shape of class indices."""
        return tuple(self.input.shape[:-1])

    def logits(self) -> Array:
        """An array of the shape and dtype of the logits that takes no memory."""
        return np.broadcast_to(self.dtype.type(0), (*self.rows_shape, self.linear_weight.shape[0]))


class Head(NamedTuple):
    """One validated call."""

    options: Options
    factors: Factors
    checked: Checked  # the arguments of the loss; its logits are those of `Factors.logits`
    denominators: tuple[float, float]  # of the loss and of its z-loss

    @property
    def is_final(self) -> bool:
        """Whether there is nothing to compute: no rows, or a denominator of 0, where all gradients are 0."""
        return self.denominators[0] == 0.0 or not self.checked.logits.size


class Results(NamedTuple):
    """Arrays for input, linear_weight and linear_bias; None for what is not wanted."""

    filled: tuple[Any, ...]
    returned: tuple[Any, ...]  # the same, or what the user passed to be written to

    @classmethod
    def of(
        cls,
        wanted: tuple[str, ...],
        given: Mapping[str, Any],
        outs: Mapping[str, object],
        new: Callable[[str], Any],
    ) -> Results:
        """The arrays that were `given`, and for other wanted arguments `new` ones."""
        arrays = {argument: given[argument] if argument in given else new(argument) for argument in wanted}
        filled = tuple(arrays.get(argument) for argument in WRT)
        passed = [outs.get(argument) for argument in WRT]
        return cls(filled, tuple(array if out is None else out for array, out in zip(filled, passed, strict=True)))


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
    factors = read_factors(head, vector, batch_chunk_size, _read)
    check_target(as_array(loss[0], "target").shape, factors)
    checked = check_inputs(options, (factors.logits(), *loss, None, None))
    checked, d1, d2 = denominators(backend, options, checked, math.prod(factors.rows_shape))
    return Head(options, factors, checked, (d1, d2))


def read_factors(
    head: tuple[Any, Any, Any],
    vector: tuple[Any, Any] | None,
    batch_chunk_size: object,
    read: Callable[[Any, str], Any],
) -> Factors:
    """The factors of the logits, whose shapes fit; `read` makes an array in one of the dtypes of logits of each."""
    chunk = as_count("batch_chunk_size", batch_chunk_size, "a size that is chosen by the shape")
    x, w = read(head[0], "input"), read(head[1], "linear_weight")
    _check_features(x.shape, w.shape)
    b = None if head[2] is None else read(head[2], "linear_bias")
    if b is not None:
        check_shape(b.shape, "linear_bias", w.shape[:1], "one per class, as linear_weight has them")
    direction = None if vector is None else _read_vector(vector, w, b, read)
    arrays = (x, w, b, *(direction or ()))
    dtype = np.dtype(np.float64 if any(a is not None and a.dtype.char == "d" for a in arrays) else np.float32)
    return Factors(x, w, b, direction, dtype, chunk)


def check_wrt(wrt: object, factors: Factors) -> tuple[str, ...]:
    """The arguments to differentiate with respect to, as far as they are there."""
    try:
        names = as_names("wrt", (wrt,) if isinstance(wrt, str) else tuple(wrt), WRT)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"wrt = {wrt!r} must be names among {', '.join(map(repr, WRT))}") from None
    if "input" in names and not isinstance(factors.input, np.ndarray):
        raise ValueError(
            "input is a sparse matrix, and its gradient would be a dense array of shape "
            f"{factors.input.shape}; write wrt={tuple(name for name in names if name != 'input')}"
        )
    return tuple(name for name in names if name != "linear_bias" or factors.linear_bias is not None)


def check_outs(outs: Mapping[str, object], wanted: tuple[str, ...], head: Head, names: dict[str, str]) -> Results:
    """The arrays that a call fills, and those that it returns: new ones, or the user's own."""
    given = check_given(outs, wanted, head.factors, besides_logits(head.checked), names)
    return Results.of(wanted, given, outs, lambda argument: empty_like(getattr(head.factors, argument)))


def check_given(
    outs: Mapping[str, object],
    wanted: tuple[str, ...],
    factors: Factors,
    others: Iterable[Array | None],
    names: dict[str, str],
) -> dict[str, Array]:
    """The arrays that the user passed to be written to.

    `outs` and `names` say, for each argument of the head, what the user passed to receive the array of its shape and
    dtype, and what that is called.  It must be apart from all inputs, of which `others` are those of the loss, and from
    the other results.
    """
    arrays: dict[str, Array] = {}
    inputs = [*_memory(factors.input), factors.linear_weight, factors.linear_bias, *(factors.vector or ()), *others]
    for argument, out in outs.items():
        name, like = names[argument], getattr(factors, argument)
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
    return arrays


def is_sparse(value: object) -> bool:
    """Whether this is a sparse matrix or array of SciPy, found out without importing it."""
    sparse = sys.modules.get("scipy.sparse")
    return sparse is not None and bool(sparse.issparse(value))


def refuse_sparse_on_gpu(value: Any, name: str) -> None:
    """TypeError for a sparse matrix of CuPy."""
    if not type(value).__module__.startswith("cupyx.scipy.sparse"):
        return
    whole = f"{name}.toarray()"
    remedy = f"{whole}, or {name}.get() with all other arrays on the host" if name == "input" else whole
    raise TypeError(f"{name} is a sparse matrix on a GPU, where only dense arrays can be multiplied; pass {remedy}")


def _read(value: Any, name: str) -> Any:
    """A factor on the host: an array, or for the input a CSR matrix of float64 or float32."""
    refuse_sparse_on_gpu(value, name)
    if not is_sparse(value):
        return as_floats(value, name)
    if name != "input":
        raise TypeError(f"{name} is a sparse matrix; pass {name}.toarray()")
    if value.format != "csr" or value.ndim != 2:
        form = f"{value.ndim}-D matrix in {value.format.upper()} format"
        raise TypeError(f"input is a sparse {form}; it must be a matrix in CSR format: pass input.tocsr()")
    if value.dtype.kind not in "biuf" or not value.dtype.isnative:
        raise TypeError(f"input has dtype {value.dtype}; a sparse matrix must be real numbers")
    return value if value.dtype.char in "df" else value.astype(np.float64)


def _read_vector(vector: tuple[Any, Any], w: Any, b: Any, read: Callable[[Any, str], Any]) -> Vector:
    """The direction of a Hessian-vector product; 0 for a bias of which nothing is said."""
    v = read(vector[0], "vector")
    check_shape(v.shape, "vector", w.shape, "that of linear_weight")
    if vector[1] is None:
        return Vector(v, None)
    if b is None:
        raise ValueError("bias_vector is given, but there is no linear_bias")
    v_bias = read(vector[1], "bias_vector")
    check_shape(v_bias.shape, "bias_vector", b.shape, "that of linear_bias")
    return Vector(v, v_bias)


def _check_features(x: tuple[int, ...], w: tuple[int, ...]) -> None:
    """ValueError for shapes of input and linear_weight that are not (…, D) and (C, D)."""
    if not x:
        raise ValueError("input is a single number; it needs at least one axis, the features")
    if len(w) != 2:
        raise ValueError(f"linear_weight has shape {w}; it must have two axes, (classes, features)")
    if w[0] == 0:
        raise ValueError(f"linear_weight of shape {w} has no classes along its first axis")
    if x[-1] != w[1]:
        raise ValueError(
            f"input of shape {x} does not fit linear_weight of shape {w}: the last axis of both is the features, "
            f"and there are {x[-1]} of them in input and {w[1]} in linear_weight"
            + ("; pass linear_weight.T" if x[-1] == w[0] else "")
        )


def check_target(shape: tuple[int, ...], factors: Factors) -> None:
    """ValueError for a target that has neither the shape of class indices nor that of the logits."""
    indices, logits = factors.rows_shape, factors.logits().shape
    if shape not in (indices, logits):
        raise ValueError(
            f"target of shape {shape} does not fit input of shape {factors.input.shape} and linear_weight of shape "
            f"{factors.linear_weight.shape}: class indices have shape {indices}, a distribution over the classes has "
            f"shape {logits}"
        )


def _memory(x: Any) -> tuple[Array, ...]:
    """The arrays that hold an input."""
    return (x,) if isinstance(x, np.ndarray) else (x.data, x.indices, x.indptr)
