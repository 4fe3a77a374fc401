"""Walking the rows: fixed groups of them, in parallel or one after the other, with the same bits either way.

A group is what one partial sum stands for.  How many of them are walked at a stretch depends on the threads, and is no
matter to the sums.
"""

from __future__ import annotations

from typing import Any

from xent_numba.backends.cpu.compile.inline import inline
from xent_numba.backends.cpu.compile.kernel import kernel
from xent_numba.backends.cpu.regimes.lanes import wide_rows
from xent_numba.backends.cpu.regimes.long import long_rows
from xent_numba.backends.cpu.regimes.packed import batch_rows
from xent_numba.backends.cpu.row.operands import call_of
from xent_numba.backends.cpu.runtime.parallel_for import each


@inline
def _long(fields: Any, group: int, units: int, partials: Any, span: int, k: int) -> None:
    step = span * group
    long_rows(call_of(fields), k * step, min(units, (k + 1) * step), group, partials)


@inline
def _wide(fields: Any, group: int, units: int, partials: Any, span: int, k: int) -> None:
    call = call_of(fields)
    for g in range(k * span, min(partials.size, (k + 1) * span)):
        partials[g] = wide_rows(call, g * group, min(units, (g + 1) * group))


@inline
def _batch(fields: Any, group: int, units: int, partials: Any, span: int, k: int) -> None:
    step = span * group
    batch_rows(call_of(fields), k * step, min(units, (k + 1) * step), group, partials)


@kernel
def long(fields: Any, group: int, units: int, partials: Any, span: int, loop: int) -> None:
    """Rows 0 … units in groups, into one partial sum a group, which is 0 before; `span` groups at a stretch."""
    each(_long, (fields, group, units, partials, span), -(-partials.size // span), loop)


@kernel
def wide(fields: Any, group: int, units: int, partials: Any, span: int, loop: int) -> None:
    """Vectors of rows 0 … units in groups, into one partial sum a group; `span` groups at a stretch."""
    each(_wide, (fields, group, units, partials, span), -(-partials.size // span), loop)


@kernel
def batch(fields: Any, group: int, units: int, partials: Any, span: int, loop: int) -> None:
    """As `wide`, for rows of middling length; the partial sums are 0 before."""
    each(_batch, (fields, group, units, partials, span), -(-partials.size // span), loop)
