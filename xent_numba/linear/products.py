"""The matrix products of a linear head, by BLAS, in one dtype of arithmetic.

    logits = X Wᵀ + b        ∂loss/∂X = G W        ∂loss/∂W = Σ Gᵀ X        ∂loss/∂b = Σ Gᵀ 1

for the features X and the gradient of the logits G of a chunk of rows, with the sums over all chunks.  NumPy has its
BLAS multiply into memory that is there, and adds the products of some classes at a time to the sums.  The `gemm` of
SciPy would add in place, but it is another copy of BLAS, and the idle threads of each slow down the other: with it, the
products together took 1.4 times as long.  A sparse X is multiplied by SciPy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from xent_numba.prepare.inputs import is_bfloat16

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from numpy.typing import NDArray

    Array = NDArray[Any]

# Infinite and undefined values are results here, as in every kernel, and no reason for a warning.
_QUIET = np.errstate(all="ignore")
PANEL_BYTES = 1 << 23  # of the classes that are converted, or added, at a time
SUMMED_ROWS = 1 << 12  # by BLAS, one after the other, before float64 takes over


def promote(array: Any, dtype: np.dtype[Any]) -> Any:
    """The array in a dtype of arithmetic, itself where it has that."""
    if array.dtype == dtype:
        return array
    with np.errstate(all="ignore"):
        if is_bfloat16(array.dtype) and dtype.char == "f":  # its bits are the upper half of float32, many times as fast
            bits = np.left_shift(array.view(np.uint16), 16, dtype=np.uint32)
            return bits.view(np.float32)
        return array.astype(dtype)


def as_factor(array: Any, dtype: np.dtype[Any]) -> Any:
    """The array, promoted, as BLAS takes it: without contiguous rows, many versions of NumPy multiply by themselves."""
    array = promote(array, dtype)
    return np.require(array, requirements=("C", "A")) if isinstance(array, np.ndarray) else array


def demote(values: Array, out: Array) -> None:
    """Write values of the arithmetic to an array of another dtype; what is too large for it becomes infinite."""
    with np.errstate(all="ignore"):
        np.copyto(out, values, casting="unsafe")


def panel_step(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """How many classes of an array (C, D) are converted, or added, at a time."""
    n_classes, n_features = shape
    return max(1, min(n_classes, PANEL_BYTES // max(1, n_features * dtype.itemsize)))


class Weight:
    """linear_weight, or another array (C, D), as a factor in the dtype of arithmetic."""

    def __init__(self, array: Array, dtype: np.dtype[Any]) -> None:
        """Take the array as it is where BLAS can, else some classes at a time."""
        self._array, self.dtype = array, dtype
        n_classes = array.shape[0]
        contiguous = array.flags.c_contiguous or array.flags.f_contiguous
        self._whole = array.dtype == dtype and contiguous and array.flags.aligned
        self._step = n_classes if self._whole else panel_step(array.shape, dtype)
        self._transposed: Array | None = None

    def panels(self) -> Iterator[tuple[slice, Array]]:
        """Some classes after the other: which they are, and their part of the array."""
        for start in range(0, self._array.shape[0], self._step):
            classes = slice(start, start + self._step)
            part = self._array[classes]
            yield classes, part if self._whole else as_factor(part, self.dtype)

    @_QUIET
    def logits(self, features: Any, bias: Array | None, out: Array) -> Array:
        """X Wᵀ + b: (n, C), in `out` if X is dense."""
        if not isinstance(features, np.ndarray):
            if self._transposed is None:  # SciPy would copy it for each product
                self._transposed = np.ascontiguousarray(promote(self._array, self.dtype).T)
            out = np.asarray(features @ self._transposed)
        else:
            for classes, panel in self.panels():
                np.matmul(features, panel.T, out=out[:, classes])
        if bias is not None:
            np.add(out, bias, out=out)
        return out

    @_QUIET
    def features_gradient(self, grad: Array) -> Array:
        """G W: (n, D)."""
        products = (grad[:, classes] @ panel for classes, panel in self.panels())
        first: Array = next(products)
        for product in products:
            np.add(first, product, out=first)
        return first


class WeightGradient:
    """Σ Gᵀ X over the chunks, (C, D), which is added up in the dtype of arithmetic."""

    def __init__(self, out: Array, dtype: np.dtype[Any]) -> None:
        """Add up in `out` itself where its dtype and layout allow it."""
        self._out = out
        in_place = out.dtype == dtype and out.flags.aligned and (out.flags.c_contiguous or out.flags.f_contiguous)
        self._total = out if in_place else np.empty(out.shape, dtype)
        self._panel = np.empty((panel_step(out.shape, dtype), out.shape[1]), dtype)  # untouched memory costs nothing
        self._is_first = True

    @_QUIET
    def add(self, grad: Array, features: Any) -> None:
        """Add the product of a chunk, of some classes at a time, through memory that stays in the cache."""
        if not isinstance(features, np.ndarray):
            product = (features.T @ grad).T
            np.copyto(self._total, product) if self._is_first else np.add(self._total, product, out=self._total)
        elif self._is_first:
            np.matmul(grad.T, features, out=self._total)
        else:
            n_classes, step = self._total.shape[0], len(self._panel)
            for start in range(0, n_classes, step):
                part = self._total[start : start + step]
                product = self._panel[: len(part)]
                np.matmul(grad[:, start : start + step].T, features, out=product)
                np.add(part, product, out=part)
        self._is_first = False

    def finish(self) -> None:
        """Have the sum in the array that was given."""
        if self._is_first:
            self._out.fill(0)
        elif self._total is not self._out:
            demote(self._total, self._out)


class BiasGradient:
    """Σ Gᵀ 1 over the chunks, (C,), which is added up in float64 but for a few thousand rows at a time."""

    def __init__(self, out: Array) -> None:
        """Begin with 0."""
        self._out, self._total = out, np.zeros(out.shape)

    @_QUIET
    def add(self, grad: Array) -> None:
        """Add the sum of a chunk."""
        for start in range(0, grad.shape[0], SUMMED_ROWS):
            part = grad[start : start + SUMMED_ROWS]
            self._total += np.ones(part.shape[0], grad.dtype) @ part

    def finish(self) -> None:
        """Have the sum in the array that was given."""
        demote(self._total, self._out)
