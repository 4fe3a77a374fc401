"""Rows of a few dozen to a few hundred classes that lie side by side: a vector of rows at a time, each along its
classes, as in the regime `packed` of the losses.

A row that leaves out its `Top` leaves out all classes that have the maximum, and counts them: each of their terms is 1.
So the class of the maximum need not be known before the exponentials are summed.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import types

from xent_numba.backends.cpu.compile.inline import inline, optional, specialize
from xent_numba.backends.cpu.plan import TILE_CLASSES
from xent_numba.backends.cpu.regimes.item_epilogue import labels_of
from xent_numba.backends.cpu.regimes.lanes.tile import exp_of_tile, tile_rescale, tile_shift
from xent_numba.backends.cpu.regimes.packed.load import (
    ROWS,
    PrefetchRows,
    load_row,
    packed_item,
    prefetch_rows,
    tile_width,
)
from xent_numba.backends.cpu.regimes.packed.rows import mask_targets, shift_of_row, store_shift, target_logits_of
from xent_numba.backends.cpu.regimes.row_statistics.fields import (
    ItemOrder,
    irregular_rows,
    is_ignored_lane,
    label_of_lane,
    nans_of_sums,
    store_item,
)
from xent_numba.backends.cpu.regimes.row_statistics.operands import either, top_wanted, vtype_of
from xent_numba.backends.cpu.row.epilogue import RowStatistics, Top
from xent_numba.backends.cpu.row.measures import Measured
from xent_numba.backends.cpu.row.order import next_smaller
from xent_numba.backends.cpu.simd.cache_control import prefetch_l1, prefetch_l2
from xent_numba.backends.cpu.simd.cast import convert_to_float, demote, promote
from xent_numba.backends.cpu.simd.load_store import advance, load, load_scalar, stack_buffer, store, stride
from xent_numba.backends.cpu.simd.reduce import reduce_add_each, reduce_max_each
from xent_numba.backends.cpu.simd.vector import fma, iota, lanes_of, maximum, select, splat

_TWO_TILES, _TWO_MAXIMA = 2 * TILE_CLASSES, 2 * ROWS  # in vectors


class RowWanted(NamedTuple):
    """What is wanted of each row beside its sum; None for what is not."""

    top: Any  # to leave out the classes of the maximum
    gap: Any
    argmax: Any
    rank: Any


class RowTerms(NamedTuple):
    """What a row is made of, per lane; None for what is not wanted."""

    sum_exp: Any
    gap: Any  # Σ e (m − x)
    ties: Any  # how many classes have the maximum
    first: Any  # −i, for the first vector that has the maximum in this lane, where i is its first class; else −inf
    ahead: Any  # how many classes are before the label's in the order of the row


# ------------------------------------------------------------------------------------------------ one row
@inline
def _no_terms(wanted: Any, vtype: Any) -> Any:
    """The `RowTerms` of no classes."""
    return RowTerms(
        splat(0.0, vtype),
        _start(wanted.gap, 0.0, vtype),
        _start(wanted.top, 0.0, vtype),
        _start(wanted.argmax, -math.inf, vtype),
        _start(wanted.rank, 0.0, vtype),
    )


@optional
def _start(wanted: Any, value: float, vtype: Any) -> Any:
    """A value in all lanes; None for None."""
    return splat(value, vtype)


@specialize
def _add_exp(ties: Any, total: Any, e: Any, is_max: Any) -> Any:
    """The sum with more exponentials, without those of the maximum if these are counted."""
    if isinstance(ties, types.NoneType):
        return lambda ties, total, e, is_max: total + e
    return lambda ties, total, e, is_max: select(is_max, total, total + e)


@optional
def _add_one(count: Any, mask: Any) -> Any:
    """The counts with 1 added where the mask is set; None for None."""
    return select(mask, count + splat(1.0, count), count)


@optional
def _add_gap(gap: Any, e: Any, x: Any, centre: Any) -> Any:
    """The gap with more terms, 0 for a logit of −inf; None for None."""
    distance, largest = centre - x, splat(3.4028234663852886e38, x)
    return fma(e, select(distance < largest, distance, largest), gap)


@optional
def _add_first(first: Any, is_max: Any, i: int) -> Any:
    """The `RowTerms.first` with the vector of classes from i on; None for None."""
    return select(is_max, maximum(splat(-i, first), first), first)


@optional
def _add_ahead(ahead: Any, x: Any, keys: Any, r: int, i: int, y: int) -> Any:
    """The count with the vector of classes from i on; None for None.  Ties in the label's own vector are left out."""
    threshold = load_scalar(keys, r + np.int64(i + lanes_of(x) <= y) * ROWS)
    return _add_one(ahead, x > splat(threshold, x))


@optional
def _add_ties(ahead: Any, p: Any, keys: Any, r: int, y: int) -> Any:
    """The count with the classes in the label's vector, before it, that have the same key; None for None."""
    start = y - y % lanes_of(ahead)
    x = load(p, start, ahead)
    before = iota(x) < splat(y - start, iota(x))
    return _add_one(ahead, (x == splat(load_scalar(keys, r), x)) & before)


