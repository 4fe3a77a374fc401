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
from xent_numba.backends.cpu.row.epilogue import RowStatistics
from xent_numba.backends.cpu.row.target import (
    dense_target_lanes,
    exclude_target_lanes,
    product_or_zero,
    quarter_gap,
    unquarter,
)
from xent_numba.backends.cpu.row.transform import apply_transform, chain_rule
from xent_numba.backends.cpu.simd.cache_control import prefetch_l1, prefetch_l2
from xent_numba.backends.cpu.simd.cast import promote
from xent_numba.backends.cpu.simd.exp_shifted import (
    Shift,
    exp_scaled_difference,
    exp_shifted_scaled,
    rescale_to_max,
    shift_of,
)
from xent_numba.backends.cpu.simd.load_store import load, store
from xent_numba.backends.cpu.simd.math import apply_scale, clamp_exp_arg, compensated_add, exp, unscale
from xent_numba.backends.cpu.simd.vector import lanes_of, maximum, select, splat

_RUN = 4  # classes summed in the arithmetic of the logits


# ------------------------------------------------------------------------------------------------ statistics
@inline
def finite_or_zero(row_max: Any) -> Any:
    """The shift for a maximum: itself, or 0 while all is −inf."""
    return select(row_max > splat(-math.inf, row_max), row_max, splat(0.0, row_max))


@inline
def _dense_sums(x: Any, target_gap: Any, target_sum: Any, c: Any, j: int, j_tile: int, t: Any) -> Any:
    """(dot + u (c − x), mass + u) for class j."""
    if t is None:
        return target_gap, target_sum
    u = dense_target_lanes(t, j, j_tile, x)
    return target_gap + product_or_zero(u, quarter_gap(c, x)), target_sum + u


@inline
def _tile_max(tile: Any, classes: int, saved: Any, f: Any, vtype: Any) -> Any:
    """The maximum of every lane; where a log-sum-exp is saved, that."""
    if saved is not None:
        return saved
    lanes = lanes_of(vtype)
    lowest = splat(-math.inf, vtype)
    even, odd = lowest, lowest
    j = 0
    while j + 2 <= classes:
        even = maximum(apply_transform(load(tile, j * lanes, vtype), f), even)
        odd = maximum(apply_transform(load(tile, (j + 1) * lanes, vtype), f), odd)
        j += 2
    if j < classes:
        even = maximum(apply_transform(load(tile, j * lanes, vtype), f), even)
    return maximum(even, odd)


@inline
def tile_shift(c: Any, saved: Any, s: Any) -> Any:
    """The shift next to c; c itself where it is a saved log-sum-exp."""
    if saved is None:
        return shift_of(c, s)
    return Shift(c, splat(0.0, c))


@inline
def exp_of_tile(x: Any, shift: Any, saved: Any, s: Any) -> Any:
    """`exp_scaled` of s · (x − shift); or exp of it, where the shift is a saved log-sum-exp, which x may pass."""
    if saved is None:
        return exp_shifted_scaled(x, shift, s)
    return exp(clamp_exp_arg(apply_scale(x - shift.residual, s)))


@inline
def tile_unscale(shift: Any, c: Any, saved: Any, s: Any) -> Any:
    """What these exponentials must be times to be exp(s (x − c)), in float64."""
    if saved is not None:
        return splat(1.0, promote(c))
    by = rescale_to_max(shift, c, s)
    return by * splat(unscale(c), by)


@inline
def _prefetch(soon: Any, j: int) -> None:
    if soon is not None:
        prefetch_l2(soon.p, j * soon.step + 16384)
        prefetch_l1(soon.p, j * soon.step)


@inline
def _store_exp(e_tile: Any, i: int, e: Any) -> None:
    if e_tile is not None:
        store(e_tile, i, e)


