"""Streaming what does not come in whole lines: rows of a gradient that lie side by side, put together in L1.

A non-temporal store writes a whole line, or it costs more than it saves.  Rows of ten classes never fill one.  So the
rows of a group are laid out in a stage first, behind what the group before has left of a line, and whole lines leave
it.
"""

from __future__ import annotations

from typing import Any

from xent_numba.backends.cpu.memory import advance, load, store, store_part, stream, to_line
from xent_numba.backends.cpu.pieces import inline
from xent_numba.backends.cpu.simd import lanes_of


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
