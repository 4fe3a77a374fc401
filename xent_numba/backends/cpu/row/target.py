"""The dense part u_j = w_j (α q_j + β) of the effective target: from label smoothing, and from a distribution q.

The rest of the effective target is w_y at the class y.  What a target lacks is None, and then the machine code lacks
it too.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from xent_numba.backends.cpu.compile.inline import inline, unless_none
from xent_numba.backends.cpu.simd.cast import widen
from xent_numba.backends.cpu.simd.load_store import get, keep, load, load_part
from xent_numba.backends.cpu.simd.vector import fma, iota, lanes_of, select, splat


class Dense(NamedTuple):
    """The part u_j = w_j (α q_j + β) of the effective target, of one row or of a tile of them."""

    q: Any  # pointer to the row (or tile) of a distribution, or None
    weight: Any  # pointer to the class weights in the arithmetic of the logits, or None
    alpha: float
    beta: float


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
