"""From partial sums to the reduced loss: in float64, and in one fixed order."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_FEW = 16  # up to so many terms, a Python loop is faster than a call of NumPy; its order is as fixed
_LARGE = 2.0**1000  # sums up to here do not overflow
_FLOAT32_OVERFLOW = 3.4028235677973366e38  # the least float64 that rounds to infinity in float32
_ZERO = np.float32(-0.0)  # adding a Python float to it converts that to float32, four times as fast as np.float32()


def loss_dtype(logits: np.dtype[Any]) -> type[np.float32] | type[np.float64]:
    """The dtype of losses: float64 for float64 logits, else float32."""
    return np.float64 if logits.char == "d" else np.float32


def total(partials: Sequence[NDArray[np.float64]]) -> float:
    """The sum of all partial sums, given as one array for each slab.

    Each partial sum belongs to a fixed group of rows, and they are added in the order of the rows.  So the result has
    the same bits for any number of threads.
    """
    if not partials:
        return 0.0
    one = partials[0] if len(partials) == 1 else np.concatenate(partials)
    if one.size <= _FEW:
        result = 0.0
        for value in one.tolist():
            result += value
        return result
    with np.errstate(all="ignore"):  # inf − inf is nan, and no warning
        return float(np.add.reduce(one))


def exact_sum(values: NDArray[np.float64]) -> float:
    """Σ of finite numbers ≥ 0, a 1-D array, rounded hardly more than once."""
    largest = float(values.max(initial=0.0)) * values.size
    if not largest < _LARGE:
        return float(values.sum())
    if values.size <= _FEW:
        return math.fsum(values.tolist())
    # Adding and subtracting a power of 2 rounds to so few digits that the sum of the high parts is exact.
    rounder = math.ldexp(1.0, math.frexp(largest)[1])
    high = (values + rounder) - rounder
    return float(high.sum() + (values - high).sum())


def reduced(value: float, denominator: float, dtype: type[np.floating[Any]]) -> np.floating[Any]:
    """value / denominator as a NumPy scalar of the loss's dtype, without a warning on overflow; nan over 0."""
    # Divided, not multiplied by 1 / denominator, so that the mean is the correctly rounded quotient.
    value = value / denominator if denominator != 0.0 else math.nan
    if dtype is np.float64:
        return dtype(value)
    if -_FLOAT32_OVERFLOW < value < _FLOAT32_OVERFLOW or value != value:
        return _ZERO + value
    return np.float32(math.copysign(math.inf, value))
