"""From partial sums to the reduced loss: one fixed order, in float64."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_FEW = 16  # up to here a Python loop is quicker than a NumPy call, and the order is as fixed
_FLOAT32_OVERFLOW = 3.4028235677973366e38  # from here on, float32 rounds to infinity
_ZERO = np.float32(-0.0)  # plus a Python float, it is that float in float32, at a quarter of the cost of np.float32()


def loss_dtype(logits: np.dtype[Any]) -> type[np.float32] | type[np.float64]:
    """float64 for float64 logits, else float32."""
    return np.float64 if logits.char == "d" else np.float32


def total(partials: Sequence[NDArray[np.float64]]) -> float:
    """The sum of all partial sums.

    The partial sums belong to fixed groups of rows, whatever thread computed them, and their order here is
    theirs, so the result is the same bit for bit for any number of threads.
    """
    if not partials:
        return 0.0
    one = partials[0] if len(partials) == 1 else np.concatenate(partials)
    if one.size <= _FEW:
        result = 0.0
        for value in one.tolist():
            result += value
        return result
    with np.errstate(all="ignore"):  # inf - inf is a value here, not a warning
        return float(np.add.reduce(one))


def reduced(value: float, denominator: float, dtype: type[np.floating[Any]]) -> np.floating[Any]:
    """A sum of rows over its denominator as a NumPy scalar of the loss's dtype, without a warning on overflow."""
    # A division, not a multiplication by 1/denominator: the mean is then the correctly rounded quotient.
    value = value / denominator if denominator != 0.0 else math.nan
    if dtype is np.float64:
        return dtype(value)
    if -_FLOAT32_OVERFLOW < value < _FLOAT32_OVERFLOW or value != value:
        return _ZERO + value
    return np.float32(math.copysign(math.inf, value))
