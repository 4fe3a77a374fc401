"""Some rows of arrays whose leading axes are those of the rows, without copying more than the rows themselves."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    Array = NDArray[Any]
    Selection = slice | NDArray[np.intp]  # of rows, numbered in C order


class Rows:
    """An array (…, K) or (…) seen as one row after the other, whatever its strides; or a CSR matrix."""

    def __init__(self, array: Any, n_row_axes: int) -> None:
        """View the rows of an array, in C order of its first `n_row_axes` axes."""
        self._array = array
        self._shape = array.shape[:n_row_axes]
        self._flat: Any = None  # the same with a single axis of rows, where the strides allow a view
        if not isinstance(array, np.ndarray):
            self._flat = array
        else:
            with suppress(ValueError):
                self._flat = array.reshape((math.prod(self._shape), *array.shape[n_row_axes:]), copy=False)

    def take(self, rows: Selection) -> Any:
        """Some rows: a view of consecutive ones where the strides allow it, else a copy."""
        if self._flat is not None:
            return self._flat[rows]
        return self._array[self._index(rows)]

    def put(self, rows: Selection, values: Array) -> None:
        """Write some rows of an array; a value too large for its dtype becomes infinite."""
        with np.errstate(all="ignore"):
            if self._flat is not None:
                self._flat[rows] = values
            else:
                self._array[self._index(rows)] = values

    def _index(self, rows: Selection) -> tuple[NDArray[np.intp], ...]:
        """The rows as an index of the array."""
        numbers = np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
        return np.unravel_index(numbers, self._shape)


def optional(array: Any, n_row_axes: int) -> Rows | None:
    """The rows of an array that may be None."""
    return None if array is None else Rows(array, n_row_axes)


def taken(source: Rows | None, rows: Selection) -> Any:
    """Some rows; None of None."""
    return None if source is None else source.take(rows)
