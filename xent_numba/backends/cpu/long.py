"""Rows of many classes that lie side by side, one at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
from xent_numba.backends.cpu.call import (
    at,
    dense,
    is_ignored,
    known_mass,
    label,
    put_row,
    row_pointer,
    times,
)
from xent_numba.backends.cpu.finish import Row, finish, finish_saved
from xent_numba.backends.cpu.gradient import Slope, dense_mass, gradient, gradient_saved, one_logit, write_one
from xent_numba.backends.cpu.memory import blank, get, load_part, pointer
from xent_numba.backends.cpu.pieces import inline, unless_none
from xent_numba.backends.cpu.simd import lane, single, splat, widen
from xent_numba.backends.cpu.statistics import statistics
from xent_numba.backends.cpu.terms import factor, sloped


@unless_none
def _hard(hard: Any, weight: Any, y: int, like: Any) -> Any:
    """(1 − ε) w_y as a vector of one lane; None for a distribution."""
    return single(hard * at(weight, max(y, 0)), like)


@inline
def _as_lanes(row: Any, wide: Any) -> Any:
    return Row(single(row.top, wide), single(row.rest, wide), single(row.dot, wide), single(row.mass, wide))


@inline
def outcome(row: Any, p: Any, y: int, hard: Any, weight: Any, f: Any, s: Any, z: Any, like: Any) -> Any:
    """The `Outcome` of one row in vectors of one lane."""
    wide = widen(like)
    x_y = single(one_logit(p, max(y, 0), f, like), wide)
    return finish(_as_lanes(row, wide), _hard(hard, weight, y, wide), x_y, s, z, like)


@inline
def _target_term(t: Any, y: int) -> Any:
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
def write_target(out: Any, y: int, y_value: float, k: float, x: Any, t: Any, f: Any, like: Any) -> None:
    """The gradient at the target's own class, whose logit is in lane 0 of x."""
    if y >= 0:
        value = splat((y_value - _target_term(t, y)) * k, like)
        write_one(out, y, lane(sloped(value, x, f), 0), like)


@inline
def _row_gradient(
    out: Any, p: Any, n: int, y: int, row: Any, o: Any, k: float, t: Any, f: Any, s: Any, streaming: bool, like: Any
) -> None:
    if out is None:
        return
    x = load_part(p, max(y, 0), 1, splat(0.0, like))  # before it is overwritten, if the gradient is made in place
    c = row.top if row.top > -np.inf else 0.0
    gradient(p, out, 0, n, Slope(c, lane(o.p_factor, 0) * k, k), f, s, t, streaming, like)
    write_target(out, y, lane(o.y_value, 0), k, x, t, f, like)


@inline
def _row_gradient_saved(
    out: Any, p: Any, n: int, y: int, saved: float, mass: float, call: Any, k: float, t: Any, like: Any
) -> None:
    wide = widen(like)
    f, s, z, hard, weight = call.f, call.s, call.z, call.hard, call.weight
    top = np.float64(lane(splat(saved / factor(s), like), 0))
    x = load_part(p, max(y, 0), 1, splat(0.0, like))
    x_y = single(one_logit(p, max(y, 0), f, like), wide)
    before = Row(single(top, wide), single(0.0, wide), single(0.0, wide), single(mass, wide))
    o = finish_saved(before, _hard(hard, weight, y, wide), x_y, single(saved, wide), s, z, like)
    rest = gradient_saved(p, out, n, y, Slope(top, lane(o.p_factor, 0) * k, k), f, s, t, call.streaming, like)
    after = Row(before.top, single(rest, wide), before.dot, before.mass)
    o = finish_saved(after, _hard(hard, weight, y, wide), x_y, single(saved, wide), s, z, like)
    write_target(out, y, lane(o.y_value, 0), k, x, t, f, like)


@inline
def blank_row(out: Any, n: int, like: Any) -> None:
    """A gradient of 0."""
    if out is not None:
        for j in range(n):
            write_one(out, j, 0.0, like)


@inline
def _one_row(call: Any, labels: Any, lse: Any, i: int, like: Any) -> Any:
    """The loss of one row, whose gradient is written."""
    width, n = call.logits.shape[1:]
    a = i // width
    b = i - a * width
    y = label(labels, i, n, call.ignored)
    out = row_pointer(call.grad, a, b)
    if is_ignored(labels, y):
        blank_row(out, n, like)
        return 0.0
    p = row_pointer(call.logits, a, b)
    t = dense(call.dense, row_pointer(call.q, a, b), call.dense_weight)
    scale = at(call.sample_weight, i)
    k = scale * at(call.upstream, i) * call.grad_scale
    if lse is not None:
        mass = dense_mass(n, t, known_mass(call.dense), like)
        _row_gradient_saved(out, p, n, y, lse[i], mass, call, k, t, like)
        return 0.0
    row = statistics(p, n, y, call.f, call.s, t, like)
    o = outcome(row, p, y, call.hard, call.weight, call.f, call.s, call.z, like)
    _row_gradient(out, p, n, y, row, o, k, t, call.f, call.s, call.streaming, like)
    return lane(times(o.loss, single(scale, widen(like))), 0)


@inline
def long_rows(call: Any, start: int, stop: int) -> float:
    """Σ loss of rows start … stop, in their order."""
    like = blank(pointer(call.logits))
    sum_of_losses = 0.0
    for i in range(start, stop):
        loss = _one_row(call, call.labels, call.lse, i, like)
        put_row(call.rows, i, loss)
        sum_of_losses += loss
    return sum_of_losses
