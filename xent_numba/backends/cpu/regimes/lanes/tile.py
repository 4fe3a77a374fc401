"""The arithmetic of a tile: a vector of rows, one row in each lane.

A tile holds up to TILE_CLASSES classes of 16 rows (8 in float64), transposed: tile[j · lanes + r] is class j of row r.
Every step acts on all the rows at once, and nothing has to be summed across lanes: neither the maximum nor the
exponentials nor the loss itself.  The statistics of rows with more classes are merged from those of several tiles.

Sums are taken over runs of four classes in the arithmetic of the logits, and over the runs in float64.  A lane computes
the same whatever the other lanes hold, so the bits of a row do not depend on the rows beside it.

NaN and −inf: a maximum passes over NaN, and is −inf where no logit is larger; 0 is then subtracted instead, because
−inf − (−inf) would be NaN.  A logit of NaN or +inf makes the sum of its row NaN.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from numba import types

from xent_numba.backends.cpu.compile.inline import inline, optional, specialize
from xent_numba.backends.cpu.regimes.lanes.measures import add_class, add_run, tile_measured, tile_origin
from xent_numba.backends.cpu.row.epilogue import RowStatistics, Top, centre_of
from xent_numba.backends.cpu.row.measures import no_measure_sums
from xent_numba.backends.cpu.row.target import (
    add_dense_sums,
    add_dense_term,
    dense_target_lanes,
    exclude_target_lanes,
    no_dense_sums,
)
from xent_numba.backends.cpu.row.transform import apply_transform
from xent_numba.backends.cpu.simd.cache_control import L2_PREFETCH_DISTANCE, prefetch_l1, prefetch_l2
from xent_numba.backends.cpu.simd.cast import promote
from xent_numba.backends.cpu.simd.exp_shifted import (
    Shift,
    exp_scaled_clamped_difference,
    exp_shifted_scaled,
    rescale_to_max,
    shift_of,
)
from xent_numba.backends.cpu.simd.load_store import load, store, store_if_wanted
from xent_numba.backends.cpu.simd.math import compensated_add, unscale, with_error
from xent_numba.backends.cpu.simd.vector import iota, lanes_of, maximum, select, splat

_RUN = 4  # classes summed in the arithmetic of the logits


class Tile(NamedTuple):
    """Some classes of a vector of rows: pointers to buffers of TILE_CLASSES vectors, one for each class."""

    logits: Any  # as given, before the transform
    exp: Any  # their exponentials, which the result replaces; None where only a loss is wanted
    distribution: Any  # the probabilities of a dense target, or None
    first: int  # class of the rows that is class 0 of the tile
    classes: int


class TileInput(NamedTuple):
    """What the losses of a vector of rows are computed from, besides their tile; None for what a call lacks."""

    y: Any  # the class of each row's label, left out of the sum of exponentials; −1 where the row is ignored
    dense: Any  # `DenseTarget`, with its distribution in a tile
    transform: Any
    scale: Any
    saved_shift: Any  # saved log-sum-exp divided by `scale`, which then takes the place of the maximum
    top: Any  # None: the sum leaves out class y; else the `Top` of each row, whatever y is
    measures: Any  # the `Measures` that are wanted beside the sum, the stream in a tile; only with `top`


class TileShift(NamedTuple):
    """What is subtracted from the logits of each row before exp."""

    centre: Any  # the maximum, or 0 where that is −inf; with a saved log-sum-exp, that divided by `scale`
    nearby: Any  # `Shift`, close to the centre, for which the rounding of x − centre has no effect on the sum


# ------------------------------------------------------------------------------------------------ exponentials
@inline
def tile_shift(row_max: Any, saved_shift: Any, scale: Any) -> Any:
    """The `TileShift` for a maximum; exactly the centre where that is a saved log-sum-exp."""
    centre = centre_of(row_max)
    if saved_shift is None:
        return TileShift(centre, shift_of(centre, scale))
    return TileShift(centre, Shift(centre, splat(0.0, centre)))


@inline
def exp_of_tile(x: Any, shift: Any, saved_shift: Any, scale: Any) -> Any:
    """exp(scale · (x − shift)), times a power of 2 (see `exp_scaled`).

    A saved log-sum-exp may be smaller than x, so the argument of exp is clamped then.
    """
    if saved_shift is None:
        return exp_shifted_scaled(x, shift.nearby, scale)
    return exp_scaled_clamped_difference(x, shift.centre, scale)


@inline
def tile_rescale(shift: Any, saved_shift: Any, scale: Any) -> Any:
    """The factor, in float64, that turns the result of `exp_of_tile` into exp(scale · (x − centre))."""
    if saved_shift is not None:
        return splat(unscale(shift.centre), promote(shift.centre))
    rescale = rescale_to_max(shift.nearby, shift.centre, scale)
    return rescale * splat(unscale(shift.centre), rescale)


@inline
def tile_exponentials(tile: Any, inputs: Any, row_max: Any) -> Any:
    """Recompute the exponentials of a tile, for rows of several tiles; returns their `tile_rescale`."""
    lanes = lanes_of(row_max)
    shift = tile_shift(row_max, inputs.saved_shift, inputs.scale)
    for j in range(tile.classes):
        x = apply_transform(load(tile.logits, j * lanes, row_max), inputs.transform)
        store(tile.exp, j * lanes, exp_of_tile(x, shift, inputs.saved_shift, inputs.scale))
    return tile_rescale(shift, inputs.saved_shift, inputs.scale)


# ------------------------------------------------------------------------------------------------ statistics
@inline
def tile_argmax(tile: Any, transform: Any, top: Any, vtype: Any) -> Any:
    """The `Top` of each lane: the largest logit so far, and the first class that has it; `top` is that before."""
    lanes = lanes_of(vtype)
    y, row_max = top
    for j in range(tile.classes):
        x = apply_transform(load(tile.logits, j * lanes, vtype), transform)
        larger = x > row_max
        row_max = select(larger, x, row_max)
        y = select(larger, splat(tile.first + j, y), y)
    return Top(y, row_max)


@inline
def no_top(vtype: Any) -> Any:
    """The `Top` of no classes."""
    return Top(splat(0, iota(vtype)), splat(-math.inf, vtype))


@optional
def _tile_top(top: Any, tile: Any, transform: Any, vtype: Any) -> Any:
    """The `Top` of each lane; None for None."""
    return tile_argmax(tile, transform, no_top(vtype), vtype)


@specialize
def _left_out(top: Any, y: Any) -> Any:
    """The class that each lane leaves out of its sum: that of its `Top`, −1 if that is −inf; or the label's."""
    if isinstance(top, types.NoneType):
        return lambda top, y: y
    return lambda top, y: select(top.x > splat(-math.inf, top.x), top.y, splat(-1, top.y))


