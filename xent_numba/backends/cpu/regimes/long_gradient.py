"""Gradient of one long row whose classes lie side by side, each element written once.

Large gradients are streamed: aligned vectors past the caches, so that memory is not read before it is written.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from xent_numba.backends.cpu.compile.inline import inline
from xent_numba.backends.cpu.row.target import dense_term, dense_term_part, others
from xent_numba.backends.cpu.row.transform import logits_part, sloped, transformed
from xent_numba.backends.cpu.simd.cast import widen
from xent_numba.backends.cpu.simd.exp_shifted import Shift, close, exp_shifted, is_far, shift_of, to_top
from xent_numba.backends.cpu.simd.load_store import (
    ask,
    get,
    keep,
    load,
    load_part,
    put,
    store,
    store_part,
    stream,
    to_line,
)
from xent_numba.backends.cpu.simd.math import bounded, exp, scaled
from xent_numba.backends.cpu.simd.reduce import lane, total
from xent_numba.backends.cpu.simd.vector import iota, lanes_of, select, single, splat


class Slope(NamedTuple):
    """What makes the gradient of a row of its exponentials: p_factor · exp(s (x − shift)) − u_factor · u, times f'."""

    shift: Any
    p_factor: Any
    u_factor: Any
    far: Any  # whether the shift is


@inline
def slope_of(c: float, p_factor: float, u_factor: float, s: Any, like: Any) -> Any:
    """The `Slope` for p_factor · exp(s (x − c)) − u_factor · u."""
    one = single(c, like)
    shift = shift_of(one, s)
    by = lane(to_top(shift, one, s), 0)
    vector = Shift(splat(lane(shift.near, 0), like), splat(lane(shift.m, 0), like))
    return Slope(vector, p_factor * by, u_factor, is_far(vector, s))


@inline
def less_dense(g: Any, k: Any, t: Any, i: Any) -> Any:
    """g − k u for the classes from i on."""
    if t is None:
        return g
    return g - splat(k, g) * dense_term(t, i, g)


@inline
def less_dense_part(g: Any, k: Any, t: Any, i: Any, count: Any) -> Any:
    if t is None:
        return g
    return g - splat(k, g) * dense_term_part(t, i, count, g)


@inline
def _slope(p: Any, i: int, shift: Any, a: Any, f: Any, s: Any, t: Any, like: Any) -> Any:
    x = load(p, i, like)
    e = exp_shifted(transformed(x, f), shift, s)
    return sloped(less_dense(e * splat(a.p_factor, like), a.u_factor, t, i), x, f)


@inline
def _slope_part(p: Any, i: int, count: int, a: Any, f: Any, s: Any, t: Any, like: Any) -> Any:
    x = load_part(p, i, count, splat(0.0, like))
    e = exp_shifted(transformed(x, f), a.shift, s)
    return sloped(less_dense_part(e * splat(a.p_factor, like), a.u_factor, t, i, count), x, f)


@inline
def with_target(g: Any, i: int, y: Any, value: float) -> Any:
    """`g` of the classes from i on, with `value` at class y, if there is one."""
    if y is None:
        return g
    return select(iota(g) == splat(y - i, iota(g)), splat(value, g), g)


@inline
def store_gradient(
    p: Any, out: Any, start: int, stop: int, y: int, value: float, a: Any, f: Any, s: Any, t: Any, like: Any
) -> None:
    """Write the gradient of the classes start … stop, `value` at class y; `out` may be `p`."""
    step = lanes_of(like)
    near = close(a.shift, s)
    i = start
    while i + step <= stop and not a.far:
        store(out, i, _slope(p, i, near, a, f, s, t, like))
        i += step
    while i < stop:
        count = min(step, stop - i)
        store_part(out, i, count, _slope_part(p, i, count, a, f, s, t, like))
        i += count
    if start <= y < stop:
        write_one(out, y, value, like)


