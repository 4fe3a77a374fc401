"""Load tiles from arrays of any strides, and store them.

A tile is a transposed copy of a vector of rows, one row in each lane: tile[j · lanes + r] is class j of row r.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from xent_numba.backends.cpu.compile.inline import inline, optional
from xent_numba.backends.cpu.row.operands import row_pointer
from xent_numba.backends.cpu.simd.cache_control import L1_PREFETCH_DISTANCE, elements_to_alignment, stream
from xent_numba.backends.cpu.simd.load_store import advance, load, load_n, load_scalar, store, store_n, stride
from xent_numba.backends.cpu.simd.transpose import (
    load_four_columns,
    load_transposed,
    store_four_columns,
    store_transposed,
)
from xent_numba.backends.cpu.simd.vector import lanes_of, splat


class RowsView(NamedTuple):
    """The rows of a work item in memory: class j of row r is p[r · row_stride + j · class_stride]."""

    p: Any
    row_stride: int
    class_stride: int
    rows: int


@optional
def rows_view(array: Any, item: Any, first: int) -> Any:
    """The rows of a work item in an (A, B, C) array, from class `first` on; None where the array is None."""
    p = advance(row_pointer(array, item.a, item.b), first * stride(array, 2))
    return RowsView(p, stride(array, 1), stride(array, 2), item.rows)


@inline
def load_tile(view: Any, classes: int, tile: Any, vtype: Any) -> None:
    """Load the first `classes` classes of a view into a tile.

    Lanes without a row are filled as well, with finite values or with those of another row.
    """
    p, row_stride, class_stride, rows = view
    lanes = lanes_of(vtype)
    zero = splat(0.0, vtype)
    if class_stride == 1 and classes >= 4 and rows == lanes:
        for k in range(0, classes, 4):
            j = min(k, classes - 4)  # the last four overlap those before, so nothing past the row is read
            load_four_columns(advance(p, j), row_stride, advance(tile, j * lanes), vtype)
    elif class_stride == 1:
        for j in range(0, classes, lanes):
            width = min(lanes, classes - j)
            load_transposed(advance(p, j), row_stride, rows, width, advance(tile, j * lanes), vtype)
    elif row_stride == 1 and rows == lanes:
        for j in range(classes):
            store(tile, j * lanes, load(p, j * class_stride, vtype))
    else:
        for j in range(classes):
            store(tile, j * lanes, zero)
            for r in range(rows):
                value = load_n(p, r * row_stride + j * class_stride, 1, zero)
                store_n(tile, j * lanes + r, 1, value)


@inline
def store_tile(tile: Any, view: Any, classes: int, streaming: bool, vtype: Any) -> None:
    """Store a tile of this many classes to a view, past the caches where `streaming` and the alignment allow it."""
    p, row_stride, class_stride, rows = view
    lanes = lanes_of(vtype)
    if class_stride == 1 and classes >= 4 and rows == lanes:
        for k in range(0, classes, 4):
            j = min(k, classes - 4)
            store_four_columns(advance(tile, j * lanes), advance(p, j), row_stride, vtype)
    elif class_stride == 1:
        for j in range(0, classes, lanes):
            width = min(lanes, classes - j)
            store_transposed(advance(tile, j * lanes), advance(p, j), row_stride, rows, width, vtype)
    elif row_stride == 1 and rows == lanes:
        if streaming and elements_to_alignment(p, 0, vtype) == 0 and elements_to_alignment(p, class_stride, vtype) == 0:
            for j in range(classes):
                stream(p, j * class_stride, load(tile, j * lanes, vtype))
        else:
            for j in range(classes):
                store(p, j * class_stride, load(tile, j * lanes, vtype))
    else:
        for j in range(classes):
            for r in range(rows):
                value = splat(load_scalar(tile, j * lanes + r), vtype)
                store_n(p, r * row_stride + j * class_stride, 1, value)


# ------------------------------------------------------------------------------------------------ prefetching
class PrefetchCursor(NamedTuple):
    """What to prefetch while a tile is computed: for its class j, the cache line of p[j · step]."""

    p: Any
    step: int


@inline
def prefetch_cursor(view: Any, classes: int, vtype: Any) -> Any:
    """The memory of a later work item, at least `L1_PREFETCH_DISTANCE` logits away."""
    lanes = lanes_of(vtype)
    items = 1 + L1_PREFETCH_DISTANCE // (lanes * classes)
    p = advance(view.p, items * lanes * view.row_stride)
    return PrefetchCursor(p, lanes if view.class_stride == 1 else view.class_stride)
