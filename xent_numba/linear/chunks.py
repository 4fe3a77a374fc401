"""The loop over chunks of rows.

Each chunk of logits is handed to the loss.  When the loss asks for the next, the gradient of the last one lies where
its logits were, and is multiplied on.  `slabs` is the loop for a backend, `device` runs it for arrays on a GPU.
"""

from __future__ import annotations

import math
import os
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from xent_numba.linear.library import CHUNK_BYTES, NumPy
from xent_numba.linear.rows import optional, taken
from xent_numba.prepare.loss import make_slabs
from xent_numba.reduction import loss_dtype

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from numpy.typing import NDArray

    from xent_numba.backends.protocol import Slab
    from xent_numba.linear.library import Library
    from xent_numba.linear.rows import Selection
    from xent_numba.prepare.linear import Factors, Head
    from xent_numba.prepare.options import Options

    Array = NDArray[Any]

EFFICIENT_ROWS = 512  # of a chunk whose products run at the full speed of BLAS, nearly
LEAST_ROWS = 64  # of a chunk, whatever memory they take, unless the user says so


class Outcome(NamedTuple):
    """The arrays that a call fills; None for what it does not compute."""

    rows: Array | None  # the loss of each row, in the shape of class indices; 0 to begin with
    input: Any | None = None
    linear_weight: Any | None = None
    linear_bias: Any | None = None

    @property
    def has_gradient(self) -> bool:
        """Whether there is more than losses."""
        return any(array is not None for array in self[1:])


class Chunk(NamedTuple):
    """The logits of some rows, and where what is made of them goes."""

    rows: Selection
    logits: Any  # (n, C)
    vector: Any | None  # (n, C), that of a Hessian-vector product
    grad: Any | None  # for the gradient or the product: the logits or the vector themselves


def chunk_rows(n_rows: int, n_columns: int, itemsize: int, most: int | None, chunk_bytes: int = CHUNK_BYTES) -> int:
    """How many rows a chunk has: at most `most`, where the user says so; the last chunk may have fewer.

    `n_columns` is the number of classes, or of features if there are more.
    """
    if most is None:
        few = chunk_bytes // (n_columns * itemsize)  # if they are inefficient, up to four times as many
        most = max(few, min(EFFICIENT_ROWS, 4 * few), LEAST_ROWS)
    n_chunks = -(-n_rows // most)
    return -(-n_rows // n_chunks) if n_chunks else 1


def slabs(head: Head, outcome: Outcome) -> Iterator[Slab]:
    """The slabs of all chunks, each to be computed before the next is asked for; after the last, all is written.

    If the head has a vector, they are those of a Hessian-vector product, else those of a loss.
    """
    checked, n_axes = head.checked, len(head.factors.rows_shape)
    labels, q, s, losses = (
        optional(array, n_axes) for array in (checked.labels, checked.distribution, checked.sample_weight, outcome.rows)
    )
    kept, options = _kept_rows(checked.labels, checked.ignore), _among_products(head.options)
    for rows, logits, vector, grad in chunks(NumPy(), head.factors, outcome, kept):
        found = None if losses is None else np.empty(logits.shape[0], loss_dtype(logits.dtype))
        chunk = checked._replace(
            logits=logits, axis=1, labels=taken(labels, rows), distribution=taken(q, rows), sample_weight=taken(s, rows)
        )
        yield from make_slabs(options, chunk, (grad, found), head.denominators, (vector, None))
        if losses is not None and found is not None:
            losses.put(rows, found)


def chunks(library: Library, factors: Factors, outcome: Outcome, kept: Any | None) -> Iterator[Chunk]:
    """One chunk after the other, with the gradient of its logits to be there when the next is asked for.

    After the last, the gradients of `outcome` are written.  `kept` are the numbers of the rows to compute, all if None.
    """
    n_axes, dtype, vector = len(factors.rows_shape), factors.dtype, factors.vector
    features = library.rows(factors.input, n_axes)
    weight, bias = library.weight(factors.linear_weight, dtype), _promoted(library, factors.linear_bias, dtype)
    if vector is not None:
        direction, direction_bias = library.weight(vector[0], dtype), _promoted(library, vector[1], dtype)
    gradients = Gradients(library, outcome, weight, n_axes)
    n_rows = math.prod(factors.rows_shape) if kept is None else len(kept)
    if kept is not None and outcome.input is not None:
        library.zero(outcome.input)
    n_classes, n_features = factors.linear_weight.shape
    n_columns = n_classes if factors.is_sparse else max(n_classes, n_features)
    step = chunk_rows(n_rows, n_columns, dtype.itemsize, factors.batch_chunk_size, library.chunk_bytes)
    workspaces = [library.empty((step, n_classes), dtype) for _ in range(1 if vector is None else 2)]
    for start in range(0, n_rows, step):
        stop = min(start + step, n_rows)
        rows = slice(start, stop) if kept is None else kept[start:stop]
        x = library.promote(features.take(rows), dtype)
        logits = weight.logits(x, bias, workspaces[0][: stop - start])
        v = None if vector is None else direction.logits(x, direction_bias, workspaces[1][: stop - start])
        grad = v if v is not None else logits if outcome.has_gradient else None
        yield Chunk(rows, logits, v, grad)
        if grad is not None:
            gradients.add(rows, x, grad)
    gradients.finish()


class Gradients:
    """Those of the arguments of a head, from the gradients of the logits of one chunk after the other."""

    def __init__(self, library: Library, outcome: Outcome, weight: Any, n_row_axes: int) -> None:
        """Begin with 0."""
        _, of_input, of_weight, of_bias = outcome
        self._factor = weight
        self._input = None if of_input is None else library.rows(of_input, n_row_axes)
        self._weight = None if of_weight is None else library.weight_gradient(of_weight, weight.dtype)
        self._bias = None if of_bias is None else library.bias_gradient(of_bias)

    def add(self, rows: Selection, features: Any, grad: Any) -> None:
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


def _among_products(options: Options) -> Options:
    """The options for the loss of a chunk: where there would be two threads, with one.

    The idle threads of BLAS keep their cores busy for a while after a product, and those of the loss after a chunk.  On
    two cores, the loss by two threads is slower than by one then: 100 000 rows of 200 features took 1.3 times as long
    with 10 classes, and 1.1 times with 1000.
    """
    cores = _cores()
    return replace(options, n_threads=1) if min(options.n_threads or cores, cores) <= 2 else options


def _cores() -> int:
    """How many cores this process may use, which are often fewer in a container than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _kept_rows(labels: Array | None, ignore: tuple[int, ...]) -> NDArray[np.intp] | None:
    """The numbers of the rows that are not ignored; None where no row is."""
    if labels is None or not ignore:
        return None
    ignored = labels == ignore[0] if len(ignore) == 1 else np.isin(labels, ignore)
    return np.flatnonzero(~ignored) if ignored.any() else None


def _promoted(library: Library, array: Any | None, dtype: np.dtype[Any]) -> Any | None:
    """The array in a dtype of arithmetic; None of None."""
    return None if array is None else library.promote(array, dtype)
