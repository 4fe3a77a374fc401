"""softmax, log_softmax and logsumexp from the statistics of the losses: long rows, or a vector of rows at a time."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from numba import types

from xent_numba.backends.cpu.compile.inline import by_type, inline
from xent_numba.backends.cpu.compile.kernel import kernel
from xent_numba.backends.cpu.regimes.lanes_tile import finite, merge_lanes, tile_exponentials, tile_statistics
from xent_numba.backends.cpu.regimes.long_stats import statistics
from xent_numba.backends.cpu.regimes.softmax_long import write_log_softmax, write_logsumexp, write_softmax
from xent_numba.backends.cpu.regimes.staging import deliver, empty, stage_for
from xent_numba.backends.cpu.regimes.tile_load import TILE, fill, soon
from xent_numba.backends.cpu.row.epilogue import log_of
from xent_numba.backends.cpu.row.operands import row_pointer
from xent_numba.backends.cpu.runtime.parallel_for import each
from xent_numba.backends.cpu.simd.cast import narrow, widen
from xent_numba.backends.cpu.simd.load_store import (
    advance,
    blank,
    load,
    pointer,
    scratch,
    store,
    stride,
)
from xent_numba.backends.cpu.simd.math import exp
from xent_numba.backends.cpu.simd.reduce import lane
from xent_numba.backends.cpu.simd.vector import iota, lanes_of, select, splat


class Rows(NamedTuple):
    """A call: logits, and one of the three results."""

    logits: Any  # (A, B, C)
    softmax: Any  # (A, B, C) or None
    log_softmax: Any  # (A, B, C) or None
    logsumexp: Any  # (A·B,) or None
    streaming: bool


@inline
def _long(fields: Any, group: int, units: int, k: int) -> None:
    rows = Rows(*fields)
    like = blank(pointer(rows.logits))
    width, n = rows.logits.shape[1:]
    for i in range(k * group, min(units, (k + 1) * group)):
        a = i // width
        b = i - a * width
        p = row_pointer(rows.logits, a, b)
        row = statistics(p, n, -1, None, None, None, None, like)
        write_softmax(rows, row_pointer(rows.softmax, a, b), p, n, row, like)
        write_log_softmax(rows, row_pointer(rows.log_softmax, a, b), p, n, row, like)
        write_logsumexp(rows.logsumexp, i, p, n, row, like)


# ------------------------------------------------------------------------------------------------ wide groups
@inline
def _tile_softmax(e_tile: Any, classes: int, factor: Any) -> None:
    lanes = lanes_of(factor)
    for j in range(classes):
        store(e_tile, j * lanes, load(e_tile, j * lanes, factor) * factor)


@inline
def _tile_logs(tile: Any, e_tile: Any, classes: int, top: Any, log_s: Any, like: Any) -> None:
    lanes = lanes_of(like)
    for j in range(classes):
        store(e_tile, j * lanes, (load(tile, j * lanes, like) - top) - log_s)


@inline
def _wide_logsumexp(out: Any, i: int, rows: int, top: Any, nans: Any, log_s: Any) -> None:
    if out is not None:
        for r in range(lanes_of(log_s)):
            if r < rows:
                t = lane(top, r)
                if t == math.inf:
                    out[i + r] = lane(nans, r) + math.inf
                elif t == -math.inf:  # of all that is no NaN
                    out[i + r] = t + lane(nans, r)
                else:
                    out[i + r] = t + lane(log_s, r)


@inline
def _nans(wanted: Any, tile: Any, classes: int, sums: Any, like: Any) -> Any:
    """0 per lane, nan where there is a NaN, for a logsumexp; nothing that matters where there is none."""
    if wanted is None:
        return sums
    lanes = lanes_of(like)
    for j in range(classes):
        x = load(tile, j * lanes, like)
        sums = sums + select(x == x, splat(0.0, like), x)
    return sums


@inline
def _tile_place(tile: Any, first: int, classes: int, best: Any, place: Any, like: Any) -> Any:
    """The largest logit so far and the first class that has it, per lane."""
    lanes = lanes_of(like)
    for j in range(classes):
        x = load(tile, j * lanes, like)
        larger = x > best
        best, place = select(larger, x, best), select(larger, splat(first + j, place), place)
    return best, place


@by_type
def _places(softmax: Any, logsumexp: Any, p: Any, logits: Any, rows: int, tile: Any, like: Any) -> Any:
    """The class of each row's maximum, which a softmax need not know; and `_nans`.  The first tile is filled."""
    if isinstance(softmax, types.NoneType):
        return lambda softmax, logsumexp, p, logits, rows, tile, like: _find(logsumexp, p, logits, rows, tile, like)
    return lambda softmax, logsumexp, p, logits, rows, tile, like: _fill_first(p, logits, rows, tile, like)


