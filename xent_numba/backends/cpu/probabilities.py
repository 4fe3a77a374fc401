"""softmax, log_softmax and logsumexp, of the same statistics as the losses.

log S of a confident row is log1p of the sum over the classes but the largest.  Where that sum is small, the row is
summed once more with the place of its maximum left out.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from xent_numba.backends.cpu.call import row_pointer
from xent_numba.backends.cpu.columns import finite, merge_lanes, tile_exponentials, tile_statistics
from xent_numba.backends.cpu.conversions import narrow, widen
from xent_numba.backends.cpu.finish import log_of
from xent_numba.backends.cpu.gradient import Slope, store_gradient, stream_gradient
from xent_numba.backends.cpu.kernel import kernel
from xent_numba.backends.cpu.lanes import lane
from xent_numba.backends.cpu.memory import (
    advance,
    blank,
    load,
    load_part,
    pointer,
    scratch,
    store,
    store_part,
    stream,
    stride,
    to_line,
)
from xent_numba.backends.cpu.parallel import each
from xent_numba.backends.cpu.pieces import inline
from xent_numba.backends.cpu.simd import iota, lanes_of, select, single, splat
from xent_numba.backends.cpu.stage import release
from xent_numba.backends.cpu.statistics import statistics
from xent_numba.backends.cpu.tiles import TILE, fill, flush
from xent_numba.backends.cpu.vmath import exp


class Rows(NamedTuple):
    """A call: logits, and one of the three results."""

    logits: Any  # (A, B, C)
    softmax: Any  # (A, B, C) or None
    log_softmax: Any  # (A, B, C) or None
    logsumexp: Any  # (A·B,) or None
    streaming: bool


# ------------------------------------------------------------------------------------------------ long rows
@inline
def _place_of(p: Any, n: int, value: float) -> Any:
    """The first class with this logit, or −1."""
    for i in range(n):
        if np.float64(_one(p, i)) == value:
            return i
    return -1


@inline
def _one(p: Any, i: int) -> Any:
    return lane(load_part(p, i, 1, blank(p)), 0)


@inline
def _has_nan(p: Any, n: int) -> bool:
    for i in range(n):
        x = _one(p, i)
        if x != x:
            return True
    return False


@inline
def _log_sum(p: Any, n: int, row: Any, like: Any) -> Any:
    """log S."""
    q = row.rest - 1.0
    if q < 0.5:
        place = _place_of(p, n, row.top)
        if place >= 0:
            q = statistics(p, n, place, None, None, None, like).rest
    wide = widen(like)
    return lane(log_of(single(q, wide), single(row.rest, wide)), 0)


@inline
def _write_logs(p: Any, out: Any, n: int, top: float, log_s: float, streaming: bool, like: Any) -> None:
    step = lanes_of(like)
    wide = widen(like)
    shift, log_sums = splat(top, wide), splat(log_s, wide)
    head = to_line(out, 0, like) if streaming else -1
    i = 0
    while i < n:
        first = head if head > 0 and i == 0 else step
        count = min(first, n - i)
        y = narrow((widen(load_part(p, i, count, splat(0.0, like))) - shift) - log_sums, like)
        if count == step and head >= 0:
            stream(out, i, y)
        else:
            store_part(out, i, count, y)
        i += count


@inline
def _long_softmax(rows: Any, out: Any, p: Any, n: int, row: Any, like: Any) -> None:
    if out is not None:
        c = row.top if row.top > -np.inf else 0.0
        slope = Slope(c, 1.0 / row.rest, 0.0)
        if rows.streaming:
            stage = scratch(like, 2)
            held = stream_gradient(p, out, 0, n, -1, 0.0, slope, None, None, None, stage, 0, like)
            release(stage, held, advance(out, n), like)
        else:
            store_gradient(p, out, 0, n, -1, 0.0, slope, None, None, None, like)


@inline
def _long_log_softmax(rows: Any, out: Any, p: Any, n: int, row: Any, like: Any) -> None:
    if out is not None:
        _write_logs(p, out, n, row.top, _log_sum(p, n, row, like), rows.streaming, like)


@inline
def _long_logsumexp(out: Any, i: int, p: Any, n: int, row: Any, like: Any) -> None:
    if out is not None:
        if row.top == math.inf:
            out[i] = math.nan if _has_nan(p, n) else math.inf
        elif row.top == -math.inf:
            out[i] = row.top + row.rest  # rest is 0, or nan
        else:
            out[i] = row.top + _log_sum(p, n, row, like)


@inline
def _long(fields: Any, group: int, units: int, k: int) -> None:
    rows = Rows(*fields)
    like = blank(pointer(rows.logits))
    width, n = rows.logits.shape[1:]
    for i in range(k * group, min(units, (k + 1) * group)):
        a = i // width
        b = i - a * width
        p = row_pointer(rows.logits, a, b)
        row = statistics(p, n, -1, None, None, None, like)
        _long_softmax(rows, row_pointer(rows.softmax, a, b), p, n, row, like)
        _long_log_softmax(rows, row_pointer(rows.log_softmax, a, b), p, n, row, like)
        _long_logsumexp(rows.logsumexp, i, p, n, row, like)


# ------------------------------------------------------------------------------------------------ wide groups
@inline
def _tile_place(tile: Any, first: int, classes: int, best: Any, place: Any, like: Any) -> Any:
    """The largest logit so far and the first class that has it, per lane."""
    lanes = lanes_of(like)
    for j in range(classes):
        x = load(tile, j * lanes, like)
        larger = x > best
        best, place = select(larger, x, best), select(larger, splat(first + j, place), place)
    return best, place


@inline
def _tile_softmax(e_tile: Any, classes: int, factor: Any) -> None:
    lanes = lanes_of(factor)
    for j in range(classes):
        store(e_tile, j * lanes, load(e_tile, j * lanes, factor) * factor)


@inline
def _tile_logs(tile: Any, e_tile: Any, classes: int, top: Any, log_s: Any, like: Any) -> None:
    lanes = lanes_of(like)
    for j in range(classes):
        store(e_tile, j * lanes, narrow((widen(load(tile, j * lanes, like)) - top) - log_s, like))


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
def _nans(tile: Any, classes: int, sums: Any, like: Any) -> Any:
    """0 per lane, nan where there is a NaN."""
    lanes = lanes_of(like)
    for j in range(classes):
        x = load(tile, j * lanes, like)
        sums = sums + select(x == x, splat(0.0, like), x)
    return sums


@inline
def _group(call: Any, softmax: Any, log_softmax: Any, a: int, b: int, rows: int, like: Any) -> None:
    classes = call.logits.shape[2]
    p = row_pointer(call.logits, a, b)
    row_stride, class_stride = stride(call.logits, 1), stride(call.logits, 2)
    tile, e_tile = scratch(like, 256), scratch(like, 256)
    best, place = splat(-math.inf, like), iota(like)
    place = place - place
    nans = splat(0.0, like)
    count = min(classes, TILE)
    for first in range(0, classes, TILE):
        count = min(classes - first, TILE)
        fill(advance(p, first * class_stride), row_stride, class_stride, rows, count, tile, like)
        best, place = _tile_place(tile, first, count, best, place, like)
        nans = _nans(tile, count, nans, like)
    if classes > TILE:
        count = TILE
        fill(p, row_stride, class_stride, rows, count, tile, like)
    row, by = tile_statistics(tile, e_tile, 0, count, place, None, None, None, None, None, like)
    for first in range(TILE, classes, TILE):
        count = min(classes - first, TILE)
        fill(advance(p, first * class_stride), row_stride, class_stride, rows, count, tile, like)
        more, _ = tile_statistics(tile, e_tile, first, count, place, None, None, None, None, None, like)
        row = merge_lanes(row, more, None, None)
    top = widen(row.top)
    # the term of the maximum itself is 1, or nan for +inf, or 0 where all is −inf
    itself = widen(exp(row.top - finite(row.top)))
    total = row.rest + itself
    log_s = log_of(row.rest, total)
    for first in range(0, classes, TILE):
        count = min(classes - first, TILE)
        if classes > TILE:
            fill(advance(p, first * class_stride), row_stride, class_stride, rows, count, tile, like)
        if softmax is not None:
            if classes > TILE:
                by = tile_exponentials(tile, e_tile, count, finite(row.top), None, None, None)
            _tile_softmax(e_tile, count, narrow(by / total, like))
            out = advance(row_pointer(softmax, a, b), first * stride(softmax, 2))
            flush(e_tile, out, stride(softmax, 1), stride(softmax, 2), rows, count, call.streaming, like)
        if log_softmax is not None:
            _tile_logs(tile, e_tile, count, top, log_s, like)
            out = advance(row_pointer(log_softmax, a, b), first * stride(log_softmax, 2))
            flush(e_tile, out, stride(log_softmax, 1), stride(log_softmax, 2), rows, count, call.streaming, like)
    i = a * call.logits.shape[1] + b
    _wide_logsumexp(call.logsumexp, i, rows, top, nans, log_s)


@inline
def _wide(fields: Any, group: int, units: int, k: int) -> None:
    call = Rows(*fields)
    like = blank(pointer(call.logits))
    lanes = lanes_of(like)
    width = call.logits.shape[1]
    per_a = (width + lanes - 1) // lanes
    for g in range(k * group, min(units, (k + 1) * group)):
        a = g // per_a
        b = (g - a * per_a) * lanes
        _group(call, call.softmax, call.log_softmax, a, b, min(lanes, width - b), like)


# ------------------------------------------------------------------------------------------------ drivers
@kernel
def long(fields: Any, group: int, units: int, groups: int, loop: int) -> None:
    """Rows 0 … units, one at a time."""
    each(_long, (fields, group, units), groups, loop)


@kernel
def wide(fields: Any, group: int, units: int, groups: int, loop: int) -> None:
    """Vectors of rows 0 … units."""
    each(_wide, (fields, group, units), groups, loop)
