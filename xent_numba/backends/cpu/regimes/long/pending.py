"""The output of a row that is written while the next row is read.

The gradient of a row can only be computed when all of the row has been read.  It is then written little by little while
the next row is read, so that memory does both at once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from xent_numba.backends.cpu.compile.inline import inline, optional
from xent_numba.backends.cpu.regimes.long.gradient import RowOutput, write_gradient
from xent_numba.backends.cpu.regimes.long.outputs import first_of, flush_tail_each, staging_memory
from xent_numba.backends.cpu.row.operands import RowInput
from xent_numba.backends.cpu.simd.cache_control import elements_to_alignment
from xent_numba.backends.cpu.simd.load_store import load_scalar, stack_buffer, store_scalar
from xent_numba.backends.cpu.simd.vector import lanes_of, minus_ones


class PendingGradient(NamedTuple):
    """The output of a row that is written while the next row is read."""

    row: Any  # `RowInput`
    output: Any  # `RowOutput`
    coefficients: Any  # those of `gradient.ELEMENTS`
    progress: Any  # pointer to two integers: how many elements are done; the carry, of this row or the row before


@inline
def no_pending(out: Any, row: Any, coefficients: Any, streaming: bool, vtype: Any) -> Any:
    """A `PendingGradient` that is complete, of no classes; `out`, `row` and `coefficients` are used for their types."""
    progress = stack_buffer(minus_ones(vtype), 1)
    store_scalar(progress, 0, 0)
    store_scalar(progress, 1, 0)
    nothing = RowInput(row.logits, 0, -1, row.dense, row.transform, row.scale, row.top, row.measures)
    return PendingGradient(nothing, RowOutput(out, staging_memory(out, vtype), streaming), coefficients, progress)


@inline
def next_pending(pending: Any, row: Any, coefficients: Any, out: Any) -> Any:
    """The `PendingGradient` of a row, once that of the row before is complete."""
    store_scalar(pending.progress, 0, 0)
    output = RowOutput(out, pending.output.staging, pending.output.streaming)
    return PendingGradient(row, output, coefficients, pending.progress)


@optional
def write_pending(pending: Any, vectors: int, vtype: Any) -> None:
    """Write some more vectors of a `PendingGradient`, unless it is complete; None for None."""
    output, classes = pending.output, pending.row.classes
    start, carry = load_scalar(pending.progress, 0), load_scalar(pending.progress, 1)
    if start < classes:
        lanes = lanes_of(vtype)
        head = 0
        if start == 0 and output.streaming:  # complete the first vector in memory, so that all others are aligned
            head = lanes - carry if carry > 0 else max(0, elements_to_alignment(first_of(output.p), 0, vtype))
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
            flush_tail_each(pending.output.staging, carry, pending.output.p, classes, vtype)
            store_scalar(pending.progress, 1, 0)
