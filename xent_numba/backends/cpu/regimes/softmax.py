"""softmax, log_softmax and logsumexp from the statistics of the losses: long rows, or a vector of rows at a time."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from numba import types

from xent_numba.backends.cpu.compile.inline import inline, specialize
from xent_numba.backends.cpu.compile.kernel import kernel
from xent_numba.backends.cpu.plan import TILE_CLASSES
from xent_numba.backends.cpu.regimes.lanes_tile import finite_or_zero, merge_lanes, tile_exponentials, tile_statistics
from xent_numba.backends.cpu.regimes.softmax_long import softmax_long_rows
from xent_numba.backends.cpu.regimes.staging import flush_carry, staging_buffer, write_rows
from xent_numba.backends.cpu.regimes.tile_load import load_tile, prefetch_cursor
from xent_numba.backends.cpu.row.epilogue import log_of_sum
from xent_numba.backends.cpu.row.operands import row_pointer
from xent_numba.backends.cpu.runtime.parallel_for import parallel_for
from xent_numba.backends.cpu.simd.cast import demote, promote
from xent_numba.backends.cpu.simd.load_store import (
    advance,
    load,
    pointer,
    stack_buffer,
    store,
    stride,
    zero_vector,
)
from xent_numba.backends.cpu.simd.math import exp
from xent_numba.backends.cpu.simd.reduce import extract_lane
from xent_numba.backends.cpu.simd.vector import iota, lanes_of, select, splat


class SoftmaxOperands(NamedTuple):
    """A call: logits, and one of the three results."""

    logits: Any  # (A, B, C)
    softmax: Any  # (A, B, C) or None
    log_softmax: Any  # (A, B, C) or None
    logsumexp: Any  # (A·B,) or None
    streaming: bool


@inline
def _long(fields: Any, group: int, work_items: int, k: int) -> None:
    """Group k of rows, one at a time."""
    softmax_long_rows(SoftmaxOperands(*fields), k * group, min(work_items, (k + 1) * group))


# ------------------------------------------------------------------------------------------------ wide groups
@inline
def _tile_softmax(e_tile: Any, classes: int, factor: Any) -> None:
    lanes = lanes_of(factor)
    for j in range(classes):
        store(e_tile, j * lanes, load(e_tile, j * lanes, factor) * factor)


@inline
def _tile_logs(tile: Any, e_tile: Any, classes: int, row_max: Any, log_s: Any, vtype: Any) -> None:
    lanes = lanes_of(vtype)
    for j in range(classes):
        store(e_tile, j * lanes, (load(tile, j * lanes, vtype) - row_max) - log_s)


@inline
def _lanes_logsumexp(out: Any, i: int, rows: int, row_max: Any, nans: Any, log_s: Any) -> None:
    if out is not None:
        for r in range(lanes_of(log_s)):
            if r < rows:
                t = extract_lane(row_max, r)
                if t == math.inf:
                    out[i + r] = extract_lane(nans, r) + math.inf
                elif t == -math.inf:  # of all that is no NaN
                    out[i + r] = t + extract_lane(nans, r)
                else:
                    out[i + r] = t + extract_lane(log_s, r)


@inline
def _nans(wanted: Any, tile: Any, classes: int, sums: Any, vtype: Any) -> Any:
    """0 per lane, nan where there is a NaN, for a logsumexp; nothing that matters where there is none."""
    if wanted is None:
        return sums
    lanes = lanes_of(vtype)
    for j in range(classes):
        x = load(tile, j * lanes, vtype)
        sums = sums + select(x == x, splat(0.0, vtype), x)
    return sums


@inline
def _tile_place(tile: Any, first: int, classes: int, best: Any, place: Any, vtype: Any) -> Any:
    """The largest logit so far and the first class that has it, per lane."""
    lanes = lanes_of(vtype)
    for j in range(classes):
        x = load(tile, j * lanes, vtype)
        larger = x > best
        best, place = select(larger, x, best), select(larger, splat(first + j, place), place)
    return best, place


@specialize
def _max_places(softmax: Any, logsumexp: Any, p: Any, logits: Any, rows: int, tile: Any, vtype: Any) -> Any:
    """The class of each row's maximum, which a softmax need not know; and `_nans`.  The first tile is filled."""
    if isinstance(softmax, types.NoneType):
        return lambda softmax, logsumexp, p, logits, rows, tile, vtype: _find_max(
            logsumexp, p, logits, rows, tile, vtype
        )
    return lambda softmax, logsumexp, p, logits, rows, tile, vtype: _fill_first(p, logits, rows, tile, vtype)


@inline
def _fill_first(p: Any, logits: Any, rows: int, tile: Any, vtype: Any) -> Any:
    load_tile(p, stride(logits, 1), stride(logits, 2), rows, min(logits.shape[2], TILE_CLASSES), tile, vtype)
    return None, splat(0.0, vtype)


