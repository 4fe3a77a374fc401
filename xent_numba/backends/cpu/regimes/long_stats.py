"""Statistics of one long row whose classes lie side by side, in one pass.

The row is read in blocks of 16 vectors.  What is taken off the logits before exp is the maximum of the first block,
and stays so while no logit is more than `HEADROOM` above it; a block with such a one is done again, with its maximum,
and what was summed before is rescaled (online softmax).  So memory is read once, and nearly always each logit is; the
prefetches, a few blocks ahead, let it be read while the block before is computed.  Four sums run side by side within a
block, in the arithmetic of the logits; blocks are added up in float64.  Blocks count from the start of the row, never
from an address, and a row longer than `SEGMENT` is always merged from its segments in order, whoever computed them: the
bits of a row depend on nothing but the row.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from xent_numba.backends.cpu.compile.inline import inline
from xent_numba.backends.cpu.regimes.long_gradient import work
from xent_numba.backends.cpu.row.epilogue import Row
from xent_numba.backends.cpu.row.target import dense_term, dense_term_part, four_times, others, quarter, without_zero
from xent_numba.backends.cpu.row.transform import factor, logits, logits_part
from xent_numba.backends.cpu.simd.cast import widen
from xent_numba.backends.cpu.simd.exp_shifted import close, exp_between, exp_shifted_up, is_far, shift_of, shift_value
from xent_numba.backends.cpu.simd.load_store import ask, keep
from xent_numba.backends.cpu.simd.math import added, digits_to_spare, down
from xent_numba.backends.cpu.simd.reduce import any_lane, lane, largest, total
from xent_numba.backends.cpu.simd.vector import lanes_of, maximum, select, single, splat, unknown

BLOCK = 16  # vectors
SEGMENT = 1 << 16  # classes
HEADROOM = 8.0  # how far above the shift a float32 logit may be: 2e-9 for each power of 2 is little yet


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
def _term(p: Any, i: int, shift: Any, y: Any, f: Any, s: Any, best: Any) -> Any:
    """exp of a vector, and the larger of it and `best`."""
    ask(p, i)
    x = logits(p, i, f, best)
    return others(exp_shifted_up(x, shift, s), i, y), maximum(x, best)


@inline
def _sum(p: Any, i: int, vectors: int, shift: Any, y: Any, f: Any, s: Any, lowest: Any) -> Any:
    """Σ exp over some vectors, per lane in float64, what rounding took from it, and the maximum."""
    step = lanes_of(lowest)
    zero = splat(0.0, lowest)
    a0, a1, a2, a3 = zero, zero, zero, zero
    m0, m1, m2, m3 = lowest, lowest, lowest, lowest
    whole, lost = widen(zero), widen(zero)
    k = 0
    while k + 4 <= vectors:
        at = i + k * step
        e0, m0 = _term(p, at, shift, y, f, s, m0)
        e1, m1 = _term(p, at + step, shift, y, f, s, m1)
        e2, m2 = _term(p, at + 2 * step, shift, y, f, s, m2)
        e3, m3 = _term(p, at + 3 * step, shift, y, f, s, m3)
        a0, a1, a2, a3 = a0 + e0, a1 + e1, a2 + e2, a3 + e3
        k += 4
        if not digits_to_spare(zero):
            whole, lost = added(whole, lost, widen((a0 + a1) + (a2 + a3)))
            a0, a1, a2, a3 = zero, zero, zero, zero
    while k < vectors:
        e0, m0 = _term(p, i + k * step, shift, y, f, s, m0)
        a0 = a0 + e0
        k += 1
    whole, lost = added(whole, lost, widen((a0 + a1) + (a2 + a3)))
    return whole, lost, maximum(maximum(m0, m1), maximum(m2, m3))


@inline
def _dense_sums(p: Any, i: int, vectors: int, part: int, c: Any, f: Any, t: Any) -> Any:
    """(Σ u (c − x), Σ u) of a block, per lane in float64; the last `part` lanes are those of an unfinished vector."""
    zero = splat(0.0, c)
    dots, masses = widen(zero), widen(zero)
    if t is None:
        return dots, masses
    step = lanes_of(c)
    for first in range(0, vectors, 4):
        dot, mass = zero, zero
        for k in range(first, min(vectors, first + 4)):
            at = i + k * step
            u = dense_term(t, at, c)
            dot = dot + without_zero(u, quarter(c, logits(p, at, f, c)))
            mass = mass + u
        dots, masses = dots + four_times(dot), masses + widen(mass)
    if part > 0:
        at = i + vectors * step
        u = dense_term_part(t, at, part, c)
        dots = dots + four_times(without_zero(u, quarter(c, logits_part(p, at, part, f, c))))
        masses = masses + widen(u)
    return dots, masses


@inline
def _moved(dot: Any, mass: Any, now: Any, before: Any, t: Any) -> Any:
    """Σ u (now − x) from Σ u (before − x)."""
    if t is None:
        return dot
    return dot + mass * (widen(now) - widen(before))


@inline
def _rescale(rest: Any, old: Any, new: Any, s: Any) -> Any:
    """A sum of exp(s (x − old)) as one of exp(s (x − new)): the factor alone may be below what is normal."""
    return rest * exp_between(old, new, s) * splat(down(rest), rest)


@inline
def _rescale_one(rest: float, old: float, new: float, s: Any, like: Any) -> Any:
    wide = widen(like)
    return lane(_rescale(single(rest, wide), single(old, wide), single(new, wide), s), 0)


@inline
def segment(p: Any, start: int, stop: int, y: int, f: Any, s: Any, t: Any, behind: Any, like: Any) -> Any:
    """The `Row` of classes start … stop as float64 scalars; class y, if it is there, is left out of `rest`.

    `behind`: the gradient to be written meanwhile, or None.
    """
    step = lanes_of(like)
    zero, lowest = splat(0.0, like), splat(-math.inf, like)
    rest, lost, dot, mass = widen(zero), widen(zero), widen(zero), widen(zero)
    n = min(stop - start, BLOCK * step)
    top = _top(p, start, n // step, f, lowest)
    if n % step > 0:
        top = maximum(logits_part(p, start + n - n % step, n % step, f, lowest), top)
    c, limit = _near(top, s)
    shift = shift_of(c, s)
    far, near = is_far(shift, s), close(shift, s)
    i = start
    while i < stop:
        n = min(stop - i, BLOCK * step)
        vectors = n // step
        part = n - vectors * step
        if far or i <= y < i + n:
            block, lost_there, here = _sum(p, i, vectors, shift, y, f, s, lowest)
        else:
            block, lost_there, here = _sum(p, i, unknown(vectors), near, None, f, s, lowest)
        if part > 0:
            at = i + vectors * step
            x = logits_part(p, at, part, f, lowest)
            e = widen(others(keep(exp_shifted_up(x, shift, s), part, zero), at, y))
            block, lost_there = added(block, lost_there, e)
            here = maximum(x, here)
        if any_lane(here > limit):  # once more, with a shift of this block's own
            before, old = c, shift_value(shift)
            nothing_yet = not any_lane(limit > lowest)
            c, limit = _near(here, s)
            shift = shift_of(c, s)
            far, near = is_far(shift, s), close(shift, s)
            dot = _moved(dot, mass, c, before, t)
            if not nothing_yet:
                rest, lost = _rescale(rest, old, shift_value(shift), s), _rescale(lost, old, shift_value(shift), s)
            continue
        work(behind, BLOCK, f, s, like)
        more_dot, more_mass = _dense_sums(p, i, vectors, part, c, f, t)
        rest, lost = added(rest, lost, block)
        lost, dot, mass, top = lost + lost_there, dot + more_dot, mass + more_mass, maximum(here, top)
        i += n
    top = splat(largest(top), like)
    end = select(top > lowest, top, zero)
    dot = _moved(dot, mass, end, c, t)
    sum_there, itself = total(rest + lost), 0.0
    if y < 0 and lane(top, 0) > -math.inf:  # the term of the maximum is 1, and not what rounding made of it
        sum_there, itself = sum_there - np.float64(lane(exp_shifted_up(top, shift, s), 0)), 1.0
    sum_at_top = _rescale_one(sum_there, lane(shift_value(shift), 0), np.float64(lane(end, 0)), s, like)
    return Row(np.float64(lane(top, 0)), sum_at_top * down(like) + itself, total(dot), total(mass))


@inline
def _near(top: Any, s: Any) -> Any:
    """The largest lane, or 0 where all is −inf; and how far a logit may be above it, −inf then."""
    lowest = splat(-math.inf, top)
    c = splat(largest(top), top)
    some = c > lowest
    room = HEADROOM / factor(s) if digits_to_spare(top) else 0.0
    return select(some, c, splat(0.0, c)), select(some, c + splat(room, c), lowest)


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
def statistics(p: Any, n: int, y: int, f: Any, s: Any, t: Any, behind: Any, like: Any) -> Any:
    """The `Row` of a whole row of n classes."""
    row = Row(-math.inf, 0.0, 0.0, 0.0)
    for start in range(0, n, SEGMENT):
        part = segment(p, start, min(n, start + SEGMENT), y, f, s, t, behind, like)
        row = part if start == 0 else merge(row, part, s, like)
    return row
