"""Gradient of one long row whose classes lie side by side, each element written once.

Large gradients are streamed: aligned vectors past the caches, so that memory is not read before it is written.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from xent_numba.backends.cpu.compile.inline import inline
from xent_numba.backends.cpu.row.target import dense_target, dense_target_n, exclude_target
from xent_numba.backends.cpu.row.transform import apply_transform, chain_rule, load_logits_n
from xent_numba.backends.cpu.simd.cache_control import elements_to_alignment, prefetch_ahead, stream
from xent_numba.backends.cpu.simd.cast import promote
from xent_numba.backends.cpu.simd.exp_shifted import (
    Shift,
    drop_residual,
    exp_shifted,
    has_residual,
    rescale_to_max,
    shift_of,
)
from xent_numba.backends.cpu.simd.load_store import first_n_or, load, load_n, load_scalar, store, store_n, store_scalar
from xent_numba.backends.cpu.simd.math import apply_scale, clamp_exp_arg, exp
from xent_numba.backends.cpu.simd.reduce import extract_lane, reduce_add
from xent_numba.backends.cpu.simd.vector import iota, lanes_of, one_lane, select, splat


class GradientCoefficients(NamedTuple):
    """What makes the gradient of a row of its exponentials: p_factor · exp(s (x − shift)) − u_factor · u, times f'."""

    shift: Any
    p_factor: Any
    u_factor: Any
    has_far_shift: Any  # whether the shift is


@inline
def gradient_coefficients(c: float, p_factor: float, u_factor: float, s: Any, vtype: Any) -> Any:
    """The `GradientCoefficients` for p_factor · exp(s (x − c)) − u_factor · u."""
    one = one_lane(c, vtype)
    shift = shift_of(one, s)
    by = extract_lane(rescale_to_max(shift, one, s), 0)
    vector = Shift(splat(extract_lane(shift.residual, 0), vtype), splat(extract_lane(shift.exponent, 0), vtype))
    return GradientCoefficients(vector, p_factor * by, u_factor, has_residual(vector, s))


@inline
def subtract_dense_target(g: Any, k: Any, t: Any, i: Any) -> Any:
    """g − k u for the classes from i on."""
    if t is None:
        return g
    return g - splat(k, g) * dense_target(t, i, g)


@inline
def subtract_dense_target_n(g: Any, k: Any, t: Any, i: Any, count: Any) -> Any:
    if t is None:
        return g
    return g - splat(k, g) * dense_target_n(t, i, count, g)


@inline
def _gradient(p: Any, i: int, shift: Any, a: Any, f: Any, s: Any, t: Any, vtype: Any) -> Any:
    x = load(p, i, vtype)
    e = exp_shifted(apply_transform(x, f), shift, s)
    return chain_rule(subtract_dense_target(e * splat(a.p_factor, vtype), a.u_factor, t, i), x, f)


@inline
def _gradient_n(p: Any, i: int, count: int, a: Any, f: Any, s: Any, t: Any, vtype: Any) -> Any:
    x = load_n(p, i, count, splat(0.0, vtype))
    e = exp_shifted(apply_transform(x, f), a.shift, s)
    return chain_rule(subtract_dense_target_n(e * splat(a.p_factor, vtype), a.u_factor, t, i, count), x, f)


@inline
def insert_target(g: Any, i: int, y: Any, value: float) -> Any:
    """`g` of the classes from i on, with `value` at class y, if there is one."""
    if y is None:
        return g
    return select(iota(g) == splat(y - i, iota(g)), splat(value, g), g)


@inline
def store_gradient(
    p: Any, out: Any, start: int, stop: int, y: int, value: float, a: Any, f: Any, s: Any, t: Any, vtype: Any
) -> None:
    """Write the gradient of the classes start … stop, `value` at class y; `out` may be `p`."""
    step = lanes_of(vtype)
    residual = drop_residual(a.shift, s)
    i = start
    while i + step <= stop and not a.has_far_shift:
        store(out, i, _gradient(p, i, residual, a, f, s, t, vtype))
        i += step
    while i < stop:
        count = min(step, stop - i)
        store_n(out, i, count, _gradient_n(p, i, count, a, f, s, t, vtype))
        i += count
    if start <= y < stop:
        store_element(out, y, value, vtype)