@inline
def stream_gradient(
    p: Any, out: Any, start: int, stop: int, y: int, value: float, a: Any, f: Any, s: Any, t: Any,
    stage: Any, held: int, like: Any,
) -> int:  # fmt: skip
    """As `store_gradient`, past the caches; how many elements of an unfinished line are left in the stage.

    The first `held` elements of the line that out[start] is in are in the stage, left by the row before.
    """
    step = lanes_of(like)
    near = close(a.shift, s)
    head = step - held if held > 0 else to_line(out, start, like)
    if head < 0:
        store_gradient(p, out, start, stop, y, value, a, f, s, t, like)
        return 0
    i = start
    if head > 0:
        count = min(head, stop - start)
        g = with_target(_slope_part(p, i, count, a, f, s, t, like), i, y, value)
        i += count
        if held > 0:
            store_part(stage, held, count, g)
            if count < head:
                return held + count
            stream(out, start - held, load(stage, 0, like))
        else:
            store_part(out, start, count, g)
    while i + step <= stop:
        limit = y if i <= y else stop  # vectors before the one with the target, then all after it
        while i + step <= min(limit, stop) and not a.far:
            ask(p, i)
            stream(out, i, _slope(p, i, near, a, f, s, t, like))
            i += step
        if i + step <= stop and (a.far or i <= y < i + step):
            stream(out, i, with_target(_slope(p, i, a.shift, a, f, s, t, like), i, y, value))
            i += step
    if i < stop:
        g = _slope_part(p, i, stop - i, a, f, s, t, like)
        store_part(stage, 0, stop - i, with_target(g, i, y, value))
    return stop - i


class Job(NamedTuple):
    """The gradient of a row, to be written bit by bit while the next row is read: memory does both at once."""

    p: Any  # the logits
    out: Any
    n: int
    y: int
    value: float  # at class y
    slope: Any
    t: Any  # the dense part of the target
    streaming: bool
    stage: Any
    progress: Any  # pointer to how many elements are done, and how many are in the stage: its own, or the row's before


@inline
def work(job: Any, vectors: int, f: Any, s: Any, like: Any) -> None:
    """Write some vectors more of a gradient, if there is one to write."""
    if job is not None:
        start, held = get(job.progress, 0), get(job.progress, 1)
        if start < job.n:
            step = lanes_of(like)
            head = 0
            if start == 0 and job.streaming:  # the rest of a line, so that what follows begins with one
                head = step - held if held > 0 else max(0, to_line(job.out, 0, like))
            stop = min(job.n, start + head + vectors * step)
            if job.streaming:
                held = stream_gradient(
                    job.p, job.out, start, stop, job.y, job.value, job.slope, f, s, job.t, job.stage, held, like
                )
            else:
                store_gradient(job.p, job.out, start, stop, job.y, job.value, job.slope, f, s, job.t, like)
            put(job.progress, 0, stop)
            put(job.progress, 1, held)


@inline
def write_one(out: Any, i: int, value: float, like: Any) -> None:
    """One element, rounded once to the dtype of `out`."""
    store_part(out, i, 1, splat(value, like))


@inline
def one_logit(p: Any, i: int, f: Any, like: Any) -> Any:
    """f of one logit."""
    return np.float64(lane(logits_part(p, i, 1, f, like), 0))


@inline
def gradient_saved(p: Any, out: Any, n: int, y: int, a: Any, f: Any, s: Any, t: Any, streaming: bool, like: Any) -> Any:
    """As `store_gradient`, a whole row; and the Σ exp(s (x − shift)) over the others, which a saved lse lacks."""
    step = lanes_of(like)
    zero = splat(0.0, like)
    rest = widen(zero)
    head = to_line(out, 0, like) if streaming else -1
    i = 0
    while i < n:
        first = head if head > 0 and i == 0 else step
        count = min(first, n - i)
        x = load_part(p, i, count, zero)
        e = exp(bounded(scaled(transformed(x, f) - a.shift.near, s)))
        rest = rest + widen(keep(others(e, i, y), count, zero))
        g = sloped(less_dense_part(e * splat(a.p_factor, like), a.u_factor, t, i, count), x, f)
        if count == step and head >= 0:
            stream(out, i, g)
        else:
            store_part(out, i, count, g)
        i += count
    return total(rest)


@inline
def dense_mass(n: int, t: Any, known: float, like: Any) -> Any:
    """Σ u of a row: known beforehand unless there is a distribution."""
    if t is None:
        return 0.0
    return _dense_mass(n, t, t.q, known, like)


@inline
def _dense_mass(n: int, t: Any, q: Any, known: float, like: Any) -> Any:
    if q is None:
        return known
    step = lanes_of(like)
    mass = widen(splat(0.0, like))
    for i in range(0, n, step):
        mass = mass + widen(dense_term_part(t, i, min(step, n - i), like))
    return total(mass)