class TileRow(NamedTuple):
    """One row of a tile, and what its terms are computed from."""

    p: Any  # its logits, after the transform; the last vector is filled up with −inf
    classes: int
    shift: Any  # `TileShift`, the same in all lanes
    scale: Any
    keys: Any  # pointer to the keys of the labels of all rows, and then to the next smaller numbers
    r: int  # its place among them
    y: int  # the class of its label
    prefetch: Any  # `PrefetchRows`


@inline
def _row_terms(wanted: Any, row: Any) -> Any:
    """The `RowTerms` of a `TileRow`."""
    p, classes, shift, scale, keys, r, y, prefetch = row
    row_max = shift.centre
    terms = _no_terms(wanted, row_max)
    for i in range(0, classes, lanes_of(row_max)):
        prefetch_l2(prefetch.l2, i)
        prefetch_l1(prefetch.l1, i)
        x = load(p, i, row_max)
        e = exp_of_tile(x, shift, None, scale)
        is_max = x == row_max
        terms = RowTerms(
            _add_exp(terms.ties, terms.sum_exp, e, is_max),
            _add_gap(terms.gap, e, x, shift.centre),
            _add_one(terms.ties, is_max),
            _add_first(terms.first, is_max, i),
            _add_ahead(terms.ahead, x, keys, r, i, y),
        )
    return RowTerms(terms.sum_exp, terms.gap, terms.ties, terms.first, _add_ties(terms.ahead, p, keys, r, y))


# ------------------------------------------------------------------------------------------------ sums across lanes
@inline
def _terms_buffer(wanted: Any, vtype: Any) -> Any:
    """`RowTerms` of pointers to those of as many rows as there are lanes; None for what is not wanted."""
    vtype64 = promote(vtype)
    return RowTerms(
        stack_buffer(vtype64, ROWS),
        _vectors(wanted.gap, vtype64),
        _vectors(wanted.top, vtype),
        _vectors(wanted.argmax, vtype),
        _vectors(wanted.rank, vtype),
    )


@optional
def _vectors(wanted: Any, vtype: Any) -> Any:
    """A pointer to a vector for each row; None for None."""
    return stack_buffer(vtype, ROWS)


@inline
def _put(p: Any, i: int, value: Any) -> None:
    """Store a vector, if it is wanted."""
    if p is not None:
        store(p, i, value)


@optional
def _promoted(x: Any) -> Any:
    """The values in float64; None for None."""
    return promote(x)


@optional
def _with_lane(first: Any) -> Any:
    """−j for the first class j that has the maximum, in each lane, from `RowTerms.first`; None for None."""
    return first - convert_to_float(iota(first), first)


@inline
def _put_terms(buffer: Any, r: int, terms: Any, lanes: int) -> None:
    """Store the `RowTerms` of row r."""
    i = r * lanes
    store(buffer.sum_exp, i, promote(terms.sum_exp))
    _put(buffer.gap, i, _promoted(terms.gap))
    _put(buffer.ties, i, terms.ties)
    _put(buffer.first, i, _with_lane(terms.first))
    _put(buffer.ahead, i, terms.ahead)


@optional
def _added(p: Any, vtype: Any) -> Any:
    """The sum of the lanes of each row; None for None."""
    return reduce_add_each(p, vtype)


@specialize
def _others(ties: Any, sum_exp: Any, row_max: Any) -> Any:
    """Σ exp of the classes but the one left out: with a 1 for each class of the maximum but one, where these count."""
    if isinstance(ties, types.NoneType):
        return lambda ties, sum_exp, row_max: sum_exp

    def with_ties(ties: Any, sum_exp: Any, row_max: Any) -> Any:
        others = sum_exp + (promote(reduce_add_each(ties, row_max)) - splat(1.0, sum_exp))
        return select(promote(row_max) > splat(-math.inf, sum_exp), others, sum_exp)

    return with_ties


@optional
def _measured(gap: Any, rescale: Any) -> Any:
    """The `Measured` of the rows; None for None."""
    return Measured(reduce_add_each(gap, rescale) * rescale, splat(0.0, rescale), splat(0.0, rescale))


@specialize
def _left_out_logit(top: Any, row_max: Any, f_y: Any) -> Any:
    """The logit of the class that is left out: the maximum, or the label's."""
    if isinstance(top, types.NoneType):
        return lambda top, row_max, f_y: f_y
    return lambda top, row_max, f_y: promote(row_max)