@inline
def stream_gradient(
    p: Any, out: Any, start: int, stop: int, y: int, value: float, a: Any, f: Any, s: Any, t: Any,
    staging: Any, carry: int, vtype: Any,
) -> int:  # fmt: skip
    """As `store_gradient`, past the caches; how many elements of an unfinished line are left in the stage.

    The first `held` elements of the line that out[start] is in are in the stage, left by the row before.
    """
    step = lanes_of(vtype)
    residual = drop_residual(a.shift, s)
    head = step - carry if carry > 0 else elements_to_alignment(out, start, vtype)
    if head < 0:
        store_gradient(p, out, start, stop, y, value, a, f, s, t, vtype)
        return 0
    i = start
    if head > 0:
        count = min(head, stop - start)
        g = insert_target(_gradient_n(p, i, count, a, f, s, t, vtype), i, y, value)
        i += count
        if carry > 0:
            store_n(staging, carry, count, g)
            if count < head:
                return carry + count
            stream(out, start - carry, load(staging, 0, vtype))
        else:
            store_n(out, start, count, g)
    while i + step <= stop:
        limit = y if i <= y else stop  # vectors before the one with the target, then all after it
        while i + step <= min(limit, stop) and not a.has_far_shift:
            prefetch_ahead(p, i)
            stream(out, i, _gradient(p, i, residual, a, f, s, t, vtype))
            i += step
        if i + step <= stop and (a.has_far_shift or i <= y < i + step):
            stream(out, i, insert_target(_gradient(p, i, a.shift, a, f, s, t, vtype), i, y, value))
            i += step
    if i < stop:
        g = _gradient_n(p, i, stop - i, a, f, s, t, vtype)
        store_n(staging, 0, stop - i, insert_target(g, i, y, value))
    return stop - i


class PendingGradient(NamedTuple):
    """The gradient of a row, to be written bit by bit while the next row is read: memory does both at once."""

    p: Any  # the logits
    out: Any
    n: int
    y: int
    value: float  # at class y
    slope: Any
    t: Any  # the dense part of the target
    streaming: bool
    staging: Any
    progress: Any  # pointer to how many elements are done, and how many are in the stage: its own, or the row's before


@inline
def write_pending(job: Any, vectors: int, f: Any, s: Any, vtype: Any) -> None:
    """Write some vectors more of a gradient, if there is one to write."""
    if job is not None:
        start, carry = load_scalar(job.progress, 0), load_scalar(job.progress, 1)
        if start < job.n:
            step = lanes_of(vtype)
            head = 0
            if start == 0 and job.streaming:  # the rest of a line, so that what follows begins with one
                head = step - carry if carry > 0 else max(0, elements_to_alignment(job.out, 0, vtype))
            stop = min(job.n, start + head + vectors * step)
            if job.streaming:
                carry = stream_gradient(
                    job.p, job.out, start, stop, job.y, job.value, job.slope, f, s, job.t, job.staging, carry, vtype
                )
            else:
                store_gradient(job.p, job.out, start, stop, job.y, job.value, job.slope, f, s, job.t, vtype)
            store_scalar(job.progress, 0, stop)
            store_scalar(job.progress, 1, carry)


@inline
def store_element(out: Any, i: int, value: float, vtype: Any) -> None:
    """One element, rounded once to the dtype of `out`."""
    store_n(out, i, 1, splat(value, vtype))


@inline
def load_logit(p: Any, i: int, f: Any, vtype: Any) -> Any:
    """f of one logit."""
    return np.float64(extract_lane(load_logits_n(p, i, 1, f, vtype), 0))


@inline
def gradient_from_lse(
    p: Any, out: Any, n: int, y: int, a: Any, f: Any, s: Any, t: Any, streaming: bool, vtype: Any
) -> Any:
    """As `store_gradient`, a whole row; and the Σ exp(s (x − shift)) over the others, which a saved lse lacks."""
    step = lanes_of(vtype)
    zero = splat(0.0, vtype)
    sum_exp_others = promote(zero)
    head = elements_to_alignment(out, 0, vtype) if streaming else -1
    i = 0
    while i < n:
        first = head if head > 0 and i == 0 else step
        count = min(first, n - i)
        x = load_n(p, i, count, zero)
        e = exp(clamp_exp_arg(apply_scale(apply_transform(x, f) - a.shift.residual, s)))
        sum_exp_others = sum_exp_others + promote(first_n_or(exclude_target(e, i, y), count, zero))
        g = chain_rule(subtract_dense_target_n(e * splat(a.p_factor, vtype), a.u_factor, t, i, count), x, f)
        if count == step and head >= 0:
            stream(out, i, g)
        else:
            store_n(out, i, count, g)
        i += count
    return reduce_add(sum_exp_others)


@inline
def dense_target_sum(n: int, t: Any, known: float, vtype: Any) -> Any:
    """Σ u of a row: known beforehand unless there is a distribution."""
    if t is None:
        return 0.0
    return _dense_target_sum(n, t, t.q, known, vtype)


@inline
def _dense_target_sum(n: int, t: Any, q: Any, known: float, vtype: Any) -> Any:
    if q is None:
        return known
    step = lanes_of(vtype)
    target_sum = promote(splat(0.0, vtype))
    for i in range(0, n, step):
        target_sum = target_sum + promote(dense_target_n(t, i, min(step, n - i), vtype))
    return reduce_add(target_sum)
