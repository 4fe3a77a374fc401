"""Statistics of one long row whose classes lie side by side, in one pass.

The row is read in blocks of 16 vectors, small enough to stay in L1: first their maximum, then Σ exp(x − max).  A
block with a new maximum rescales what was summed before (online softmax), so memory is read once; the prefetches, a
few blocks ahead, let it be read while the block before is computed.  Four sums run side by side within a block, in
the arithmetic of the logits; blocks are added up in float64.  Blocks count from the start of the row, never from an
address, and a row longer than `SEGMENT` is always merged from its segments in order, whoever computed them: the bits
of a row depend on nothing but the row.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from xent_numba.backends.cpu.finish import Row
from xent_numba.backends.cpu.memory import (
    keep,
    prefetch,
)
from xent_numba.backends.cpu.pieces import inline
from xent_numba.backends.cpu.simd import any_lane, lane, lanes_of, largest, maximum, select, single, splat, total, widen
from xent_numba.backends.cpu.terms import (
    dense_term,
    dense_term_part,
    logits,
    logits_part,
    others,
    without_zero,
)
from xent_numba.backends.cpu.vmath import (
    digits_to_spare,
    down,
    exp_between,
    exp_shifted,
    rounding,
    shift_of,
    shift_value,
    to_top,
)

BLOCK = 16  # vectors
SEGMENT = 1 << 16  # classes
AHEAD = 8192  # bytes between what is computed and what is asked for


@inline
def _top(p: Any, i: int, vectors: int, f: Any, top: Any) -> Any:
    step = lanes_of(top)
    a, b, c, d = top, top, top, top
    k = 0
    while k + 4 <= vectors:
        at = i + k * step
        a = maximum(logits(p, at, f, top), a)
        b = maximum(logits(p, at + step, f, top), b)
        c = maximum(logits(p, at + 2 * step, f, top), c)
        d = maximum(logits(p, at + 3 * step, f, top), d)
        k += 4
    while k < vectors:
        a = maximum(logits(p, i + k * step, f, top), a)
        k += 1
    return maximum(maximum(a, b), maximum(c, d))


@inline
def _term(p: Any, i: int, shift: Any, y: Any, f: Any, s: Any) -> Any:
    prefetch(p, i + AHEAD // 4)
    return others(exp_shifted(logits(p, i, f, shift.near), shift, s), i, y)


@inline
def _sum(p: Any, i: int, vectors: int, shift: Any, y: Any, f: Any, s: Any) -> Any:
    """Σ exp over some vectors, per lane in float64, and what rounding took from it."""
    step = lanes_of(shift.near)
    zero = splat(0.0, shift.near)
    a0, a1, a2, a3 = zero, zero, zero, zero
    whole, lost = widen(zero), widen(zero)
    k = 0
    while k + 4 <= vectors:
        at = i + k * step
        a0 = a0 + _term(p, at, shift, y, f, s)
        a1 = a1 + _term(p, at + step, shift, y, f, s)
        a2 = a2 + _term(p, at + 2 * step, shift, y, f, s)
        a3 = a3 + _term(p, at + 3 * step, shift, y, f, s)
        k += 4
        if digits_to_spare(zero) == 0:
            four = widen((a0 + a1) + (a2 + a3))
            lost = lost + rounding(whole, four)
            whole = whole + four
            a0, a1, a2, a3 = zero, zero, zero, zero
    while k < vectors:
        a0 = a0 + _term(p, i + k * step, shift, y, f, s)
        k += 1
    rest = widen((a0 + a1) + (a2 + a3))
    return whole + rest, lost + rounding(whole, rest)


@inline
def _dense_sums(p: Any, i: int, vectors: int, part: int, c: Any, f: Any, t: Any) -> Any:
    """(Σ u (c − x), Σ u) of a block, per lane in float64; the last `part` lanes are those of an unfinished vector."""
    dot, mass = splat(0.0, c), splat(0.0, c)
    if t is None:
        return widen(dot), widen(mass)
    step = lanes_of(c)
    for k in range(vectors):
        at = i + k * step
        u = dense_term(t, at, c)
        dot = dot + without_zero(u, c - logits(p, at, f, c))
        mass = mass + u
    if part > 0:
        at = i + vectors * step
        u = dense_term_part(t, at, part, c)
        dot = dot + without_zero(u, c - logits_part(p, at, part, f, c))
        mass = mass + u
    return widen(dot), widen(mass)


@inline
def _moved(dot: Any, mass: Any, now: Any, before: Any, t: Any) -> Any:
    """Σ u (now − x) from Σ u (before − x)."""
    if t is None:
        return dot
    return dot + mass * (widen(now) - widen(before))


@inline
def _rescale(rest: Any, old: Any, new: Any, s: Any) -> Any:
    """A sum of exp(s (x − old)) as one of exp(s (x − new)), old ≤ new: the factor alone may be below what is normal."""
    old = select(old > new, new, old)  # while all was −inf, and the sum 0, the shift was 0
    return rest * exp_between(old, new, s) * splat(down(rest), rest)


@inline
def _rescale_one(rest: float, old: float, new: float, s: Any, like: Any) -> Any:
    wide = widen(like)
    return lane(_rescale(single(rest, wide), single(old, wide), single(new, wide), s), 0)


@inline
def segment(p: Any, start: int, stop: int, y: int, f: Any, s: Any, t: Any, like: Any) -> Any:
    """The `Row` of classes start … stop as float64 scalars; class y, if it is there, is left out of `rest`."""
    step = lanes_of(like)
    zero, lowest = splat(0.0, like), splat(-math.inf, like)
    top = lowest  # the largest so far
    c = zero  # the same, but finite while all is −inf
    shift = shift_of(c, s)
    rest, lost, dot, mass = widen(zero), widen(zero), widen(zero), widen(zero)
    i = start
    while i < stop:
        n = min(stop - i, BLOCK * step)
        vectors = n // step
        part = n - vectors * step
        whole = n == BLOCK * step
        if whole:
            here = _top(p, i, BLOCK, f, lowest)
        else:
            here = _top(p, i, vectors, f, lowest)
            if part > 0:
                here = maximum(logits_part(p, i + vectors * step, part, f, lowest), here)
        if any_lane(here > top):
            now = splat(largest(here), like)
            next_shift = shift_of(now, s)
            old, new = shift_value(shift), shift_value(next_shift)
            rest, lost = _rescale(rest, old, new, s), _rescale(lost, old, new, s)  # while all is −inf, both are 0
            dot = _moved(dot, mass, now, c, t)
            top, c, shift = now, now, next_shift
        if whole and not i <= y < i + n:
            block, lost_there = _sum(p, i, BLOCK, shift, None, f, s)
        else:
            block, lost_there = _sum(p, i, vectors, shift, y, f, s)
            if part > 0:
                at = i + vectors * step
                e = exp_shifted(logits_part(p, at, part, f, lowest), shift, s)
                e = widen(others(keep(e, part, zero), at, y))
                lost_there = lost_there + rounding(block, e)
                block = block + e
        more_dot, more_mass = _dense_sums(p, i, vectors, part, c, f, t)
        lost = lost + (lost_there + rounding(rest, block))
        rest, dot, mass = rest + block, dot + more_dot, mass + more_mass
        i += n
    sum_at_top = total(rest + lost) * lane(to_top(shift, c, s), 0) * down(like)
    return Row(np.float64(lane(top, 0)), sum_at_top, total(dot), total(mass))


@inline
def merge(a: Any, b: Any, s: Any, like: Any) -> Any:
    """The `Row` of two neighbouring parts of a row."""
    if not b.top > a.top:  # so for -inf and -inf too
        if b.top == -math.inf:
            return Row(a.top, a.rest + b.rest, a.dot + b.dot, a.mass + b.mass)
        return Row(
            a.top,
            a.rest + _rescale_one(b.rest, b.top, a.top, s, like),
            a.dot + b.dot + b.mass * (a.top - b.top),
            a.mass + b.mass,
        )
    if a.top == -math.inf:
        # what is -inf counted its distances from 0
        return Row(b.top, a.rest + b.rest, a.dot + b.dot, a.mass + b.mass)
    return Row(
        b.top,
        _rescale_one(a.rest, a.top, b.top, s, like) + b.rest,
        a.dot + b.dot + a.mass * (b.top - a.top),
        a.mass + b.mass,
    )


@inline
def statistics(p: Any, n: int, y: int, f: Any, s: Any, t: Any, like: Any) -> Any:
    """The `Row` of a whole row of n classes."""
    row = Row(-math.inf, 0.0, 0.0, 0.0)
    for start in range(0, n, SEGMENT):
        part = segment(p, start, min(n, start + SEGMENT), y, f, s, t, like)
        row = part if start == 0 else merge(row, part, s, like)
    return row
