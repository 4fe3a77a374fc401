"""Float64 arithmetic that knows what rounding took from it, in NumPy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float64s = NDArray[np.float64]


def _lost(a: Float64s, b: Float64s, total: Float64s) -> Float64s:
    """a + b − total, exactly: what rounding took from `total`, after Knuth."""
    part = total - a
    return (a - (total - part)) + (b - part)


def product(x: Float64s, scale: float) -> tuple[Float64s, Float64s]:
    """scale · x, and exactly what rounding took from it, after Dekker; 0 where that overflows."""

    def halves(a: Any) -> tuple[Any, Any]:
        high = 134217729.0 * a  # 2^27 + 1
        high = high - (high - a)
        return high, a - high

    product = scale * x
    (a, b), (c, d) = halves(np.float64(scale)), halves(x)
    lost = ((a * c - product) + a * d + b * c) + b * d
    return product, np.where(np.isfinite(lost), lost, 0.0)


def exp_of_difference(z: Float64s, shift: Float64s, rest: Float64s) -> Float64s:
    """exp(z − shift + rest) of the difference before it was rounded: in a thousand equal terms, that would add up."""
    d = z - shift
    lost = _lost(z, -shift, d) + rest
    return np.exp(d) * np.where(np.isfinite(lost), 1.0 + lost, 1.0)


def sum_of(terms: Float64s) -> Float64s:
    """Σ over the classes, (R, 1), by halves and with what rounding takes from each half."""
    lost = np.zeros((len(terms), 1))
    while terms.shape[1] > 1:
        if terms.shape[1] % 2:
            terms = np.pad(terms, ((0, 0), (0, 1)))
        half = terms.shape[1] // 2
        a, b = terms[:, :half], terms[:, half:]
        terms = a + b
        lost += np.sum(_lost(a, b, terms), axis=1, keepdims=True)
    return np.where(np.isfinite(lost), terms + lost, terms)
