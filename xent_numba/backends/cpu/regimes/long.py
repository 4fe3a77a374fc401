"""Rows of many classes that lie side by side: statistics and gradient one row at a time, losses a vector of rows at a
time.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import types

from xent_numba.backends.cpu.compile.inline import by_type, inline, unless_none
from xent_numba.backends.cpu.regimes.long_gradient import (
    Job,
    Slope,
    dense_mass,
    gradient_saved,
    one_logit,
    slope_of,
    work,
    write_one,
)
from xent_numba.backends.cpu.regimes.long_stats import statistics
from xent_numba.backends.cpu.regimes.staging import release
from xent_numba.backends.cpu.row.epilogue import Row, factors, inverse_of_saved, log_sum, loss, target_term
from xent_numba.backends.cpu.row.operands import (
    at,
    dense,
    is_ignored,
    known_mass,
    label,
    put_row,
    row_pointer,
    times,
    zero_vector,
)
from xent_numba.backends.cpu.row.transform import factor, sloped
from xent_numba.backends.cpu.simd.cast import whole, widen
from xent_numba.backends.cpu.simd.exp_shifted import Shift
from xent_numba.backends.cpu.simd.load_store import advance, get, load, load_part, put, scratch, stride
from xent_numba.backends.cpu.simd.reduce import lane
from xent_numba.backends.cpu.simd.vector import lanes_of, single, splat


class Pending(NamedTuple):
    """Rows whose losses are still to be taken: pointers to a vector of each value."""

    top: Any
    rest: Any
    dot: Any
    mass: Any
    x_y: Any
    hard: Any
    scale: Any  # the sample weight


@unless_none
def hard_part(hard: Any, weight: Any, y: int) -> Any:
    """(1 − ε) w_y; None for a distribution."""
    return hard * at(weight, max(y, 0))


@unless_none
def _lanes(hard: Any, wide: Any) -> Any:
    return single(hard, wide)


# ------------------------------------------------------------------------------------------------ losses
@inline
def pending_rows(wide: Any) -> Any:
    return Pending(
        scratch(wide, 1), scratch(wide, 1), scratch(wide, 1), scratch(wide, 1),
        scratch(wide, 1), scratch(wide, 1), scratch(wide, 1),
    )  # fmt: skip


@inline
def keep_row(pending: Any, k: int, row: Any, x_y: float, hard: Any, scale: float) -> None:
    put(pending.top, k, row.top)
    put(pending.rest, k, row.rest)
    put(pending.dot, k, row.dot)
    put(pending.mass, k, row.mass)
    put(pending.x_y, k, x_y)
    put(pending.scale, k, scale)
    if hard is not None:
        put(pending.hard, k, hard)


@unless_none
def _hard_lanes(hard: Any, pending: Any, wide: Any) -> Any:
    return load(pending.hard, 0, wide)


@inline
def losses_of(pending: Any, hard: Any, s: Any, z: float, like: Any) -> Any:
    """The losses of the rows that wait, times their sample weights."""
    wide = widen(like)
    row = Row(
        load(pending.top, 0, wide), load(pending.rest, 0, wide), load(pending.dot, 0, wide), load(pending.mass, 0, wide)
    )
    x_y, hard_lanes = load(pending.x_y, 0, wide), _hard_lanes(hard, pending, wide)
    total = row.rest + target_term(row, hard_lanes, x_y, s, like)
    value = loss(row, hard_lanes, x_y, log_sum(row, hard_lanes, x_y, total), s, z)
    return times(value, load(pending.scale, 0, wide))


# ------------------------------------------------------------------------------------------------ gradients
@inline
def _target_part(t: Any, y: int) -> Any:
    """u_y, of a target that has no distribution."""
    if t is None:
        return 0.0
    return t.beta * _weight_at(t.weight, y)


@inline
def _weight_at(weight: Any, y: int) -> Any:
    if weight is None:
        return 1.0
    return get(weight, y)


@inline
def value_at_target(y: int, value: float, k: float, p: Any, t: Any, f: Any, like: Any) -> Any:
    """The gradient at the target's own class."""
    if y < 0:
        return 0.0
    x = load_part(p, y, 1, splat(0.0, like))
    return np.float64(lane(sloped(splat((value - _target_part(t, y)) * k, like), x, f), 0))


@inline
def row_factors(row: Any, hard: Any, x_y: float, s: Any, z: float, like: Any) -> Any:
    """The factors of one row; its log-sum-exp is taken only where a z-loss needs it."""
    wide = widen(like)
    r = Row(single(row.top, wide), single(row.rest, wide), single(row.dot, wide), single(row.mass, wide))
    h, x = _lanes(hard, wide), single(x_y, wide)
    e_y = target_term(r, h, x, s, like)
    total = r.rest + e_y
    lse = total
    if z != 0.0:
        lse = single(row.top * factor(s), wide) + log_sum(r, h, x, total)
    return factors(r, h, e_y, single(1.0, wide) / total, lse, z)


@by_type
def _no_job(lse: Any, grad: Any, call: Any, like: Any) -> Any:
    """Nothing to write yet; None where nothing will be, or where it needs no statistics."""
    if isinstance(lse, types.NoneType):
        return lambda lse, grad, call, like: _job_without_work(grad, call, like)
    return lambda lse, grad, call, like: None


@unless_none
def _job_without_work(grad: Any, call: Any, like: Any) -> Any:
    p = row_pointer(call.logits, 0, 0)
    t = dense(call.dense, row_pointer(call.q, 0, 0), call.dense_weight)
    progress = scratch(whole(like), 1)
    put(progress, 0, 0)
    put(progress, 1, 0)
    slope = slope_of(0.0, 0.0, 0.0, call.s, like)
    return Job(p, row_pointer(grad, 0, 0), 0, -1, 0.0, slope, t, call.streaming, scratch(like, 2), progress)