@inline
def _find_max(logsumexp: Any, p: Any, logits: Any, rows: int, tile: Any, vtype: Any) -> Any:
    classes = logits.shape[2]
    row_stride, class_stride = stride(logits, 1), stride(logits, 2)
    best, place = splat(-math.inf, vtype), iota(vtype)
    place = place - place
    nans = splat(0.0, vtype)
    for first in range(0, classes, TILE_CLASSES):
        count = min(classes - first, TILE_CLASSES)
        load_tile(advance(p, first * class_stride), row_stride, class_stride, rows, count, tile, vtype)
        best, place = _tile_place(tile, first, count, best, place, vtype)
        nans = _nans(logsumexp, tile, count, nans, vtype)
    if classes > TILE_CLASSES:
        load_tile(p, row_stride, class_stride, rows, TILE_CLASSES, tile, vtype)
    return place, nans


@inline
def _total(place: Any, row: Any) -> Any:
    """Σ exp(x − top).  `row` is without the maximum, whose term is 1, or nan for +inf, or 0 where all is −inf."""
    if place is None:
        return row.sum_exp_others
    return row.sum_exp_others + promote(exp(row.row_max - finite_or_zero(row.row_max)))


@inline
def _group(call: Any, out: Any, a: int, b: int, rows: int, staging: Any, carry: int, vtype: Any) -> int:
    """How much of the output stays in the stage."""
    classes = call.logits.shape[2]
    p = row_pointer(call.logits, a, b)
    row_stride, class_stride = stride(call.logits, 1), stride(call.logits, 2)
    tile, e_tile = stack_buffer(vtype, 256), stack_buffer(vtype, 256)
    place, nans = _max_places(call.softmax, call.logsumexp, p, call.logits, rows, tile, vtype)
    count = min(classes, TILE_CLASSES)
    ahead = prefetch_cursor(p, row_stride, class_stride, count, vtype)
    row, by = tile_statistics(tile, e_tile, 0, count, place, None, None, None, None, ahead, vtype)
    for first in range(TILE_CLASSES, classes, TILE_CLASSES):
        count = min(classes - first, TILE_CLASSES)
        load_tile(advance(p, first * class_stride), row_stride, class_stride, rows, count, tile, vtype)
        more, _ = tile_statistics(tile, e_tile, first, count, place, None, None, None, None, None, vtype)
        row = merge_lanes(row, more, None, None)
    row_max, total = promote(row.row_max), _total(place, row)
    log_s = log_of_sum(row.sum_exp_others, total)
    for first in range(0, classes, TILE_CLASSES):
        count = min(classes - first, TILE_CLASSES)
        if out is not None:
            if classes > TILE_CLASSES:
                load_tile(advance(p, first * class_stride), row_stride, class_stride, rows, count, tile, vtype)
            if call.softmax is not None:
                if classes > TILE_CLASSES:
                    by = tile_exponentials(tile, e_tile, count, finite_or_zero(row.row_max), None, None, None)
                _tile_softmax(e_tile, count, demote(by / total, vtype))
            else:
                _tile_logs(tile, e_tile, count, row.row_max, demote(log_s, vtype), vtype)
            carry = write_rows(e_tile, out, a, b, first, rows, count, call.streaming, staging, carry, vtype)
    _lanes_logsumexp(call.logsumexp, a * call.logits.shape[1] + b, rows, row_max, nans, log_s)
    return carry


@specialize
def _output(softmax: Any, log_softmax: Any) -> Any:
    """What is written to, None for a logsumexp."""
    if isinstance(softmax, types.NoneType):
        return lambda softmax, log_softmax: log_softmax
    return lambda softmax, log_softmax: softmax


@inline
def _lanes(fields: Any, group: int, work_items: int, k: int) -> None:
    call = SoftmaxOperands(*fields)
    out = _output(call.softmax, call.log_softmax)
    vtype = zero_vector(pointer(call.logits))
    lanes = lanes_of(vtype)
    width = call.logits.shape[1]
    per_a = (width + lanes - 1) // lanes
    stop = min(work_items, (k + 1) * group)
    staging, carry = staging_buffer(out, vtype), 0
    for g in range(k * group, stop):
        a = g // per_a
        b = (g - a * per_a) * lanes
        rows = min(lanes, width - b)
        carry = _group(call, out, a, b, rows, staging, carry, vtype)
        if b + rows == width or g + 1 == stop:
            carry = flush_carry(out, staging, carry, a, b + rows, vtype)


# ------------------------------------------------------------------------------------------------ drivers
@kernel
def softmax_long(fields: Any, group: int, work_items: int, groups: int, loop: int) -> None:
    """Rows 0 … units, one at a time."""
    parallel_for(_long, (fields, group, work_items), groups, loop)


@kernel
def softmax_lanes(fields: Any, group: int, work_items: int, groups: int, loop: int) -> None:
    """Vectors of rows 0 … units."""
    parallel_for(_lanes, (fields, group, work_items), groups, loop)
