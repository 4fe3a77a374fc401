"""One row of very many classes at a time, its segments in parallel: for calls with too few rows for all threads.

The segments and the order in which they are merged are those of `statistics.statistics`, so the bits are those that one
thread would compute.  Python calls three kernels for each row (`backend`): the statistics of the segments, the loss and
what the gradient is made of, and the gradient of the segments.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types

from xent_numba.backends.cpu.compile.inline import inline, optional, specialize
from xent_numba.backends.cpu.compile.kernel import kernel
from xent_numba.backends.cpu.plan import SEGMENT_CLASSES
from xent_numba.backends.cpu.regimes.long.epilogue import (
    buffer_row,
    buffered_losses,
    gradient_factor,
    gradient_scalars,
    labelled,
    loss_buffer,
    row_terms,
)
from xent_numba.backends.cpu.regimes.long.gradient import (
    GradientScalars,
    RowOutput,
    gradient_coefficients,
    write_gradient,
)
from xent_numba.backends.cpu.regimes.long.statistics import merge, segment
from xent_numba.backends.cpu.regimes.staging import flush_tail
from xent_numba.backends.cpu.regimes.work_items import work_item
from xent_numba.backends.cpu.row.epilogue import RowStatistics, Top
from xent_numba.backends.cpu.row.operands import (
    Operands,
    row_input,
    row_pointer,
    store_loss,
    vtype_of,
)
from xent_numba.backends.cpu.runtime.parallel_for import parallel_for
from xent_numba.backends.cpu.simd.cast import promote
from xent_numba.backends.cpu.simd.load_store import advance, stack_buffer
from xent_numba.backends.cpu.simd.reduce import extract_lane


@inline
def _row(operands: Any, i: int) -> Any:
    """The `RowInput` of row i."""
    where = work_item(operands.logits.shape, i, 1)
    return row_input(operands, where.a, where.b)


@kernel
def split_statistics(fields: Any, i: int, parts: Any, loop: int) -> None:
    """Store the `RowStatistics` of each segment k of row i, which is not an ignored one, in parts[k], (segments, 6)."""
    parallel_for(_segment_statistics, (fields, i, parts), parts.shape[0], loop)


@inline
def _segment_statistics(fields: Any, i: int, parts: Any, k: int) -> None:
    """Store the `RowStatistics` of segment k of row i in parts[k]."""
    operands = Operands(*fields)
    row = _row(operands, i)
    start, stop = k * SEGMENT_CLASSES, min(row.classes, (k + 1) * SEGMENT_CLASSES)
    stats = segment(row, start, stop, None, vtype_of(operands))
    parts[k, 0], parts[k, 1] = stats.row_max, stats.sum_exp_others
    parts[k, 2], parts[k, 3] = stats.target_gap, stats.target_sum
    _store_top(stats.top, parts, k)


@optional
def _store_top(top: Any, parts: Any, k: int) -> Any:
    """Store the `Top` of a segment, if there is one, in parts[k]."""
    parts[k, 4], parts[k, 5] = top.y, top.x


@specialize
def _stored_statistics(top: Any, parts: Any, k: int) -> Any:
    """The `RowStatistics` of segment k, with its `Top` unless `top` is None."""
    if isinstance(top, types.NoneType):
        return lambda top, parts, k: RowStatistics(parts[k, 0], parts[k, 1], parts[k, 2], parts[k, 3], None, None)
    return lambda top, parts, k: RowStatistics(
        parts[k, 0], parts[k, 1], parts[k, 2], parts[k, 3], Top(np.int64(parts[k, 4]), parts[k, 5]), None
    )


@kernel
def split_outcome(fields: Any, i: int, parts: Any, scalars: Any) -> Any:
    """Return the loss of row i from the statistics of its segments; store what `_outcome` says in scalars, (5,)."""
    return _outcome(Operands(*fields), i, parts, scalars)


@inline
def _outcome(operands: Any, i: int, parts: Any, scalars: Any) -> Any:
    """The loss of row i from the statistics of its segments; its `GradientScalars` and its label go to scalars, (5,).

    For a distribution, the label is the class of the `Top`.
    """
    vtype = vtype_of(operands)
    row = _row(operands, i)
    stats = _stored_statistics(row.top, parts, 0)
    for k in range(1, parts.shape[0]):
        stats = merge(stats, _stored_statistics(row.top, parts, k), row.scale, vtype)
    row = labelled(row, stats.top)
    terms = row_terms(operands, row, stats, i, vtype)
    buffer = loss_buffer(promote(vtype))
    buffer_row(buffer, 0, terms)
    loss = extract_lane(buffered_losses(buffer, operands, vtype), 0)
    store_loss(operands.row_losses, i, loss)
    found = gradient_scalars(row, terms, gradient_factor(operands, i), operands, vtype)
    scalars[0], scalars[1], scalars[2], scalars[3] = found.centre, found.p_factor, found.u_factor, found.at_target
    scalars[4] = row.y
    return loss


@kernel
def split_gradient(fields: Any, i: int, scalars: Any, segments: int, loop: int) -> None:
    """Write the gradient of row i, the last segments first: they are the most likely to be in a cache still."""
    parallel_for(_segment_gradient, (fields, i, scalars, segments), segments, loop)


@inline
def _segment_gradient(fields: Any, i: int, scalars: Any, segments: int, k: int) -> None:
    """Write the gradient of one segment of row i: the last for k = 0, the first for k = segments − 1."""
    operands = Operands(*fields)
    vtype = vtype_of(operands)
    where = work_item(operands.logits.shape, i, 1)
    row = labelled(row_input(operands, where.a, where.b), Top(np.int64(scalars[4]), 0.0))
    output = RowOutput(row_pointer(operands.grad, where.a, where.b), stack_buffer(vtype, 2), operands.streaming)
    start = (segments - 1 - k) * SEGMENT_CLASSES
    stop = min(row.classes, start + SEGMENT_CLASSES)
    found = GradientScalars(scalars[0], scalars[1], scalars[2], scalars[3])
    coefficients = gradient_coefficients(operands.focal_gamma, found, row.scale, vtype)
    carry = write_gradient(row, output, start, stop, coefficients, 0, vtype)
    flush_tail(output.staging, carry, advance(output.p, stop), vtype)
