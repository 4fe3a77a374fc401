"""From what the user passed to arrays of a known dtype and shape, one argument at a time, or the error that says why
not.  Logits are never copied unless they had to become floating point first.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from xent_numba.prepare.layout import overlaps, overlaps_itself, place, row_shape, same_memory

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[Any]

_FLOATS = frozenset(np.dtype(kind) for kind in (np.float64, np.float32, np.float16))
_LABELS = frozenset(np.dtype(kind) for kind in (np.int64, np.int32))
_FLOAT_CHOICES = "float64, float32, float16 or bfloat16 (or integers, which become float64)"


def is_bfloat16(dtype: np.dtype[Any]) -> bool:
    """Whether this is ml_dtypes.bfloat16, asked without importing it."""
    return dtype.kind == "V" and dtype.name == "bfloat16"


def as_array(value: object, name: str) -> Array:
    """np.asarray, with errors that name the argument, for what np.asarray would read wrongly or not at all."""
    if isinstance(value, np.ndarray):
        if type(value).__module__.startswith("numpy.ma"):
            raise TypeError(
                f"{name} is a masked array, whose mask would be lost; pass {name}.filled(...) and mark the rows "
                "to leave out with ignore_index or a sample_weight of 0"
            )
        return np.asarray(value)
    if hasattr(value, "__cuda_array_interface__"):
        raise TypeError(f"{name} lives on a GPU, which this backend cannot read; copy it to the host first")
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{name} cannot be read as an array: {error}") from error


def as_logits(value: ArrayLike, axis: int) -> tuple[Array, int]:
    """Logits as a floating array that is not a copy if it was one, and the class axis counted from the front."""
    array = as_array(value, "logits")
    dtype = array.dtype
    if dtype not in _FLOATS and not is_bfloat16(dtype):
        if not dtype.isnative:
            raise TypeError(
                f"logits have dtype {dtype.str!r}, which is not in this machine's byte order; "
                "convert them with logits.astype(logits.dtype.newbyteorder('='))"
            )
        if dtype.kind not in "iu":
            raise TypeError(f"logits have dtype {dtype}; they must be {_FLOAT_CHOICES}")
        array = array.astype(np.float64)
    if array.ndim == 0:
        raise ValueError("logits are a single number; they need at least one axis, the classes")
    if not -array.ndim <= axis < array.ndim:
        raise np.exceptions.AxisError(f"axis = {axis} is out of range for logits of shape {array.shape}")
    axis %= array.ndim
    if array.shape[axis] == 0:
        raise ValueError(f"logits of shape {array.shape} have no classes along axis {axis}")
    return array, axis


def as_target(value: ArrayLike, logits: Array, axis: int) -> tuple[Array, bool]:
    """The target, and whether it is a distribution.  Class indices keep their dtype, see `as_labels`."""
    array = as_array(value, "target")
    indices = row_shape(logits.shape, axis)
    if array.shape == logits.shape:
        return _as_distribution(array, logits.dtype), True
    if array.shape != indices:
        raise ValueError(
            f"target of shape {array.shape} does not fit logits of shape {logits.shape} with axis = {axis}: "
            f"class indices have shape {indices}, a distribution over the classes has shape {logits.shape}"
        )
    if array.size == 0 and not isinstance(value, np.ndarray):
        array = array.astype(np.int64)  # [] has no numbers to tell its dtype from
    if array.dtype.kind not in "iu":
        raise TypeError(
            f"target has the shape of class indices but dtype {array.dtype}; class indices are integers: convert with "
            f"target.astype(np.int64), or pass a distribution of shape {logits.shape}"
        )
    return array, False


def _as_distribution(array: Array, logits: np.dtype[Any]) -> Array:
    dtype = array.dtype
    if dtype in _FLOATS or is_bfloat16(dtype):
        return array
    if dtype.kind not in "biuf":
        raise TypeError(f"target has dtype {dtype}; a distribution over the classes must be real numbers")
    if dtype.kind == "f":
        exact = dtype.newbyteorder("=") if dtype.itemsize <= 8 else np.dtype(np.float64)
    else:
        exact = np.dtype(np.float64 if logits.char == "d" else np.float32)
    with np.errstate(all="ignore"):
        return array.astype(exact)


def as_labels(target: Array, ignore: tuple[int, ...], beyond: tuple[int, ...]) -> tuple[Array, tuple[int, ...]]:
    """Class indices as int32 or int64, a view where they are already, and the values to ignore among them.

    A uint64 that int64 cannot hold gets a stand-in that is as bad, or as ignored (if among `beyond`), as itself.
    """
    if target.dtype in _LABELS and target.flags.aligned:
        return target, ignore
    labels = target.astype(np.int64)
    if target.dtype.kind == "u" and target.dtype.itemsize == 8:
        wrapped = labels < 0
        if wrapped.any():
            unused = (value for value in range(-1, -len(ignore) - 3, -1) if value not in ignore)
            labels[wrapped] = next(unused)
            ignored = next(unused)
            for value in beyond:
                labels[target == np.uint64(value)] = ignored
            ignore = (*ignore, ignored)
    return labels, ignore


def as_weights(value: ArrayLike, name: str, shape: tuple[int, ...], meaning: str) -> NDArray[np.float64]:
    """Class or sample weights as contiguous float64, finite and not negative."""
    array = as_factors(value, name, shape, meaning)
    if array.size and not (array.min() >= 0.0 and array.max() < np.inf):
        first = int(np.argmax(~((array >= 0.0) & (array < np.inf))))
        where = place(first, array.shape)
        raise ValueError(f"{name}{where} = {array.reshape(-1)[first]} must be finite and not negative")
    return array


def without_extremes(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The weights times a power of two, if they are so large or small that their sum or its inverse may overflow."""
    top = float(weights.max(initial=0.0))
    if top == 0.0 or 1e-30 < top < 1e30:
        return weights
    with np.errstate(under="ignore"):
        return np.ldexp(weights, -math.frexp(top)[1])


