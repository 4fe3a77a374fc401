"""Arrays whose elements do not lie on multiples of their size, as the fields of packed records do.

Backends need not know such arrays: they get them in blocks of rows, copied to where they can be read and, for what they
write, copied back.  A block is small, so that the memory it takes does not grow with the logits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from numpy.typing import NDArray

    from xent_numba.backends.protocol import Slab

    Array = NDArray[Any]

BLOCK = 1 << 18  # logits copied at a time, at least one row


def is_aligned(*arrays: Array | None) -> bool:
    """Whether every element of these lies where the processor likes it."""
    return all(array is None or array.flags.aligned for array in arrays)


def aligned_slabs(slabs: Iterable[Slab]) -> Iterator[Slab]:
    """The slabs, cut into blocks where they must be; the results of one are in place when the next is asked for."""
    for slab in slabs:
        problem = slab.problem
        if is_aligned(problem.logits, problem.distribution, slab.grad):
            yield slab
            continue
        for block in _blocks(problem.logits.shape):
            q, labels, s, rows, grad, lse, upstream = (
                None if array is None else array[block]
                for array in (
                    problem.distribution, problem.labels, problem.sample_weight,
                    slab.rows, slab.grad, slab.lse, slab.grad_output,
                )
            )  # fmt: skip
            part = problem._replace(
                logits=problem.logits[block].copy(), distribution=_copy(q), labels=labels, sample_weight=_contiguous(s)
            )
            losses = None if rows is None else np.empty(rows.shape, rows.dtype)
            slopes = None if grad is None else np.empty(grad.shape, grad.dtype)
            yield slab._replace(
                problem=part, rows=losses, grad=slopes, lse=_contiguous(lse), grad_output=_contiguous(upstream)
            )
            if rows is not None:
                rows[...] = losses
            if grad is not None:
                grad[...] = slopes


def aligned_pairs(pairs: Iterable[tuple[Array, Array]]) -> Iterator[tuple[Array, Array]]:
    """The same for pairs of logits (A, B, C) and a result of the first two or all three dimensions."""
    for x, result in pairs:
        if is_aligned(x, result):
            yield x, result
            continue
        for block in _blocks(x.shape):
            part = np.empty(result[block].shape, result.dtype)
            yield x[block].copy(), part
            result[block] = part


def _blocks(shape: tuple[int, ...]) -> Iterator[tuple[slice, slice]]:
    """Cut the rows of (A, B, C), in C order, into blocks of one size or less."""
    a, b, classes = shape
    rows = max(1, BLOCK // classes)
    for i in range(0, a, max(1, rows // b)):
        for j in range(0, b, min(rows, b)):
            yield slice(i, i + max(1, rows // b)), slice(j, j + min(rows, b))


def _copy(array: Array | None) -> Array | None:
    return None if array is None else array.copy()


def _contiguous(array: Array | None) -> Array | None:
    return None if array is None else np.ascontiguousarray(array)
