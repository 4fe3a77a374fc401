"""argmax and rank of a long row, found block by block while its classes are summed, and so still in the L1 cache.

The rank is one more than the number of classes with x_j > x_y, or with x_j ≥ x_y before the label's.  A run of four
vectors that lies wholly before the label is compared with the next smaller number than x_y, which comes to ≥; the ties
in the label's own run are added in the end.

Of the maximum, only the first block that has it is remembered; the class is looked for there in the end.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import types

from xent_numba.backends.cpu.compile.inline import inline, optional, specialize
from xent_numba.backends.cpu.row.order import load_keys, load_keys_n, next_smaller
from xent_numba.backends.cpu.row.transform import Softcap, is_instance_type
from xent_numba.backends.cpu.simd.cast import promote
from xent_numba.backends.cpu.simd.load_store import load, load_scalar, stack_buffer, store, store_scalar
from xent_numba.backends.cpu.simd.reduce import (
    any_true,
    extract_lane,
    first_true,
    first_true_of_four,
    reduce_add,
    reduce_max,
)
from xent_numba.backends.cpu.simd.vector import lanes_of, maximum, minus_ones, select, splat

_TOP, _LABEL = 0, 1  # places among the keys of a `RowOrder`
RUN = 4  # vectors that are compared with the same number


class RowOrder(NamedTuple):
    """What is known of the order of a row so far: pointers, None for what is not wanted."""

    row: Any  # `RowInput`; its y is the class of the label
    keys: Any  # three numbers: the largest key so far; that of the label, and the next smaller number
    top_block: Any  # an integer: the first class of the first block that has the largest key
    counts: Any  # a vector of float64: the count of each lane


@inline
def row_order(row: Any, argmax: Any, rank: Any, vtype: Any) -> Any:
    """The `RowOrder` of no classes yet; `argmax` and `rank` are None where they are not wanted."""
    keys = stack_buffer(vtype, 1)
    store_scalar(keys, _TOP, -math.inf)
    _store_label_key(rank, row, keys, vtype)
    return RowOrder(row, keys, _top_block(argmax, vtype), _counts(rank, vtype))


@optional
def _store_label_key(rank: Any, row: Any, keys: Any, vtype: Any) -> Any:
    """Store the key of the label and the next smaller number beside that of the maximum; nothing for None."""
    own = load_keys_n(row.logits, row.y, 1, row.transform, vtype)
    store_scalar(keys, _LABEL, extract_lane(own, 0))
    store_scalar(keys, _LABEL + 1, extract_lane(next_smaller(own), 0))
    return None


@optional
def _top_block(argmax: Any, vtype: Any) -> Any:
    """A pointer to the start of the block of the maximum, 0 at first; None for None."""
    block = stack_buffer(minus_ones(vtype), 1)
    store_scalar(block, 0, 0)
    return block


@optional
def _counts(rank: Any, vtype: Any) -> Any:
    """A pointer to a count of 0 for each lane; None for None."""
    vtype64 = promote(vtype)
    counts = stack_buffer(vtype64, 1)
    store(counts, 0, splat(0.0, vtype64))
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
    if top_block is not None and any_true(largest > splat(load_scalar(order.keys, _TOP), largest)):
        store_scalar(order.keys, _TOP, reduce_max(largest))
        store_scalar(top_block, 0, i)


@inline
def _count(counts: Any, order: Any, i: int, vectors: int, tail: int, vtype: Any) -> None:
    """Count the classes of a block whose keys are larger than the threshold of their run."""
    if counts is not None:
        row, lanes = order.row, lanes_of(vtype)
        own = splat(load_scalar(order.keys, _LABEL), vtype)
        count0, count1 = splat(0.0, vtype), splat(0.0, vtype)
        k = 0
        while k + RUN <= vectors:
            j = i + k * lanes
            # No branch depends on where the label is: the processor would often predict it wrongly.
            threshold = splat(load_scalar(order.keys, _LABEL + np.int64(j + RUN * lanes <= row.y)), vtype)
            count0 = _add_larger(count0, load_keys(row.logits, j, row.transform, vtype), threshold)
            count1 = _add_larger(count1, load_keys(row.logits, j + lanes, row.transform, vtype), threshold)
            count0 = _add_larger(count0, load_keys(row.logits, j + 2 * lanes, row.transform, vtype), threshold)
            count1 = _add_larger(count1, load_keys(row.logits, j + 3 * lanes, row.transform, vtype), threshold)
            k += RUN
        while k < vectors:
            count0 = _add_larger(count0, load_keys(row.logits, i + k * lanes, row.transform, vtype), own)
            k += 1
        if tail > 0:
            x = load_keys_n(row.logits, i + vectors * lanes, tail, row.transform, vtype)
            count0 = _add_larger(count0, x, own)
        vtype64 = promote(vtype)
        store(counts, 0, load(counts, 0, vtype64) + promote(count0 + count1))


@inline
def _add_larger(count: Any, x: Any, threshold: Any) -> Any:
    """The counts, which are floating point for the sake of one instruction less, with 1 added where x is larger."""
    return select(x > threshold, count + splat(1.0, count), count)


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
    largest = splat(load_scalar(order.keys, _TOP), vtype)
    i = start
    stop = min(row.classes, start + block)
    while i + 4 * lanes <= stop:
        found0 = load_keys(row.logits, i, row.transform, vtype) == largest
        found1 = load_keys(row.logits, i + lanes, row.transform, vtype) == largest
        found2 = load_keys(row.logits, i + 2 * lanes, row.transform, vtype) == largest
        found3 = load_keys(row.logits, i + 3 * lanes, row.transform, vtype) == largest
        if any_true((found0 | found1) | (found2 | found3)):
            return i + first_true_of_four(found0, found1, found2, found3)
        i += 4 * lanes
    while i + lanes < stop:
        found = load_keys(row.logits, i, row.transform, vtype) == largest
        if any_true(found):
            return i + first_true(found)
        i += lanes
    return i + first_true(load_keys_n(row.logits, i, stop - i, row.transform, vtype) == largest)


@specialize
def rank_of(counts: Any, order: Any, vtype: Any) -> Any:
    """The rank of the label's class, of a row without NaN whose label is not at −inf; 0 where it is not wanted."""
    if isinstance(counts, types.NoneType):
        return lambda counts, order, vtype: np.int64(0)
    return lambda counts, order, vtype: (
        1 + np.int64(reduce_add(load(counts, 0, promote(vtype)) + promote(_ties(order, vtype))))
    )


@inline
def _ties(order: Any, vtype: Any) -> Any:
    """How many classes before the label, in its own run, have the same key: per lane."""
    row, lanes = order.row, lanes_of(vtype)
    own = splat(load_scalar(order.keys, _LABEL), vtype)
    start = row.y - row.y % (RUN * lanes)
    ties, one = splat(0.0, vtype), splat(1.0, vtype)
    for k in range(RUN):
        j = start + k * lanes
        x = load_keys_n(row.logits, j, min(max(row.y - j, 0), lanes), row.transform, vtype)
        ties = select(x == own, ties + one, ties)
    return ties
