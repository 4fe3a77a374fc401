"""softmax, log_softmax and logsumexp of one long row whose classes lie side by side, from its statistics.

log S of a confident row is log1p of the sum over the classes but the largest.  Where that sum is small, the row is
summed once more with the place of its maximum left out.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from xent_numba.backends.cpu.compile.inline import inline
from xent_numba.backends.cpu.regimes.long_gradient import gradient_coefficients, store_gradient, stream_gradient
from xent_numba.backends.cpu.regimes.long_stats import statistics
from xent_numba.backends.cpu.regimes.staging import flush_tail
from xent_numba.backends.cpu.row.epilogue import log_of_sum
from xent_numba.backends.cpu.simd.cache_control import elements_to_alignment, stream
from xent_numba.backends.cpu.simd.cast import promote
from xent_numba.backends.cpu.simd.load_store import advance, load, load_n, stack_buffer, store_n
from xent_numba.backends.cpu.simd.reduce import any_true, extract_lane
from xent_numba.backends.cpu.simd.vector import lanes_of, one_lane, splat, zero_vector


@inline
def _place_of(p: Any, n: int, value: float) -> Any:
    """The first class with this logit, or −1."""
    vtype = zero_vector(p)
    wanted, step = splat(value, vtype), lanes_of(vtype)
    for i in range(0, n, step):
        count = min(step, n - i)
        if any_true(load_n(p, i, count, splat(math.nan, vtype)) == wanted):
            for k in range(count):
                if np.float64(_one(p, i + k)) == value:
                    return i + k
    return -1


@inline
def _one(p: Any, i: int) -> Any:
    return extract_lane(load_n(p, i, 1, zero_vector(p)), 0)


@inline
def _has_nan(p: Any, n: int) -> bool:
    for i in range(n):
        x = _one(p, i)
        if x != x:
            return True
    return False


@inline
def _log_sum(p: Any, n: int, row: Any, alone: bool, vtype: Any) -> Any:
    """log S, with all digits of its own if it is to stand alone."""
    q = row.sum_exp_others - 1.0
    if q < 0.5 and alone:
        place = _place_of(p, n, row.row_max)
        if place >= 0:
            q = statistics(p, n, place, None, None, None, None, vtype).sum_exp_others
    vtype64 = promote(vtype)
    return extract_lane(log_of_sum(one_lane(q, vtype64), one_lane(row.sum_exp_others, vtype64)), 0)


@inline
def _write_logs(p: Any, out: Any, n: int, row_max: float, log_s: float, streaming: bool, vtype: Any) -> None:
    step = lanes_of(vtype)
    shift, log_sums, zero = splat(row_max, vtype), splat(log_s, vtype), splat(0.0, vtype)
    head = elements_to_alignment(out, 0, vtype) if streaming else -1
    i = 0
    if head > 0:
        i = min(head, n)
        store_n(out, 0, i, (load_n(p, 0, i, zero) - shift) - log_sums)
    while i + step <= n and head >= 0:
        stream(out, i, (load(p, i, vtype) - shift) - log_sums)
        i += step
    while i < n:
        count = min(step, n - i)
        store_n(out, i, count, (load_n(p, i, count, zero) - shift) - log_sums)
        i += count


@inline
def write_softmax(rows: Any, out: Any, p: Any, n: int, row: Any, vtype: Any) -> None:
    if out is not None:
        c = row.row_max if row.row_max > -np.inf else 0.0
        slope = gradient_coefficients(c, 1.0 / row.sum_exp_others, 0.0, None, vtype)
        if rows.streaming:
            staging = stack_buffer(vtype, 2)
            carry = stream_gradient(p, out, 0, n, -1, 0.0, slope, None, None, None, staging, 0, vtype)
            flush_tail(staging, carry, advance(out, n), vtype)
        else:
            store_gradient(p, out, 0, n, -1, 0.0, slope, None, None, None, vtype)


@inline
def write_log_softmax(rows: Any, out: Any, p: Any, n: int, row: Any, vtype: Any) -> None:
    if out is not None:
        _write_logs(p, out, n, row.row_max, _log_sum(p, n, row, True, vtype), rows.streaming, vtype)


@inline
def write_logsumexp(out: Any, i: int, p: Any, n: int, row: Any, vtype: Any) -> None:
    if out is not None:
        if row.row_max == math.inf:
            out[i] = math.nan if _has_nan(p, n) else math.inf
        elif row.row_max == -math.inf:
            out[i] = row.row_max + row.sum_exp_others  # rest is 0, or nan
        else:
            out[i] = row.row_max + _log_sum(p, n, row, abs(row.row_max) < 4.0, vtype)  # else the sum has no more digits