def raised(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The weights times 2^600, or as large as that lets them be, if there are very small ones among them."""
    if float(weights.min(where=weights > 0.0, initial=1.0)) > 1e-140:
        return weights
    with np.errstate(over="ignore"):
        return np.minimum(np.ldexp(weights, 600), 1e300)


def as_factors(value: ArrayLike, name: str, shape: tuple[int, ...], meaning: str) -> NDArray[np.float64]:
    """Any real numbers of a given shape as contiguous float64."""
    array = as_array(value, name)
    if array.dtype.kind not in "biuf" and not is_bfloat16(array.dtype):
        raise TypeError(f"{name} has dtype {array.dtype}; it must be real numbers")
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}; it must have shape {shape}: {meaning}")
    with np.errstate(all="ignore"):
        return np.require(array, np.float64, ["C_CONTIGUOUS", "ALIGNED"])


def check_out(
    out: object, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], logits: Array, *inputs: Array | None
) -> Array:
    """`out` as the array to write to, if it can be: only exactly the logits may share memory with an input."""
    if not isinstance(out, np.ndarray):
        raise TypeError(f"{name} must be a NumPy array to write to, not {type(out).__name__}")
    if out.shape != shape or out.dtype != dtype:
        raise ValueError(f"{name} has shape {out.shape} and dtype {out.dtype}; it must have shape {shape} and {dtype}")
    if not out.flags.writeable:
        raise ValueError(f"{name} is read-only; pass an array that can be written to")
    array = np.asarray(out)
    if overlaps_itself(array):
        raise ValueError(f"{name} has elements that share memory with each other; pass an array that owns each")
    in_place = shape == logits.shape and same_memory(array, logits)
    if not in_place and overlaps(array, logits):
        raise ValueError(
            f"{name} shares memory with the logits without being exactly the same array; pass the logits themselves "
            "to work in place, or an array of its own"
        )
    for other in inputs:
        if other is not None and overlaps(array, other):
            raise ValueError(f"{name} shares memory with another input; pass an array of its own")
    return array
