"""The output of a row that is written while the next row is read.

The gradient of a row can only be computed when all of the row has been read.  It is then written little by little while
the next row is read, so that memory does both at once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from numba import types

from xent_numba.backends.cpu.compile.inline import inline, specialize
from xent_numba.backends.cpu.regimes.long.gradient import RowOutput, write_gradient
from xent_numba.backends.cpu.regimes.staging import flush_tail
from xent_numba.backends.cpu.row.operands import RowInput
from xent_numba.backends.cpu.row.transform import is_instance_type
from xent_numba.backends.cpu.simd.cache_control import elements_to_alignment
from xent_numba.backends.cpu.simd.load_store import advance, load_scalar, stack_buffer, store_scalar
from xent_numba.backends.cpu.simd.vector import lanes_of, minus_ones


class PendingGradient(NamedTuple):
    """The output of a row that is written while the next row is read."""

    row: Any  # `RowInput`
    output: Any  # `RowOutput`
    coefficients: Any  # those of `gradient.ELEMENTS`
    progress: Any  # pointer to two integers: how many elements are done; the carry, of this row or the row before


class PendingPair(NamedTuple):
    """Two outputs of a row, each a `PendingGradient`.  The second may be in the place of the logits, the first not."""

    first: Any
    second: Any


@inline
def no_pending(out: Any, row: Any, coefficients: Any, streaming: bool, vtype: Any) -> Any:
    """A `PendingGradient` that is complete, of no classes; `out`, `row` and `coefficients` are used for their types."""
    progress = stack_buffer(minus_ones(vtype), 1)
    store_scalar(progress, 0, 0)
    store_scalar(progress, 1, 0)
    nothing = RowInput(row.logits, 0, -1, row.dense, row.transform, row.scale, row.top, row.measures)
    return PendingGradient(nothing, RowOutput(out, stack_buffer(vtype, 2), streaming), coefficients, progress)


@inline
def next_pending(pending: Any, row: Any, coefficients: Any, out: Any) -> Any:
    """The `PendingGradient` of a row, once that of the row before is complete."""
    store_scalar(pending.progress, 0, 0)
    output = RowOutput(out, pending.output.staging, pending.output.streaming)
    return PendingGradient(row, output, coefficients, pending.progress)


@specialize
def write_pending(pending: Any, vectors: int, vtype: Any) -> Any:
    """Write some more vectors of what is pending, a `PendingGradient` or a `PendingPair`; None for nothing."""
    if isinstance(pending, types.NoneType):
        return lambda pending, vectors, vtype: None
    if is_instance_type(pending, PendingPair):
        return lambda pending, vectors, vtype: _write_both(pending, vectors, vtype)
    return lambda pending, vectors, vtype: _write_more(pending, vectors, vtype)


@inline
def _write_both(pending: Any, vectors: int, vtype: Any) -> None:
    """Write some more vectors of a `PendingPair`.

    The first output is always ahead: it has read the logits before the second, aligned at another class, replaces them.
    """
    ahead = 1 if load_scalar(pending.first.progress, 0) == 0 else 0
    _write_more(pending.first, vectors + ahead, vtype)
    _write_more(pending.second, vectors, vtype)


@inline
def _write_more(pending: Any, vectors: int, vtype: Any) -> None:
    """Write some more vectors of a `PendingGradient`, unless it is complete."""
    output, classes = pending.output, pending.row.classes
    start, carry = load_scalar(pending.progress, 0), load_scalar(pending.progress, 1)
    if start < classes:
        lanes = lanes_of(vtype)
        head = 0
        if start == 0 and output.streaming:  # complete the first vector in memory, so that all others are aligned
            head = lanes - carry if carry > 0 else max(0, elements_to_alignment(output.p, 0, vtype))
        stop = min(classes, start + head + vectors * lanes)
        carry = write_gradient(pending.row, output, start, stop, pending.coefficients, carry, vtype)
        store_scalar(pending.progress, 0, stop)
        store_scalar(pending.progress, 1, carry)


@inline
def complete_pending(pending: Any, row_stride: int, last: bool, vtype: Any) -> None:
    """Write the rest of a `PendingGradient`; the carry too, unless another row follows and begins where this one ends.

    `row_stride` is the distance between the rows of the output, and `last` says that none follows.
    """
    if pending is not None:
        classes = pending.row.classes
        write_pending(pending, classes, vtype)
        carry = load_scalar(pending.progress, 1)
        if carry > 0 and (last or row_stride != classes):
            flush_tail(pending.output.staging, carry, advance(pending.output.p, classes), vtype)
            store_scalar(pending.progress, 1, 0)
