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
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from numpy.typing import NDArray

    from xent_numba.backends.protocol import Backend
    from xent_numba.prepare.checked import Checked
    from xent_numba.prepare.options import Options

    Array = NDArray[Any]

WRT = ("input", "linear_weight", "linear_bias")
_ARRAYS = (*WRT, "target", "weight", "sample_weight", "vector", "bias_vector")
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

    @property
    def is_sparse(self) -> bool:
        """Whether the input is a CSR matrix."""
        return hasattr(self.input, "indptr")

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
    refuse_sparse(head, loss, vector)
    factors = read_factors(head, vector, batch_chunk_size, _read)
    logits = factors.logits()
    check_target(as_array(loss[0], "target").shape, factors, logits.shape)
    checked = check_inputs(options, (logits, *loss, None, None))
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
    _check_weight(x.shape, w.shape)
    b = None if head[2] is None else read(head[2], "linear_bias")
    if b is not None:
        check_shape(b.shape, "linear_bias", w.shape[:1], "one per class, as linear_weight has them")
    direction = None if vector is None else _read_vector(vector, w, b, read)
    arrays = (x, w, b, *(direction or ()))
    dtype = np.dtype(np.float64 if any(a is not None and a.dtype.char == "d" for a in arrays) else np.float32)
    return Factors(x, w, b, direction, dtype, chunk)


def check_wrt(wrt: object, factors: Factors) -> tuple[str, ...]:
    """The arguments to differentiate with respect to: without a bias that is not there, and without a sparse input.

    Naming all of them, as the default does, means all that are possible.  Naming a sparse input besides is an error.
    """
    choices = ", ".join(map(repr, WRT))
    if isinstance(wrt, str) and wrt not in WRT:
        raise ValueError(f"wrt = {wrt!r} is unknown; choose from {choices}")
    try:
        names = as_names("wrt", (wrt,) if isinstance(wrt, str) else tuple(wrt), WRT)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"wrt = {wrt!r} must be names among {choices}") from None
    missing = {name for name in WRT if getattr(factors, name) is None}
    if factors.is_sparse:
        missing.add("input")
        if "input" in names and set(names) != set(WRT):
            raise ValueError(
                "wrt names 'input', which is a sparse matrix: its gradient would be a dense array of shape "
                f"{factors.input.shape}; write wrt={tuple(name for name in names if name != 'input')}"
            )
    return tuple(name for name in names if name not in missing)


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
            why = f"wrt does not name {argument!r}"
            if like is None:
                why = f"there is no {argument}"
            elif argument == "input" and factors.is_sparse:
                why = f"{argument} is a sparse matrix, of which there is no gradient"
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


def refuse_sparse(head: tuple[Any, ...], loss: tuple[Any, ...], vector: tuple[Any, ...] | None) -> None:
    """TypeError for a sparse matrix that is no input, or that is one of CuPy; the arguments are those of a call."""
    for name, value in zip(_ARRAYS, (*head, *loss, *(vector or ())), strict=False):
        if value is None or type(value) is np.ndarray:
            continue
        if type(value).__module__.startswith("cupyx.scipy.sparse"):
            remedy = ", or input.get() with all other arrays on the host" if name == "input" else ""
            raise TypeError(
                f"{name} is a sparse matrix on a GPU, where only dense arrays can be multiplied; pass "
                f"{name}.toarray(){remedy}"
            )
        if name != "input" and is_sparse(value):
            raise TypeError(f"{name} is a sparse matrix; only input can be one: pass {name}.toarray()")


def _read(value: Any, name: str) -> Any:
    """A factor on the host: an array, or for the input a CSR matrix of float64 or float32."""
    if name != "input" and type(value).__module__.startswith("numpy.ma"):
        raise TypeError(f"{name} is a masked array, whose mask would be lost; pass {name}.filled(...)")
    if not is_sparse(value):
        return as_floats(value, name)
    if value.format != "csr" or value.ndim != 2:
        remedy = "input.tocsr()" if value.ndim == 2 else "input.reshape(-1, input.shape[-1]).tocsr()"
        raise TypeError(
            f"input is a {value.ndim}-D sparse matrix in {value.format.upper()} format; it must be a 2-D one in "
            f"CSR format: pass {remedy}"
        )
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


def _check_weight(x: tuple[int, ...], w: tuple[int, ...]) -> None:
    """ValueError for shapes of input and linear_weight that are not (…, D) and (C, D)."""
    if not x:
        raise ValueError("input is a single number; it needs at least one axis, the features")
    swapped = "; linear_weight and target may be swapped" if w == x[:-1] else ""
    if len(w) != 2:
        raise ValueError(f"linear_weight has shape {w}; it must have two axes, (classes, features){swapped}")
    if w[0] == 0:
        raise ValueError(f"linear_weight of shape {w} has no classes along its first axis")
    if x[-1] != w[1]:
        other = "; for a weight of shape (features, classes), pass linear_weight.T; for logits, call cross_entropy"
        raise ValueError(
            f"input of shape {x} does not fit linear_weight of shape {w}: the last axis of both is the features, "
            f"and there are {x[-1]} of them in input and {w[1]} in linear_weight"
            + (swapped or (other if x[-1] == w[0] else ""))
        )


def check_target(shape: tuple[int, ...], factors: Factors, logits: tuple[int, ...]) -> None:
    """ValueError for a target that has neither the shape of class indices nor that of the logits."""
    if shape in (logits[:-1], logits):
        return
    x, w = tuple(factors.input.shape), tuple(factors.linear_weight.shape)
    raise ValueError(
        f"target of shape {shape} does not fit input of shape {x} and linear_weight of shape {w}: class indices "
        f"have shape {logits[:-1]}, a distribution over the classes has shape {logits}"
        + ("; input and linear_weight may be swapped" if shape in (w[:1], (w[0], *x[:-1])) else "")
    )


def _memory(x: Any) -> tuple[Array, ...]:
    """The arrays that hold an input."""
    return (x,) if isinstance(x, np.ndarray) else (x.data, x.indices, x.indptr)
