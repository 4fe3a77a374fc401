"""One row of a batch along its lanes: into a tile, to its sums, and to its gradient."""

from __future__ import annotations

from typing import Any, NamedTuple

from xent_numba.backends.cpu.compile.inline import inline
from xent_numba.backends.cpu.regimes.lanes_tile import exp_of_tile
from xent_numba.backends.cpu.regimes.long_gradient import insert_target, subtract_dense_target_n
from xent_numba.backends.cpu.row.target import dense_target_n, exclude_target, product_or_zero, quarter_gap, unquarter
from xent_numba.backends.cpu.row.transform import apply_transform, load_logits_n
from xent_numba.backends.cpu.simd.cache_control import prefetch_l1, prefetch_l2
from xent_numba.backends.cpu.simd.cast import promote
from xent_numba.backends.cpu.simd.load_store import load, store
from xent_numba.backends.cpu.simd.vector import lanes_of, maximum, splat


class PrefetchRows(NamedTuple):
    """Rows of later groups, to be asked for into L2 and into L1 while this one is summed."""

    l2: Any
    l1: Any


@inline
def copy_row(p: Any, row: Any, classes: int, f: Any, lowest: Any) -> Any:
    """row[j] = f(p[j]), and −inf where a last vector has more lanes than there are classes; the maximum per lane."""
    step = lanes_of(lowest)
    a, b = lowest, lowest
    i = 0
    while i + 2 * step <= classes:
        x0, x1 = apply_transform(load(p, i, lowest), f), apply_transform(load(p, i + step, lowest), f)
        store(row, i, x0)
        store(row, i + step, x1)
        a, b = maximum(x0, a), maximum(x1, b)
        i += 2 * step
    while i < classes:
        count = min(step, classes - i)
        x0 = load_logits_n(p, i, count, f, lowest)
        store(row, i, x0)
        a = maximum(x0, a)
        i += step
    return maximum(a, b)


@inline
def _store_exp(row: Any, i: int, e: Any, wanted: Any) -> None:
    if wanted is not None:
        store(row, i, e)


@inline
def _dense_sums(x: Any, i: int, classes: int, c: Any, t: Any, target_gap: Any, target_sum: Any) -> Any:
    if t is None:
        return target_gap, target_sum
    u = dense_target_n(t, i, min(lanes_of(c), classes - i), c)
    return target_gap + product_or_zero(u, quarter_gap(c, x)), target_sum + u


@inline
def _promoted_sums(target_gaps: Any, target_sums: Any, target_gap: Any, target_sum: Any, t: Any) -> Any:
    """The sums with those of a few vectors more, in float64."""
    if t is None:
        return target_gaps, target_sums
    return target_gaps + unquarter(target_gap), target_sums + promote(target_sum)


@inline
def _exp_term(
    prefetch: Any, row: Any, i: int, y: Any, shift: Any, c: Any, saved: Any, s: Any, t: Any, classes: int, wanted: Any,
    target_gap: Any, target_sum: Any,
) -> Any:  # fmt: skip
    prefetch_l2(prefetch.l2, i)
    prefetch_l1(prefetch.l1, i)
    x = load(row, i, c)
    e = exp_of_tile(x, shift, saved, s)
    _store_exp(row, i, e, wanted)
    target_gap, target_sum = _dense_sums(x, i, classes, c, t, target_gap, target_sum)
    return exclude_target(e, i, y), target_gap, target_sum


@inline
def row_sums(
    prefetch: Any, row: Any, classes: int, y: Any, shift: Any, c: Any, saved: Any, s: Any, t: Any, wanted: Any
) -> Any:
    """Σ exp, Σ u (c − x) and Σ u of a row, per lane, in float64; the exponentials stay there if they are wanted."""
    step = lanes_of(c)
    zero = splat(0.0, c)
    a0, a1, a2, a3 = zero, zero, zero, zero
    target_gaps, target_sums = promote(zero), promote(zero)
    i = 0
    while i + 4 * step <= classes:
        target_gap, target_sum = zero, zero
        e0, target_gap, target_sum = _exp_term(
            prefetch, row, i, y, shift, c, saved, s, t, classes, wanted, target_gap, target_sum
        )
        e1, target_gap, target_sum = _exp_term(
            prefetch, row, i + step, y, shift, c, saved, s, t, classes, wanted, target_gap, target_sum
        )
        e2, target_gap, target_sum = _exp_term(
            prefetch, row, i + 2 * step, y, shift, c, saved, s, t, classes, wanted, target_gap, target_sum
        )
        e3, target_gap, target_sum = _exp_term(
            prefetch, row, i + 3 * step, y, shift, c, saved, s, t, classes, wanted, target_gap, target_sum
        )
        a0, a1, a2, a3 = a0 + e0, a1 + e1, a2 + e2, a3 + e3
        target_gaps, target_sums = _promoted_sums(target_gaps, target_sums, target_gap, target_sum, t)
        i += 4 * step
    target_gap, target_sum = zero, zero
    while i < classes:
        e0, target_gap, target_sum = _exp_term(
            prefetch, row, i, y, shift, c, saved, s, t, classes, wanted, target_gap, target_sum
        )
        a0 = a0 + e0
        i += step
    target_gaps, target_sums = _promoted_sums(target_gaps, target_sums, target_gap, target_sum, t)
    return promote((a0 + a1) + (a2 + a3)), target_gaps, target_sums


@inline
def to_gradient(row: Any, out: Any, classes: int, y: Any, value: float, p_factor: Any, k: float, t: Any) -> None:
    """Exponentials into the gradient, `value` at class y before what is dense is taken off.

    Whole vectors are written: what is too much is where the next row will be.
    """
    step = lanes_of(p_factor)
    for i in range(0, classes, step):
        g = insert_target(load(row, i, p_factor) * p_factor, i, y, value)
        store(out, i, subtract_dense_target_n(g, k, t, i, min(step, classes - i)))
