"""Rows of a few dozen to a few hundred classes that lie side by side: a vector of rows at a time, each along its
classes, as in the regime `packed` of the losses.
"""

from __future__ import annotations

import math
from typing import Any

from numba import types

from xent_numba.backends.cpu.compile.inline import inline, optional, specialize
from xent_numba.backends.cpu.plan import TILE_CLASSES
from xent_numba.backends.cpu.regimes.item_epilogue import labels_of
from xent_numba.backends.cpu.regimes.lanes.tile import tile_rescale, tile_shift
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
from xent_numba.backends.cpu.regimes.row_statistics.operands import either, promoted, top_wanted, vtype_of
from xent_numba.backends.cpu.regimes.row_statistics.packed_row import (
    RowTerms,
    RowWanted,
    TileRow,
    no_terms,
    row_terms,
)
from xent_numba.backends.cpu.row.epilogue import RowStatistics, Top
from xent_numba.backends.cpu.row.measures import Measured
from xent_numba.backends.cpu.row.order import next_smaller
from xent_numba.backends.cpu.simd.cast import convert_to_float, demote, promote
from xent_numba.backends.cpu.simd.load_store import advance, stack_buffer, store, store_if_wanted, stride
from xent_numba.backends.cpu.simd.reduce import reduce_add_each, reduce_max_each
from xent_numba.backends.cpu.simd.vector import iota, lanes_of, maximum, select, splat

_TWO_TILES, _TWO_MAXIMA = 2 * TILE_CLASSES, 2 * ROWS  # in vectors


# ------------------------------------------------------------------------------------------------ sums across lanes
@inline
def _terms_buffer(wanted: Any, vtype: Any) -> Any:
    """`RowTerms` of pointers to those of as many rows as there are lanes; None for what is not wanted."""
    return RowTerms(
        stack_buffer(promote(vtype), ROWS),
        _vectors(wanted.gap, vtype),
        _vectors(wanted.top, vtype),
        _vectors(wanted.argmax, vtype),
        _vectors(wanted.rank, vtype),
    )


@optional
def _vectors(wanted: Any, vtype: Any) -> Any:
    """A pointer to a vector for each row; None for None."""
    return stack_buffer(vtype, ROWS)


@optional
def _with_lane(first: Any) -> Any:
    """−j for the first class j that has the maximum, in each lane, from `RowTerms.first`; None for None."""
    return first - convert_to_float(iota(first), first)


@inline
def _put_terms(buffer: Any, r: int, terms: Any, lanes: int) -> None:
    """Store the `RowTerms` of row r."""
    i = r * lanes
    store(buffer.sum_exp, i, promote(terms.sum_exp))
    store_if_wanted(buffer.gap, i, terms.gap)
    store_if_wanted(buffer.ties, i, terms.ties)
    store_if_wanted(buffer.first, i, _with_lane(terms.first))
    store_if_wanted(buffer.ahead, i, terms.ahead)


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
def _measured(gap: Any, rescale: Any, vtype: Any) -> Any:
    """The `Measured` of the rows; None for None.  Their gaps may have an error of a few units more than the sums."""
    return Measured(promote(reduce_add_each(gap, vtype)) * rescale, splat(0.0, rescale), splat(0.0, rescale))


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
            _put_terms(buffer, r, row_terms(wanted, row), lanes)
        else:
            _put_terms(buffer, r, no_terms(wanted, vtype), lanes)
    rescale = tile_rescale(shift, None, scale)
    others = _others(buffer.ties, reduce_add_each(buffer.sum_exp, rescale) * rescale, row_max)
    zero = splat(0.0, rescale)
    top = Top(-1, _left_out_logit(wanted.top, row_max, f_y))
    stats = RowStatistics(promote(row_max), others, zero, zero, top, _measured(buffer.gap, rescale, vtype))
    irregular = irregular_rows(nans_of_sums(stats, operands.log_prob, f_y), operands.rank, own, None)
    argmax = _argmax(buffer.first, wanted.top, row_max, own, y)
    order = ItemOrder(argmax, promoted(_added(buffer.ahead, vtype)), irregular)
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
