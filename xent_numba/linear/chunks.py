"""The loop over chunks of rows.

Each chunk of logits is handed to the loss as a slab.  When the loss asks for the next slab, the gradient of the last
one lies where its logits were, and is multiplied on.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from xent_numba.linear.products import BiasGradient, Weight, WeightGradient, as_factor, promote
from xent_numba.linear.rows import Rows, optional, taken
from xent_numba.prepare.loss import make_slabs
from xent_numba.reduction import loss_dtype

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from numpy.typing import NDArray

    from xent_numba.backends.protocol import Slab
    from xent_numba.linear.rows import Selection
    from xent_numba.prepare.linear import Head

    Array = NDArray[Any]

CHUNK_BYTES = 1 << 25  # of the logits of a chunk, or of its features, if that is at least LEAST_ROWS rows
LEAST_ROWS = 256


class Outcome(NamedTuple):
    """The arrays that a call fills; None for what it does not compute."""

    rows: Array | None  # the loss of each row, in the shape of class indices; 0 to begin with
    input: Array | None = None
    linear_weight: Array | None = None
    linear_bias: Array | None = None

    @property
    def has_gradient(self) -> bool:
        """Whether there is more than losses."""
        return any(array is not None for array in self[1:])


def chunk_rows(n_rows: int, n_columns: int, itemsize: int, most: int | None) -> int:
    """How many rows a chunk has: at most `most`, where the user says so; the last chunk may have fewer.

    `n_columns` is the number of classes, or of features if there are more and a chunk of them takes memory.
    """
    if most is None:
        most = max(LEAST_ROWS, CHUNK_BYTES // (n_columns * itemsize))
    n_chunks = -(-n_rows // most)
    return -(-n_rows // n_chunks) if n_chunks else 1


def slabs(head: Head, outcome: Outcome) -> Iterator[Slab]:
    """The slabs of all chunks, each to be computed before the next is asked for; after the last, all is written.

    If the head has a vector, they are those of a Hessian-vector product, else those of a loss.
    """
    n_axes, dtype, checked, vector = len(head.rows_shape), head.dtype, head.checked, head.vector
    features = Rows(head.input, n_axes)
    labels, q, s, losses = (
        optional(array, n_axes) for array in (checked.labels, checked.distribution, checked.sample_weight, outcome.rows)
    )
    weight, bias = Weight(head.linear_weight, dtype), _promoted(head.linear_bias, dtype)
    direction = None if vector is None else (Weight(vector.linear_weight, dtype), _promoted(vector.linear_bias, dtype))
    gradients = Gradients(outcome, weight, n_axes)
    kept = _kept_rows(checked.labels, checked.ignore)
    n_rows = math.prod(head.rows_shape) if kept is None else kept.size
    if kept is not None and outcome.input is not None:
        outcome.input.fill(0)
    n_classes, n_features = head.linear_weight.shape
    is_view = outcome.input is None and kept is None and _in_place(head.input, dtype)
    n_columns = n_classes if is_view or not isinstance(head.input, np.ndarray) else max(n_classes, n_features)
    step = chunk_rows(n_rows, n_columns, dtype.itemsize, head.batch_chunk_size)
    workspaces = [np.empty((step, n_classes), dtype) for _ in range(1 if direction is None else 2)]
    for start in range(0, n_rows, step):
        stop = min(start + step, n_rows)
        rows = slice(start, stop) if kept is None else kept[start:stop]
        x = as_factor(features.take(rows), dtype)
        logits = weight.logits(x, bias, workspaces[0][: stop - start])
        v = None if direction is None else direction[0].logits(x, direction[1], workspaces[1][: stop - start])
        grad = v if v is not None else logits if outcome.has_gradient else None
        found = None if losses is None else np.empty(stop - start, loss_dtype(dtype))
        chunk = checked._replace(
            logits=logits, axis=1, labels=taken(labels, rows), distribution=taken(q, rows), sample_weight=taken(s, rows)
        )
        yield from make_slabs(head.options, chunk, (grad, found), head.denominators, (v, None))
        if losses is not None and found is not None:
            losses.put(rows, found)
        if grad is not None:
            gradients.add(rows, x, grad)
    gradients.finish()


class Gradients:
    """Those of the arguments of a head, from the gradients of the logits of one chunk after the other."""

    def __init__(self, outcome: Outcome, weight: Weight, n_row_axes: int) -> None:
        """Begin with 0."""
        self._factor = weight
        self._input = optional(outcome.input, n_row_axes)
        self._weight = None if outcome.linear_weight is None else WeightGradient(outcome.linear_weight, weight.dtype)
        self._bias = None if outcome.linear_bias is None else BiasGradient(outcome.linear_bias)

    def add(self, rows: Selection, features: Any, grad: Array) -> None:
        """What follows from the gradient of the logits of some rows."""
        if self._weight is not None:
            self._weight.add(grad, features)
        if self._bias is not None:
            self._bias.add(grad)
        if self._input is not None:
            self._input.put(rows, self._factor.features_gradient(grad))

    def finish(self) -> None:
        """Have all of them in the arrays that were given."""
        for total in (self._weight, self._bias):
            if total is not None:
                total.finish()


def _kept_rows(labels: Array | None, ignore: tuple[int, ...]) -> NDArray[np.intp] | None:
    """The numbers of the rows that are not ignored; None where no row is."""
    if labels is None or not ignore:
        return None
    ignored = labels == ignore[0] if len(ignore) == 1 else np.isin(labels, ignore)
    return np.flatnonzero(~ignored) if ignored.any() else None


def _in_place(features: Any, dtype: np.dtype[Any]) -> bool:
    """Whether consecutive rows of an input are multiplied where they are, without a copy."""
    return isinstance(features, np.ndarray) and features.dtype == dtype and features.flags.c_contiguous


def _promoted(array: Array | None, dtype: np.dtype[Any]) -> Array | None:
    """The array in a dtype of arithmetic; None of None."""
    return None if array is None else promote(array, dtype)
