"""Float64 arithmetic in NumPy that computes its own rounding errors, for the reference backend.

All arrays are float64; (R, C) stands for R rows and C classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float64s = NDArray[np.float64]


def _lost(a: Float64s, b: Float64s, total: Float64s) -> Float64s:
    """The rounding error a + b − total of total = a + b, exactly (Knuth's two-sum)."""
    part = total - a
    return (a - (total - part)) + (b - part)


def difference(a: Float64s, b: Float64s) -> tuple[Float64s, Float64s]:
    """a − b and its exact rounding error, which is 0 where the difference is not finite."""
    return two_sum(a, -b)


def product(x: Float64s, scale: float) -> tuple[Float64s, Float64s]:
    """scale · x and its exact rounding error (Dekker's product); the error is 0 where its computation overflows."""

    def halves(a: Any) -> tuple[Any, Any]:
        """Numbers of 26 bits each with the sum a (Veltkamp's splitting)."""
        high = 134217729.0 * a  # 2^27 + 1
        high = high - (high - a)
        return high, a - high

    product = scale * x
    (a, b), (c, d) = halves(np.float64(scale)), halves(x)
    lost = ((a * c - product) + a * d + b * c) + b * d
    return product, np.where(np.isfinite(lost), lost, 0.0)


def two_sum(a: Float64s, b: Float64s) -> tuple[Float64s, Float64s]:
    """a + b and its exact rounding error, which is 0 where the sum is not finite."""
    total = a + b
    lost = _lost(a, b, total)
    return total, np.where(np.isfinite(lost), lost, 0.0)


def scaled_difference(x: Float64s, shift: Float64s, scale: float) -> tuple[Float64s, Float64s]:
    """scale · (x − shift) and its rounding error, which is 0 where the difference is not finite."""
    d, lost = difference(x, shift)
    if scale != 1.0:
        d, more = product(d, scale)
        lost = scale * lost + more
    return d, lost


def exp_of_difference(z: Float64s, shift: Float64s, rest: Float64s) -> Float64s:
    """exp(z − shift + rest), corrected for the rounding of the difference, which adds up over many equal terms."""
    d = z - shift
    lost = _lost(z, -shift, d) + rest
    return np.exp(d) * np.where(np.isfinite(lost), 1.0 + lost, 1.0)


def sum_of(terms: Float64s) -> Float64s:
    """Σ over the classes, (R, 1): pairwise, with the rounding error of every addition added at the end."""
    lost = np.zeros((len(terms), 1))
    while terms.shape[1] > 1:
        if terms.shape[1] % 2:
            terms = np.pad(terms, ((0, 0), (0, 1)))
        half = terms.shape[1] // 2
        a, b = terms[:, :half], terms[:, half:]
        terms = a + b
        lost += np.sum(_lost(a, b, terms), axis=1, keepdims=True)
    return np.where(np.isfinite(lost), terms + lost, terms)
