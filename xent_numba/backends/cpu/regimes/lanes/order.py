"""argmax and rank of a vector of rows, one row in each lane, tile by tile.

The rank is one more than the number of classes with x_j > x_y, or with x_j ≥ x_y before the label's.  There, the next
smaller number than x_y is compared instead, which comes to ≥.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from xent_numba.backends.cpu.compile.inline import inline, optional, specialize
from xent_numba.backends.cpu.regimes.lanes.tile import no_top, tile_argmax
from xent_numba.backends.cpu.row.order import key_of, next_smaller
from xent_numba.backends.cpu.row.transform import Sign, Softcap, is_instance_type
from xent_numba.backends.cpu.simd.cast import promote
from xent_numba.backends.cpu.simd.load_store import load
from xent_numba.backends.cpu.simd.vector import is_nan, lanes_of, select, splat


class TileOrder(NamedTuple):
    """What is known of the order of each row so far; None for what is not wanted."""

    top: Any  # `Top` of the keys
    count: Any  # float64: how many classes are before the label's in the order
    nans: Any  # the mask of the rows that have a NaN


class LabelKeys(NamedTuple):
    """What the keys of the classes are compared with, for a rank."""

    y: Any  # the class of each row's label
    own: Any  # its key
    below: Any  # the next smaller number


@optional
def label_keys(rank: Any, y: Any, x_y: Any, transform: Any) -> Any:
    """The `LabelKeys` of rows whose logits at the labels are x_y; None for None."""
    own = key_of(x_y, transform)
    return LabelKeys(y, own, next_smaller(own))


@inline
def no_order(find_top: Any, rank: Any, find_nans: Any, vtype: Any) -> Any:
    """The `TileOrder` of no classes; the arguments are None for what is not wanted."""
    return TileOrder(_no_top(find_top, vtype), _no_count(rank, vtype), _no_nans(find_nans, vtype))


@optional
def _no_top(wanted: Any, vtype: Any) -> Any:
    """The `Top` of no classes; None for None."""
    return no_top(vtype)


@optional
def _no_count(wanted: Any, vtype: Any) -> Any:
    """A count of 0; None for None."""
    return splat(0.0, promote(vtype))


@optional
def _no_nans(wanted: Any, vtype: Any) -> Any:
    """The mask of no lanes; None for None."""
    return is_nan(splat(0.0, vtype))


@inline
def tile_order(order: Any, tile: Any, transform: Any, label: Any, vtype: Any) -> Any:
    """The `TileOrder` with the classes of one more tile."""
    return TileOrder(
        _add_top(order.top, tile, transform, vtype),
        _add_count(order.count, tile, transform, label, vtype),
        _add_nans(order.nans, tile, vtype),
    )


@specialize
def _sign_of(transform: Any) -> Any:
    """The transform that makes keys of logits."""
    if is_instance_type(transform, Softcap):
        return lambda transform: Sign(math.copysign(1.0, transform.scale))
    return lambda transform: transform


@optional
def _add_top(top: Any, tile: Any, transform: Any, vtype: Any) -> Any:
    """The `Top` of the keys, with those of a tile; None for None."""
    return tile_argmax(tile, _sign_of(transform), top, vtype)


@optional
def _add_count(count: Any, tile: Any, transform: Any, label: Any, vtype: Any) -> Any:
    """The count, with that of a tile; None for None."""
    even, odd = splat(0.0, vtype), splat(0.0, vtype)
    j = 0
    while j + 2 <= tile.classes:
        even = _count_class(even, tile, j, transform, label)
        odd = _count_class(odd, tile, j + 1, transform, label)
        j += 2
    if j < tile.classes:
        even = _count_class(even, tile, j, transform, label)
    return count + promote(even + odd)


@inline
def _count_class(count: Any, tile: Any, j: int, transform: Any, label: Any) -> Any:
    """The count, with 1 added where class j of the tile is before the label's in the order of the row."""
    x = key_of(load(tile.logits, j * lanes_of(count), count), transform)
    threshold = select(splat(tile.first + j, label.y) < label.y, label.below, label.own)
    return select(x > threshold, count + splat(1.0, count), count)


@optional
def _add_nans(nans: Any, tile: Any, vtype: Any) -> Any:
    """The mask, with the rows that have a NaN in a tile; None for None."""
    for j in range(tile.classes):
        nans = nans | is_nan(load(tile.logits, j * lanes_of(vtype), vtype))
    return nans