@specialize
def _argmax(first: Any, top: Any, row_max: Any, own: Any, y: Any) -> Any:
    """The first class of the maximum of each row, as a float; None for None.

    The label's class has to be looked at apart, where −inf has taken the place of its logit.
    """
    if isinstance(first, types.NoneType):
        return lambda first, top, row_max, own, y: None
    if not isinstance(top, types.NoneType):
        return lambda first, top, row_max, own, y: _class_of(reduce_max_each(first, row_max), row_max)

    def with_label(first: Any, top: Any, row_max: Any, own: Any, y: Any) -> Any:
        found, label = reduce_max_each(first, row_max), splat(0.0, row_max) - convert_to_float(y, row_max)
        return _class_of(select(own == row_max, maximum(label, found), found), row_max)

    return with_label


@inline
def _class_of(first: Any, row_max: Any) -> Any:
    """Class j from −j; 0 for a row of nothing but −inf, in which nothing was looked for."""
    zero = splat(0.0, row_max)
    return select(row_max > splat(-math.inf, row_max), zero - first, zero)


# ------------------------------------------------------------------------------------------------ work items
@optional
def _label_logits(y: Any, tile: Any, width: int, vtype: Any) -> Any:
    """The logits at the labels, after the transform, in float64; None without labels."""
    return target_logits_of(tile, width, y, vtype)


@optional
def _in_float32(f_y: Any, vtype: Any) -> Any:
    """The same in float32, exactly; None for None."""
    return demote(f_y, vtype)


@optional
def _label_keys(rank: Any, own: Any) -> Any:
    """A pointer to the keys of the labels, followed by the next smaller numbers; None where no rank is wanted."""
    keys = stack_buffer(own, 2)
    store(keys, 0, own)
    store(keys, ROWS, next_smaller(own))
    return keys


@specialize
def _mask(top: Any, tile: Any, width: int, y: Any, lanes: int) -> Any:
    """Put −inf in the place of the logits at the labels, unless the classes of the maximum are left out."""
    if isinstance(top, types.NoneType):
        return lambda top, tile, width, y, lanes: mask_targets(tile, width, y, None, lanes)
    return lambda top, tile, width, y, lanes: None


@inline
def _compute_item(operands: Any, current: Any, following: Any, vtype: Any) -> None:
    """Compute the rows of the current work item; the following one is loaded meanwhile."""
    item, tile, classes, scale = current.item, current.tile, operands.logits.shape[2], operands.scale
    lanes, row_stride = lanes_of(vtype), stride(operands.logits, 1)
    width = tile_width(classes, lanes)
    y = labels_of(operands.labels, item, classes, operands.ignored_classes, vtype)
    wanted = RowWanted(
        top_wanted(operands), either(operands.entropy, None), either(operands.argmax, None), either(operands.rank, None)
    )
    f_y = _label_logits(y, tile, width, vtype)
    own = _in_float32(f_y, vtype)
    keys = _label_keys(operands.rank, own)
    _mask(wanted.top, tile, width, y, lanes)
    row_max = reduce_max_each(current.lane_maxima, vtype)
    shift = tile_shift(row_max, None, scale)
    shifts = store_shift(shift, vtype)
    later = prefetch_rows(following.p, row_stride, lanes)
    buffer = _terms_buffer(wanted, vtype)
    for r in range(lanes):
        load_row(operands, following, r, vtype)
        if r < item.rows and not is_ignored_lane(y, r):
            prefetch = PrefetchRows(advance(later.l2, r * row_stride), advance(later.l1, r * row_stride))
            p, row_shift = advance(tile, r * width), shift_of_row(shifts, r, vtype)
            row = TileRow(p, classes, row_shift, scale, keys, r, label_of_lane(y, r), prefetch)
            _put_terms(buffer, r, _row_terms(wanted, row), lanes)
        else:
            _put_terms(buffer, r, _no_terms(wanted, vtype), lanes)
    rescale = tile_rescale(shift, None, scale)
    others = _others(buffer.ties, reduce_add_each(buffer.sum_exp, rescale) * rescale, row_max)
    zero = splat(0.0, rescale)
    top = Top(-1, _left_out_logit(wanted.top, row_max, f_y))
    stats = RowStatistics(promote(row_max), others, zero, zero, top, _measured(buffer.gap, rescale))
    irregular = irregular_rows(nans_of_sums(stats, operands.log_prob, f_y), operands.rank, own, None)
    argmax = _argmax(buffer.first, wanted.top, row_max, own, y)
    order = ItemOrder(argmax, _promoted(_added(buffer.ahead, vtype)), irregular)
    store_item(operands, item, y, f_y, stats, order, vtype)


@inline
def packed_rows(operands: Any, start: int, stop: int) -> None:
    """Compute the work items start … stop, in order."""
    vtype = vtype_of(operands)
    buffers = stack_buffer(vtype, _TWO_TILES), stack_buffer(vtype, _TWO_MAXIMA)
    current = packed_item(operands.logits, start, stop, buffers, 0, vtype)
    for r in range(lanes_of(vtype)):
        load_row(operands, current, r, vtype)
    for index in range(start, stop):
        following = packed_item(operands.logits, index + 1, stop, buffers, (index + 1 - start) % 2, vtype)
        _compute_item(operands, current, following, vtype)
        current = following
