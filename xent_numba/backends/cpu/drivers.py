"""Walking the rows: fixed groups of them, in parallel or one after the other, with the same bits either way."""

from __future__ import annotations

from typing import Any

from xent_numba.backends.cpu.call import call_of
from xent_numba.backends.cpu.kernel import kernel
from xent_numba.backends.cpu.long import long_rows
from xent_numba.backends.cpu.parallel import each
from xent_numba.backends.cpu.pieces import inline
from xent_numba.backends.cpu.wide import wide_rows


@inline
def _long(fields: Any, group: int, units: int, partials: Any, k: int) -> None:
    partials[k] = long_rows(call_of(fields), k * group, min(units, (k + 1) * group))


@inline
def _wide(fields: Any, group: int, units: int, partials: Any, k: int) -> None:
    partials[k] = wide_rows(call_of(fields), k * group, min(units, (k + 1) * group))


@kernel
def long(fields: Any, group: int, units: int, partials: Any, loop: int) -> None:
    """Rows 0 … units in groups, into one partial sum a group."""
    each(_long, (fields, group, units, partials), partials.size, loop)


@kernel
def wide(fields: Any, group: int, units: int, partials: Any, loop: int) -> None:
    """Vectors of rows 0 … units in groups, into one partial sum a group."""
    each(_wide, (fields, group, units, partials), partials.size, loop)