@inline
def _tile_max(top: Any, tile: Any, transform: Any, saved_shift: Any, vtype: Any) -> Any:
    """The maximum of each lane, −inf where all is −inf or NaN; the saved log-sum-exp where there is one."""
    if saved_shift is not None:
        return saved_shift
    if top is not None:
        return top.x
    lanes = lanes_of(vtype)
    minus_inf = splat(-math.inf, vtype)
    even, odd = minus_inf, minus_inf
    j = 0
    while j + 2 <= tile.classes:
        even = maximum(apply_transform(load(tile.logits, j * lanes, vtype), transform), even)
        odd = maximum(apply_transform(load(tile.logits, (j + 1) * lanes, vtype), transform), odd)
        j += 2
    if j < tile.classes:
        even = maximum(apply_transform(load(tile.logits, j * lanes, vtype), transform), even)
    return maximum(even, odd)


@inline
def _prefetch(cursor: Any, j: int) -> None:
    """Prefetch what belongs to class j, if there is a `PrefetchCursor`."""
    if cursor is not None:
        prefetch_l2(cursor.p, j * cursor.step + L2_PREFETCH_DISTANCE)
        prefetch_l1(cursor.p, j * cursor.step)


@inline
def _add_dense(sums: Any, x: Any, centre: Any, dense: Any, j: int, tile_j: int) -> Any:
    """(Σ u (centre − x) / 4, Σ u) with class j added, which is class tile_j of the tile."""
    if dense is None:
        return sums
    u = dense_target_lanes(dense, j, tile_j, x)
    return add_dense_term(sums, u, centre, x)


