"""One row of a batch along its lanes: into a tile, to its sums, and to its gradient."""

from __future__ import annotations

from typing import Any, NamedTuple

from xent_numba.backends.cpu.compile.inline import inline
from xent_numba.backends.cpu.regimes.lanes_tile import exponentials
from xent_numba.backends.cpu.regimes.long_gradient import less_dense_part, with_target
from xent_numba.backends.cpu.row.target import dense_term_part, four_times, others, quarter, without_zero
from xent_numba.backends.cpu.row.transform import logits_part, transformed
from xent_numba.backends.cpu.simd.cast import widen
from xent_numba.backends.cpu.simd.load_store import load, prefetch, prefetch_far, store
from xent_numba.backends.cpu.simd.vector import lanes_of, maximum, splat


class Ahead(NamedTuple):
    """Rows of later groups, to be asked for into L2 and into L1 while this one is summed."""

    far: Any
    near: Any


@inline
def copy(p: Any, row: Any, classes: int, f: Any, lowest: Any) -> Any:
    """row[j] = f(p[j]), and −inf where a last vector has more lanes than there are classes; the maximum per lane."""
    step = lanes_of(lowest)
    a, b = lowest, lowest
    i = 0
    while i + 2 * step <= classes:
        x0, x1 = transformed(load(p, i, lowest), f), transformed(load(p, i + step, lowest), f)
        store(row, i, x0)
        store(row, i + step, x1)
        a, b = maximum(x0, a), maximum(x1, b)
        i += 2 * step
    while i < classes:
        count = min(step, classes - i)
        x0 = logits_part(p, i, count, f, lowest)
        store(row, i, x0)
        a = maximum(x0, a)
        i += step
    return maximum(a, b)


@inline
def _put(row: Any, i: int, e: Any, wanted: Any) -> None:
    if wanted is not None:
        store(row, i, e)


@inline
def _dense_sums(x: Any, i: int, classes: int, c: Any, t: Any, dot: Any, mass: Any) -> Any:
    if t is None:
        return dot, mass
    u = dense_term_part(t, i, min(lanes_of(c), classes - i), c)
    return dot + without_zero(u, quarter(c, x)), mass + u


@inline
def _widened(dots: Any, masses: Any, dot: Any, mass: Any, t: Any) -> Any:
    """The sums with those of a few vectors more, in float64."""
    if t is None:
        return dots, masses
    return dots + four_times(dot), masses + widen(mass)


@inline
def _term(
    ahead: Any, row: Any, i: int, y: Any, shift: Any, c: Any, saved: Any, s: Any, t: Any, classes: int, wanted: Any,
    dot: Any, mass: Any,
) -> Any:  # fmt: skip
    prefetch_far(ahead.far, i)
    prefetch(ahead.near, i)
    x = load(row, i, c)
    e = exponentials(x, shift, saved, s)
    _put(row, i, e, wanted)
    dot, mass = _dense_sums(x, i, classes, c, t, dot, mass)
    return others(e, i, y), dot, mass


@inline
def sums(
    ahead: Any, row: Any, classes: int, y: Any, shift: Any, c: Any, saved: Any, s: Any, t: Any, wanted: Any
) -> Any:
    """Σ exp, Σ u (c − x) and Σ u of a row, per lane, in float64; the exponentials stay there if they are wanted."""
    step = lanes_of(c)
    zero = splat(0.0, c)
    a0, a1, a2, a3 = zero, zero, zero, zero
    dots, masses = widen(zero), widen(zero)
    i = 0
    while i + 4 * step <= classes:
        dot, mass = zero, zero
        e0, dot, mass = _term(ahead, row, i, y, shift, c, saved, s, t, classes, wanted, dot, mass)
        e1, dot, mass = _term(ahead, row, i + step, y, shift, c, saved, s, t, classes, wanted, dot, mass)
        e2, dot, mass = _term(ahead, row, i + 2 * step, y, shift, c, saved, s, t, classes, wanted, dot, mass)
        e3, dot, mass = _term(ahead, row, i + 3 * step, y, shift, c, saved, s, t, classes, wanted, dot, mass)
        a0, a1, a2, a3 = a0 + e0, a1 + e1, a2 + e2, a3 + e3
        dots, masses = _widened(dots, masses, dot, mass, t)
        i += 4 * step
    dot, mass = zero, zero
    while i < classes:
        e0, dot, mass = _term(ahead, row, i, y, shift, c, saved, s, t, classes, wanted, dot, mass)
        a0 = a0 + e0
        i += step
    dots, masses = _widened(dots, masses, dot, mass, t)
    return widen((a0 + a1) + (a2 + a3)), dots, masses


@inline
def turn(row: Any, out: Any, classes: int, y: Any, value: float, p_factor: Any, k: float, t: Any) -> None:
    """Exponentials into the gradient, `value` at class y before what is dense is taken off.

    Whole vectors are written: what is too much is where the next row will be.
    """
    step = lanes_of(p_factor)
    for i in range(0, classes, step):
        g = with_target(load(row, i, p_factor) * p_factor, i, y, value)
        store(out, i, less_dense_part(g, k, t, i, min(step, classes - i)))
