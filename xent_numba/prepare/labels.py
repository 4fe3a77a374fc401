"""Why a target in the shape of class indices cannot be class indices, and what to write instead."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from xent_numba.prepare.layout import place

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, NoReturn

    from numpy.typing import NDArray

    Array = NDArray[Any]

_MISSING = ("NAType", "NaTType")  # types of pandas whose values are equal to nothing, in a way of their own


def raise_not_labels(array: Array, value: object, shape: tuple[int, ...] | None, *, may_read: bool) -> NoReturn:
    """TypeError for labels of another dtype than integers.

    `value` is the target as it was passed, `shape` that of a distribution, None for functions that take none.
    `may_read` is False for elements on a GPU.
    """
    found = ""
    remedy = "convert with target.astype(np.int64)"
    if shape is not None:
        remedy += f", or pass a distribution of shape {shape}"
    if may_read:
        first, better = _first_odd(array, shape)
        codes = _codes(value)
        if codes:
            better = f"pass the codes of the categories, {codes}, with ignore_index=-1 if labels are missing"
        if first >= 0:
            element = array.reshape(-1)[first]
            found = f", and target{place(first, array.shape)} = {getattr(element, 'item', lambda: element)()!r}"
        remedy = better or remedy
    raise TypeError(
        f"target has the shape of class indices but dtype {array.dtype}{found}; class indices are integers: {remedy}"
    )


def _codes(value: object) -> str:
    """How to get the codes of categorical data of pandas; "" for anything else."""
    if hasattr(value, "codes"):
        return "target.codes"
    return "target.cat.codes" if hasattr(getattr(value, "cat", None), "codes") else ""


def _first_odd(array: Array, shape: tuple[int, ...] | None) -> tuple[int, str]:
    """The C-order index of the first label that is no whole number, and what to do about it; (-1, "") for none."""
    labels = array.reshape(-1)
    candidates: Iterable[int] = range(labels.size)
    if array.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            candidates = np.flatnonzero(~(labels % 1 == 0))[:1].tolist()
    elif array.dtype.kind not in "OSTU":
        return -1, ""
    for index in candidates:
        label = labels[index]
        if isinstance(label, (str, bytes)):
            return index, "number the classes by names, target = np.unique(target, return_inverse=True)"
        if label is None or type(label).__name__ in _MISSING or label != label:
            return index, "mark missing labels by ignore_index, as in np.where(missing, -100, target).astype(np.int64)"
        if isinstance(label, (float, np.floating)) and not label.is_integer():
            if shape is None:
                return index, "pass the number of the class of each row, not a probability"
            return index, f"pass probabilities of the classes as a distribution of shape {shape}"
    return -1, ""
