"""Long rows, whose classes lie side by side: one row at a time, and their logarithms for a vector of rows at a time."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import types

from xent_numba.backends.cpu.compile.inline import inline, optional, specialize
from xent_numba.backends.cpu.regimes.long.order import argmax_of, max_of_keys, order_block, rank_of, row_order
from xent_numba.backends.cpu.regimes.long.statistics import BLOCK_VECTORS, statistics
from xent_numba.backends.cpu.regimes.row_statistics.fields import float_fields, store_floats
from xent_numba.backends.cpu.regimes.row_statistics.operands import (
    measures_wanted,
    order_wanted,
    store_ignored,
    store_value,
    sums_wanted,
    top_wanted,
    vtype_of,
)
from xent_numba.backends.cpu.regimes.work_items import work_item
from xent_numba.backends.cpu.row.epilogue import RowStatistics, Top
from xent_numba.backends.cpu.row.measures import Measured
from xent_numba.backends.cpu.row.operands import RowInput, is_ignored, label, row_pointer
from xent_numba.backends.cpu.row.order import exact_order, load_key
from xent_numba.backends.cpu.row.transform import load_logit
from xent_numba.backends.cpu.simd.cache_control import prefetch_ahead
from xent_numba.backends.cpu.simd.cast import promote
from xent_numba.backends.cpu.simd.load_store import load, load_n, stack_buffer, store_scalar
from xent_numba.backends.cpu.simd.reduce import any_true
from xent_numba.backends.cpu.simd.vector import is_nan, lanes_of, splat


# ------------------------------------------------------------------------------------------------ waiting rows
class RowBuffer(NamedTuple):
    """Rows whose float fields are not computed yet: pointers to a vector of float64 for each number."""

    row_max: Any
    sum_exp_others: Any
    top_x: Any  # f of the logit of the class that is left out of the sum
    gap: Any
    x_y: Any
    has_nan: Any  # 0, or NaN


@optional
def _row_buffer(wanted: Any, vtype64: Any) -> Any:
    """A new `RowBuffer` on the stack; None for None."""
    return RowBuffer(
        stack_buffer(vtype64, 1), stack_buffer(vtype64, 1), stack_buffer(vtype64, 1), stack_buffer(vtype64, 1),
        stack_buffer(vtype64, 1), stack_buffer(vtype64, 1),
    )  # fmt: skip


@inline
def _buffer_row(buffer: Any, k: int, stats: Any, top_x: float, x_y: float, has_nan: bool) -> None:
    """Put the statistics of a row at lane k."""
    store_scalar(buffer.row_max, k, stats.row_max)
    store_scalar(buffer.sum_exp_others, k, stats.sum_exp_others)
    store_scalar(buffer.top_x, k, top_x)
    store_scalar(buffer.gap, k, _gap_of(stats.measured))
    store_scalar(buffer.x_y, k, x_y)
    store_scalar(buffer.has_nan, k, np.nan if has_nan else 0.0)


@inline
def _gap_of(measured: Any) -> Any:
    """The gap of a `Measured`; 0 for None."""
    if measured is None:
        return 0.0
    return measured.gap


@inline
def _store_buffered(buffer: Any, operands: Any, first: int, count: int, vtype: Any) -> None:
    """Compute and store the float fields of `count` buffered rows."""
    if buffer is not None:
        vtype64 = promote(vtype)
        zero = splat(0.0, vtype64)
        stats = RowStatistics(
            load(buffer.row_max, 0, vtype64),
            load(buffer.sum_exp_others, 0, vtype64),
            zero,
            zero,
            Top(-1, load(buffer.top_x, 0, vtype64)),
            Measured(load(buffer.gap, 0, vtype64), zero, zero),
        )
        x_y, has_nan = load(buffer.x_y, 0, vtype64), load(buffer.has_nan, 0, vtype64)
        found = float_fields(operands, stats, x_y, has_nan, vtype)
        store_floats(operands, first, count, found)


# ------------------------------------------------------------------------------------------------ rows
@optional
def _order(wanted: Any, row: Any, operands: Any, vtype: Any) -> Any:
    """The `RowOrder` of a row before its first block; None for None."""
    return row_order(row, operands.argmax, operands.rank, vtype)


@specialize
def _left_out_logit(top: Any, x_y: float) -> Any:
    """The logit of the class that the sum leaves out: that of the `Top`, or the label's."""
    if isinstance(top, types.NoneType):
        return lambda top, x_y: x_y
    return lambda top, x_y: top.x


@specialize
def _label_logit(log_prob: Any, row: Any, vtype: Any) -> Any:
    """f of the logit at the label; 0 where no log-probability is wanted."""
    if isinstance(log_prob, types.NoneType):
        return lambda log_prob, row, vtype: 0.0
    return lambda log_prob, row, vtype: load_logit(row.logits, row.y, row.transform, vtype)


