"""What the loop over chunks needs of the library whose arrays it multiplies, and NumPy as such a library."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from xent_numba.linear.products import BiasGradient, Weight, WeightGradient, as_factor
from xent_numba.linear.rows import Rows

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    Array = NDArray[Any]

CHUNK_BYTES = 1 << 25  # of the logits of a chunk, or of its features, unless `chunks.EFFICIENT_ROWS` need more


class Library(Protocol):
    """A library of arrays with a matrix product.  The classes that it makes have the methods of those of NumPy."""

    chunk_bytes: int  # of the logits of a chunk, or of its features, where the user does not say

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """A new array."""

    def zero(self, array: Any) -> None:
        """Fill an array with 0."""

    def promote(self, array: Any, dtype: np.dtype[Any]) -> Any:
        """The array in a dtype of arithmetic, as the product takes it; itself where it can be."""

    def rows(self, array: Any, n_row_axes: int) -> Any:
        """`rows.Rows` of an array."""

    def weight(self, array: Any, dtype: np.dtype[Any]) -> Any:
        """`products.Weight` of an array."""

    def weight_gradient(self, out: Any, dtype: np.dtype[Any]) -> Any:
        """`products.WeightGradient` with the result in `out`."""

    def bias_gradient(self, out: Any) -> Any:
        """`products.BiasGradient` with the result in `out`."""


class NumPy:
    """The library of arrays on the host."""

    chunk_bytes = CHUNK_BYTES
    promote = staticmethod(as_factor)
    rows = Rows
    weight = Weight
    weight_gradient = WeightGradient
    bias_gradient = BiasGradient

    @staticmethod
    def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """A new array."""
        return np.empty(shape, dtype)

    @staticmethod
    def zero(array: Array) -> None:
        """Fill an array with 0."""
        array.fill(0)