@inline
def _sum_run(tile: Any, inputs: Any, y: Any, shift: Any, origin: Any, start: int, count: int, cursor: Any) -> Any:
    """Σ exp over `count` classes of a tile but y of each lane, and the sums of `_add_dense` and of `add_class`."""
    centre = shift.centre
    lanes, zero = lanes_of(centre), splat(0.0, centre)
    sum_exp, dense_sums, measure_sums = zero, (zero, zero), (zero, zero)
    for k in range(count):
        j = start + k
        _prefetch(cursor, j)
        x = apply_transform(load(tile.logits, j * lanes, centre), inputs.transform)
        e = exp_of_tile(x, shift, inputs.saved_shift, inputs.scale)
        store_if_wanted(tile.exp, j * lanes, e)
        e = exclude_target_lanes(e, tile.first + j, y)
        sum_exp = sum_exp + e
        dense_sums = _add_dense(dense_sums, x, centre, inputs.dense, tile.first + j, j)
        measure_sums = add_class(measure_sums, inputs.measures, tile, inputs.transform, j, e, x, origin)
    return sum_exp, dense_sums, measure_sums


@inline
def tile_statistics(tile: Any, inputs: Any, cursor: Any, vtype: Any) -> Any:
    """The `RowStatistics` of every lane over the classes of a tile, and the `tile_rescale` of their exponentials.

    The exponentials go to `tile.exp`.  What `cursor` says is prefetched meanwhile; it may be None.
    """
    top = _tile_top(inputs.top, tile, inputs.transform, vtype)
    y = _left_out(top, inputs.y)
    row_max = _tile_max(top, tile, inputs.transform, inputs.saved_shift, vtype)
    shift = tile_shift(row_max, inputs.saved_shift, inputs.scale)
    origin = tile_origin(inputs.measures, tile, inputs.transform, shift.centre, top)
    zero = promote(splat(0.0, vtype))
    sum_exp, error, sums, measures = zero, zero, no_dense_sums(zero), no_measure_sums(zero)
    start = 0
    while start < tile.classes:
        count = min(_RUN, tile.classes - start)
        if count == _RUN:  # a constant, so that LLVM unrolls the loop
            run, dense_run, measure_run = _sum_run(tile, inputs, y, shift, origin, start, _RUN, cursor)
        else:
            run, dense_run, measure_run = _sum_run(tile, inputs, y, shift, origin, start, count, cursor)
        sum_exp, error = compensated_add(sum_exp, error, promote(run))
        sums = add_dense_sums(sums, dense_run, inputs.dense)
        measures = add_run(measures, inputs.measures, measure_run)
        start += _RUN
    rescale = tile_rescale(shift, inputs.saved_shift, inputs.scale)
    sum_exp_others = _exact_maximum(sum_exp + error, row_max, shift, rescale, y, inputs.saved_shift, inputs.scale)
    target_gap, target_sum = with_error(sums.gap, sums.gap_error), with_error(sums.target, sums.target_error)
    measured = tile_measured(inputs.measures, measures, rescale, origin)
    return RowStatistics(row_max, sum_exp_others, target_gap, target_sum, top, measured), rescale


@inline
def _exact_maximum(sum_exp: Any, row_max: Any, shift: Any, rescale: Any, y: Any, saved_shift: Any, scale: Any) -> Any:
    """The sum times `rescale`; where no label is left out, with exactly 1 for the term of the maximum.

    Where the maximum is −inf there is no such term.
    """
    if y is not None or saved_shift is not None:
        return sum_exp * rescale
    others = (sum_exp - promote(exp_shifted_scaled(row_max, shift.nearby, scale))) * rescale
    promoted_max = promote(row_max)
    return select(promoted_max > splat(-math.inf, promoted_max), others + splat(1.0, others), sum_exp * rescale)
