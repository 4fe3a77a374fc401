"""Tiles: vectors of rows brought side by side, one row a lane, and back."""

from __future__ import annotations

from typing import Any, NamedTuple

from xent_numba.backends.cpu.compile.inline import inline
from xent_numba.backends.cpu.simd.cache_control import elements_to_alignment, stream
from xent_numba.backends.cpu.simd.load_store import advance, load, load_n, load_scalar, store, store_n
from xent_numba.backends.cpu.simd.transpose import (
    load_four_columns,
    load_transposed,
    store_four_columns,
    store_transposed,
)
from xent_numba.backends.cpu.simd.vector import lanes_of, splat


@inline
def load_tile(p: Any, row_stride: int, class_stride: int, rows: int, classes: int, tile: Any, vtype: Any) -> None:
    """tile[j·lanes + r] = p[r·row_stride + j·class_stride]; lanes beyond `rows` hold anything finite or of a row."""
    lanes = lanes_of(vtype)
    zero = splat(0.0, vtype)
    if class_stride == 1 and classes >= 4 and rows == lanes:
        for k in range(0, classes, 4):
            j = min(k, classes - 4)  # the last four begin among those before: nothing past the row is read
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
                at = r * row_stride + j * class_stride
                store_n(tile, j * lanes + r, 1, load_n(p, at, 1, zero))


@inline
def store_tile(
    tile: Any, p: Any, row_stride: int, class_stride: int, rows: int, classes: int, streaming: bool, vtype: Any
) -> None:
    """p[r·row_stride + j·class_stride] = tile[j·lanes + r]."""
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


class PrefetchCursor(NamedTuple):
    """Lines that will be needed: one for each class."""

    p: Any
    step: int


PREFETCH_DISTANCE = 2048  # logits between what is computed and what is asked for, at least


@inline
def prefetch_cursor(p: Any, row_stride: int, class_stride: int, classes: int, vtype: Any) -> Any:
    """The memory of a later group of rows, at least SOON logits away."""
    lanes = lanes_of(vtype)
    groups = 1 + PREFETCH_DISTANCE // (lanes * classes)
    return PrefetchCursor(advance(p, groups * lanes * row_stride), lanes if class_stride == 1 else class_stride)
