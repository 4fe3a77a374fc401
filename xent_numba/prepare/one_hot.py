"""Integer and bool targets in the shape of the logits: one-hot rows, and the class of each.

Such an array could as well be labels that have been put beside the wrong logits.  So only one-hot rows count as a
distribution, and class indices are as good as those, without a copy of the array as floating-point numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from xent_numba.prepare.layout import canonical, row_blocks, row_shape

if TYPE_CHECKING:
    from typing import Any, NoReturn

    from numpy.typing import NDArray

    Array = NDArray[Any]

BLOCK = 1 << 16  # elements examined at a time, at least one row


def one_hot_classes(target: Array, axis: int, *, may_lack: bool = False) -> NDArray[np.int64]:
    """The class of each row along `axis`; ValueError for the first row that is not one-hot.

    With `may_lack`, a row may be all 0, as of some of the classes; its class is then −1.
    """
    classes = np.empty(row_shape(target.shape, axis), np.int64)
    if classes.size == 0:
        return classes
    layout = canonical(axis, target)
    by_slab = classes.reshape(-1, layout.a, layout.b)
    for i, (view,) in enumerate(layout.slabs()):
        for block in row_blocks(view.shape, BLOCK // view.shape[2]):
            rows = view[block].reshape(-1, view.shape[2])
            found = _classes_of(rows)
            if found is None:
                ones = np.count_nonzero(rows, axis=1)
                lacks = (ones == 0) & may_lack
                bad = ~lacks & ((ones != 1) | (rows.max(axis=1) != 1))
                if bad.any():
                    numbers = np.arange(classes.size).reshape(by_slab.shape)[i][block]
                    first = int(numbers.reshape(-1)[bad.argmax()])
                    _raise_not_one_hot(target, axis, np.unravel_index(first, classes.shape))
                found = np.where(lacks, -1, rows.argmax(axis=1))
            part = by_slab[i][block]
            part[...] = found.reshape(part.shape)
    return classes


def _classes_of(rows: Array) -> NDArray[np.intp] | None:
    """The class of each row (R, C); None where not all rows are one-hot."""
    elements = rows.reshape(-1)
    starts = np.arange(0, elements.size, rows.shape[1])
    # As many elements that are not 0 as there are rows, all of them 1, and each in a row of its own.
    (places,) = elements.astype(bool, copy=False).nonzero()
    if places.size != starts.size or not (elements[places] == 1).all():
        return None
    classes = places - starts
    return classes if classes.min() >= 0 and classes.max() < rows.shape[1] else None


def _raise_not_one_hot(target: Array, axis: int, index: tuple[Any, ...]) -> NoReturn:
    """ValueError about the row with this index, which is not one-hot, and what to write instead."""
    row = np.moveaxis(target, axis, -1)[index]
    place = [str(int(i)) for i in index]
    place.insert(axis, ":")
    odd = np.flatnonzero((row != 0) & (row != 1))
    ones = np.count_nonzero(row)
    has = f"the entry {int(row[odd[0]])} for class {odd[0]}" if odd.size else f"{ones} ones" if ones else "no 1"
    message = (
        f"target has the shape of the logits and dtype {target.dtype}, so each row must be one-hot, but "
        f"target[{', '.join(place)}] has {has}; if these are weights or probabilities of the classes, pass "
        "target.astype(float); "
    )
    if not odd.size and (target.ndim == 1 or row.size == 1):
        message += (
            "if they are binary labels next to one score each, the logits are "
            "np.stack([np.zeros_like(scores), scores], axis=-1)"
        )
    else:
        message += f"class indices would have shape {row_shape(target.shape, axis)}"
    raise ValueError(message)
