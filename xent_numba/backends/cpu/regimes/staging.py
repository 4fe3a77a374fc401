"""Assemble full cache lines for non-temporal stores.

A non-temporal store must write a whole cache line, or it costs more than it saves, and rows of ten classes never fill
one.  Rows that follow one another in memory are therefore laid out in a staging buffer in L1 first, behind what the
work item before has left of an unfinished line (the carry), and only full lines are written from there.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from xent_numba.backends.cpu.compile.inline import inline, optional
from xent_numba.backends.cpu.plan import TILE_CLASSES
from xent_numba.backends.cpu.regimes.lanes.load import RowsView, store_tile
from xent_numba.backends.cpu.row.operands import row_pointer
from xent_numba.backends.cpu.simd.cache_control import elements_to_alignment, stream
from xent_numba.backends.cpu.simd.load_store import advance, load, stack_buffer, store, store_n, stride
from xent_numba.backends.cpu.simd.vector import lanes_of

_BUFFER_VECTORS = TILE_CLASSES + 2  # a tile, the carry before it, and what whole vectors write beyond its end


@inline
def flush_full_lines(buffer: Any, carry: int, count: int, out: Any, vtype: Any) -> Any:
    """Write buffer[0 … carry + count], where `out` is the address that buffer[carry] belongs at.

    Returns the new carry: how many elements of an unfinished line are left, at the beginning of the buffer.
    """
    lanes = lanes_of(vtype)
    base = advance(out, -carry)
    total = carry + count
    i = 0
    if carry == 0:
        head = elements_to_alignment(base, 0, vtype)
        if head < 0 or head >= total:
            _store_first(buffer, total, base, vtype)
            return 0
        if head > 0:
            store_n(base, 0, head, load(buffer, 0, vtype))
            i = head
    while i + lanes <= total:
        stream(base, i, load(buffer, i, vtype))
        i += lanes
    if i < total:
        store(buffer, 0, load(buffer, i, vtype))
    return total - i


@inline
def flush_tail(buffer: Any, carry: int, out: Any, vtype: Any) -> None:
    """Write the carry, where `out` is the address of the element after it."""
    if carry > 0:
        store_n(advance(out, -carry), 0, carry, load(buffer, 0, vtype))


@inline
def _store_first(buffer: Any, count: int, base: Any, vtype: Any) -> None:
    """Write the first `count` elements of a buffer to `base` with ordinary stores."""
    lanes = lanes_of(vtype)
    i = 0
    while i + lanes <= count:
        store(base, i, load(buffer, i, vtype))
        i += lanes
    if i < count:
        store_n(base, i, count - i, load(buffer, i, vtype))


# ------------------------------------------------------------------------------------------------ work items
class Staging(NamedTuple):
    """How the result of work items is written, and what is still to be written of them."""

    buffer: Any
    carry: Any  # elements of an unfinished line, at the beginning of the buffer
    streaming: bool  # whether the result is stored past the caches
    assembles: bool  # whether the rows of a work item are assembled in the buffer; otherwise the carry is always 0


@optional
def staging_of(out: Any, streaming: bool, vtype: Any) -> Any:
    """An empty staging buffer for results in an (A, B, C) array; None where the array is None.

    Rows are assembled if they are streamed, each begins where the one before ends, and a tile holds whole rows.
    """
    contiguous = stride(out, 2) == 1 and stride(out, 1) == out.shape[2]
    assembles = streaming and contiguous and out.shape[2] <= TILE_CLASSES
    return Staging(stack_buffer(vtype, _BUFFER_VECTORS), np.int64(0), streaming, assembles)


@inline
def with_carry(staging: Any, carry: Any) -> Any:
    """A `Staging` with this carry, otherwise equal to `staging`."""
    return Staging(staging.buffer, carry, staging.streaming, staging.assembles)


@inline
def write_row(row: Any, out: Any, classes: int, streaming: bool, vtype: Any) -> None:
    """Write one row to `out` from a buffer of its own, which is overwritten."""
    if streaming:
        carry = flush_full_lines(row, 0, classes, out, vtype)
        flush_tail(row, carry, advance(out, classes), vtype)
    else:
        _store_first(row, classes, out, vtype)


@inline
def write_tile(staging: Any, tile: Any, view: Any, classes: int, vtype: Any) -> Any:
    """Write a tile of this many classes to the rows of a view; returns the staging buffer with its new carry."""
    if staging.assembles:
        rows = RowsView(advance(staging.buffer, staging.carry), classes, 1, view.rows)
        store_tile(tile, rows, classes, False, vtype)
        carry = flush_full_lines(staging.buffer, staging.carry, view.rows * classes, view.p, vtype)
        return with_carry(staging, carry)
    store_tile(tile, view, classes, staging.streaming, vtype)
    return staging


@optional
def flush_carry(staging: Any, out: Any, item: Any, is_last: bool, vtype: Any) -> Any:
    """The staging buffer after a work item: empty unless the next row to be computed follows in memory.

    It does not after the last work item of a chunk, nor where the next one has another first index a.
    """
    stop = item.b + item.rows
    if is_last or stop == out.shape[1]:
        flush_tail(staging.buffer, staging.carry, row_pointer(out, item.a, stop), vtype)
        return with_carry(staging, 0)
    return staging
