"""A prepared call, computed a block of rows at a time.

The call is prepared once, for all rows: the labels are checked, the denominators are known, and logits and gradient
have their canonical shapes.  So a block consists of slices of those arrays, and its gradient is written with its final
scale.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xent_numba.reduction import reduced, total

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from xent_numba.backends.protocol import Backend, Slab
    from xent_numba.prepare.loss import Prepared

Loss = np.floating[Any] | NDArray[np.floating[Any]]
PAGE = 4096  # bytes of each class that a block of strided rows has at least, so that no page is read twice


def run(backend: Backend, prepared: Prepared, block_bytes: int, advance: Callable[[int], None]) -> Loss:
    """Compute a prepared call, and return its loss.  `advance` is called with the bytes of logits of each block."""
    partials = []
    for slab in prepared.slabs:
        for block in split(slab, block_bytes):
            sums = backend.cross_entropy(block.problem, block.rows, block.grad)
            if sums is not None:
                partials.append(sums)
            advance(block.problem.logits.nbytes)
    rows = prepared.rows
    if rows is not None:
        return rows if rows.ndim else rows[()]
    return reduced(total(partials), prepared.denominator, prepared.dtype)


def split(slab: Slab, block_bytes: int) -> Iterator[Slab]:
    """The slab in blocks of whole rows, in C order, each of about `block_bytes` bytes of logits."""
    logits = slab.problem.logits
    n_outer, n_inner, n_classes = logits.shape
    n_rows = max(1, block_bytes // (n_classes * logits.itemsize))
    if abs(logits.strides[1]) < abs(logits.strides[2]):  # neighbouring rows are closer than the classes of a row
        n_rows = max(n_rows, PAGE // logits.itemsize)
    if n_rows >= n_inner:
        step = n_rows // n_inner
        for start in range(0, n_outer, step):
            yield _part(slab, (slice(start, start + step), slice(None)))
    else:
        for outer in range(n_outer):
            for start in range(0, n_inner, n_rows):
                yield _part(slab, (slice(outer, outer + 1), slice(start, start + n_rows)))


def _part(slab: Slab, rows: tuple[slice, slice]) -> Slab:
    """A slice of a slab along A and B."""
    problem = slab.problem
    labels, distribution, sample_weight = (
        None if array is None else array[rows]
        for array in (problem.labels, problem.distribution, problem.sample_weight)
    )
    return slab._replace(
        problem=problem._replace(
            logits=problem.logits[rows], labels=labels, distribution=distribution, sample_weight=sample_weight
        ),
        rows=None if slab.rows is None else slab.rows[rows],
        grad=None if slab.grad is None else slab.grad[rows],
    )
