"""Statistics of one long row whose classes lie side by side, in one pass.

The row is read in blocks of 16 vectors.  What is taken off the logits before exp is the maximum of the first block,
and stays so while no logit is more than `HEADROOM` above it; a block with such a one is done again, with its maximum,
and what was summed before is rescaled (online softmax).  So memory is read once, and nearly always each logit is; the
prefetches, a few blocks ahead, let it be read while the block before is computed.  Four sums run side by side within a
block, in the arithmetic of the logits; blocks are added up in float64.  Blocks count from the start of the row, never
from an address, and a row longer than `SEGMENT_CLASSES` is always merged from its segments in order,
whoever computed them: the bits of a row depend on nothing but the row.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from xent_numba.backends.cpu.compile.inline import inline
from xent_numba.backends.cpu.plan import SEGMENT_CLASSES
from xent_numba.backends.cpu.regimes.long_gradient import write_pending
from xent_numba.backends.cpu.row.epilogue import RowStatistics
from xent_numba.backends.cpu.row.target import (
    dense_target,
    dense_target_n,
    exclude_target,
    product_or_zero,
    quarter_gap,
    unquarter,
)
from xent_numba.backends.cpu.row.transform import load_logits, load_logits_n, scale_or_one
from xent_numba.backends.cpu.simd.cache_control import prefetch_ahead
from xent_numba.backends.cpu.simd.cast import promote
from xent_numba.backends.cpu.simd.exp_shifted import (
    drop_residual,
    exp_scaled_difference,
    exp_shifted_scaled,
    has_residual,
    shift_of,
    shift_value,
)
from xent_numba.backends.cpu.simd.load_store import first_n_or
from xent_numba.backends.cpu.simd.math import compensated_add, has_guard_digits, unscale
from xent_numba.backends.cpu.simd.reduce import any_true, extract_lane, reduce_add, reduce_max
from xent_numba.backends.cpu.simd.vector import lanes_of, maximum, one_lane, opaque, select, splat

BLOCK = 16  # vectors
HEADROOM = 8.0  # how far above the shift a float32 logit may be: 2e-9 for each power of 2 is little yet


@inline
def _block_max(p: Any, i: int, vectors: int, f: Any, row_max: Any) -> Any:
    step = lanes_of(row_max)
    a, b, c, d = row_max, row_max, row_max, row_max
    k = 0
    while k + 4 <= vectors:
        at = i + k * step
        a = maximum(load_logits(p, at, f, row_max), a)
        b = maximum(load_logits(p, at + step, f, row_max), b)
        c = maximum(load_logits(p, at + 2 * step, f, row_max), c)
        d = maximum(load_logits(p, at + 3 * step, f, row_max), d)
        k += 4
    while k < vectors:
        a = maximum(load_logits(p, i + k * step, f, row_max), a)
        k += 1
    return maximum(maximum(a, b), maximum(c, d))


@inline
def _exp_term(p: Any, i: int, shift: Any, y: Any, f: Any, s: Any, best: Any) -> Any:
    """exp of a vector, and the larger of it and `best`."""
    prefetch_ahead(p, i)
    x = load_logits(p, i, f, best)
    return exclude_target(exp_shifted_scaled(x, shift, s), i, y), maximum(x, best)


@inline
def _block_sum(p: Any, i: int, vectors: int, shift: Any, y: Any, f: Any, s: Any, lowest: Any) -> Any:
    """Σ exp over some vectors, per lane in float64, what rounding took from it, and the maximum."""
    step = lanes_of(lowest)
    zero = splat(0.0, lowest)
    a0, a1, a2, a3 = zero, zero, zero, zero
    m0, m1, m2, m3 = lowest, lowest, lowest, lowest
    whole, lost = promote(zero), promote(zero)
    k = 0
    while k + 4 <= vectors:
        at = i + k * step
        e0, m0 = _exp_term(p, at, shift, y, f, s, m0)
        e1, m1 = _exp_term(p, at + step, shift, y, f, s, m1)
        e2, m2 = _exp_term(p, at + 2 * step, shift, y, f, s, m2)
        e3, m3 = _exp_term(p, at + 3 * step, shift, y, f, s, m3)
        a0, a1, a2, a3 = a0 + e0, a1 + e1, a2 + e2, a3 + e3
        k += 4
        if not has_guard_digits(zero):
            whole, lost = compensated_add(whole, lost, promote((a0 + a1) + (a2 + a3)))
            a0, a1, a2, a3 = zero, zero, zero, zero
    while k < vectors:
        e0, m0 = _exp_term(p, i + k * step, shift, y, f, s, m0)
        a0 = a0 + e0
        k += 1
    whole, lost = compensated_add(whole, lost, promote((a0 + a1) + (a2 + a3)))
    return whole, lost, maximum(maximum(m0, m1), maximum(m2, m3))


@inline
def _dense_sums(p: Any, i: int, vectors: int, part: int, c: Any, f: Any, t: Any) -> Any:
    """(Σ u (c − x), Σ u) of a block, per lane in float64; the last `part` lanes are those of an unfinished vector."""
    zero = splat(0.0, c)
    target_gaps, target_sums = promote(zero), promote(zero)
    if t is None:
        return target_gaps, target_sums
    step = lanes_of(c)
    for first in range(0, vectors, 4):
        target_gap, target_sum = zero, zero
        for k in range(first, min(vectors, first + 4)):
            at = i + k * step
            u = dense_target(t, at, c)
            target_gap = target_gap + product_or_zero(u, quarter_gap(c, load_logits(p, at, f, c)))
            target_sum = target_sum + u
        target_gaps, target_sums = target_gaps + unquarter(target_gap), target_sums + promote(target_sum)
    if part > 0:
        at = i + vectors * step
        u = dense_target_n(t, at, part, c)
        target_gaps = target_gaps + unquarter(product_or_zero(u, quarter_gap(c, load_logits_n(p, at, part, f, c))))
        target_sums = target_sums + promote(u)
    return target_gaps, target_sums


@inline
def _rebase_gap(target_gap: Any, target_sum: Any, now: Any, before: Any, t: Any) -> Any:
    """Σ u (now − x) from Σ u (before − x)."""
    if t is None:
        return target_gap
    return target_gap + target_sum * (promote(now) - promote(before))


@inline
def _rescale(sum_exp_others: Any, old: Any, new: Any, s: Any) -> Any:
    """A sum of exp(s (x − old)) as one of exp(s (x − new)): the factor alone may be below what is normal."""
    return sum_exp_others * exp_scaled_difference(old, new, s) * splat(unscale(sum_exp_others), sum_exp_others)


@inline
def _rescale_one(sum_exp_others: float, old: float, new: float, s: Any, vtype: Any) -> Any:
    vtype64 = promote(vtype)
    return extract_lane(
        _rescale(one_lane(sum_exp_others, vtype64), one_lane(old, vtype64), one_lane(new, vtype64), s), 0
    )


@inline
def segment(p: Any, start: int, stop: int, y: int, f: Any, s: Any, t: Any, behind: Any, vtype: Any) -> Any:
    """The `RowStatistics` of classes start … stop as float64 scalars; class y, if it is there, is left out of `rest`.

    `behind`: the gradient to be written meanwhile, or None.
    """
    step = lanes_of(vtype)
    zero, lowest = splat(0.0, vtype), splat(-math.inf, vtype)
    sum_exp_others, lost, target_gap, target_sum = promote(zero), promote(zero), promote(zero), promote(zero)
    n = min(stop - start, BLOCK * step)
    row_max = _block_max(p, start, n // step, f, lowest)
    if n % step > 0:
        row_max = maximum(load_logits_n(p, start + n - n % step, n % step, f, lowest), row_max)
    c, limit = _shift_candidate(row_max, s)
    shift = shift_of(c, s)
    has_far_shift, residual = has_residual(shift, s), drop_residual(shift, s)
    i = start
    while i < stop:
        n = min(stop - i, BLOCK * step)
        vectors = n // step
        part = n - vectors * step
        if has_far_shift or i <= y < i + n:
            block, lost_there, here = _block_sum(p, i, vectors, shift, y, f, s, lowest)
        else:
            block, lost_there, here = _block_sum(p, i, opaque(vectors), residual, None, f, s, lowest)
        if part > 0:
            at = i + vectors * step
            x = load_logits_n(p, at, part, f, lowest)
            e = promote(exclude_target(first_n_or(exp_shifted_scaled(x, shift, s), part, zero), at, y))
            block, lost_there = compensated_add(block, lost_there, e)
            here = maximum(x, here)
        if any_true(here > limit):  # once more, with a shift of this block's own
            before, old = c, shift_value(shift)
            nothing_yet = not any_true(limit > lowest)
            c, limit = _shift_candidate(here, s)
            shift = shift_of(c, s)
            has_far_shift, residual = has_residual(shift, s), drop_residual(shift, s)
            target_gap = _rebase_gap(target_gap, target_sum, c, before, t)
            if not nothing_yet:
                sum_exp_others, lost = (
                    _rescale(sum_exp_others, old, shift_value(shift), s),
                    _rescale(lost, old, shift_value(shift), s),
                )
            continue
        write_pending(behind, BLOCK, f, s, vtype)
        more_dot, more_mass = _dense_sums(p, i, vectors, part, c, f, t)
        sum_exp_others, lost = compensated_add(sum_exp_others, lost, block)
        lost, target_gap, target_sum, row_max = (
            lost + lost_there,
            target_gap + more_dot,
            target_sum + more_mass,
            maximum(here, row_max),
        )
        i += n
    row_max = splat(reduce_max(row_max), vtype)
    end = select(row_max > lowest, row_max, zero)
    target_gap = _rebase_gap(target_gap, target_sum, end, c, t)
    sum_there, itself = reduce_add(sum_exp_others + lost), 0.0
    if y < 0 and extract_lane(row_max, 0) > -math.inf:  # the term of the maximum is 1, and not what rounding made of it
        sum_there, itself = sum_there - np.float64(extract_lane(exp_shifted_scaled(row_max, shift, s), 0)), 1.0
    sum_at_top = _rescale_one(
        sum_there, extract_lane(shift_value(shift), 0), np.float64(extract_lane(end, 0)), s, vtype
    )
    return RowStatistics(
        np.float64(extract_lane(row_max, 0)),
        sum_at_top * unscale(vtype) + itself,
        reduce_add(target_gap),
        reduce_add(target_sum),
    )


@inline
def _shift_candidate(row_max: Any, s: Any) -> Any:
    """The largest lane, or 0 where all is −inf; and how far a logit may be above it, −inf then."""
    lowest = splat(-math.inf, row_max)
    c = splat(reduce_max(row_max), row_max)
    some = c > lowest
    room = HEADROOM / scale_or_one(s) if has_guard_digits(row_max) else 0.0
    return select(some, c, splat(0.0, c)), select(some, c + splat(room, c), lowest)


@inline
def merge(a: Any, b: Any, s: Any, vtype: Any) -> Any:
    """The `RowStatistics` of two neighbouring parts of a row."""
    if not b.row_max > a.row_max:  # so for -inf and -inf too
        if b.row_max == -math.inf:
            return RowStatistics(
                a.row_max, a.sum_exp_others + b.sum_exp_others, a.target_gap + b.target_gap, a.target_sum + b.target_sum
            )
        return RowStatistics(
            a.row_max,
            a.sum_exp_others + _rescale_one(b.sum_exp_others, b.row_max, a.row_max, s, vtype),
            a.target_gap + b.target_gap + b.target_sum * (a.row_max - b.row_max),
            a.target_sum + b.target_sum,
        )
    if a.row_max == -math.inf:
        # what is -inf counted its distances from 0
        return RowStatistics(
            b.row_max, a.sum_exp_others + b.sum_exp_others, a.target_gap + b.target_gap, a.target_sum + b.target_sum
        )
    return RowStatistics(
        b.row_max,
        _rescale_one(a.sum_exp_others, a.row_max, b.row_max, s, vtype) + b.sum_exp_others,
        a.target_gap + b.target_gap + a.target_sum * (b.row_max - a.row_max),
        a.target_sum + b.target_sum,
    )


@inline
def statistics(p: Any, n: int, y: int, f: Any, s: Any, t: Any, behind: Any, vtype: Any) -> Any:
    """The `RowStatistics` of a whole row of n classes."""
    row = RowStatistics(-math.inf, 0.0, 0.0, 0.0)
    for start in range(0, n, SEGMENT_CLASSES):
        part = segment(p, start, min(n, start + SEGMENT_CLASSES), y, f, s, t, behind, vtype)
        row = part if start == 0 else merge(row, part, s, vtype)
    return row
