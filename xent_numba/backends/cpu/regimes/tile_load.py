"""Tiles: vectors of rows brought side by side, one row a lane, and back."""

from __future__ import annotations

from typing import Any, NamedTuple

from xent_numba.backends.cpu.compile.inline import inline
from xent_numba.backends.cpu.simd.load_store import advance, get, load, load_part, store, store_part, stream, to_line
from xent_numba.backends.cpu.simd.transpose import load_four, load_transposed, store_four, store_transposed
from xent_numba.backends.cpu.simd.vector import lanes_of, splat

TILE = 256  # classes


@inline
def fill(p: Any, row_stride: int, class_stride: int, rows: int, classes: int, tile: Any, like: Any) -> None:
    """tile[j·lanes + r] = p[r·row_stride + j·class_stride]; lanes beyond `rows` hold anything finite or of a row."""
    lanes = lanes_of(like)
    zero = splat(0.0, like)
    if class_stride == 1 and classes >= 4 and rows == lanes:
        for k in range(0, classes, 4):
            j = min(k, classes - 4)  # the last four begin among those before: nothing past the row is read
            load_four(advance(p, j), row_stride, advance(tile, j * lanes), like)
    elif class_stride == 1:
        for j in range(0, classes, lanes):
            width = min(lanes, classes - j)
            load_transposed(advance(p, j), row_stride, rows, width, advance(tile, j * lanes), like)
    elif row_stride == 1 and rows == lanes:
        for j in range(classes):
            store(tile, j * lanes, load(p, j * class_stride, like))
    else:
        for j in range(classes):
            store(tile, j * lanes, zero)
            for r in range(rows):
                at = r * row_stride + j * class_stride
                store_part(tile, j * lanes + r, 1, load_part(p, at, 1, zero))


@inline
def flush(
    tile: Any, p: Any, row_stride: int, class_stride: int, rows: int, classes: int, streaming: bool, like: Any
) -> None:
    """p[r·row_stride + j·class_stride] = tile[j·lanes + r]."""
    lanes = lanes_of(like)
    if class_stride == 1 and classes >= 4 and rows == lanes:
        for k in range(0, classes, 4):
            j = min(k, classes - 4)
            store_four(advance(tile, j * lanes), advance(p, j), row_stride, like)
    elif class_stride == 1:
        for j in range(0, classes, lanes):
            width = min(lanes, classes - j)
            store_transposed(advance(tile, j * lanes), advance(p, j), row_stride, rows, width, like)
    elif row_stride == 1 and rows == lanes:
        if streaming and to_line(p, 0, like) == 0 and to_line(p, class_stride, like) == 0:
            for j in range(classes):
                stream(p, j * class_stride, load(tile, j * lanes, like))
        else:
            for j in range(classes):
                store(p, j * class_stride, load(tile, j * lanes, like))
    else:
        for j in range(classes):
            for r in range(rows):
                value = splat(get(tile, j * lanes + r), like)
                store_part(p, r * row_stride + j * class_stride, 1, value)


class Soon(NamedTuple):
    """Lines that will be needed: one for each class."""

    p: Any
    step: int


SOON = 2048  # logits between what is computed and what is asked for, at least


@inline
def soon(p: Any, row_stride: int, class_stride: int, classes: int, like: Any) -> Any:
    """The memory of a later group of rows, at least SOON logits away."""
    lanes = lanes_of(like)
    groups = 1 + SOON // (lanes * classes)
    return Soon(advance(p, groups * lanes * row_stride), lanes if class_stride == 1 else class_stride)
