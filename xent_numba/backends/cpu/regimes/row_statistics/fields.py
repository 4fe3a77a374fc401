"""From the statistics of a vector of rows, one in each lane, to their fields."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import types

from xent_numba.backends.cpu.compile.inline import inline, optional, specialize
from xent_numba.backends.cpu.regimes.row_statistics.operands import store_ignored, store_value
from xent_numba.backends.cpu.row.epilogue import scaled_gap, sum_with_top
from xent_numba.backends.cpu.row.operands import row_pointer
from xent_numba.backends.cpu.row.order import exact_order, key_of
from xent_numba.backends.cpu.simd.cast import promote
from xent_numba.backends.cpu.simd.load_store import (
    advance,
    load,
    load_scalar,
    stack_buffer,
    store,
    store_scalar,
    stride,
)
from xent_numba.backends.cpu.simd.math import apply_scale, divide
from xent_numba.backends.cpu.simd.reduce import any_true, extract_lane
from xent_numba.backends.cpu.simd.vector import is_nan, select, splat


class FloatFields(NamedTuple):
    """The fields that are real numbers, float64, one row in each lane; None for those that are not wanted."""

    log_prob: Any
    entropy: Any
    logsumexp: Any


@inline
def float_fields(operands: Any, stats: Any, x_y: Any, has_nan: Any, vtype: Any) -> Any:
    """The `FloatFields` of rows from their `RowStatistics`, in float64, whose `top` is the class that they leave out.

    x_y: f of the logits at the labels.  has_nan: 0, or NaN where a logit is NaN, at least where the maximum is +inf.
    """
    total, log_s = sum_with_top(stats, operands.scale, vtype)
    return FloatFields(
        _log_prob(operands.log_prob, stats, x_y, log_s, operands.scale),
        _entropy(operands.entropy, stats, total, log_s, operands.scale),
        _logsumexp(operands.logsumexp, stats, log_s, has_nan, operands.scale),
    )


@optional
def _log_prob(out: Any, stats: Any, x_y: Any, log_s: Any, scale: Any) -> Any:
    """−(s (m − x_y) + log S), but never −0."""
    return splat(0.0, log_s) - (scaled_gap(stats.row_max, x_y, scale) + log_s)


@optional
def _entropy(out: Any, stats: Any, total: Any, log_s: Any, scale: Any) -> Any:
    """log S + s Σ e_j (m − x_j) / S, of terms that are not negative."""
    return log_s + apply_scale(divide(stats.measured.gap, total), scale)


@optional
def _logsumexp(out: Any, stats: Any, log_s: Any, has_nan: Any, scale: Any) -> Any:
    """s m + log S; where the maximum is infinite that maximum, or NaN where a logit is NaN."""
    row_max = stats.row_max
    infinity, minus_infinity = splat(math.inf, row_max), splat(-math.inf, row_max)
    found = apply_scale(row_max, scale) + log_s
    # A row of −inf and NaN has a sum of NaN; in one with +inf, only `has_nan` tells of it.
    found = select(row_max == minus_infinity, minus_infinity + stats.sum_exp_others, found)
    return select(row_max == infinity, infinity + has_nan, found)


# ------------------------------------------------------------------------------------------------ a vector of rows
class ItemOrder(NamedTuple):
    """The order of the classes of a vector of rows; None for what is not wanted."""

    argmax: Any  # integers
    ahead: Any  # how many classes are before the label's, in float64
    irregular: Any  # the mask of the rows of which the others are not true


@optional
def _float_fields(stats: Any, operands: Any, f_y: Any, has_nan: Any, vtype: Any) -> Any:
    """The `FloatFields` of rows; None for None."""
    return float_fields(operands, stats, f_y, load(has_nan, 0, promote(vtype)), vtype)


@inline
def irregular_rows(nans: Any, rank: Any, x_y: Any, transform: Any) -> Any:
    """The mask of the rows whose order `exact_order` has to find, from that of the rows that may have a NaN.

    The others are those whose label is at −inf, below which there is no number, if a rank is wanted.
    """
    if rank is None:
        return nans
    lowest = key_of(x_y, transform)
    return nans | (lowest == splat(-math.inf, lowest))


@inline
def nans_of_sums(stats: Any, log_prob: Any, f_y: Any) -> Any:
    """The mask of the rows that may have a NaN: in the sum, or at the label that it leaves out."""
    if log_prob is None:
        return is_nan(stats.sum_exp_others)
    return is_nan(stats.sum_exp_others) | is_nan(f_y)


@inline
def _store_exact_order(operands: Any, item: Any, y: Any, order: Any, has_nan: Any, vtype: Any) -> None:
    """The order of the irregular rows; which of them have a NaN goes to the lanes of `has_nan`."""
    p, row_stride = row_pointer(operands.logits, item.a, item.b), stride(operands.logits, 1)
    class_stride, classes = stride(operands.logits, 2), operands.logits.shape[2]
    for r in range(item.rows):
        if extract_lane(order.irregular, r) and not is_ignored_lane(y, r):
            row, i = advance(p, r * row_stride), item.first_row + r
            found = exact_order(row, class_stride, classes, operands.transform, label_of_lane(y, r), vtype)
            store_value(operands.argmax, i, found[0])
            store_value(operands.rank, i, found[1])
            if found[2]:
                store_scalar(has_nan, r, math.nan)


@specialize
def label_of_lane(y: Any, r: int) -> Any:
    """The class of the label of a row; −1 where there are no labels."""
    if isinstance(y, types.NoneType):
        return lambda y, r: np.int64(-1)
    return lambda y, r: np.int64(extract_lane(y, r))


@specialize
def is_ignored_lane(y: Any, r: int) -> Any:
    """Whether a row is ignored."""
    if isinstance(y, types.NoneType):
        return lambda y, r: False
    return lambda y, r: extract_lane(y, r) < 0


@inline
def store_lanes(out: Any, first: int, count: int, values: Any) -> None:
    """out[first + k] = lane k of the values for the first `count` lanes, if the field is wanted.

    By way of memory: to extract a lane whose number is not a constant would take that way for each of them.
    """
    if out is not None:
        memory = stack_buffer(values, 1)
        store(memory, 0, values)
        for k in range(count):
            out[first + k] = load_scalar(memory, k)


@inline
def store_floats(operands: Any, first: int, count: int, found: Any) -> None:
    """Store the first lanes of the `FloatFields`, if there are any."""
    if found is not None:
        store_lanes(operands.log_prob, first, count, found.log_prob)
        store_lanes(operands.entropy, first, count, found.entropy)
        store_lanes(operands.logsumexp, first, count, found.logsumexp)


@optional
def _plus_one(ahead: Any) -> Any:
    """The ranks, from how many classes are before the label's; None for None."""
    return ahead + splat(1.0, ahead)


@inline
def _store_ignored(operands: Any, item: Any, y: Any, vtype: Any) -> None:
    """Store the fields of the rows that are ignored, if there are labels."""
    if y is not None and any_true(y < splat(0, y)):
        for r in range(item.rows):
            if extract_lane(y, r) < 0:
                store_ignored(operands, item.first_row + r)


@inline
def store_item(operands: Any, item: Any, y: Any, f_y: Any, stats: Any, order: Any, vtype: Any) -> None:
    """Store the fields of a vector of rows.

    y, f_y: the labels, and f of the logits there.  stats: the `RowStatistics` of rows in float64, whose `top` is the
    class that they leave out; None without float fields.  order: their `ItemOrder`.
    """
    has_nan = stack_buffer(promote(vtype), 1)
    store(has_nan, 0, splat(0.0, promote(vtype)))
    store_lanes(operands.argmax, item.first_row, item.rows, order.argmax)
    store_lanes(operands.rank, item.first_row, item.rows, _plus_one(order.ahead))
    if any_true(order.irregular):
        _store_exact_order(operands, item, y, order, has_nan, vtype)
    store_floats(operands, item.first_row, item.rows, _float_fields(stats, operands, f_y, has_nan, vtype))
    _store_ignored(operands, item, y, vtype)
