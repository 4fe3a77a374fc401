"""What an option adds to a kernel, and nothing where it is off.

Kernels are written once.  Where an option may act they call one of these functions with a value that is None when the
option is off; Numba drops the branch of the other case before it compiles, so the machine code of a call has only the
instructions of its options.

The transform z = f(x) is None, `Sign` (logit_scale) or `Cap` (softcap).  The size s of a logit_scale is not applied
to x but to x − max: s·x would be rounded where x − max is exact.

The effective target is a hard part, w_y at the class y, and a dense part u_j = w_j (α q_j + β): from smoothing, and
from a distribution q.  `Dense` holds what there is of it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from numba import types

from xent_numba.backends.cpu.conversions import narrow, widen
from xent_numba.backends.cpu.memory import get, keep, load, load_part
from xent_numba.backends.cpu.pieces import by_type, inline, unless_none
from xent_numba.backends.cpu.simd import fma, iota, lanes_of, select, splat
from xent_numba.backends.cpu.vmath import exp, tanh


class Sign(NamedTuple):
    """f(x) = ±x, the sign of logit_scale; its size is a separate s."""

    sign: float


class Cap(NamedTuple):
    """f(x) = cap · tanh(scale · x / cap)."""

    scale: float
    cap: float


class Dense(NamedTuple):
    """The part u_j = w_j (α q_j + β) of the effective target, of one row or of a tile of them."""

    q: Any  # pointer to the row (or tile) of a distribution, or None
    weight: Any  # pointer to the class weights in the arithmetic of the logits, or None
    alpha: float
    beta: float


# ------------------------------------------------------------------------------------------------ z = f(x)
@by_type
def transformed(x: Any, f: Any) -> Any:
    """f(x) of each lane."""
    if is_a(f, Sign):
        return lambda x, f: x * splat(f.sign, x)
    if is_a(f, Cap):
        return lambda x, f: _capped(x, f)
    return lambda x, f: x


@by_type
def sloped(g: Any, x: Any, f: Any) -> Any:
    """g · f'(x), for the logits x as given.  A logit_scale without softcap is in the factors of g already."""
    if is_a(f, Cap):
        return lambda g, x, f: g * _cap_slope(x, f)
    return lambda g, x, f: g


def is_a(value: Any, kind: type) -> bool:
    """Whether the type of an argument is this named tuple."""
    return isinstance(value, types.NamedTuple | types.NamedUniTuple) and value.instance_class is kind


@inline
def _capped(x: Any, f: Any) -> Any:
    wide = widen(x)
    u = wide * splat(f.scale / f.cap, wide)
    return narrow(splat(f.cap, wide) * tanh(u), x)


@inline
def _cap_slope(x: Any, f: Any) -> Any:
    # scale · (1 − tanh²u), as 4E / (1 + E)² with E = exp(−2|u|): exact where tanh is nearly 1
    wide = widen(x)
    u = wide * splat(f.scale / f.cap, wide)
    u = select(u < splat(0.0, u), u, splat(0.0, u) - u)
    e = exp(u + u)
    one = splat(1.0, u) + e
    return narrow(splat(4.0 * f.scale, u) * e / (one * one), x)


@inline
def logits(p: Any, i: Any, f: Any, like: Any) -> Any:
    """f of the lanes from p[i] on."""
    return transformed(load(p, i, like), f)


@inline
def logits_part(p: Any, i: Any, count: Any, f: Any, fill: Any) -> Any:
    """f of the first `count` lanes from p[i] on; the others are those of `fill`."""
    if f is None:
        return load_part(p, i, count, fill)
    return keep(transformed(load_part(p, i, count, splat(0.0, fill)), f), count, fill)


@inline
def factor(s: Any) -> Any:
    """s, or 1 where s is None."""
    if s is None:
        return 1.0
    return s


# ------------------------------------------------------------------------------------------------ the target
@inline
def _mixed(q: Any, weight: Any, alpha: Any, beta: Any, like: Any) -> Any:
    """w (α q + β) of vectors q and w, either of which may be None."""
    if q is None:  # noqa: SIM108 - Numba drops the branch of a None only where it is a statement
        u = splat(beta, like)
    else:
        u = fma(splat(alpha, like), q, splat(beta, like))
    if weight is None:
        return u
    return weight * u


@unless_none
def _load(p: Any, i: Any, like: Any) -> Any:
    return load(p, i, like)


@unless_none
def _load_part(p: Any, i: Any, count: Any, like: Any) -> Any:
    return load_part(p, i, count, splat(0.0, like))


@unless_none
def _class_weight(p: Any, j: Any, like: Any) -> Any:
    return splat(get(p, j), like)


@inline
def dense_term(t: Any, i: Any, like: Any) -> Any:
    """u of the classes from i on, of one row."""
    return _mixed(_load(t.q, i, like), _load(t.weight, i, like), t.alpha, t.beta, like)


@inline
def dense_term_part(t: Any, i: Any, count: Any, like: Any) -> Any:
    """u of the `count` classes from i on; the other lanes are 0."""
    u = _mixed(_load_part(t.q, i, count, like), _load_part(t.weight, i, count, like), t.alpha, t.beta, like)
    return keep(u, count, splat(0.0, like))


@inline
def dense_term_lanes(t: Any, j: Any, j_tile: Any, like: Any) -> Any:
    """u of class j in every row of a tile, where it is class j_tile."""
    return _mixed(_load(t.q, j_tile * lanes_of(like), like), _class_weight(t.weight, j, like), t.alpha, t.beta, like)


@inline
def quarter(c: Any, x: Any) -> Any:
    """(c − x) / 4, which is finite where both are: for sums of distances, see `four_times`."""
    fourth = splat(0.25, c)
    return fma(x, splat(-0.25, c), c * fourth)


@inline
def four_times(total: Any) -> Any:
    """Four times that, in float64."""
    wide = widen(total)
    return wide * splat(4.0, wide)


@inline
def without_zero(u: Any, v: Any) -> Any:
    """u · v, and 0 where u is 0, whatever v."""
    zero = splat(0.0, u)
    return select(u == zero, zero, u * v)


@inline
def others(e: Any, i: Any, y: Any) -> Any:
    """`e`, the classes from i on, with 0 at class y; all of it where y is None."""
    if y is None:
        return e
    return select(iota(e) == splat(y - i, iota(e)), splat(0.0, e), e)


@inline
def others_lanes(e: Any, j: Any, y: Any) -> Any:
    """`e`, class j of many rows, with 0 in those whose target it is; all of it where y is None."""
    if y is None:
        return e
    return select(y == splat(j, y), splat(0.0, e), e)