@inline
def _sum_run(
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
    part, target_gap, target_sum = splat(0.0, c), splat(0.0, c), splat(0.0, c)
    for k in range(count):
        j = run + k
        _prefetch(soon, j)
        x = apply_transform(load(tile, j * lanes, c), f)
        e = exp_of_tile(x, shift, saved, s)
        _store_exp(e_tile, j * lanes, e)
        part = part + exclude_target_lanes(e, first + j, y)
        target_gap, target_sum = _dense_sums(x, target_gap, target_sum, c, first + j, j, t)
    return part, target_gap, target_sum


@inline
def tile_statistics(
    tile: Any, e_tile: Any, first: int, classes: int, y: Any, saved: Any, f: Any, s: Any, t: Any, soon: Any, vtype: Any
) -> Any:
    """The `RowStatistics` of every lane over the classes first … first + classes.

    Their exponentials go to `e_tile`; the other result is what these must be times.
    """
    row_max = _tile_max(tile, classes, saved, f, vtype)
    c = finite_or_zero(row_max)
    shift = tile_shift(c, saved, s)
    zero = splat(0.0, vtype)
    sum_exp_others, lost, target_gap, target_sum = promote(zero), promote(zero), promote(zero), promote(zero)
    run = 0
    while run < classes:
        count = min(_RUN, classes - run)
        if count == _RUN:  # so that LLVM knows how many
            sums = _sum_run(tile, e_tile, first, run, _RUN, c, shift, y, saved, f, s, t, soon)
        else:
            sums = _sum_run(tile, e_tile, first, run, count, c, shift, y, saved, f, s, t, soon)
        sum_exp_others, lost = compensated_add(sum_exp_others, lost, promote(sums[0]))
        if t is not None:
            target_gap, target_sum = target_gap + unquarter(sums[1]), target_sum + promote(sums[2])
        run += _RUN
    by = tile_unscale(shift, c, saved, s)
    return RowStatistics(
        row_max, _with_maximum(sum_exp_others + lost, row_max, shift, by, y, saved, s), target_gap, target_sum
    ), by


@inline
def _with_maximum(sum_exp_others: Any, row_max: Any, shift: Any, by: Any, y: Any, saved: Any, s: Any) -> Any:
    """The sum times `by`; where no target is left out, the term of the maximum is 1, not what rounding made of it."""
    if y is not None or saved is not None:
        return sum_exp_others * by
    others = (sum_exp_others - promote(exp_shifted_scaled(row_max, shift, s))) * by
    vtype64 = promote(row_max)
    return select(vtype64 > splat(-math.inf, vtype64), others + splat(1.0, others), sum_exp_others * by)


@inline
def merge_lanes(a: Any, b: Any, saved: Any, s: Any) -> Any:
    """The `RowStatistics` of neighbouring parts of the rows."""
    if saved is not None:
        return RowStatistics(a.row_max, a.sum_exp_others + b.sum_exp_others, a.target_gap, a.target_sum + b.target_sum)
    row_max = maximum(a.row_max, b.row_max)
    c = promote(finite_or_zero(row_max))
    lower = splat(unscale(c), c)
    sum_exp_others = (
        a.sum_exp_others * exp_scaled_difference(promote(a.row_max), c, s) * lower
        + b.sum_exp_others * exp_scaled_difference(promote(b.row_max), c, s) * lower
    )
    target_gap = (
        a.target_gap
        + a.target_sum * (c - promote(finite_or_zero(a.row_max)))
        + b.target_gap
        + b.target_sum * (c - promote(finite_or_zero(b.row_max)))
    )
    return RowStatistics(row_max, sum_exp_others, target_gap, a.target_sum + b.target_sum)


# ------------------------------------------------------------------------------------------------ gradient
@inline
def tile_exponentials(tile: Any, e_tile: Any, classes: int, c: Any, saved: Any, f: Any, s: Any) -> Any:
    """exp(s (x − c)) of a tile, for rows of several tiles; and what they must be times."""
    lanes = lanes_of(c)
    shift = tile_shift(c, saved, s)
    for j in range(classes):
        x = apply_transform(load(tile, j * lanes, c), f)
        store(e_tile, j * lanes, exp_of_tile(x, shift, saved, s))
    return tile_unscale(shift, c, saved, s)


@inline
def _insert_target(g: Any, y_value: Any, j: int, y: Any) -> Any:
    """`g`, with `y_value` in the lanes whose target is class j."""
    if y is None:
        return g
    return select(y == splat(j, y), y_value, g)


@inline
def zero_ignored(g: Any, y: Any) -> Any:
    """`g`, with 0 in the lanes of ignored rows (y = −1)."""
    if y is None:
        return g
    return select(y < splat(0, y), splat(0.0, g), g)


@inline
def _subtract_dense_target(g: Any, k: Any, j: int, j_tile: int, t: Any) -> Any:
    """g − k u for class j."""
    if t is None:
        return g
    return g - k * dense_target_lanes(t, j, j_tile, g)


@inline
def tile_gradient(
    tile: Any, e_tile: Any, first: int, classes: int, y: Any, p_factor: Any, u_factor: Any, y_value: Any,
    f: Any, t: Any, vtype: Any,
) -> None:  # fmt: skip
    """Turn exponentials into the gradient, in place."""
    lanes = lanes_of(vtype)
    for j in range(classes):
        g = _insert_target(load(e_tile, j * lanes, vtype) * p_factor, y_value, first + j, y)
        g = _subtract_dense_target(g, u_factor, first + j, j, t)
        store(e_tile, j * lanes, zero_ignored(chain_rule(g, load(tile, j * lanes, vtype), f), y))