@specialize
def _is_lowest(rank: Any, row: Any, vtype: Any) -> Any:
    """Whether a rank is wanted and the key of the label is −inf, below which there is no number."""
    if isinstance(rank, types.NoneType):
        return lambda rank, row, vtype: False
    return lambda rank, row, vtype: load_key(row.logits, row.y, row.transform, vtype) == -math.inf


@inline
def _order_alone(order: Any, row: Any, vtype: Any) -> bool:
    """Take note of all blocks of a row; whether one of its logits is NaN."""
    lanes = lanes_of(vtype)
    nans = is_nan(splat(0.0, vtype))
    for i in range(0, row.classes, BLOCK_VECTORS * lanes):
        count = min(row.classes - i, BLOCK_VECTORS * lanes)
        vectors = count // lanes
        tail = count - vectors * lanes
        for k in range(vectors):
            prefetch_ahead(row.logits, i + k * lanes)
            nans = nans | is_nan(load(row.logits, i + k * lanes, vtype))
        if tail > 0:
            nans = nans | is_nan(load_n(row.logits, i + vectors * lanes, tail, splat(0.0, vtype)))
        order_block(order, i, vectors, tail, max_of_keys(row, i, vectors, tail, vtype))
    return any_true(nans)


@inline
def _store_order(order: Any, operands: Any, i: int, row: Any, irregular: bool, vtype: Any) -> bool:
    """Store argmax and rank, by `exact_order` for an irregular row; whether one of its logits is NaN."""
    if irregular:
        found, rank, has_nan = exact_order(row.logits, 1, row.classes, row.transform, row.y, vtype)
        store_value(operands.argmax, i, found)
        store_value(operands.rank, i, rank)
        return has_nan
    if order is not None:
        store_value(operands.argmax, i, argmax_of(order.top_block, order, BLOCK_VECTORS * lanes_of(vtype), vtype))
        store_value(operands.rank, i, rank_of(order.counts, order, vtype))
    return False


@specialize
def _compute(buffer: Any, operands: Any, row: Any, order: Any, i: int, k: int, vtype: Any) -> Any:
    """Store the order of row i; what its float fields are made of goes to lane k of the buffer, if there is one."""
    if isinstance(buffer, types.NoneType):
        return lambda buffer, operands, row, order, i, k, vtype: _store_order(
            order, operands, i, row, _order_alone(order, row, vtype) or _is_lowest(operands.rank, row, vtype), vtype
        )

    def with_sums(buffer: Any, operands: Any, row: Any, order: Any, i: int, k: int, vtype: Any) -> bool:
        stats = statistics(row, order, vtype)
        x_y = _label_logit(operands.log_prob, row, vtype)
        irregular = stats.sum_exp_others != stats.sum_exp_others or x_y != x_y or _is_lowest(operands.rank, row, vtype)
        has_nan = _store_order(order, operands, i, row, irregular, vtype)
        _buffer_row(buffer, k, stats, _left_out_logit(stats.top, x_y), x_y, has_nan)
        return has_nan

    return with_sums


@inline
def _compute_row(operands: Any, buffer: Any, i: int, k: int, vtype: Any) -> None:
    """Compute row i, unless it is ignored; it is the row at lane k of the buffer."""
    a, b, _, _ = work_item(operands.logits.shape, i, 1)
    classes = operands.logits.shape[2]
    y = label(operands.labels, i, classes, operands.ignored_classes)
    if not is_ignored(operands.labels, y):
        p = row_pointer(operands.logits, a, b)
        top, measures = top_wanted(operands), measures_wanted(operands.entropy)
        row = RowInput(p, classes, y, None, operands.transform, operands.scale, top, measures)
        _compute(buffer, operands, row, _order(order_wanted(operands), row, operands, vtype), i, k, vtype)


@inline
def _store_ignored(labels: Any, operands: Any, first: int, count: int) -> None:
    """Store the fields of those of the rows that are ignored, if there are labels."""
    if labels is not None:
        classes = operands.logits.shape[2]
        for i in range(first, first + count):
            if label(labels, i, classes, operands.ignored_classes) < 0:
                store_ignored(operands, i)


@inline
def long_rows(operands: Any, start: int, stop: int) -> None:
    """Compute the rows start … stop."""
    vtype = vtype_of(operands)
    lanes = lanes_of(vtype)
    buffer = _row_buffer(sums_wanted(operands), promote(vtype))
    for first in range(start, stop, lanes):
        count = min(lanes, stop - first)
        for k in range(count):
            _compute_row(operands, buffer, first + k, k, vtype)
        _store_buffered(buffer, operands, first, count, vtype)
        _store_ignored(operands.labels, operands, first, count)
