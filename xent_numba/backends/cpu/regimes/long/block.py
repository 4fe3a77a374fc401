"""The maximum and the sums of one block of a long row: four run side by side in the arithmetic of the logits."""

from __future__ import annotations

from typing import Any, NamedTuple

from xent_numba.backends.cpu.compile.inline import inline
from xent_numba.backends.cpu.row.measures import add_measure_sums, add_measure_terms, no_measure_sums
from xent_numba.backends.cpu.row.target import (
    add_dense_sums,
    add_dense_term,
    dense_target,
    dense_target_n,
    exclude_target,
    no_dense_sums,
)
from xent_numba.backends.cpu.row.transform import load_logits, load_logits_n
from xent_numba.backends.cpu.simd.cache_control import prefetch_ahead
from xent_numba.backends.cpu.simd.cast import promote
from xent_numba.backends.cpu.simd.exp_shifted import exp_shifted_scaled
from xent_numba.backends.cpu.simd.math import compensated_add, has_guard_digits
from xent_numba.backends.cpu.simd.vector import lanes_of, maximum, splat


class BlockSums(NamedTuple):
    """What one pass over a block finds out, per lane."""

    sum_exp: Any  # Σ exp without the class left out, in float64
    error: Any  # its rounding error
    largest: Any  # the maximum of the logits
    measures: Any  # `MeasureSums`: of anything where no `Measures` are wanted


@inline
def max_of_block(row: Any, i: int, vectors: int, minus_inf: Any) -> Any:
    """The maximum of some vectors of logits from class i on, per lane."""
    lanes = lanes_of(minus_inf)
    a, b, c, d = minus_inf, minus_inf, minus_inf, minus_inf
    k = 0
    while k + 4 <= vectors:
        j = i + k * lanes
        a = maximum(load_logits(row.logits, j, row.transform, minus_inf), a)
        b = maximum(load_logits(row.logits, j + lanes, row.transform, minus_inf), b)
        c = maximum(load_logits(row.logits, j + 2 * lanes, row.transform, minus_inf), c)
        d = maximum(load_logits(row.logits, j + 3 * lanes, row.transform, minus_inf), d)
        k += 4
    while k < vectors:
        a = maximum(load_logits(row.logits, i + k * lanes, row.transform, minus_inf), a)
        k += 1
    return maximum(maximum(a, b), maximum(c, d))


@inline
def _exp_term(row: Any, i: int, shift: Any, y: Any, largest: Any) -> Any:
    """exp of the vector of logits from class i on, 0 at class y; the maximum of these and `largest`; and the logits."""
    prefetch_ahead(row.logits, i)
    x = load_logits(row.logits, i, row.transform, largest)
    return exclude_target(exp_shifted_scaled(x, shift, row.scale), i, y), maximum(x, largest), x


@inline
def sum_of_block(row: Any, measures: Any, i: int, vectors: int, shift: Any, y: Any, origin: Any, minus_inf: Any) -> Any:
    """The `BlockSums` of some vectors from class i on; `measures` are those of the row, and `origin` is theirs.

    Class y is left out of the sums; y is None where it is not in the block.
    """
    lanes = lanes_of(minus_inf)
    zero = splat(0.0, minus_inf)
    a0, a1, a2, a3 = zero, zero, zero, zero
    m0, m1, m2, m3 = minus_inf, minus_inf, minus_inf, minus_inf
    total, error = promote(zero), promote(zero)
    r0, r1, r2, r3, sums = (zero, zero), (zero, zero), (zero, zero), (zero, zero), no_measure_sums(promote(zero))
    k = 0
    while k + 4 <= vectors:
        j = i + k * lanes
        e0, m0, x0 = _exp_term(row, j, shift, y, m0)
        e1, m1, x1 = _exp_term(row, j + lanes, shift, y, m1)
        e2, m2, x2 = _exp_term(row, j + 2 * lanes, shift, y, m2)
        e3, m3, x3 = _exp_term(row, j + 3 * lanes, shift, y, m3)
        a0, a1, a2, a3 = a0 + e0, a1 + e1, a2 + e2, a3 + e3
        if measures is not None:
            r0 = add_measure_terms(r0, row, measures, j, e0, x0, origin)
            r1 = add_measure_terms(r1, row, measures, j + lanes, e1, x1, origin)
            r2 = add_measure_terms(r2, row, measures, j + 2 * lanes, e2, x2, origin)
            r3 = add_measure_terms(r3, row, measures, j + 3 * lanes, e3, x3, origin)
        k += 4
        if not has_guard_digits(zero):
            total, error = compensated_add(total, error, promote((a0 + a1) + (a2 + a3)))
            a0, a1, a2, a3 = zero, zero, zero, zero
            if measures is not None:
                sums = add_measure_sums(sums, _sum_of_four(r0, r1, r2, r3))
                r0, r1, r2, r3 = (zero, zero), (zero, zero), (zero, zero), (zero, zero)
    while k < vectors:
        e0, m0, x0 = _exp_term(row, i + k * lanes, shift, y, m0)
        a0 = a0 + e0
        if measures is not None:
            r0 = add_measure_terms(r0, row, measures, i + k * lanes, e0, x0, origin)
        k += 1
    total, error = compensated_add(total, error, promote((a0 + a1) + (a2 + a3)))
    if measures is not None:
        sums = add_measure_sums(sums, _sum_of_four(r0, r1, r2, r3))
    return BlockSums(total, error, maximum(maximum(m0, m1), maximum(m2, m3)), sums)


@inline
def _sum_of_four(a: Any, b: Any, c: Any, d: Any) -> Any:
    """The sum of four pairs."""
    return (a[0] + b[0]) + (c[0] + d[0]), (a[1] + b[1]) + (c[1] + d[1])


@inline
def dense_sums_of_block(row: Any, dense: Any, i: int, vectors: int, tail: int, centre: Any) -> Any:
    """The `DenseSums` of a block from class i on, per lane.

    The block has `vectors` whole vectors and `tail` more classes.
    """
    zero = splat(0.0, centre)
    sums = no_dense_sums(promote(zero))
    if dense is None:
        return sums
    lanes = lanes_of(centre)
    for first in range(0, vectors, 4):
        run = zero, zero
        for k in range(first, min(vectors, first + 4)):
            j = i + k * lanes
            u = dense_target(dense, j, centre)
            x = load_logits(row.logits, j, row.transform, centre)
            run = add_dense_term(run, u, centre, x)
        sums = add_dense_sums(sums, run, dense)
    if tail > 0:
        j = i + vectors * lanes
        u = dense_target_n(dense, j, tail, centre)
        x = load_logits_n(row.logits, j, tail, row.transform, centre)
        sums = add_dense_sums(sums, add_dense_term((zero, zero), u, centre, x), dense)
    return sums
