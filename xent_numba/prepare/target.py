"""The target: class indices or a distribution, with what can be wrong about either."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from xent_numba.prepare.inputs import FLOATS, as_array, conversion, is_bfloat16
from xent_numba.prepare.labels import raise_not_labels
from xent_numba.prepare.layout import place, row_shape
from xent_numba.prepare.one_hot import one_hot_classes
from xent_numba.prepare.options import DEFAULT_IGNORE_INDEX

if TYPE_CHECKING:
    from typing import Any, NoReturn

    from numpy.typing import ArrayLike, NDArray

    from xent_numba.prepare.options import Options

    Array = NDArray[Any]

_LABELS = frozenset(np.dtype(kind) for kind in (np.int64, np.int32))


def as_target(
    value: ArrayLike, logits: Array, axis: int, *, may_be_dense: bool = True, may_read: bool = True
) -> tuple[Array, bool]:
    """The target as an array, and whether it is a distribution; class indices keep their dtype (see `as_labels`).

    A distribution is floating point, or else one-hot and replaced by its class indices; `may_be_dense` is False for
    functions that take none.  `may_read` is False where the elements are on a GPU.
    """
    array = as_array(value, "target")
    indices = row_shape(logits.shape, axis)
    if array.shape == logits.shape:
        if not may_be_dense:
            refuse_distribution(array.shape, axis)
        return _as_distribution(array, axis), True
    if array.shape != indices:
        fits = [i for i in range(logits.ndim) if array.shape == row_shape(logits.shape, i)]
        raise ValueError(
            f"target of shape {array.shape} does not fit logits of shape {logits.shape} with axis = {axis}: "
            f"class indices have shape {indices}"
            + (f", a distribution over the classes has shape {logits.shape}" if may_be_dense else "")
            + (f"; with axis={fits[0]} it would fit" if fits else "")
        )
    if array.size == 0 and not isinstance(value, np.ndarray):
        array = array.astype(np.int64)  # np.asarray([]) is float64 for want of any number
    if array.dtype.kind not in "iu":
        raise_not_labels(array, value, logits.shape if may_be_dense else None, may_read=may_read)
    return array, False


def refuse_distribution(shape: tuple[int, ...], axis: int) -> NoReturn:
    """ValueError for a target in the shape of the logits, where only class indices will do."""
    raise ValueError(
        f"target of shape {shape} has the shape of the logits, as a distribution over the classes; this function "
        f"needs class indices, of shape {row_shape(shape, axis)}; of one-hot rows, they are target.argmax({axis})"
    )


def _as_distribution(array: Array, axis: int) -> Array:
    """A distribution in one of the logits' dtypes, as it is or converted; class indices for one-hot integers."""
    dtype = array.dtype
    if dtype in FLOATS or is_bfloat16(dtype):
        return array
    if dtype.kind in "biu":
        return one_hot_classes(array, axis)
    if dtype.kind != "f":
        remedy = conversion("target", dtype)
        raise TypeError(f"target has dtype {dtype}; a distribution over the classes must be real numbers{remedy}")
    with np.errstate(all="ignore"):
        return array.astype(dtype.newbyteorder("=") if dtype.itemsize <= 8 else np.float64)


def as_labels(target: Array, ignore: tuple[int, ...], beyond: tuple[int, ...]) -> tuple[Array, tuple[int, ...]]:
    """Class indices as int32 or int64 (not copied if they are already), and the values to ignore among them.

    A uint64 beyond int64 is replaced by a negative number that is out of range too, or by one that is ignored if the
    original is among `beyond`, the ignored values that int64 cannot hold.
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


def raise_bad_label(index: int, value: int, shape: tuple[int, ...], classes: int, options: Options) -> NoReturn:
    """IndexError for a label that is neither a class nor ignored; `index` counts the labels in C order."""
    raise IndexError(
        f"target{place(index, shape)} = {value} is out of range for {classes} classes "
        f"(ignore_index = {options.ignore_index})"
    )


def check_ignore_index(options: Options) -> None:
    """ValueError where labels to ignore are given and the target is a distribution, which has no labels."""
    if options.ignore_index != DEFAULT_IGNORE_INDEX:
        raise ValueError(
            f"ignore_index = {options.ignore_index} needs class indices; with a distribution as target, leave rows "
            "out with a sample_weight of 0"
        )


def check_focal_gamma(options: Options) -> None:
    """ValueError where a focal loss is asked for and the target is a distribution, which has no label."""
    if options.focal_gamma != 0.0:
        raise ValueError(
            f"focal_gamma = {options.focal_gamma} needs class indices: in (1 - p)^gamma, p is the probability of one "
            "class, and this target is a distribution over all of them; if its rows are one-hot, pass "
            f"target.argmax(axis={options.axis})"
        )
