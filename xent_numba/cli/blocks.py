"""A prepared call, computed a block of rows at a time.

The call is prepared once, for all rows: the labels are checked, the denominators are known, and logits and gradient
have their canonical shapes.  So a block consists of slices of those arrays, and its gradient is written with its final
scale.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xent_numba.backends.protocol import RowFields
from xent_numba.compute import compute_loss
from xent_numba.prepare.layout import row_blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from xent_numba.backends.protocol import Backend, Slab
    from xent_numba.prepare.loss import Prepared
    from xent_numba.prepare.statistics import PreparedStatistics

Array = NDArray[Any]
Loss = np.floating[Any] | NDArray[np.floating[Any]]
PAGE = 4096  # bytes of each class that a block of strided rows has at least, so that no page is read twice


def run(backend: Backend, prepared: Prepared, block_bytes: int, advance: Callable[[int], None]) -> Loss:
    """Compute a prepared call, and return its loss.  `advance` is called with the bytes of logits of each block."""

    def blocks() -> Iterator[Slab]:
        """Every block, and `advance` once it is computed."""
        for slab in prepared.slabs:
            for block in split(slab, block_bytes):
                yield block
                advance(block.problem.logits.nbytes)

    return compute_loss(backend, prepared._replace(slabs=blocks()))


def split(slab: Slab, block_bytes: int) -> Iterator[Slab]:
    """The slab in blocks of whole rows, in C order, each of about `block_bytes` bytes of logits."""
    for rows in _slices(slab.problem.logits, block_bytes):
        yield slab.cut(rows)


def run_statistics(
    backend: Backend, prepared: PreparedStatistics, block_bytes: int, advance: Callable[[int], None]
) -> None:
    """Fill the fields of prepared row statistics, as `run` computes a loss."""
    for problem, fields in prepared.slabs:
        for rows in _slices(problem.logits, block_bytes):
            labels = None if problem.labels is None else problem.labels[rows]
            part = problem._replace(logits=problem.logits[rows], labels=labels)
            backend.row_statistics(part, RowFields(*(None if field is None else field[rows] for field in fields)))
            advance(part.logits.nbytes)


def _slices(logits: Array, block_bytes: int) -> Iterator[tuple[slice, slice]]:
    """Slices that cut logits (A, B, C) into blocks of whole rows, in C order, of about `block_bytes` bytes each."""
    n_rows = block_bytes // (logits.shape[2] * logits.itemsize)
    if abs(logits.strides[1]) < abs(logits.strides[2]):  # neighbouring rows are closer than the classes of a row
        n_rows = max(n_rows, PAGE // logits.itemsize)
    return row_blocks(logits.shape, n_rows)
