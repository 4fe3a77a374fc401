"""Walking the rows: fixed groups of them, in parallel or one after the other, with the same bits either way.

A group is what one partial sum stands for.  How many of them are walked at a stretch depends on the threads, and is no
matter to the sums.
"""

from __future__ import annotations

from typing import Any

from xent_numba.backends.cpu.compile.inline import inline
from xent_numba.backends.cpu.compile.kernel import kernel
from xent_numba.backends.cpu.regimes.lanes import lanes_rows
from xent_numba.backends.cpu.regimes.long import long_rows
from xent_numba.backends.cpu.regimes.packed import packed_rows
from xent_numba.backends.cpu.row.operands import operands_of
from xent_numba.backends.cpu.runtime.parallel_for import parallel_for


@inline
def _long(fields: Any, group: int, work_items: int, partials: Any, chunk: int, k: int) -> None:
    step = chunk * group
    long_rows(operands_of(fields), k * step, min(work_items, (k + 1) * step), group, partials)


@inline
def _lanes(fields: Any, group: int, work_items: int, partials: Any, chunk: int, k: int) -> None:
    call = operands_of(fields)
    for g in range(k * chunk, min(partials.size, (k + 1) * chunk)):
        partials[g] = lanes_rows(call, g * group, min(work_items, (g + 1) * group))


@inline
def _packed(fields: Any, group: int, work_items: int, partials: Any, chunk: int, k: int) -> None:
    step = chunk * group
    packed_rows(operands_of(fields), k * step, min(work_items, (k + 1) * step), group, partials)


@kernel
def run_long(fields: Any, group: int, work_items: int, partials: Any, chunk: int, loop: int) -> None:
    """Rows 0 … units in groups, into one partial sum a group, which is 0 before; `span` groups at a stretch."""
    parallel_for(_long, (fields, group, work_items, partials, chunk), -(-partials.size // chunk), loop)


@kernel
def run_lanes(fields: Any, group: int, work_items: int, partials: Any, chunk: int, loop: int) -> None:
    """Vectors of rows 0 … units in groups, into one partial sum a group; `span` groups at a stretch."""
    parallel_for(_lanes, (fields, group, work_items, partials, chunk), -(-partials.size // chunk), loop)


@kernel
def run_packed(fields: Any, group: int, work_items: int, partials: Any, chunk: int, loop: int) -> None:
    """As `softmax_lanes`, for rows of middling length; the partial sums are 0 before."""
    parallel_for(_packed, (fields, group, work_items, partials, chunk), -(-partials.size // chunk), loop)
