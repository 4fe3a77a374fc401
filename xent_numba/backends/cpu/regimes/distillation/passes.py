"""The loops over the classes of a part of the rows: a segment of one row, or a tile of many.

`pair` points to the logits of both.  There are `stop` of them, in vectors that follow one another: in a tile a vector
holds one class of each row, and `stop` is a multiple of the lanes.  Sums run over four vectors in the arithmetic of the
logits, and over these in float64.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from numba import types

from xent_numba.backends.cpu.compile.inline import inline, specialize
from xent_numba.backends.cpu.regimes.distillation.terms import add_terms, careful_term, near_terms
from xent_numba.backends.cpu.simd.cache_control import L2_PREFETCH_DISTANCE, prefetch_l2
from xent_numba.backends.cpu.simd.cast import promote
from xent_numba.backends.cpu.simd.exp_shifted import exp_shifted_scaled
from xent_numba.backends.cpu.simd.load_store import first_n_or, load, load_n, store, store_if_wanted
from xent_numba.backends.cpu.simd.math import compensated_add, with_error
from xent_numba.backends.cpu.simd.vector import lanes_of, maximum, splat

_RUN = 4  # vectors whose terms are added in the arithmetic of the logits
_SUM_RUN = 8


class Pair(NamedTuple):
    """Pointers to the logits of the same classes."""

    t: Any
    s: Any


class Ahead(NamedTuple):
    """What to prefetch while a pair is summed: a `PrefetchCursor` for each of the two."""

    t: Any
    s: Any


class Total(NamedTuple):
    """A sum in float64, and its rounding error."""

    sum: Any
    error: Any


@inline
def no_total(vtype: Any) -> Any:
    """The `Total` of no classes."""
    zero = promote(splat(0.0, vtype))
    return Total(zero, zero)


@inline
def _add(total: Any, run: Any) -> Any:
    """The `Total` with a sum over a few vectors added."""
    found, error = compensated_add(total.sum, total.error, promote(run))
    return Total(found, error)


@inline
def total_of(total: Any) -> Any:
    """The sum of a `Total`, with its error added."""
    return with_error(total.sum, total.error)


@inline
def _load_rest(pair: Any, i: int, stop: int, vtype: Any) -> Any:
    """The last logits from i on, fewer than four vectors: one vector, with −inf where there are none."""
    lanes, minus_inf = lanes_of(vtype), splat(-math.inf, vtype)
    count = min(lanes, stop - i)
    return load_n(pair.t, i, count, minus_inf), load_n(pair.s, i, count, minus_inf)


@inline
def _prefetch(ahead: Any, i: int, vtype: Any) -> None:
    """Prefetch what is read later, while the vector at i is computed."""
    k = i // lanes_of(vtype)
    prefetch_l2(ahead.t.p, k * ahead.t.step + L2_PREFETCH_DISTANCE)
    prefetch_l2(ahead.s.p, k * ahead.s.step + L2_PREFETCH_DISTANCE)


@inline
def find_maxima(pair: Any, stop: int, vtype: Any) -> Any:
    """The maxima of t and of s, per lane; NaN is passed over."""
    lanes, minus_inf = lanes_of(vtype), splat(-math.inf, vtype)
    t0, t1, s0, s1 = minus_inf, minus_inf, minus_inf, minus_inf
    i = 0
    while i + 2 * lanes <= stop:
        t0, t1 = maximum(load(pair.t, i, vtype), t0), maximum(load(pair.t, i + lanes, vtype), t1)
        s0, s1 = maximum(load(pair.s, i, vtype), s0), maximum(load(pair.s, i + lanes, vtype), s1)
        i += 2 * lanes
    if i + lanes <= stop:
        t0, s0 = maximum(load(pair.t, i, vtype), t0), maximum(load(pair.s, i, vtype), s0)
        i += lanes
    if i < stop:
        t, s = _load_rest(pair, i, stop, vtype)
        t0, s0 = maximum(t, t0), maximum(s, s0)
    return maximum(t0, t1), maximum(s0, s1)


@inline
def _add_three(totals: Any, run: Any) -> Any:
    """Three `Total` with three sums over a few vectors added."""
    return _add(totals[0], run[0]), _add(totals[1], run[1]), _add(totals[2], run[2])


@inline
def no_totals(vtype: Any) -> Any:
    """Three `Total` of no classes."""
    return no_total(vtype), no_total(vtype), no_total(vtype)


@inline
def _add_vector(
    run: Any, pair: Any, kept: Any, i: int, count: Any, centres: Any, shifts: Any, scale: Any, ahead: Any
) -> Any:
    """The three sums of `add_terms` with the vector of classes from i on, or only `count` of them, if that is not None.

    Their exponentials are kept in `kept`.
    """
    vtype = run[0]
    _prefetch(ahead, i, vtype)
    t, s = _load_pair(pair, i, count, vtype)
    found, e_t, e_s = add_terms(run, t, s, centres.t, centres.s, shifts, scale)
    store(kept.t, i, e_t)
    store(kept.s, i, e_s)
    if count is None:
        return found
    return found[0], found[1], first_n_or(found[2], count, run[2])  # −inf − (−inf) in the other lanes is NaN


@specialize
def _load_pair(pair: Any, i: int, count: Any, vtype: Any) -> Any:
    """A vector of logits of both; −inf in the lanes from `count` on, if that is not None."""
    if isinstance(count, types.NoneType):
        return lambda pair, i, count, vtype: (load(pair.t, i, vtype), load(pair.s, i, vtype))

    def first(pair: Any, i: int, count: int, vtype: Any) -> Any:
        minus_inf = splat(-math.inf, vtype)
        return load_n(pair.t, i, count, minus_inf), load_n(pair.s, i, count, minus_inf)

    return first


@inline
def add_block_sums(
    totals: Any, pair: Any, kept: Any, stop: int, centres: Any, shifts: Any, scale: Any, ahead: Any, vtype: Any
) -> Any:
    """Three `Total` with the sums of `add_terms` added, per lane.  The exponentials are kept in `kept`."""
    lanes, zero = lanes_of(vtype), splat(0.0, vtype)
    i = 0
    while i + _SUM_RUN * lanes <= stop:
        run = zero, zero, zero
        for k in range(_SUM_RUN):
            run = _add_vector(run, pair, kept, i + k * lanes, None, centres, shifts, scale, ahead)
        totals = _add_three(totals, run)
        i += _SUM_RUN * lanes
    if i < stop:
        run = zero, zero, zero
        while i + lanes <= stop:
            run = _add_vector(run, pair, kept, i, None, centres, shifts, scale, ahead)
            i += lanes
        if i < stop:
            run = _add_vector(run, pair, kept, i, stop - i, centres, shifts, scale, ahead)
        totals = _add_three(totals, run)
    return totals


@inline
def sum_terms(pair: Any, kept: Any, stop: int, centres: Any, shifts: Any, scale: Any, ahead: Any, vtype: Any) -> Any:
    """The three sums of `add_terms`, per lane.  The exponentials are kept in `kept`."""
    totals = add_block_sums(no_totals(vtype), pair, kept, stop, centres, shifts, scale, ahead, vtype)
    return total_of(totals[0]), total_of(totals[1]), total_of(totals[2])


@inline
def careful_sum(total: Any, pair: Any, stop: int, shifts: Any, scale: Any, vtype: Any) -> Any:
    """The `Total` with those of `careful_term` added, per lane."""
    i = 0
    while i < stop:
        t, s = _load_rest(pair, i, stop, vtype)
        total = _add(total, careful_term(t, s, shifts, scale))
        i += lanes_of(vtype)
    return total


# ------------------------------------------------------------------------------------------------ third pass
@inline
def exponentials(p: Any, kept: Any, stop: int, shift: Any, scale: Any, vtype: Any) -> None:
    """The exponentials of logits from p on, again, where those of several parts were not kept."""
    lanes, minus_inf = lanes_of(vtype), splat(-math.inf, vtype)
    i = 0
    while i + lanes <= stop:
        store(kept, i, exp_shifted_scaled(load(p, i, vtype), shift, scale))
        i += lanes
    if i < stop:
        store(kept, i, exp_shifted_scaled(load_n(p, i, stop - i, minus_inf), shift, scale))


@inline
def near_pass(total: Any, pair: Any, kept: Any, out: Any, stop: int, near: Any, scale: Any, vtype: Any) -> Any:
    """The `Total` with the sums of `near_terms` added, per lane; the gradient goes to `out`, if that is not None.

    `kept` has the exponentials of the teacher.  The memory of `out` extends to the end of its last vector.
    """
    lanes, zero = lanes_of(vtype), splat(0.0, vtype)
    i = 0
    while i + _RUN * lanes <= stop:
        run = zero
        for k in range(_RUN):
            j = i + k * lanes
            t, s = load(pair.t, j, vtype), load(pair.s, j, vtype)
            run, g = near_terms(run, t, s, load(kept.t, j, vtype), near, scale)
            store_if_wanted(out, j, g)
        total = _add(total, run)
        i += _RUN * lanes
    while i < stop:
        t, s = _load_rest(pair, i, stop, vtype)
        run, g = near_terms(zero, t, s, load(kept.t, i, vtype), near, scale)
        store_if_wanted(out, i, g)
        total = _add(total, run)
        i += lanes
    return total


@inline
def far_pass(kept: Any, out: Any, stop: int, p_factor: Any, q_factor: Any, vtype: Any) -> None:
    """The gradient of rows far apart, from their exponentials; `out` extends to the end of its last vector."""
    for i in range(0, stop, lanes_of(vtype)):
        store(out, i, load(kept.s, i, vtype) * q_factor - load(kept.t, i, vtype) * p_factor)
