"""argmax and rank of a long row, found block by block while its classes are summed, and so still in the L1 cache.

The classes before the label's are counted where they are smaller, those after it where they are larger:

    rank = 1 + y − #{j < y: x_j < x_y} + #{j > y: x_j > x_y}

Of the maximum, only the first block that has it is remembered; the class is looked for there in the end.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import types

from xent_numba.backends.cpu.compile.inline import inline, optional, specialize
from xent_numba.backends.cpu.row.order import load_key, load_keys, load_keys_n
from xent_numba.backends.cpu.row.transform import Softcap, is_instance_type
from xent_numba.backends.cpu.simd.load_store import load, load_scalar, stack_buffer, store, store_scalar
from xent_numba.backends.cpu.simd.reduce import any_true, extract_lane, first_true, reduce_max
from xent_numba.backends.cpu.simd.vector import iota, lanes_of, maximum, minus_ones, select, splat


class RowOrder(NamedTuple):
    """What is known of the order of a row so far: pointers, None for what is not wanted."""

    row: Any  # `RowInput`; its y is the class of the label
    top: Any  # two numbers: the largest key so far, in the arithmetic of the logits; and that of the label
    top_block: Any  # an integer: the first class of the first block that has that key
    counts: Any  # a vector of integers: the count of each lane, that of smaller classes subtracted


@inline
def row_order(row: Any, argmax: Any, rank: Any, vtype: Any) -> Any:
    """The `RowOrder` of no classes yet; `argmax` and `rank` are None where they are not wanted."""
    keys = stack_buffer(vtype, 1)
    store_scalar(keys, 0, -math.inf)
    store_scalar(keys, 1, load_key(row.logits, max(row.y, 0), row.transform, vtype))
    return RowOrder(row, keys, _top_block(argmax, vtype), _counts(rank, vtype))


@optional
def _top_block(argmax: Any, vtype: Any) -> Any:
    """A pointer to the start of the block of the maximum, 0 at first; None for None."""
    block = stack_buffer(minus_ones(vtype), 1)
    store_scalar(block, 0, 0)
    return block


@optional
def _counts(rank: Any, vtype: Any) -> Any:
    """A pointer to a count of 0 for each lane; None for None."""
    counts = stack_buffer(iota(vtype), 1)
    store(counts, 0, splat(0, iota(vtype)))
    return counts


# ------------------------------------------------------------------------------------------------ blocks
@inline
def order_block(order: Any, i: int, vectors: int, tail: int, block_max: Any) -> None:
    """Take note of the block from class i on, of `vectors` whole vectors and `tail` more classes.

    `block_max` is the maximum of its logits after the transform, per lane.
    """
    _raise_top(order.top_block, order, i, _max_of_keys(order.row.transform, order.row, i, vectors, tail, block_max))
    _count(order.counts, order, i, vectors, tail, block_max)


@specialize
def _max_of_keys(transform: Any, row: Any, i: int, vectors: int, tail: int, block_max: Any) -> Any:
    """The maximum of the keys of a block, per lane: that of the logits but for a softcap, which makes ties."""
    if not is_instance_type(transform, Softcap):
        return lambda transform, row, i, vectors, tail, block_max: block_max

    def of_keys(transform: Any, row: Any, i: int, vectors: int, tail: int, block_max: Any) -> Any:
        return max_of_keys(row, i, vectors, tail, block_max)

    return of_keys


@inline
def max_of_keys(row: Any, i: int, vectors: int, tail: int, vtype: Any) -> Any:
    """The maximum of the keys of a block, per lane."""
    lanes = lanes_of(vtype)
    largest = splat(-math.inf, vtype)
    for k in range(vectors):
        largest = maximum(load_keys(row.logits, i + k * lanes, row.transform, vtype), largest)
    if tail > 0:
        largest = maximum(load_keys_n(row.logits, i + vectors * lanes, tail, row.transform, vtype), largest)
    return largest


@inline
def _raise_top(top_block: Any, order: Any, i: int, largest: Any) -> None:
    """Remember the block from class i on, if its maximum is larger than any before."""
    if top_block is not None:
        if any_true(largest > splat(load_scalar(order.top, 0), largest)):
            store_scalar(order.top, 0, reduce_max(largest))
            store_scalar(top_block, 0, i)


@inline
def _count(counts: Any, order: Any, i: int, vectors: int, tail: int, vtype: Any) -> None:
    """Count the classes of a block that are larger than the label's after it, less those that are smaller before it."""
    if counts is not None:
        row, y, lanes = order.row, order.row.y, lanes_of(vtype)
        own = splat(load_scalar(order.top, 1), vtype)
        count = load(counts, 0, iota(vtype))
        one = splat(1, count)
        before = min(max(y - i, 0) // lanes, vectors)  # whole vectors before that of the label
        for k in range(before):
            x = load_keys(row.logits, i + k * lanes, row.transform, vtype)
            count = select(x < own, count - one, count)
        after = before
        if y >= i and before < vectors:
            x = load_keys(row.logits, i + before * lanes, row.transform, vtype)
            count = _count_mixed(count, x, own, y - (i + before * lanes))
            after = before + 1
        for k in range(after, vectors):
            x = load_keys(row.logits, i + k * lanes, row.transform, vtype)
            count = select(x > own, count + one, count)
        if tail > 0:
            j = i + vectors * lanes
            count = _count_mixed(count, load_keys_n(row.logits, j, tail, row.transform, vtype), own, y - j)
        store(counts, 0, count)


@inline
def _count_mixed(count: Any, x: Any, own: Any, y: int) -> Any:
    """The counts with a vector of keys, in which the label's class may be: in lane y, if there is such a lane."""
    one = splat(1, count)
    label = splat(min(max(y, -1), lanes_of(x)), count)
    count = select((iota(x) < label) & (x < own), count - one, count)
    return select((iota(x) > label) & (x > own), count + one, count)


# ------------------------------------------------------------------------------------------------ results
@specialize
def argmax_of(top_block: Any, order: Any, block: int, vtype: Any) -> Any:
    """The first class that has the largest key, of a row without NaN; 0 where it is not wanted.

    `block` is the number of classes in a block.
    """
    if isinstance(top_block, types.NoneType):
        return lambda top_block, order, block, vtype: np.int64(0)
    return lambda top_block, order, block, vtype: _find(order, load_scalar(top_block, 0), block, vtype)


@inline
def _find(order: Any, start: int, block: int, vtype: Any) -> int:
    """The first class from `start` on, in one block, whose key is the largest."""
    row, lanes = order.row, lanes_of(vtype)
    largest = splat(load_scalar(order.top, 0), vtype)
    i = start
    stop = min(row.classes, start + block)
    while i + lanes <= stop:
        found = load_keys(row.logits, i, row.transform, vtype) == largest
        if any_true(found):
            return i + first_true(found)
        i += lanes
    return i + first_true(load_keys_n(row.logits, i, stop - i, row.transform, vtype) == largest)


@specialize
def rank_of(counts: Any, order: Any, vtype: Any) -> Any:
    """The rank of the label's class, of a row without NaN; 0 where it is not wanted."""
    if isinstance(counts, types.NoneType):
        return lambda counts, order, vtype: np.int64(0)
    return lambda counts, order, vtype: 1 + order.row.y + _total(load(counts, 0, iota(vtype)))


@inline
def _total(counts: Any) -> Any:
    """The sum of the lanes, an integer."""
    total = np.int64(0)
    for k in range(lanes_of(counts)):
        total += extract_lane(counts, k)
    return total
