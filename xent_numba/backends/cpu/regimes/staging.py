"""Streaming what does not come in whole lines: rows of a gradient that lie side by side, put together in L1.

A non-temporal store writes a whole line, or it costs more than it saves.  Rows of ten classes never fill one.  So the
rows of a group are laid out in a stage first, behind what the group before has left of a line, and whole lines leave
it.
"""

from __future__ import annotations

from typing import Any

from xent_numba.backends.cpu.compile.inline import inline, unless_none
from xent_numba.backends.cpu.regimes.tile_load import TILE, flush
from xent_numba.backends.cpu.row.operands import row_pointer
from xent_numba.backends.cpu.simd.load_store import advance, load, scratch, store, store_part, stream, stride, to_line
from xent_numba.backends.cpu.simd.vector import lanes_of


@inline
def drain(stage: Any, held: int, count: int, out: Any, like: Any) -> Any:
    """Write stage[0 … held + count] where `out` is the place of stage[held]; how many of them stay in the stage."""
    lanes = lanes_of(like)
    base = advance(out, -held)
    total = held + count
    i = 0
    if held == 0:
        head = to_line(base, 0, like)
        if head < 0 or head >= total:
            _store_all(stage, 0, total, base, like)
            return 0
        if head > 0:
            store_part(base, 0, head, load(stage, 0, like))
            i = head
    while i + lanes <= total:
        stream(base, i, load(stage, i, like))
        i += lanes
    if i < total:
        store(stage, 0, load(stage, i, like))
    return total - i


@inline
def release(stage: Any, held: int, out: Any, like: Any) -> None:
    """Write what stays in the stage; `out` is where the next row would go."""
    if held > 0:
        store_part(advance(out, -held), 0, held, load(stage, 0, like))


@inline
def _store_all(stage: Any, start: int, stop: int, base: Any, like: Any) -> None:
    lanes = lanes_of(like)
    i = start
    while i + lanes <= stop:
        store(base, i, load(stage, i, like))
        i += lanes
    if i < stop:
        store_part(base, i, stop - i, load(stage, i, like))


# ------------------------------------------------------------------------------------------------ groups of rows
@unless_none
def stage_for(out: Any, like: Any) -> Any:
    """Memory for the rows of a group, and for the rest of a line before them."""
    return scratch(like, 258)


@inline
def side_by_side(out: Any) -> bool:
    """Whether a row begins where the one before ends."""
    return stride(out, 2) == 1 and stride(out, 1) == out.shape[2]


@inline
def deliver_row(row: Any, out: Any, classes: int, streaming: bool, like: Any) -> None:
    """Write one row of a stage, which is overwritten."""
    if streaming:
        left = drain(row, 0, classes, out, like)
        release(row, left, advance(out, classes), like)
    else:
        _store_all(row, 0, classes, out, like)


@inline
def deliver(
    tile: Any, out: Any, a: int, b: int, first: int, rows: int, classes: int, streaming: bool,
    stage: Any, held: int, like: Any,
) -> int:  # fmt: skip
    """Write a tile of the classes from `first` on to the rows from (a, b) on; how much of it stays in the stage."""
    p = row_pointer(out, a, b)
    if streaming and side_by_side(out) and out.shape[2] <= TILE:
        flush(tile, advance(stage, held), classes, 1, rows, classes, False, like)
        return drain(stage, held, rows * classes, p, like)
    flush(tile, advance(p, first * stride(out, 2)), stride(out, 1), stride(out, 2), rows, classes, streaming, like)
    return held


@inline
def empty(out: Any, stage: Any, held: int, a: int, b: int, like: Any) -> int:
    """Write what stays in the stage; row (a, b) would be the next.  What stays then: nothing."""
    if out is not None:
        release(stage, held, row_pointer(out, a, b), like)
    return 0
