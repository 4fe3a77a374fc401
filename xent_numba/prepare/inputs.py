"""Array arguments, one function for each kind: conversion to a known dtype and shape, or the error that says why not.

Those of the target are in `target`.  Logits are copied only where they were lists or integers and had to become
floating point first.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from xent_numba.devices import on_device
from xent_numba.prepare.layout import overlaps, overlaps_itself, place, same_memory
from xent_numba.prepare.tensors import is_tensor, read_unusual, refuse_gradient

if TYPE_CHECKING:
    from typing import Any, NoReturn

    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[Any]

FLOATS = frozenset(np.dtype(kind) for kind in (np.float64, np.float32, np.float16))
FLOAT_CHOICES = "float64, float32, float16 or bfloat16"
PER_ROW = "that of the logits without the class axis"  # what the shape of one value per row is, for messages


def is_bfloat16(dtype: np.dtype[Any]) -> bool:
    """Whether this is ml_dtypes.bfloat16, found out without importing that package."""
    return dtype.kind == "V" and dtype.name == "bfloat16"


def as_array(value: object, name: str) -> Array:
    """Like np.asarray, for DLPack too; errors name the argument, and masked arrays and arrays on a GPU are refused."""
    if isinstance(value, np.ndarray):
        if type(value).__module__.startswith("numpy.ma"):
            raise TypeError(
                f"{name} is a masked array, whose mask would be lost; pass {name}.filled(...) and mark the rows "
                "to leave out with ignore_index or a sample_weight of 0"
            )
        return np.asarray(value)
    if on_device(value):
        raise TypeError(f"{name} is on a GPU, which this backend cannot read; copy it to the host first")
    try:
        array = np.asarray(value)
        return np.from_dlpack(value) if array.dtype.kind == "O" and hasattr(value, "__dlpack__") else array
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        return read_unusual(value, name, error)


def as_floats(value: ArrayLike, name: str, *, plural: bool = False) -> Array:
    """An array in one of the dtypes of logits, float64 for integers; `plural`: its name is one, for messages."""
    array = as_array(value, name)
    have, they, them = ("have", "they", "them") if plural else ("has", "it", "it")
    dtype = array.dtype
    if dtype in FLOATS or is_bfloat16(dtype):
        return array
    if not dtype.isnative:
        raise TypeError(
            f"{name} {have} dtype {dtype.str!r}, which is not in this machine's byte order; "
            f"convert {them} with {name}.astype({name}.dtype.newbyteorder('='))"
        )
    if dtype.kind not in "iu":
        raise TypeError(
            f"{name} {have} dtype {dtype}; {they} must be {FLOAT_CHOICES} (or integers, which become float64)"
            + conversion(name, dtype)
        )
    return array.astype(np.float64)


def as_logits(value: ArrayLike, axis: int, name: str = "logits") -> tuple[Array, int]:
    """Logits as a floating-point array (float64 for integers), and the class axis counted from the front.

    `name` is what the function calls them, for error messages.
    """
    array = as_floats(value, name, plural=True)
    if array.ndim == 0:
        raise ValueError(f"{name} are a single number; they need at least one axis, the classes")
    if not -array.ndim <= axis < array.ndim:
        raise np.exceptions.AxisError(f"axis = {axis} is out of range for {name} of shape {array.shape}")
    axis %= array.ndim
    if array.shape[axis] == 0:
        raise ValueError(f"{name} of shape {array.shape} have no classes along axis {axis}")
    return array, axis


def conversion(name: str, dtype: np.dtype[Any]) -> str:
    """What to do about a dtype that NumPy does not know for numbers, as of Python objects or of 8 bits, if anything."""
    return f": convert with {name}.astype(float)" if dtype.kind in "OV" and dtype.names is None else ""


def as_vector(value: ArrayLike, logits: Array) -> Array:
    """The vector of a Hessian-vector product: in one of the logits' dtypes as it is, other real numbers as float64."""
    array = as_array(value, "vector")
    check_shape(array.shape, "vector", logits.shape, "that of the logits")
    dtype = array.dtype
    if dtype in FLOATS or is_bfloat16(dtype):
        return array
    if dtype.kind not in "iuf":
        raise TypeError(f"vector has dtype {dtype}; it must be real numbers{conversion('vector', dtype)}")
    with np.errstate(all="ignore"):
        return array.astype(np.float64)


def as_weights(value: ArrayLike, name: str, shape: tuple[int, ...], meaning: str) -> NDArray[np.float64]:
    """Class or sample weights as contiguous float64; ValueError unless all are finite and not negative."""
    array = as_factors(value, name, shape, meaning)
    if array.size and not (array.min() >= 0.0 and array.max() < np.inf):
        first = int(np.argmax(~((array >= 0.0) & (array < np.inf))))
        raise_bad_weight(name, first, float(array.reshape(-1)[first]), array.shape)
    return array


def raise_bad_weight(name: str, index: int, value: float, shape: tuple[int, ...]) -> NoReturn:
    """ValueError for a weight that is negative or not finite; `index` counts the weights in C order."""
    raise ValueError(f"{name}{place(index, shape)} = {value} must be finite and not negative")


