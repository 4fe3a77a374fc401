"""Arrays whose elements are not aligned to their own size, as in the fields of packed records.

Backends never see such arrays.  They get aligned copies of them, a block of rows at a time, and what they write is
copied back.  The blocks are of fixed size, so the memory for them does not grow with the logits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from xent_numba.backends.protocol import Slab
from xent_numba.prepare.layout import row_blocks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any

    from numpy.typing import NDArray

    Array = NDArray[Any]

BLOCK = 1 << 18  # logits copied at a time, at least one row


def is_aligned(*arrays: Array | None) -> bool:
    """Whether the elements of all these arrays are aligned to their size."""
    return all(array is None or array.flags.aligned for array in arrays)


def aligned_slabs(slabs: Iterable[Slab]) -> Iterator[Slab]:
    """The slabs as they are, or as aligned copies of blocks of rows where their arrays are misaligned.

    A backend must fill one before it asks for the next, because the results of a block are copied back in between.
    """
    for slab in slabs:
        problem, rows, grad, lse, upstream, vector, diag = slab
        if is_aligned(problem.logits, problem.distribution, grad, vector, diag):
            yield slab
            continue
        read = problem.logits, problem.labels, problem.distribution, problem.sample_weight, lse, upstream, vector
        for _, (x, labels, q, s, z, g, v), (losses, slopes, curvatures) in aligned_blocks(read, (rows, grad, diag)):
            part = problem._replace(logits=x, labels=labels, distribution=q, sample_weight=s)
            yield Slab(part, losses, slopes, z, g, v, curvatures)


def aligned_pairs(pairs: Iterable[tuple[Array, Array]]) -> Iterator[tuple[Array, Array]]:
    """Like `aligned_slabs`, for pairs of logits (A, B, C) and a result (A, B, C) or (A, B)."""
    for x, result in pairs:
        if is_aligned(x, result):
            yield x, result
            continue
        for _, (part,), (found,) in aligned_blocks((x,), (result,)):
            yield part, found


def aligned_blocks(
    read: Sequence[Array | None], written: Sequence[Array | None]
) -> Iterator[tuple[tuple[slice, slice], list[Any], list[Any]]]:
    """Blocks of rows: each as slices of A and B, with copies of what is read and new arrays for what is written.

    The first array that is read has the shape (A, B, C), the others that or (A, B); None stays None.  What was written
    to a block is copied back when the next one is asked for.
    """
    shape = read[0].shape  # type: ignore[union-attr]
    for block in row_blocks(shape, BLOCK // shape[2]):
        new = [None if array is None else np.empty(array[block].shape, array.dtype) for array in written]
        yield block, [None if array is None else array[block].copy() for array in read], new
        for array, values in zip(written, new, strict=True):
            if array is not None:
                array[block] = values
