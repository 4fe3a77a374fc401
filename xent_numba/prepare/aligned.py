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
    from collections.abc import Iterable, Iterator
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
        problem = slab.problem
        if is_aligned(problem.logits, problem.distribution, slab.grad, slab.vector, slab.hessian_diag):
            yield slab
            continue
        for block in row_blocks(problem.logits.shape, BLOCK // problem.logits.shape[2]):
            part, rows, grad, lse, upstream, vector, diag = slab.cut(block)
            aligned = part._replace(
                logits=part.logits.copy(),
                distribution=_copy(part.distribution),
                sample_weight=_contiguous(part.sample_weight),
            )
            losses = None if rows is None else np.empty(rows.shape, rows.dtype)
            slopes = None if grad is None else np.empty(grad.shape, grad.dtype)
            curvatures = None if diag is None else np.empty(diag.shape, diag.dtype)
            yield Slab(aligned, losses, slopes, _contiguous(lse), _contiguous(upstream), _copy(vector), curvatures)
            if rows is not None:
                rows[...] = losses
            if grad is not None:
                grad[...] = slopes
            if diag is not None:
                diag[...] = curvatures


def aligned_pairs(pairs: Iterable[tuple[Array, Array]]) -> Iterator[tuple[Array, Array]]:
    """Like `aligned_slabs`, for pairs of logits (A, B, C) and a result (A, B, C) or (A, B)."""
    for x, result in pairs:
        if is_aligned(x, result):
            yield x, result
            continue
        for block in row_blocks(x.shape, BLOCK // x.shape[2]):
            part = np.empty(result[block].shape, result.dtype)
            yield x[block].copy(), part
            result[block] = part


def _copy(array: Array | None) -> Array | None:
    """A copy, which is aligned; None stays None."""
    return None if array is None else array.copy()


def _contiguous(array: Array | None) -> Array | None:
    """The array in C order, copied if need be; None stays None."""
    return None if array is None else np.ascontiguousarray(array)