@inline
def _next_job(
    job: Any, out: Any, p: Any, n: int, y: int, row: Any, x_y: float, hard: Any, k: float, t: Any, call: Any, like: Any
) -> Any:
    """To write the gradient of a row, when that of the row before is written."""
    if job is None:
        return None
    by = row_factors(row, hard, x_y, call.s, call.z, like)
    c = row.top if row.top > -np.inf else 0.0
    value = value_at_target(y, lane(by.at_target, 0), k, p, t, call.f, like)
    put(job.progress, 0, 0)
    slope = slope_of(c, lane(by.of_p, 0) * k, k, call.s, like)
    return Job(p, out, n, y, value, slope, t, job.streaming, job.stage, job.progress)


@inline
def _finish(job: Any, call: Any, last: bool, like: Any) -> None:
    """Write what is left of a gradient; and what stays in the stage, unless the next row begins where it ends."""
    if job is not None:
        work(job, job.n, call.f, call.s, like)
        held = get(job.progress, 1)
        if held > 0 and (last or stride(call.grad, 1) != job.n):
            release(job.stage, held, advance(job.out, job.n), like)
            put(job.progress, 1, 0)


@inline
def _gradient_from_saved(
    out: Any, p: Any, n: int, y: int, saved: float, hard: Any, k: float, t: Any, call: Any, like: Any
) -> None:
    wide = widen(like)
    f, s, z = call.f, call.s, call.z
    top = np.float64(lane(splat(saved / factor(s), like), 0))
    x_y = single(one_logit(p, max(y, 0), f, like), wide)
    h, lse, zero = _lanes(hard, wide), single(saved, wide), single(0.0, wide)
    row = Row(single(top, wide), zero, zero, single(dense_mass(n, t, known_mass(call.dense), like), wide))
    e_y, inverse = target_term(row, h, x_y, s, like), inverse_of_saved(row, lse, s)
    of_p = lane(factors(row, h, e_y, inverse, lse, z).of_p, 0) * k
    x = load_part(p, max(y, 0), 1, splat(0.0, like))  # before it is overwritten, if the gradient is made in place
    slope = Slope(Shift(splat(top, like), splat(0.0, like)), of_p, k, True)
    rest = gradient_saved(p, out, n, y, slope, f, s, t, call.streaming, like)
    row = Row(row.top, single(rest, wide), zero, row.mass)
    if y >= 0:
        value = (lane(factors(row, h, e_y, inverse, lse, z).at_target, 0) - _target_part(t, y)) * k
        write_one(out, y, lane(sloped(splat(value, like), x, f), 0), like)


@inline
def _blank_row(out: Any, n: int, like: Any) -> None:
    """A gradient of 0."""
    if out is not None:
        for j in range(n):
            write_one(out, j, 0.0, like)


# ------------------------------------------------------------------------------------------------ rows
@inline
def _one_row(call: Any, labels: Any, lse: Any, i: int, k: int, pending: Any, job: Any, like: Any) -> Any:
    """Leave what the loss of row i is made of at k, and its gradient as the job; that of the row before is written."""
    width, n = call.logits.shape[1:]
    a = i // width
    b = i - a * width
    y = label(labels, i, n, call.ignored)
    out = row_pointer(call.grad, a, b)
    if is_ignored(labels, y):
        _finish(job, call, True, like)
        _blank_row(out, n, like)
        # what comes to a loss of 0
        keep_row(pending, k, Row(0.0, 0.0, 0.0, 0.0), 0.0, hard_part(call.hard, call.weight, y), 0.0)
        return job
    p = row_pointer(call.logits, a, b)
    t = dense(call.dense, row_pointer(call.q, a, b), call.dense_weight)
    hard = hard_part(call.hard, call.weight, y)
    scale = at(call.sample_weight, i)
    factor_of_row = scale * at(call.upstream, i) * call.grad_scale
    if lse is not None:
        _gradient_from_saved(out, p, n, y, lse[i], hard, factor_of_row, t, call, like)
        return job
    row = statistics(p, n, y, call.f, call.s, t, job, like)
    x_y = one_logit(p, max(y, 0), call.f, like)
    keep_row(pending, k, row, x_y, hard, scale)
    _finish(job, call, b == 0, like)
    return _next_job(job, out, p, n, y, row, x_y, hard, factor_of_row, t, call, like)


@inline
def long_rows(call: Any, start: int, stop: int, group: int, partials: Any) -> None:
    """Add the losses of rows start … stop, in their order, to the partial sums of their groups."""
    like = zero_vector(call)
    lanes = lanes_of(like)
    pending = pending_rows(widen(like))
    job = _no_job(call.lse, call.grad, call, like)
    for first in range(start, stop, lanes):
        rows = min(lanes, stop - first)
        for k in range(rows):
            job = _one_row(call, call.labels, call.lse, first + k, k, pending, job, like)
        _settle(call.lse, call, pending, first, rows, group, partials, like)
    _finish(job, call, True, like)


@inline
def _settle(saved: Any, call: Any, pending: Any, first: int, rows: int, group: int, partials: Any, like: Any) -> None:
    """Take the losses that wait; there are none where only the gradient is wanted."""
    if saved is None:
        losses = losses_of(pending, call.hard, call.s, call.z, like)
        for k in range(rows):
            one = lane(losses, k)
            put_row(call.rows, first + k, one)
            partials[(first + k) // group] += one