@inline
def _fill_first(p: Any, logits: Any, rows: int, tile: Any, like: Any) -> Any:
    fill(p, stride(logits, 1), stride(logits, 2), rows, min(logits.shape[2], TILE), tile, like)
    return None, splat(0.0, like)


@inline
def _find(logsumexp: Any, p: Any, logits: Any, rows: int, tile: Any, like: Any) -> Any:
    classes = logits.shape[2]
    row_stride, class_stride = stride(logits, 1), stride(logits, 2)
    best, place = splat(-math.inf, like), iota(like)
    place = place - place
    nans = splat(0.0, like)
    for first in range(0, classes, TILE):
        count = min(classes - first, TILE)
        fill(advance(p, first * class_stride), row_stride, class_stride, rows, count, tile, like)
        best, place = _tile_place(tile, first, count, best, place, like)
        nans = _nans(logsumexp, tile, count, nans, like)
    if classes > TILE:
        fill(p, row_stride, class_stride, rows, TILE, tile, like)
    return place, nans


@inline
def _total(place: Any, row: Any) -> Any:
    """Σ exp(x − top).  `row` is without the maximum, whose term is 1, or nan for +inf, or 0 where all is −inf."""
    if place is None:
        return row.rest
    return row.rest + widen(exp(row.top - finite(row.top)))


@inline
def _group(call: Any, out: Any, a: int, b: int, rows: int, stage: Any, held: int, like: Any) -> int:
    """How much of the output stays in the stage."""
    classes = call.logits.shape[2]
    p = row_pointer(call.logits, a, b)
    row_stride, class_stride = stride(call.logits, 1), stride(call.logits, 2)
    tile, e_tile = scratch(like, 256), scratch(like, 256)
    place, nans = _places(call.softmax, call.logsumexp, p, call.logits, rows, tile, like)
    count = min(classes, TILE)
    ahead = soon(p, row_stride, class_stride, count, like)
    row, by = tile_statistics(tile, e_tile, 0, count, place, None, None, None, None, ahead, like)
    for first in range(TILE, classes, TILE):
        count = min(classes - first, TILE)
        fill(advance(p, first * class_stride), row_stride, class_stride, rows, count, tile, like)
        more, _ = tile_statistics(tile, e_tile, first, count, place, None, None, None, None, None, like)
        row = merge_lanes(row, more, None, None)
    top, total = widen(row.top), _total(place, row)
    log_s = log_of(row.rest, total)
    for first in range(0, classes, TILE):
        count = min(classes - first, TILE)
        if out is not None:
            if classes > TILE:
                fill(advance(p, first * class_stride), row_stride, class_stride, rows, count, tile, like)
            if call.softmax is not None:
                if classes > TILE:
                    by = tile_exponentials(tile, e_tile, count, finite(row.top), None, None, None)
                _tile_softmax(e_tile, count, narrow(by / total, like))
            else:
                _tile_logs(tile, e_tile, count, row.top, narrow(log_s, like), like)
            held = deliver(e_tile, out, a, b, first, rows, count, call.streaming, stage, held, like)
    _wide_logsumexp(call.logsumexp, a * call.logits.shape[1] + b, rows, top, nans, log_s)
    return held


@by_type
def _output(softmax: Any, log_softmax: Any) -> Any:
    """What is written to, None for a logsumexp."""
    if isinstance(softmax, types.NoneType):
        return lambda softmax, log_softmax: log_softmax
    return lambda softmax, log_softmax: softmax


@inline
def _wide(fields: Any, group: int, units: int, k: int) -> None:
    call = Rows(*fields)
    out = _output(call.softmax, call.log_softmax)
    like = blank(pointer(call.logits))
    lanes = lanes_of(like)
    width = call.logits.shape[1]
    per_a = (width + lanes - 1) // lanes
    stop = min(units, (k + 1) * group)
    stage, held = stage_for(out, like), 0
    for g in range(k * group, stop):
        a = g // per_a
        b = (g - a * per_a) * lanes
        rows = min(lanes, width - b)
        held = _group(call, out, a, b, rows, stage, held, like)
        if b + rows == width or g + 1 == stop:
            held = empty(out, stage, held, a, b + rows, like)


# ------------------------------------------------------------------------------------------------ drivers
@kernel
def long(fields: Any, group: int, units: int, groups: int, loop: int) -> None:
    """Rows 0 … units, one at a time."""
    each(_long, (fields, group, units), groups, loop)


@kernel
def wide(fields: Any, group: int, units: int, groups: int, loop: int) -> None:
    """Vectors of rows 0 … units."""
    each(_wide, (fields, group, units), groups, loop)
