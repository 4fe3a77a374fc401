"""The dense part of the effective target, u_j = w_j (α q_j + β), from label smoothing and from a distribution q.

The other part of the effective target is label_weight = (1 − ε) w_y at the class y of the label.  A row has a dense
part where there is a distribution (α = 1 − ε, β = ε / C) or label smoothing (α = 0, β = ε / C).  What a target lacks
is None, and the machine code has no instructions for it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from numba import types

from xent_numba.backends.cpu.compile.inline import inline, optional, specialize
from xent_numba.backends.cpu.simd.cast import promote
from xent_numba.backends.cpu.simd.load_store import first_n_or, gather, load, load_n, load_scalar
from xent_numba.backends.cpu.simd.math import compensated_add
from xent_numba.backends.cpu.simd.vector import fma, iota, lanes_of, select, splat


class DenseCoefficients(NamedTuple):
    """The numbers in the dense target that all rows of a call share."""

    alpha: float
    beta: float
    target_sum: float  # Σ u_j, where there is no distribution


class DenseTarget(NamedTuple):
    """The dense target of one row, or of a tile of rows."""

    q: Any  # pointer to the row (or tile) of a distribution, or None
    weight: Any  # pointer to the class weights in the arithmetic of the logits, or None
    alpha: float
    beta: float


def is_distribution_type(dense: Any) -> bool:
    """Whether the Numba type of a `DenseTarget`, or of None, has a distribution."""
    return not isinstance(dense, types.NoneType) and not isinstance(dense[dense.fields.index("q")], types.NoneType)


@inline
def _mixed(q: Any, weight: Any, alpha: Any, beta: Any, vtype: Any) -> Any:
    """w (α q + β) of vectors q and w, either of which may be None."""
    if q is None:  # noqa: SIM108 - Numba drops the branch of a None only where it is a statement
        u = splat(beta, vtype)
    else:
        u = fma(splat(alpha, vtype), q, splat(beta, vtype))
    if weight is None:
        return u
    return weight * u


@optional
def _load(p: Any, i: Any, vtype: Any) -> Any:
    """A vector from p[i] on; None for None."""
    return load(p, i, vtype)


@optional
def _load_n(p: Any, i: Any, count: Any, vtype: Any) -> Any:
    """The first `count` lanes from p[i] on, the others 0; None for None."""
    return load_n(p, i, count, splat(0.0, vtype))


@optional
def _splat_weight(p: Any, j: Any, vtype: Any) -> Any:
    """p[j] in all lanes; None for None."""
    return splat(load_scalar(p, j), vtype)


@inline
def dense_target(t: Any, i: Any, vtype: Any) -> Any:
    """u_j of one row, for the vector of classes from i on."""
    return _mixed(_load(t.q, i, vtype), _load(t.weight, i, vtype), t.alpha, t.beta, vtype)


@inline
def dense_target_n(t: Any, i: Any, count: Any, vtype: Any) -> Any:
    """u_j of one row, for the `count` classes from i on; the other lanes are 0."""
    u = _mixed(_load_n(t.q, i, count, vtype), _load_n(t.weight, i, count, vtype), t.alpha, t.beta, vtype)
    return first_n_or(u, count, splat(0.0, vtype))


@inline
def dense_target_part(t: Any, i: Any, count: Any, vtype: Any) -> Any:
    """u_j of one row, for the vector of classes from i on, or for `count` of them where that is not None."""
    if count is None:
        return dense_target(t, i, vtype)
    return dense_target_n(t, i, count, vtype)


@specialize
def smoothing_at(dense: Any, y: Any) -> Any:
    """u_y of a row with the label y, a float64; 0 for a distribution, where it is part of the label_weight."""
    if isinstance(dense, types.NoneType) or is_distribution_type(dense):
        return lambda dense, y: 0.0
    if isinstance(dense[dense.fields.index("weight")], types.NoneType):
        return lambda dense, y: dense.beta
    return lambda dense, y: dense.beta * load_scalar(dense.weight, y)


@inline
def dense_target_at(t: Any, q: Any, y: Any) -> Any:
    """u_y of the class y in each lane, in each of many rows, where q is the distribution there."""
    return _mixed(q, _gather(t.weight, y, q), t.alpha, t.beta, q)


@optional
def _gather(p: Any, index: Any, vtype: Any) -> Any:
    """p[index] for the index in each lane; None for None."""
    return gather(p, index, vtype)


@inline
def dense_target_lanes(t: Any, j: Any, j_tile: Any, vtype: Any) -> Any:
    """u_j of class j for a vector of rows, one in each lane; in the tile of q this is class `j_tile`."""
    return _mixed(
        _load(t.q, j_tile * lanes_of(vtype), vtype), _splat_weight(t.weight, j, vtype), t.alpha, t.beta, vtype
    )


@inline
def quarter_gap(c: Any, x: Any) -> Any:
    """(c − x) / 4, a term of Σ u_j (c − x_j): finite where c and x are, which c − x is not.  See `unquarter`."""
    fourth = splat(0.25, c)
    return fma(x, splat(-0.25, c), c * fourth)


@inline
def unquarter(total: Any) -> Any:
    """A sum of products with `quarter_gap`, times 4, in float64."""
    promoted = promote(total)
    return promoted * splat(4.0, promoted)


@inline
def product_or_zero(u: Any, v: Any) -> Any:
    """u · v, and 0 where u is 0, even for an infinite or NaN v."""
    zero = splat(0.0, u)
    return select(u == zero, zero, u * v)


@inline
def add_dense_term(sums: Any, u: Any, centre: Any, x: Any) -> Any:
    """(Σ u (centre − x) / 4, Σ u) with the terms of one more vector added, in the arithmetic of the logits."""
    return sums[0] + product_or_zero(u, quarter_gap(centre, x)), sums[1] + u


class DenseSums(NamedTuple):
    """(Σ u (centre − x), Σ u) in float64, and their rounding errors."""

    gap: Any
    target: Any
    gap_error: Any
    target_error: Any


@inline
def no_dense_sums(vtype64: Any) -> Any:
    """The `DenseSums` of no classes."""
    zero = splat(0.0, vtype64)
    return DenseSums(zero, zero, zero, zero)


@inline
def add_dense_sums(sums: Any, part: Any, dense: Any) -> Any:
    """The `DenseSums` with those of a few more vectors added, `part`, a pair of sums of `add_dense_term`."""
    if dense is None:
        return sums
    gap, gap_error = compensated_add(sums.gap, sums.gap_error, unquarter(part[0]))
    target, target_error = compensated_add(sums.target, sums.target_error, promote(part[1]))
    return DenseSums(gap, target, gap_error, target_error)


@inline
def insert_target(g: Any, i: Any, y: Any, value: Any) -> Any:
    """`g`, a vector for the classes from i on, with `value` at class y; unchanged where y is None."""
    if y is None:
        return g
    return select(iota(g) == splat(y - i, iota(g)), splat(value, g), g)


@inline
def insert_target_lanes(g: Any, j: Any, y: Any, values: Any) -> Any:
    """`g`, a vector for class j of many rows, with `values` where the target is j; unchanged where y is None."""
    if y is None:
        return g
    return select(y == splat(j, y), values, g)


@inline
def exclude_target(e: Any, i: Any, y: Any) -> Any:
    """`e`, a vector for the classes from i on, with 0 at class y; unchanged where y is None."""
    return insert_target(e, i, y, 0.0)


@inline
def exclude_target_lanes(e: Any, j: Any, y: Any) -> Any:
    """`e`, a vector for class j of many rows, with 0 in the rows whose target is j; unchanged where y is None."""
    return insert_target_lanes(e, j, y, splat(0.0, e))
