"""Shapes and strides: how arrays of any layout are viewed as rows of classes, (A, B, C), without copying them.

The class axis is moved last.  Neighbouring row axes are merged where the strides of *all* arrays concerned allow it.
For nearly every layout in practice, that leaves at most two row axes, A and B.  Where it leaves more, as for irregular
slices of 5-D arrays, the caller loops over the leading ones, and each slab is an (A, B, C) view again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

# How much work `np.shares_memory` may do before it gives up; an overlap is then assumed.
OVERLAP_WORK: Any = 10_000  # Any: NumPy annotates max_work with two of the values it takes


class Layout(NamedTuple):
    """Arrays in one canonical shape: `lead` axes to loop over, then the row dimensions A and B, then the classes."""

    lead: tuple[int, ...]
    a: int
    b: int
    views: tuple[Any, ...]  # each an array lead + (A, B, C), or None

    def slabs(self) -> Iterator[tuple[Any, ...]]:
        """The (A, B, C) views in C order of the rows."""
        if not self.lead:
            yield self.views
            return
        for index in np.ndindex(self.lead):
            yield tuple(None if view is None else view[index] for view in self.views)


def merged_axes(shape: Sequence[int], strides: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The sizes of the fewest axes into which those of `shape` merge, for all the given tuples of strides at once.

    >>> merged_axes((2, 3, 4), [(96, 32, 8)]), merged_axes((2, 3, 4), [(96, 32, 8), (8, 64, 16)])
    ((24,), (2, 12))
    """
    merged: list[int] = []
    inner: list[int] = []  # strides of the axis that was added last, per array
    for axis in reversed(range(len(shape))):
        if shape[axis] == 1:
            continue  # an axis of length 1 merges with any other
        step = [stride[axis] for stride in strides]
        if merged and all(outer == merged_step for outer, merged_step in zip(step, inner, strict=True)):
            merged[-1] *= shape[axis]
        else:
            merged.append(shape[axis])
        inner = [size * shape[axis] for size in step]  # where the next axis must step to merge with this one
    return tuple(reversed(merged))


def canonical(axis: int, *arrays: Array | None) -> Layout:
    """View non-empty arrays with the same row axes as lead + (A, B, C); None stays None.

    `axis` is the class axis, counted from the front.  A = 1 wherever all row axes merge into one.
    """
    present = [array for array in arrays if array is not None]
    axes = list(range(present[0].ndim))
    axes.append(axes.pop(axis))
    moved = [None if array is None else array.transpose(axes) for array in arrays]
    shape = present[0].shape
    sizes = merged_axes([shape[i] for i in axes[:-1]], [[array.strides[i] for i in axes[:-1]] for array in present])
    sizes = (1,) * (2 - len(sizes)) + sizes
    # copy=False: a merge that is not possible after all raises an error instead of silently copying the logits.
    views = tuple(None if array is None else array.reshape(sizes + array.shape[-1:], copy=False) for array in moved)
    return Layout(sizes[:-2], sizes[-2], sizes[-1], views)


def same_memory(one: Array, other: Array) -> bool:
    """Whether two arrays of the same shape and dtype have each element at the same address."""
    if one.__array_interface__["data"][0] != other.__array_interface__["data"][0]:
        return False
    return all(size <= 1 or a == b for size, a, b in zip(one.shape, one.strides, other.strides, strict=True))


def overlaps(one: Array, other: Array) -> bool:
    """Whether two arrays share memory; True where that is too hard to decide."""
    if one is not other and one.flags.owndata and other.flags.owndata:  # a third of the cost of the next test
        return False
    if not np.may_share_memory(one, other):
        return False
    try:
        return np.shares_memory(one, other, max_work=OVERLAP_WORK)
    except np.exceptions.TooHardError:
        return True


def overlaps_itself(array: Array) -> bool:
    """Whether two elements may share memory, as in broadcast or sliding-window views."""
    if array.size == 0:
        return False
    reach = array.itemsize
    for stride, size in sorted((abs(s), n) for s, n in zip(array.strides, array.shape, strict=True) if n > 1):
        if stride < reach:
            return True
        reach += stride * (size - 1)
    return False


def row_shape(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """`shape` without the class axis, which must not be negative."""
    return shape[:axis] + shape[axis + 1 :]


def row_blocks(shape: tuple[int, ...], rows: int) -> Iterator[tuple[slice, slice]]:
    """Slices that cut (A, B, ...) into blocks of at most `rows` rows, at least one, in C order of the rows.

    >>> [(a.start, a.stop, b.start, b.stop) for a, b in row_blocks((2, 3), 2)]
    [(0, 1, 0, 2), (0, 1, 2, 4), (1, 2, 0, 2), (1, 2, 2, 4)]
    """
    a, b = shape[:2]
    step_a, step_b = max(1, rows // b), max(1, min(rows, b))
    for i in range(0, a, step_a):
        for j in range(0, b, step_b):
            yield slice(i, i + step_a), slice(j, j + step_b)


def place(index: int, shape: tuple[int, ...]) -> str:
    """A flat C-order index written as a subscript of `shape`.

    >>> place(5, (2, 4)), place(3, (9,)), place(0, ())
    ('[1, 1]', '[3]', '[()]')
    """
    return str([int(i) for i in np.unravel_index(index, shape)]) if shape else "[()]"
