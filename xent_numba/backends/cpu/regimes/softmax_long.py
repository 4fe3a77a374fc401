"""softmax, log_softmax and logsumexp of one long row whose classes lie side by side, from its statistics.

log S of a confident row is log1p of the sum over the classes but the largest.  Where that sum is small, the row is
summed once more with the place of its maximum left out.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from xent_numba.backends.cpu.compile.inline import inline
from xent_numba.backends.cpu.regimes.long_gradient import slope_of, store_gradient, stream_gradient
from xent_numba.backends.cpu.regimes.long_stats import statistics
from xent_numba.backends.cpu.regimes.staging import release
from xent_numba.backends.cpu.row.epilogue import log_of
from xent_numba.backends.cpu.simd.cast import widen
from xent_numba.backends.cpu.simd.load_store import (
    advance,
    blank,
    load,
    load_part,
    scratch,
    store_part,
    stream,
    to_line,
)
from xent_numba.backends.cpu.simd.reduce import any_lane, lane
from xent_numba.backends.cpu.simd.vector import lanes_of, single, splat


@inline
def _place_of(p: Any, n: int, value: float) -> Any:
    """The first class with this logit, or −1."""
    like = blank(p)
    wanted, step = splat(value, like), lanes_of(like)
    for i in range(0, n, step):
        count = min(step, n - i)
        if any_lane(load_part(p, i, count, splat(math.nan, like)) == wanted):
            for k in range(count):
                if np.float64(_one(p, i + k)) == value:
                    return i + k
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
def _log_sum(p: Any, n: int, row: Any, alone: bool, like: Any) -> Any:
    """log S, with all digits of its own if it is to stand alone."""
    q = row.rest - 1.0
    if q < 0.5 and alone:
        place = _place_of(p, n, row.top)
        if place >= 0:
            q = statistics(p, n, place, None, None, None, None, like).rest
    wide = widen(like)
    return lane(log_of(single(q, wide), single(row.rest, wide)), 0)


@inline
def _write_logs(p: Any, out: Any, n: int, top: float, log_s: float, streaming: bool, like: Any) -> None:
    step = lanes_of(like)
    shift, log_sums, zero = splat(top, like), splat(log_s, like), splat(0.0, like)
    head = to_line(out, 0, like) if streaming else -1
    i = 0
    if head > 0:
        i = min(head, n)
        store_part(out, 0, i, (load_part(p, 0, i, zero) - shift) - log_sums)
    while i + step <= n and head >= 0:
        stream(out, i, (load(p, i, like) - shift) - log_sums)
        i += step
    while i < n:
        count = min(step, n - i)
        store_part(out, i, count, (load_part(p, i, count, zero) - shift) - log_sums)
        i += count


@inline
def write_softmax(rows: Any, out: Any, p: Any, n: int, row: Any, like: Any) -> None:
    if out is not None:
        c = row.top if row.top > -np.inf else 0.0
        slope = slope_of(c, 1.0 / row.rest, 0.0, None, like)
        if rows.streaming:
            stage = scratch(like, 2)
            held = stream_gradient(p, out, 0, n, -1, 0.0, slope, None, None, None, stage, 0, like)
            release(stage, held, advance(out, n), like)
        else:
            store_gradient(p, out, 0, n, -1, 0.0, slope, None, None, None, like)


@inline
def write_log_softmax(rows: Any, out: Any, p: Any, n: int, row: Any, like: Any) -> None:
    if out is not None:
        _write_logs(p, out, n, row.top, _log_sum(p, n, row, True, like), rows.streaming, like)


@inline
def write_logsumexp(out: Any, i: int, p: Any, n: int, row: Any, like: Any) -> None:
    if out is not None:
        if row.top == math.inf:
            out[i] = math.nan if _has_nan(p, n) else math.inf
        elif row.top == -math.inf:
            out[i] = row.top + row.rest  # rest is 0, or nan
        else:
            out[i] = row.top + _log_sum(p, n, row, abs(row.top) < 4.0, like)  # else the sum has no more digits
