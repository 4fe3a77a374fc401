"""Where the rows of a work item are, for every regime.

The rows of a call are indexed by (a, b), as its logits are (A, B, C).  A work item is up to `lanes` rows that follow
one another along B; it never crosses from one a to the next, because the distance in memory between rows is the same
only along B.  A regime that takes its rows one at a time has work items of one row.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from xent_numba.backends.cpu.compile.inline import inline


class WorkItem(NamedTuple):
    """The rows (a, b) … (a, b + rows − 1) of a work item."""

    a: int
    b: int
    rows: int
    first_row: int  # index of the first one in arrays of one value per row, (A·B,)


@inline
def work_item(shape: Any, index: int, lanes: int) -> Any:
    """The work item with this index, for arrays of shape (A, B, C) and work items of up to `lanes` rows."""
    width = shape[1]
    items_per_a = (width + lanes - 1) // lanes
    a = index // items_per_a
    b = (index - a * items_per_a) * lanes
    return WorkItem(a, b, min(lanes, width - b), a * width + b)
