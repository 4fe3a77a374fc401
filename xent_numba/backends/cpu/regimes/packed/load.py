"""Load the rows of a work item of the `packed` regime to a tile, and prefetch those of later ones.

A tile holds the rows one after another, each as it lies in memory, from one multiple of the lanes to the next.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from xent_numba.backends.cpu.compile.inline import inline
from xent_numba.backends.cpu.plan import CACHE_LINE, TILE_CLASSES
from xent_numba.backends.cpu.regimes.work_items import WorkItem, work_item
from xent_numba.backends.cpu.row.operands import row_pointer
from xent_numba.backends.cpu.row.transform import apply_transform, load_logits_n
from xent_numba.backends.cpu.simd.cache_control import L1_PREFETCH_DISTANCE, L2_PREFETCH_DISTANCE
from xent_numba.backends.cpu.simd.load_store import advance, load, store, stride
from xent_numba.backends.cpu.simd.vector import lanes_of, maximum, splat

ROWS = CACHE_LINE // 4  # rows of a work item, and lanes of a float32 vector


class PackedItem(NamedTuple):
    """A work item and the memory that its rows are loaded to."""

    item: Any  # `WorkItem`
    p: Any  # address of its first row
    tile: Any  # row r begins at tile[r · tile_width]
    lane_maxima: Any  # vector r: the maximum of each lane of row r


@inline
def tile_width(classes: int, lanes: int) -> int:
    """The number of classes, rounded up to whole vectors: from row to row of a tile."""
    return (classes + lanes - 1) // lanes * lanes


@inline
def packed_item(logits: Any, index: int, stop: int, buffers: Any, parity: int, vtype: Any) -> Any:
    """The work item with this index, to be loaded to one of two tiles; without rows where the index is `stop`."""
    tiles, lane_maxima = buffers
    lanes = lanes_of(vtype)
    item = work_item(logits.shape, index, lanes)
    rows = item.rows if index < stop else 0
    return PackedItem(
        WorkItem(item.a, item.b, rows, item.first_row),
        row_pointer(logits, item.a, item.b),
        advance(tiles, parity * TILE_CLASSES * lanes),
        advance(lane_maxima, parity * ROWS * lanes),
    )


@inline
def _copy_row(p: Any, row: Any, classes: int, transform: Any, minus_inf: Any) -> Any:
    """Copy a row, after the transform, and return the maximum of each lane, at least −inf.

    The last vector is filled up with −inf, whose exponential is 0.
    """
    step = lanes_of(minus_inf)
    max0, max1 = minus_inf, minus_inf
    i = 0
    while i + 2 * step <= classes:
        x0 = apply_transform(load(p, i, minus_inf), transform)
        x1 = apply_transform(load(p, i + step, minus_inf), transform)
        store(row, i, x0)
        store(row, i + step, x1)
        max0, max1 = maximum(x0, max0), maximum(x1, max1)
        i += 2 * step
    while i < classes:
        count = min(step, classes - i)
        x0 = load_logits_n(p, i, count, transform, minus_inf)
        store(row, i, x0)
        max0 = maximum(x0, max0)
        i += step
    return maximum(max0, max1)


@inline
def load_row(operands: Any, packed: Any, r: int, vtype: Any) -> None:
    """Load row r of a work item to its tile and take the maxima of its lanes; −inf where there is no such row."""
    classes, lanes = operands.logits.shape[2], lanes_of(vtype)
    lane_max = splat(-math.inf, vtype)
    if r < packed.item.rows:
        p = advance(packed.p, r * stride(operands.logits, 1))
        row = advance(packed.tile, r * tile_width(classes, lanes))
        lane_max = _copy_row(p, row, classes, operands.transform, lane_max)
    store(packed.lane_maxima, r * lanes, lane_max)


class PrefetchRows(NamedTuple):
    """Rows of later work items, to be prefetched into L2 and into L1 while this one is summed."""

    l2: Any
    l1: Any


@inline
def prefetch_rows(p: Any, row_stride: int, lanes: int) -> Any:
    """The first rows of later work items, at least the prefetch distances away from p."""
    step = max(1, lanes * (row_stride if row_stride > 0 else -row_stride))
    l2, l1 = max(1, L2_PREFETCH_DISTANCE // step), max(1, L1_PREFETCH_DISTANCE // step)
    return PrefetchRows(advance(p, l2 * lanes * row_stride), advance(p, l1 * lanes * row_stride))
