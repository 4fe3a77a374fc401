"""Rows side by side, one row a lane: short rows, and rows whose classes do not lie side by side in memory.

Up to 16 float32 rows (8 float64) are brought into a tile of at most 256 classes with `tile[j·lanes + r]` = class j of
row r, transposed in registers where the classes are contiguous.  Every step then acts on all the rows at once, with
nothing to add up across lanes: the maximum, the exponentials, the loss itself.  A row of more classes is merged from
tiles.

Sums are taken over four classes in the arithmetic of the logits, and over those in float64.  A lane does the same
whatever the other lanes hold, so the bits of a row do not depend on the batch it stands in.
"""

from __future__ import annotations

import math
from typing import Any

from xent_numba.backends.cpu.compile.inline import inline
from xent_numba.backends.cpu.row.epilogue import Row
from xent_numba.backends.cpu.row.target import dense_term_lanes, four_times, others_lanes, quarter, without_zero
from xent_numba.backends.cpu.row.transform import sloped, transformed
from xent_numba.backends.cpu.simd.cast import widen
from xent_numba.backends.cpu.simd.exp_shifted import Shift, exp_between, exp_shifted_up, shift_of, to_top
from xent_numba.backends.cpu.simd.load_store import (
    load,
    prefetch,
    prefetch_far,
    store,
)
from xent_numba.backends.cpu.simd.math import added, bounded, down, exp, scaled
from xent_numba.backends.cpu.simd.vector import lanes_of, maximum, select, splat

_RUN = 4  # classes summed in the arithmetic of the logits


# ------------------------------------------------------------------------------------------------ statistics
@inline
def finite(top: Any) -> Any:
    """The shift for a maximum: itself, or 0 while all is −inf."""
    return select(top > splat(-math.inf, top), top, splat(0.0, top))


@inline
def _dense_sums(x: Any, dot: Any, mass: Any, c: Any, j: int, j_tile: int, t: Any) -> Any:
    """(dot + u (c − x), mass + u) for class j."""
    if t is None:
        return dot, mass
    u = dense_term_lanes(t, j, j_tile, x)
    return dot + without_zero(u, quarter(c, x)), mass + u


@inline
def _tile_top(tile: Any, classes: int, saved: Any, f: Any, like: Any) -> Any:
    """The maximum of every lane; where a log-sum-exp is saved, that."""
    if saved is not None:
        return saved
    lanes = lanes_of(like)
    lowest = splat(-math.inf, like)
    even, odd = lowest, lowest
    j = 0
    while j + 2 <= classes:
        even = maximum(transformed(load(tile, j * lanes, like), f), even)
        odd = maximum(transformed(load(tile, (j + 1) * lanes, like), f), odd)
        j += 2
    if j < classes:
        even = maximum(transformed(load(tile, j * lanes, like), f), even)
    return maximum(even, odd)


@inline
def shift_by(c: Any, saved: Any, s: Any) -> Any:
    """The shift next to c; c itself where it is a saved log-sum-exp."""
    if saved is None:
        return shift_of(c, s)
    return Shift(c, splat(0.0, c))


@inline
def exponentials(x: Any, shift: Any, saved: Any, s: Any) -> Any:
    """`exp_up` of s · (x − shift); or exp of it, where the shift is a saved log-sum-exp, which x may pass."""
    if saved is None:
        return exp_shifted_up(x, shift, s)
    return exp(bounded(scaled(x - shift.near, s)))


@inline
def lowered(shift: Any, c: Any, saved: Any, s: Any) -> Any:
    """What these exponentials must be times to be exp(s (x − c)), in float64."""
    if saved is not None:
        return splat(1.0, widen(c))
    by = to_top(shift, c, s)
    return by * splat(down(c), by)


@inline
def _ask(soon: Any, j: int) -> None:
    if soon is not None:
        prefetch_far(soon.p, j * soon.step + 16384)
        prefetch(soon.p, j * soon.step)


@inline
def _put(e_tile: Any, i: int, e: Any) -> None:
    if e_tile is not None:
        store(e_tile, i, e)


@inline
def _run_sums(
    tile: Any,
    e_tile: Any,
    first: int,
    run: int,
    count: int,
    c: Any,
    shift: Any,
    y: Any,
    saved: Any,
    f: Any,
    s: Any,
    t: Any,
    soon: Any,
) -> Any:
    """Σ e, Σ u (c − x) and Σ u over a few classes."""
    lanes = lanes_of(c)
    part, dot, mass = splat(0.0, c), splat(0.0, c), splat(0.0, c)
    for k in range(count):
        j = run + k
        _ask(soon, j)
        x = transformed(load(tile, j * lanes, c), f)
        e = exponentials(x, shift, saved, s)
        _put(e_tile, j * lanes, e)
        part = part + others_lanes(e, first + j, y)
        dot, mass = _dense_sums(x, dot, mass, c, first + j, j, t)
    return part, dot, mass


