"""Streaming what does not come in whole lines: rows of a gradient that lie side by side, put together in L1.

A non-temporal store writes a whole line, or it costs more than it saves.  Rows of ten classes never fill one.  So the
rows of a group are laid out in a stage first, behind what the group before has left of a line, and whole lines leave
it.
"""

from __future__ import annotations

from typing import Any

from xent_numba.backends.cpu.compile.inline import inline, optional
from xent_numba.backends.cpu.plan import TILE_CLASSES
from xent_numba.backends.cpu.regimes.tile_load import store_tile
from xent_numba.backends.cpu.row.operands import row_pointer
from xent_numba.backends.cpu.simd.cache_control import elements_to_alignment, stream
from xent_numba.backends.cpu.simd.load_store import advance, load, stack_buffer, store, store_n, stride
from xent_numba.backends.cpu.simd.vector import lanes_of


@inline
def flush_full_lines(staging: Any, carry: int, count: int, out: Any, vtype: Any) -> Any:
    """Write stage[0 … held + count] where `out` is the place of stage[held]; how many of them stay in the stage."""
    lanes = lanes_of(vtype)
    base = advance(out, -carry)
    total = carry + count
    i = 0
    if carry == 0:
        head = elements_to_alignment(base, 0, vtype)
        if head < 0 or head >= total:
            _store_all(staging, 0, total, base, vtype)
            return 0
        if head > 0:
            store_n(base, 0, head, load(staging, 0, vtype))
            i = head
    while i + lanes <= total:
        stream(base, i, load(staging, i, vtype))
        i += lanes
    if i < total:
        store(staging, 0, load(staging, i, vtype))
    return total - i


@inline
def flush_tail(staging: Any, carry: int, out: Any, vtype: Any) -> None:
    """Write what stays in the stage; `out` is where the next row would go."""
    if carry > 0:
        store_n(advance(out, -carry), 0, carry, load(staging, 0, vtype))


@inline
def _store_all(staging: Any, start: int, stop: int, base: Any, vtype: Any) -> None:
    lanes = lanes_of(vtype)
    i = start
    while i + lanes <= stop:
        store(base, i, load(staging, i, vtype))
        i += lanes
    if i < stop:
        store_n(base, i, stop - i, load(staging, i, vtype))


# ------------------------------------------------------------------------------------------------ groups of rows
@optional
def staging_buffer(out: Any, vtype: Any) -> Any:
    """Memory for the rows of a group, and for the rest of a line before them."""
    return stack_buffer(vtype, 258)


@inline
def rows_contiguous(out: Any) -> bool:
    """Whether a row begins where the one before ends."""
    return stride(out, 2) == 1 and stride(out, 1) == out.shape[2]


@inline
def write_row(row: Any, out: Any, classes: int, streaming: bool, vtype: Any) -> None:
    """Write one row of a stage, which is overwritten."""
    if streaming:
        left = flush_full_lines(row, 0, classes, out, vtype)
        flush_tail(row, left, advance(out, classes), vtype)
    else:
        _store_all(row, 0, classes, out, vtype)


@inline
def write_rows(
    tile: Any, out: Any, a: int, b: int, first: int, rows: int, classes: int, streaming: bool,
    staging: Any, carry: int, vtype: Any,
) -> int:  # fmt: skip
    """Write a tile of the classes from `first` on to the rows from (a, b) on; how much of it stays in the stage."""
    p = row_pointer(out, a, b)
    if streaming and rows_contiguous(out) and out.shape[2] <= TILE_CLASSES:
        store_tile(tile, advance(staging, carry), classes, 1, rows, classes, False, vtype)
        return flush_full_lines(staging, carry, rows * classes, p, vtype)
    store_tile(
        tile, advance(p, first * stride(out, 2)), stride(out, 1), stride(out, 2), rows, classes, streaming, vtype
    )
    return carry


@inline
def flush_carry(out: Any, staging: Any, carry: int, a: int, b: int, vtype: Any) -> int:
    """Write what stays in the stage; row (a, b) would be the next.  What stays then: nothing."""
    if out is not None:
        flush_tail(staging, carry, row_pointer(out, a, b), vtype)
    return 0
