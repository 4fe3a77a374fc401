"""Numbers in the JSON objects that commands print: JSON has no words for those that are not finite."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray


def json_numbers(values: NDArray[np.floating[Any]] | np.floating[Any] | float) -> object:
    """A number, or a list of those of an array in C order, as JSON can hold them."""
    if isinstance(values, np.ndarray):
        return [_json_number(value) for value in values.ravel()]
    return _json_number(values)


def _json_number(value: np.floating[Any] | float) -> float | str:
    """A number, or its name where it is not finite."""
    if np.isfinite(value):
        return float(str(value))  # the shortest decimal of a float32, not the longer one of the same number in float64
    return "NaN" if np.isnan(value) else "Infinity" if value > 0 else "-Infinity"