def without_extremes(weights: NDArray[np.float64], top: float | None = None) -> NDArray[np.float64]:
    """The weights, scaled by a power of two if they are so extreme that their sum or its inverse may overflow.

    `top` is the largest of all weights that will be summed, where others are among them.
    """
    top = float(weights.max(initial=0.0)) if top is None else top
    if top == 0.0 or 1e-30 < top < 1e30:
        return weights
    with np.errstate(under="ignore"):
        return np.ldexp(weights, -math.frexp(top)[1])


def scaled_up(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The weights times 2^600, but at most 1e300, if some are so small that products of them underflow."""
    if float(weights.min(where=weights > 0.0, initial=1.0)) > 1e-140:
        return weights
    with np.errstate(over="ignore"):
        return np.minimum(np.ldexp(weights, 600), 1e300)


def as_factors(value: ArrayLike, name: str, shape: tuple[int, ...], meaning: str) -> NDArray[np.float64]:
    """Real numbers of a given shape as contiguous float64; `meaning` explains the shape in the error message."""
    array = as_array(value, name)
    if array.dtype.kind not in "biuf" and not is_bfloat16(array.dtype):
        raise TypeError(f"{name} has dtype {array.dtype}; it must be real numbers{conversion(name, array.dtype)}")
    check_shape(array.shape, name, shape, meaning)
    with np.errstate(all="ignore"):
        return np.require(array, np.float64, ["C_CONTIGUOUS", "ALIGNED"])


def check_shape(found: tuple[int, ...], name: str, shape: tuple[int, ...], meaning: str) -> None:
    """ValueError for an array of another shape; `meaning` explains the shape."""
    if found != shape:
        raise ValueError(f"{name} has shape {found}; it must have shape {shape}: {meaning}")


def grad_output_shape(ndim: int, reduction: str, rows_shape: tuple[int, ...]) -> tuple[tuple[int, ...], str]:
    """The shape that an upstream gradient of `ndim` dimensions must have, and what that shape is, for messages."""
    if reduction == "none" and ndim > 0:
        return rows_shape, f"{PER_ROW}, as reduction is 'none'"
    return (), f"one number, as reduction is {reduction!r}"


def as_grad_output(
    value: ArrayLike | None, reduction: str, rows_shape: tuple[int, ...]
) -> tuple[float, NDArray[np.float64] | None]:
    """The upstream gradient as one factor for the whole call, and one for each row where there are several."""
    if value is None:
        return 1.0, None
    array = as_array(value, "grad_output")
    factors = as_factors(array, "grad_output", *grad_output_shape(array.ndim, reduction, rows_shape))
    return (1.0, factors) if factors.ndim else (float(factors), None)


def check_out(
    out: object, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], logits: Array, *inputs: Array | None
) -> Array:
    """`as_out`, of an array that may be exactly the logits and otherwise shares no memory with an input."""
    array = as_out(out, name, shape, dtype)
    check_in_place(array, name, logits, "the logits", "the logits themselves")
    for other in inputs:
        check_apart(array, name, other, "another input")
    return array


def as_out(out: object, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """`out` as a plain array, once it is certain that results can be written to each of its elements."""
    if isinstance(out, np.ndarray):
        array = np.asarray(out)
    else:
        refuse_gradient(out, name)
        if not is_tensor(out):
            raise TypeError(
                f"{name} must be a NumPy array to write to, not {type(out).__name__} (or a CPU tensor of PyTorch)"
            )
        array = as_array(out, name)  # shares the memory of the tensor
    check_out_type(array.shape, array.dtype, name, shape, dtype)
    if not array.flags.writeable:
        raise ValueError(f"{name} is read-only; pass an array that can be written to")
    if overlaps_itself(array):
        raise ValueError(f"{name} has elements that share memory with each other; pass an array without overlaps")
    return array


def check_apart(out: Array, name: str, other: Array | None, what: str) -> None:
    """ValueError where `out` shares memory with another array; `what` says which that is."""
    if other is not None and overlaps(out, other):
        raise ValueError(f"{name} shares memory with {what}; pass an array of its own")


def check_in_place(out: Array, name: str, source: Array, what: str, itself: str) -> None:
    """ValueError where `out` overlaps an array that is read, `source`, without being exactly that array."""
    in_place = out.shape == source.shape and out.dtype == source.dtype and same_memory(out, source)
    if not in_place and overlaps(out, source):
        raise ValueError(
            f"{name} shares memory with {what} without being exactly the same array; pass {itself} to work in place, "
            "or an array of its own"
        )


def check_out_type(
    found_shape: tuple[int, ...], found_dtype: object, name: str, shape: tuple[int, ...], dtype: object
) -> None:
    """ValueError for an array to write to that has another shape or dtype (a NumPy dtype, or its name)."""
    if found_shape != shape or found_dtype != dtype:
        raise ValueError(
            f"{name} has shape {found_shape} and dtype {found_dtype}; it must have shape {shape} and {dtype}"
        )
