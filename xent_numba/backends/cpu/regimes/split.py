"""One row of very many classes, its segments in parallel: for calls with fewer rows than threads.

The segments and their order are those of `statistics`, so the bits are those of a row that one thread walks.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from xent_numba.backends.cpu.compile.inline import inline
from xent_numba.backends.cpu.compile.kernel import kernel
from xent_numba.backends.cpu.regimes.long import (
    hard_part,
    keep_row,
    losses_of,
    pending_rows,
    row_factors,
    value_at_target,
)
from xent_numba.backends.cpu.regimes.long_gradient import one_logit, slope_of, store_gradient, stream_gradient
from xent_numba.backends.cpu.regimes.long_stats import SEGMENT, merge, segment
from xent_numba.backends.cpu.regimes.staging import release
from xent_numba.backends.cpu.row.epilogue import Row
from xent_numba.backends.cpu.row.operands import at, call_of, dense, label, put_row, row_pointer, zero_vector
from xent_numba.backends.cpu.runtime.parallel_for import each
from xent_numba.backends.cpu.simd.cast import widen
from xent_numba.backends.cpu.simd.load_store import advance, scratch
from xent_numba.backends.cpu.simd.reduce import lane


class Place(NamedTuple):
    """Where row i is, and what it is."""

    a: int
    b: int
    y: int


@inline
def _place(call: Any, labels: Any, i: int) -> Any:
    width, n = call.logits.shape[1:]
    a = i // width
    return Place(a, i - a * width, label(labels, i, n, call.ignored))


@kernel
def split_statistics(fields: Any, i: int, parts: Any, loop: int) -> None:
    """Into parts[k]: top, rest, dot and mass of segment k of row i, which is not an ignored one."""
    each(_one_part, (fields, i, parts), parts.shape[0], loop)


@inline
def _one_part(fields: Any, i: int, parts: Any, k: int) -> None:
    call = call_of(fields)
    like = zero_vector(call)
    n = call.logits.shape[2]
    at_row = _place(call, call.labels, i)
    p = row_pointer(call.logits, at_row.a, at_row.b)
    t = dense(call.dense, row_pointer(call.q, at_row.a, at_row.b), call.dense_weight)
    row = segment(p, k * SEGMENT, min(n, (k + 1) * SEGMENT), at_row.y, call.f, call.s, t, None, like)
    parts[k, 0], parts[k, 1], parts[k, 2], parts[k, 3] = row.top, row.rest, row.dot, row.mass


@kernel
def split_outcome(fields: Any, i: int, parts: Any, slope: Any) -> Any:
    """The loss of row i from its parts; into `slope`: shift, factor of p, factor of u and the value at the target."""
    return _outcome(call_of(fields), i, parts, slope)


@inline
def _outcome(call: Any, i: int, parts: Any, slope: Any) -> Any:
    like = zero_vector(call)
    at_row = _place(call, call.labels, i)
    p = row_pointer(call.logits, at_row.a, at_row.b)
    t = dense(call.dense, row_pointer(call.q, at_row.a, at_row.b), call.dense_weight)
    row = Row(parts[0, 0], parts[0, 1], parts[0, 2], parts[0, 3])
    for k in range(1, parts.shape[0]):
        row = merge(row, Row(parts[k, 0], parts[k, 1], parts[k, 2], parts[k, 3]), call.s, like)
    x_y = one_logit(p, max(at_row.y, 0), call.f, like)
    hard = hard_part(call.hard, call.weight, at_row.y)
    scale = at(call.sample_weight, i)
    pending = pending_rows(widen(like))
    keep_row(pending, 0, row, x_y, hard, scale)
    loss = lane(losses_of(pending, call.hard, call.s, call.z, like), 0)
    put_row(call.rows, i, loss)
    k = scale * at(call.upstream, i) * call.grad_scale
    by = row_factors(row, hard, x_y, call.s, call.z, like)
    slope[0] = row.top if row.top > -np.inf else 0.0
    slope[1] = lane(by.of_p, 0) * k
    slope[2] = k
    slope[3] = value_at_target(at_row.y, lane(by.at_target, 0), k, p, t, call.f, like)
    return loss


@kernel
def split_gradient(fields: Any, i: int, slope: Any, segments: int, loop: int) -> None:
    """The gradient of row i, the last segments first: they are the likeliest to be in a cache still."""
    each(_one_gradient, (fields, i, slope, segments), segments, loop)


@inline
def _one_gradient(fields: Any, i: int, slope: Any, segments: int, k: int) -> None:
    k = segments - 1 - k
    call = call_of(fields)
    like = zero_vector(call)
    n = call.logits.shape[2]
    at_row = _place(call, call.labels, i)
    p, out = row_pointer(call.logits, at_row.a, at_row.b), row_pointer(call.grad, at_row.a, at_row.b)
    t = dense(call.dense, row_pointer(call.q, at_row.a, at_row.b), call.dense_weight)
    start, stop = k * SEGMENT, min(n, (k + 1) * SEGMENT)
    by = slope_of(slope[0], slope[1], slope[2], call.s, like)
    if call.streaming:
        stage = scratch(like, 2)
        held = stream_gradient(
            p, out, start, stop, at_row.y, slope[3], by, call.f, call.s, t, stage, 0, like
        )  # fmt: skip
        release(stage, held, advance(out, stop), like)
    else:
        store_gradient(p, out, start, stop, at_row.y, slope[3], by, call.f, call.s, t, like)
