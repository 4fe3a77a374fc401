"""CuPy and PyTorch as libraries of the loop over chunks, with the products and rows of a linear head on a GPU.

What differs between the two is in the classes `CuPy` and `PyTorch`; the rest calls functions that both have.  They work
on the stream that is theirs at the moment, on which the kernels run too.  Every product has an `out`, because only then
does PyTorch's `autocast` leave it alone.

To add a library, derive a class from `DeviceLibrary` and name it in `library_for`.
"""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from xent_numba.backends.cuda.arrays.adopt import adopt, library_of
from xent_numba.prepare.layout import merged_axes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

# Large enough to keep a GPU busy, and small against its memory; chosen by reasoning, not by measurement.
CHUNK_BYTES = 1 << 28  # of the logits of a chunk, or of its features
PANEL_BYTES = 1 << 26  # of the classes that are converted, or added, at a time

_NAMES = {"torch": "PyTorch", "cupy": "CuPy", "jax": "JAX"}


class DeviceLibrary:
    """A library of arrays on a GPU with a matrix product: a `library.Library`."""

    chunk_bytes = CHUNK_BYTES
    package: str  # its name among the modules, which has it already where there is an array of it
    convert: str  # how to make an array of it, with {} for another one

    def __init__(self, **place: Any) -> None:
        """`place` are the arguments of its functions that say where a new array is to be."""
        self._module, self._place = sys.modules[self.package], place

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """A new array."""
        return self._module.empty(shape, dtype=self.own_dtype(dtype), **self._place)

    def from_host(self, array: NDArray[Any]) -> Any:
        """A copy on the GPU of an array that is not."""
        return self._module.asarray(np.array(array), **self._place)  # copied, since PyTorch warns of what is read-only

    def zero(self, array: Any) -> None:
        """Fill an array with 0."""
        array[...] = 0

    def own_dtype(self, dtype: np.dtype[Any]) -> Any:
        """What the library has for a dtype of NumPy."""
        return dtype

    def cast(self, array: Any, dtype: Any) -> Any:
        """The array in another dtype of the library, itself where it has that."""
        return array.astype(dtype, copy=False)

    def promote(self, array: Any, dtype: np.dtype[Any]) -> Any:
        """The array in a dtype of arithmetic, itself where it has that."""
        return self.cast(array, self.own_dtype(dtype))

    def assign(self, array: Any, index: Any, values: Any) -> None:
        """array[index] = values; what is too large for the dtype of the array becomes infinite."""
        array[index] = self.cast(values, array.dtype)

    def multiply(self, a: Any, b: Any, out: Any) -> None:
        """out = a @ b."""
        self._module.matmul(a, b, out=out)

    def add_product(self, a: Any, b: Any, out: Any) -> None:
        """out += a @ b, some rows at a time, since the product takes memory of its own."""
        step = max(1, PANEL_BYTES // max(1, out.shape[1] * out.dtype.itemsize))
        for start in range(0, out.shape[0], step):
            part = out[start : start + step]
            part += self._module.matmul(a[start : start + step], b)

    def sum_rows(self, array: Any) -> Any:
        """The sum of the rows, in float64."""
        return array.sum(0, dtype=self.own_dtype(np.dtype(np.float64)))

    def as_labels(self, target: Any) -> Any:
        """Class indices as one axis of int64, copied only if they are not."""
        return self.promote(target.reshape(-1), np.dtype(np.int64))

    def kept_rows(self, labels: Any, ignore: tuple[int, ...]) -> Any | None:
        """The numbers of the rows that are not ignored; None where no row is.  It waits for the GPU."""
        kept = labels != ignore[0]
        for label in ignore[1:]:
            kept &= labels != label
        numbers = self._module.where(kept)[0]
        return None if len(numbers) == len(labels) else numbers

    def subscripts(self, rows: Any, shape: tuple[int, ...]) -> Any:
        """Numbers of rows, or a slice of them, as indices of several axes."""
        numbers = self._module.arange(rows.start, rows.stop, **self._place) if isinstance(rows, slice) else rows
        return self._module.unravel_index(numbers, shape)

    def check(self, value: Any, name: str) -> None:
        """TypeError for an array of another library, which the products could not take."""
        package = library_of(value)
        if package != self.package:
            theirs = _NAMES.get(package, type(value).__module__.partition(".")[0])
            raise TypeError(
                f"{name} is an array of {theirs}, and input one of {_NAMES[self.package]}; pass "
                f"{self.convert.format(name)}, which does not copy it"
            )

    def rows(self, array: Any, n_row_axes: int) -> Rows:
        """The rows of an array."""
        return Rows(self, array, n_row_axes)

    def weight(self, array: Any, dtype: np.dtype[Any]) -> Weight:
        """linear_weight, or another array (C, D), as a factor."""
        return Weight(self, array, dtype)

    def weight_gradient(self, out: Any, dtype: np.dtype[Any]) -> WeightGradient:
        """The sum of the gradients of linear_weight."""
        return WeightGradient(self, out, dtype)

    def bias_gradient(self, out: Any) -> BiasGradient:
        """The sum of the gradients of linear_bias."""
        return BiasGradient(self, out)


class CuPy(DeviceLibrary):
    """CuPy, whose functions and arrays are like NumPy's."""

    package = "cupy"
    convert = "cupy.asarray({})"


class PyTorch(DeviceLibrary):
    """PyTorch, which has dtypes of its own and adds a product in place."""

    package = "torch"
    convert = "torch.as_tensor({}, device='cuda')"

    def own_dtype(self, dtype: np.dtype[Any]) -> Any:
        """What the library has for a dtype of NumPy."""
        return getattr(self._module, dtype.name)

    def cast(self, array: Any, dtype: Any) -> Any:
        """The array in another dtype of the library, itself where it has that."""
        return array.to(dtype)

    def add_product(self, a: Any, b: Any, out: Any) -> None:
        """out += a @ b."""
        self._module.addmm(out, a, b, out=out)

    def check(self, value: Any, name: str) -> None:
        """TypeError for an array of another library, or a sparse one."""
        super().check(value, name)
        if value.layout is not self._module.strided:
            raise TypeError(
                f"{name} is a sparse tensor, and on a GPU only dense ones can be multiplied; pass {name}.to_dense()"
            )


def library_for(value: Any, name: str) -> DeviceLibrary:
    """The library of an array on a GPU; RuntimeError where that has no matrix product to be used here."""
    package = library_of(value)
    if package == "torch":
        return PyTorch(device=value.device)
    return CuPy() if package == "cupy" else _refuse(value, name)


def _refuse(value: Any, name: str) -> NoReturn:
    """RuntimeError for an array of a library without a matrix product that can be used here."""
    kind = type(value)
    how = "torch.from_dlpack(array) or cupy.from_dlpack(array) makes"
    if not hasattr(kind, "__dlpack__"):
        how = "cupy.asarray(array) or torch.as_tensor(array, device='cuda') makes"
    package = library_of(value) or kind.__module__.partition(".")[0]
    raise RuntimeError(
        f"{name} is on a GPU, as an array of {_NAMES.get(package, package)} ({kind.__name__}), but the matrix products "
        f"of a linear head take CuPy or PyTorch there; pass all arrays as those of one of them, which {how} without a "
        "copy, or copy them to the host"
    )


class Rows:
    """`rows.Rows` on a GPU."""

    def __init__(self, library: DeviceLibrary, array: Any, n_row_axes: int) -> None:
        """View the rows of an array, in C order of its first `n_row_axes` axes."""
        self._library, self._array = library, array
        shape = tuple(array.shape)
        self._shape = shape[:n_row_axes]
        strides = adopt(array, "array").array.strides[:n_row_axes]
        is_flat = len(merged_axes(self._shape, [strides])) <= 1
        self._flat = array.reshape((math.prod(self._shape), *shape[n_row_axes:])) if is_flat else None

    def take(self, rows: Any) -> Any:
        """Some rows: a view of consecutive ones where the strides allow it, else a copy."""
        if self._flat is not None:
            return self._flat[rows]
        return self._array[self._library.subscripts(rows, self._shape)]

    def put(self, rows: Any, values: Any) -> None:
        """Write some rows of an array; a value too large for its dtype becomes infinite."""
        if self._flat is not None:
            self._library.assign(self._flat, rows, values)
        else:
            self._library.assign(self._array, self._library.subscripts(rows, self._shape), values)


class Weight:
    """`products.Weight` on a GPU."""

    def __init__(self, library: DeviceLibrary, array: Any, dtype: np.dtype[Any]) -> None:
        """Take the array as it is if it has that dtype, else some classes at a time."""
        self._library, self._array, self.dtype = library, array, dtype
        n_classes, n_features = array.shape
        is_whole = array.dtype == library.own_dtype(dtype)
        self._step = n_classes if is_whole else max(1, PANEL_BYTES // max(1, n_features * dtype.itemsize))

    def logits(self, features: Any, bias: Any | None, out: Any) -> Any:
        """X Wᵀ + b: (n, C), in `out`."""
        for classes, panel in self._panels():
            self._library.multiply(features, panel.T, out[:, classes])
        if bias is not None:
            out += bias
        return out

    def features_gradient(self, grad: Any) -> Any:
        """G W: (n, D)."""
        total = self._library.empty((grad.shape[0], self._array.shape[1]), self.dtype)
        for classes, panel in self._panels():
            product = self._library.add_product if classes.start else self._library.multiply
            product(grad[:, classes], panel, total)
        return total

    def _panels(self) -> Iterator[tuple[slice, Any]]:
        """Some classes after the other: which they are, and their part of the array."""
        for start in range(0, self._array.shape[0], self._step):
            classes = slice(start, start + self._step)
            yield classes, self._library.promote(self._array[classes], self.dtype)


class WeightGradient:
    """`products.WeightGradient` on a GPU: Σ Gᵀ X over the chunks, (C, D), added up in the dtype of arithmetic."""

    def __init__(self, library: DeviceLibrary, out: Any, dtype: np.dtype[Any]) -> None:
        """Add up in `out` itself where it has that dtype."""
        self._library, self._out = library, out
        in_place = out.dtype == library.own_dtype(dtype)
        self._total = out if in_place else library.empty(tuple(out.shape), dtype)
        self._is_first = True

    def add(self, grad: Any, features: Any) -> None:
        """Add the product of a chunk."""
        product = self._library.multiply if self._is_first else self._library.add_product
        product(grad.T, features, self._total)
        self._is_first = False

    def finish(self) -> None:
        """Have the sum in the array that was given."""
        if self._is_first:
            self._library.zero(self._out)
        elif self._total is not self._out:
            self._library.assign(self._out, slice(None), self._total)


class BiasGradient:
    """`products.BiasGradient` on a GPU: Σ Gᵀ 1 over the chunks, (C,), added up in float64."""

    def __init__(self, library: DeviceLibrary, out: Any) -> None:
        """Begin with 0."""
        self._library, self._out = library, out
        self._total = library.empty(tuple(out.shape), np.dtype(np.float64))
        library.zero(self._total)

    def add(self, grad: Any) -> None:
        """Add the sum of a chunk."""
        self._total += self._library.sum_rows(grad)

    def finish(self) -> None:
        """Have the sum in the array that was given."""
        self._library.assign(self._out, slice(None), self._total)
