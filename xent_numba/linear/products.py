"""The matrix products of a linear head, by BLAS, in one dtype of arithmetic.

    logits = X Wᵀ + b        ∂loss/∂X = G W        ∂loss/∂W = Σ Gᵀ X        ∂loss/∂b = Σ Gᵀ 1

for the features X and the gradient of the logits G of a chunk of rows, with the sums over all chunks.  NumPy multiplies
into memory that is there.  Adding a product to such memory takes the `gemm` of BLAS, which SciPy has; without SciPy,
products of some classes at a time are added.  A sparse X is multiplied by SciPy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from xent_numba.prepare.inputs import is_bfloat16

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from numpy.typing import NDArray

    Array = NDArray[Any]

# Infinite and undefined values are results here, as in every kernel, and no reason for a warning.
_QUIET = np.errstate(all="ignore")
PANEL_BYTES = 1 << 23  # of the classes that are converted, or added, at a time


def promote(array: Any, dtype: np.dtype[Any]) -> Any:
    """The array in a dtype of arithmetic, itself where it has that."""
    if array.dtype == dtype:
        return array
    with np.errstate(all="ignore"):
        if is_bfloat16(array.dtype) and dtype.char == "f":  # its bits are the upper half of float32, many times as fast
            bits = np.left_shift(array.view(np.uint16), 16, dtype=np.uint32)
            return bits.view(np.float32)
        return array.astype(dtype)


def demote(values: Array, out: Array) -> None:
    """Write values of the arithmetic to an array of another dtype; what is too large for it becomes infinite."""
    with np.errstate(all="ignore"):
        np.copyto(out, values, casting="unsafe")


class Weight:
    """linear_weight, or another array (C, D), as a factor in the dtype of arithmetic."""

    def __init__(self, array: Array, dtype: np.dtype[Any]) -> None:
        """Take the array as it is where BLAS can, else some classes at a time."""
        self._array, self.dtype = array, dtype
        n_classes, n_features = array.shape
        contiguous = array.flags.c_contiguous or array.flags.f_contiguous
        self._whole = array.dtype == dtype and contiguous and array.flags.aligned
        step = PANEL_BYTES // max(1, n_features * dtype.itemsize)
        self._step = n_classes if self._whole else max(1, min(n_classes, step))
        self._transposed: Array | None = None

    def panels(self) -> Iterator[tuple[slice, Array]]:
        """Some classes after the other: which they are, and their part of the array."""
        for start in range(0, self._array.shape[0], self._step):
            classes = slice(start, start + self._step)
            part = self._array[classes]
            yield classes, part if self._whole else np.ascontiguousarray(promote(part, self.dtype))

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
        self._is_first = True
        self._gemm: Callable[..., Any] | None = None

    @_QUIET
    def add(self, grad: Array, features: Any) -> None:
        """Add the product of a chunk."""
        if not isinstance(features, np.ndarray):
            product = (features.T @ grad).T
            np.copyto(self._total, product) if self._is_first else np.add(self._total, product, out=self._total)
        elif self._is_first:
            np.matmul(grad.T, features, out=self._total)
            self._gemm = _gemm(self._total.dtype)
        elif self._gemm is not None:
            self._add_by_blas(self._gemm, grad, features)
        else:
            self._add_panels(grad, features)
        self._is_first = False

    def finish(self) -> None:
        """Have the sum in the array that was given."""
        if self._is_first:
            self._out.fill(0)
        elif self._total is not self._out:
            demote(self._total, self._out)

    def _add_by_blas(self, gemm: Callable[..., Any], grad: Array, features: Array) -> None:
        """total += Gᵀ X in place: in Fortran's order of memory, G is Gᵀ and X is Xᵀ."""
        if self._total.flags.c_contiguous:  # totalᵀ += Xᵀ G
            gemm(1.0, features.T, grad.T, beta=1.0, c=self._total.T, trans_b=True, overwrite_c=True)
        else:
            gemm(1.0, grad.T, features.T, beta=1.0, c=self._total, trans_b=True, overwrite_c=True)

    def _add_panels(self, grad: Array, features: Array) -> None:
        """The same, with a product of some classes at a time that is added by NumPy."""
        n_classes, n_features = self._total.shape
        step = max(1, PANEL_BYTES // max(1, n_features * self._total.itemsize))
        for start in range(0, n_classes, step):
            classes = slice(start, start + step)
            part = self._total[classes]
            np.add(part, grad[:, classes].T @ features, out=part)


class BiasGradient:
    """Σ Gᵀ 1 over the chunks, (C,), which is added up in float64."""

    def __init__(self, out: Array) -> None:
        """Begin with 0."""
        self._out, self._total = out, np.zeros(out.shape)

    @_QUIET
    def add(self, grad: Array) -> None:
        """Add the sum of a chunk."""
        self._total += np.ones(grad.shape[0], grad.dtype) @ grad

    def finish(self) -> None:
        """Have the sum in the array that was given."""
        demote(self._total, self._out)


def _gemm(dtype: np.dtype[Any]) -> Callable[..., Any] | None:
    """`gemm` of BLAS, α A B + β C into the memory of C; None without SciPy."""
    try:
        from scipy.linalg import blas
    except ImportError:
        return None
    found: Callable[..., Any] = blas.dgemm if dtype.char == "d" else blas.sgemm
    return found