@inline
def tile_statistics(
    tile: Any, e_tile: Any, first: int, classes: int, y: Any, saved: Any, f: Any, s: Any, t: Any, soon: Any, like: Any
) -> Any:
    """The `Row` of every lane over the classes first … first + classes.

    Their exponentials go to `e_tile`; the other result is what these must be times.
    """
    top = _tile_top(tile, classes, saved, f, like)
    c = finite(top)
    shift = shift_by(c, saved, s)
    zero = splat(0.0, like)
    rest, lost, dot, mass = widen(zero), widen(zero), widen(zero), widen(zero)
    run = 0
    while run < classes:
        count = min(_RUN, classes - run)
        if count == _RUN:  # so that LLVM knows how many
            sums = _run_sums(tile, e_tile, first, run, _RUN, c, shift, y, saved, f, s, t, soon)
        else:
            sums = _run_sums(tile, e_tile, first, run, count, c, shift, y, saved, f, s, t, soon)
        rest, lost = added(rest, lost, widen(sums[0]))
        if t is not None:
            dot, mass = dot + four_times(sums[1]), mass + widen(sums[2])
        run += _RUN
    by = lowered(shift, c, saved, s)
    return Row(top, _with_maximum(rest + lost, top, shift, by, y, saved, s), dot, mass), by


@inline
def _with_maximum(rest: Any, top: Any, shift: Any, by: Any, y: Any, saved: Any, s: Any) -> Any:
    """The sum times `by`; where no target is left out, the term of the maximum is 1, not what rounding made of it."""
    if y is not None or saved is not None:
        return rest * by
    others = (rest - widen(exp_shifted_up(top, shift, s))) * by
    wide = widen(top)
    return select(wide > splat(-math.inf, wide), others + splat(1.0, others), rest * by)


@inline
def merge_lanes(a: Any, b: Any, saved: Any, s: Any) -> Any:
    """The `Row` of neighbouring parts of the rows."""
    if saved is not None:
        return Row(a.top, a.rest + b.rest, a.dot, a.mass + b.mass)
    top = maximum(a.top, b.top)
    c = widen(finite(top))
    lower = splat(down(c), c)
    rest = a.rest * exp_between(widen(a.top), c, s) * lower + b.rest * exp_between(widen(b.top), c, s) * lower
    dot = a.dot + a.mass * (c - widen(finite(a.top))) + b.dot + b.mass * (c - widen(finite(b.top)))
    return Row(top, rest, dot, a.mass + b.mass)


# ------------------------------------------------------------------------------------------------ gradient
@inline
def tile_exponentials(tile: Any, e_tile: Any, classes: int, c: Any, saved: Any, f: Any, s: Any) -> Any:
    """exp(s (x − c)) of a tile, for rows of several tiles; and what they must be times."""
    lanes = lanes_of(c)
    shift = shift_by(c, saved, s)
    for j in range(classes):
        x = transformed(load(tile, j * lanes, c), f)
        store(e_tile, j * lanes, exponentials(x, shift, saved, s))
    return lowered(shift, c, saved, s)


@inline
def _targeted(g: Any, y_value: Any, j: int, y: Any) -> Any:
    """`g`, with `y_value` in the lanes whose target is class j."""
    if y is None:
        return g
    return select(y == splat(j, y), y_value, g)


@inline
def heeded(g: Any, y: Any) -> Any:
    """`g`, with 0 in the lanes of ignored rows (y = −1)."""
    if y is None:
        return g
    return select(y < splat(0, y), splat(0.0, g), g)


@inline
def _less_dense(g: Any, k: Any, j: int, j_tile: int, t: Any) -> Any:
    """g − k u for class j."""
    if t is None:
        return g
    return g - k * dense_term_lanes(t, j, j_tile, g)


@inline
def tile_gradient(
    tile: Any, e_tile: Any, first: int, classes: int, y: Any, p_factor: Any, u_factor: Any, y_value: Any,
    f: Any, t: Any, like: Any,
) -> None:  # fmt: skip
    """Turn exponentials into the gradient, in place."""
    lanes = lanes_of(like)
    for j in range(classes):
        g = _targeted(load(e_tile, j * lanes, like) * p_factor, y_value, first + j, y)
        g = _less_dense(g, u_factor, first + j, j, t)
        store(e_tile, j * lanes, heeded(sloped(g, load(tile, j * lanes, like), f), y))
