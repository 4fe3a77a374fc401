"""Statistics of one long row whose classes lie side by side, in one pass over its logits.

The row is read in blocks of 16 vectors.  A shift is subtracted from the logits before exp: the maximum of the first
block, for as long as no logit is more than `HEADROOM` above it.  A block that has such a logit is computed again with
its own maximum as the shift, and the sums so far are rescaled to that (online softmax).  So memory is read once, and
nearly always each logit is too.  Prefetches reach a few blocks ahead, so that memory is read while a block is computed.

A row with a label leaves the label's class out of its sum.  A row with `RowInput.top`, as all with a distribution,
leaves out a class that has the logit which is the shift, its `Top`, so that the digits of the other terms are not lost
beside it; a logit that is much larger becomes the shift, as above, and the `Top`.

The sums of blocks are added in float64.  Blocks are counted from the start of the row, never from an address, and a row
longer than `SEGMENT_CLASSES` is always merged from its segments in order, whichever thread computed them: the bits of a
result depend on nothing but the row.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import types

from xent_numba.backends.cpu.compile.inline import inline, optional, specialize
from xent_numba.backends.cpu.plan import SEGMENT_CLASSES
from xent_numba.backends.cpu.regimes.long import measures as measuring
from xent_numba.backends.cpu.regimes.long.block import dense_sums_of_block, max_of_block, sum_of_block
from xent_numba.backends.cpu.regimes.long.order import RowOrder, order_block
from xent_numba.backends.cpu.regimes.long.pending import write_pending
from xent_numba.backends.cpu.regimes.long.rescale import own_term, rescale, rescale_one
from xent_numba.backends.cpu.row.epilogue import RowStatistics, Top, centre_of, with_measured
from xent_numba.backends.cpu.row.measures import no_measure_sums, origin_at
from xent_numba.backends.cpu.row.target import DenseSums, exclude_target, no_dense_sums
from xent_numba.backends.cpu.row.transform import is_instance_type, load_logits, load_logits_n, scale_or_one
from xent_numba.backends.cpu.simd.cast import promote
from xent_numba.backends.cpu.simd.exp_shifted import (
    drop_residual,
    exp_shifted_scaled,
    has_residual,
    shift_of,
    shift_value,
)
from xent_numba.backends.cpu.simd.load_store import first_n_or
from xent_numba.backends.cpu.simd.math import compensated_add, has_guard_digits, unscale, with_error
from xent_numba.backends.cpu.simd.reduce import (
    any_true,
    extract_lane,
    first_true,
    first_true_of_four,
    reduce_add,
    reduce_max,
)
from xent_numba.backends.cpu.simd.vector import lanes_of, maximum, opaque, select, splat

BLOCK_VECTORS = 16
HEADROOM = 8.0  # how far above the shift a float32 logit may be: an error of 2e-9 per power of 2 is still small there
TOP_HEADROOM = 1.0  # the same for a row with a `Top`, whose other terms must not be small beside that of this logit


# ------------------------------------------------------------------------------------------------ change of the shift
@specialize
def _headroom(top: Any, vtype: Any) -> Any:
    """How far above the shift a scaled logit may be."""
    headroom = HEADROOM if isinstance(top, types.NoneType) else TOP_HEADROOM
    return lambda top, vtype: headroom if has_guard_digits(vtype) else 0.0


@inline
def _centre_and_ceiling(row_max: Any, top: Any, scale: Any) -> Any:
    """The largest lane of `row_max`, for the shift to be next to; and the largest logit that the shift allows.

    Where all lanes are −inf, these are 0 and −inf.
    """
    minus_inf = splat(-math.inf, row_max)
    centre = splat(reduce_max(row_max), row_max)
    above_minus_inf = centre > minus_inf
    headroom = _headroom(top, row_max) / scale_or_one(scale)
    ceiling = select(above_minus_inf, centre + splat(headroom, centre), minus_inf)
    return select(above_minus_inf, centre, splat(0.0, centre)), ceiling


@inline
def _rebase_gap(sums: Any, new: Any, old: Any, dense: Any) -> Any:
    """The `DenseSums` with Σ u_j (new − x_j) from those with Σ u_j (old − x_j)."""
    if dense is None:
        return sums
    change = sums.target * (promote(new) - promote(old))
    gap, gap_error = compensated_add(sums.gap, sums.gap_error, change)
    return DenseSums(gap, sums.target, gap_error, sums.target_error)


@inline
def _add_block(sums: Any, block: Any, dense: Any) -> Any:
    """The `DenseSums` of some blocks and one more."""
    if dense is None:
        return sums
    gap, gap_error = compensated_add(sums.gap, sums.gap_error, block.gap)
    target, target_error = compensated_add(sums.target, sums.target_error, block.target)
    return DenseSums(gap, target, gap_error + block.gap_error, target_error + block.target_error)


@specialize
def first_classes(top: Any, block: int) -> Any:
    """Of how many classes the maximum is the first shift: those of a block, or of as many as `top` says."""
    if isinstance(top, types.Integer):
        return lambda top, block: top
    return lambda top, block: block


# ------------------------------------------------------------------------------------------------ class left out
@inline
def class_with(row: Any, start: int, stop: int, value: Any) -> Any:
    """The first of the classes start … stop whose logit is `value`, the same in all lanes; or −1."""
    lanes = lanes_of(value)
    i = start
    while i + 4 * lanes <= stop:
        found0 = load_logits(row.logits, i, row.transform, value) == value
        found1 = load_logits(row.logits, i + lanes, row.transform, value) == value
        found2 = load_logits(row.logits, i + 2 * lanes, row.transform, value) == value
        found3 = load_logits(row.logits, i + 3 * lanes, row.transform, value) == value
        if any_true((found0 | found1) | (found2 | found3)):
            return np.int64(i + first_true_of_four(found0, found1, found2, found3))
        i += 4 * lanes
    while i < stop:
        found = load_logits_n(row.logits, i, min(lanes, stop - i), row.transform, splat(math.nan, value)) == value
        if any_true(found):
            return np.int64(i + first_true(found))
        i += lanes
    return np.int64(-1)


@specialize
def _left_out(top: Any, row: Any, i: int, count: int, centre: Any) -> Any:
    """The class that the sum leaves out: the label's; for a `Top`, one of the `count` from i on at the centre."""
    if isinstance(top, types.NoneType):
        return lambda top, row, i, count, centre: row.y
    return lambda top, row, i, count, centre: class_with(row, i, i + count, centre)


@specialize
def _readmit(top: Any, sum_exp: Any, centre: Any, shift: Any, scale: Any) -> Any:
    """The sum with the term of the class that was left out for being at the centre; unchanged for a label."""
    if isinstance(top, types.NoneType):
        return lambda top, sum_exp, centre, shift, scale: sum_exp

    def of_top(top: Any, sum_exp: Any, centre: Any, shift: Any, scale: Any) -> Any:
        own = promote(exp_shifted_scaled(centre, shift, scale))
        return sum_exp + first_n_or(own, 1, splat(0.0, own))

    return of_top


@specialize
def _labels_class(top: Any, y: int) -> Any:
    """The class of the label, where the sum leaves that out, or −1."""
    if isinstance(top, types.NoneType):
        return lambda top, y: y
    return lambda top, y: np.int64(-1)


@optional
def _top_at(top: Any, y: int, centre: Any) -> Any:
    """The `Top` of a row that has class y at the centre; None for None."""
    return Top(y, np.float64(extract_lane(centre, 0)))


# ------------------------------------------------------------------------------------------------ segments and rows
@specialize
def _after_block(pending: Any, i: int, vectors: int, tail: int, block_max: Any) -> Any:
    """Write some of what is pending; or let a `RowOrder` take note of the block from class i on, in the L1 cache."""
    if is_instance_type(pending, RowOrder):
        return lambda pending, i, vectors, tail, block_max: order_block(pending, i, vectors, tail, block_max)
    return lambda pending, i, vectors, tail, block_max: write_pending(pending, BLOCK_VECTORS, block_max)


@inline
def segment(row: Any, start: int, stop: int, pending: Any, vtype: Any) -> Any:
    """The `RowStatistics` of the classes start … stop of a `RowInput`, as float64 scalars.

    `pending` is the gradient of the row before, some of which is written after each block; or a `RowOrder` of this
    row; or None.
    """
    lanes, scale = lanes_of(vtype), row.scale
    zero, minus_inf = splat(0.0, vtype), splat(-math.inf, vtype)
    sum_exp, sum_error, sums = promote(zero), promote(zero), no_dense_sums(promote(zero))
    measures = no_measure_sums(promote(zero))
    count = min(stop - start, first_classes(row.top, BLOCK_VECTORS * lanes))
    tail = count % lanes
    row_max = max_of_block(row, start, count // lanes, minus_inf)
    if tail > 0:
        row_max = maximum(load_logits_n(row.logits, start + count - tail, tail, row.transform, minus_inf), row_max)
    centre, ceiling = _centre_and_ceiling(row_max, row.top, scale)
    left_out = _left_out(row.top, row, start, count, centre)
    origin = origin_at(row.measures, row, centre, left_out)
    shift = shift_of(centre, scale)
    with_residual, without_residual = has_residual(shift, scale), drop_residual(shift, scale)
    i = start
    while i < stop:
        count = min(stop - i, BLOCK_VECTORS * lanes)
        vectors = count // lanes
        tail = count - vectors * lanes
        if with_residual or i <= left_out < i + count:
            block = sum_of_block(row, row.measures, i, vectors, shift, left_out, origin, minus_inf)
        else:
            block = sum_of_block(row, row.measures, i, opaque(vectors), without_residual, None, origin, minus_inf)
        block_sum, block_error, block_max, block_measures = block
        if tail > 0:
            j = i + vectors * lanes
            x = load_logits_n(row.logits, j, tail, row.transform, minus_inf)
            e = exclude_target(first_n_or(exp_shifted_scaled(x, shift, scale), tail, zero), j, left_out)
            block_sum, block_error = compensated_add(block_sum, block_error, promote(e))
            block_measures = measuring.add_tail(block_measures, row.measures, row, j, tail, e, x, origin)
            block_max = maximum(x, block_max)
        if any_true(block_max > ceiling):  # compute the block again, with its own maximum as the shift
            old_centre, old_shift, old_origin = centre, shift_value(shift), origin
            nothing_yet = not any_true(ceiling > minus_inf)
            whole_sum = _readmit(row.top, sum_exp, centre, shift, scale)
            centre, ceiling = _centre_and_ceiling(block_max, row.top, scale)
            left_out = _left_out(row.top, row, i, count, centre)
            origin = origin_at(row.measures, row, centre, left_out)
            shift = shift_of(centre, scale)
            with_residual, without_residual = has_residual(shift, scale), drop_residual(shift, scale)
            sums = _rebase_gap(sums, centre, old_centre, row.dense)
            if not nothing_yet:
                new_shift = shift_value(shift)
                sum_exp = rescale(whole_sum, old_shift, new_shift, scale)
                sum_error = rescale(sum_error, old_shift, new_shift, scale)
                moved = (old_shift, old_origin), (new_shift, origin)
                measures = measuring.move(measures, row.measures, sum_exp + sum_error, *moved, scale)
            continue
        _after_block(pending, i, vectors, tail, block_max)
        sums = _add_block(sums, dense_sums_of_block(row, row.dense, i, vectors, tail, centre), row.dense)
        measures = measuring.add_block(measures, row.measures, block_measures)
        sum_exp, sum_error = compensated_add(sum_exp, sum_error, block_sum)
        sum_error = sum_error + block_error
        row_max = maximum(block_max, row_max)
        i += count
    row_max = splat(reduce_max(row_max), vtype)
    final_centre = centre_of(row_max)
    sums = _rebase_gap(sums, final_centre, centre, row.dense)
    total, term_of_max = reduce_add(sum_exp + sum_error), 0.0
    # The term of the maximum, if it is not the one left out, is 1 and not what rounding made of it.
    has_max = _labels_class(row.top, row.y) < 0 and (left_out < 0 or extract_lane(row_max, 0) > extract_lane(centre, 0))
    if has_max and extract_lane(row_max, 0) > -math.inf:
        rounded_term = np.float64(extract_lane(exp_shifted_scaled(row_max, shift, scale), 0))
        total, term_of_max = total - rounded_term, 1.0
    old, new = extract_lane(shift_value(shift), 0), np.float64(extract_lane(final_centre, 0))
    stats = RowStatistics(
        np.float64(extract_lane(row_max, 0)),
        rescale_one(total, old, new, scale, vtype) * unscale(vtype) + term_of_max,
        reduce_add(with_error(sums.gap, sums.gap_error)),
        reduce_add(with_error(sums.target, sums.target_error)),
        _top_at(row.top, left_out, centre),
        None,
    )
    return with_measured(stats, measuring.measured(row.measures, measures, shift, origin, stats, scale, vtype))


@inline
def merge(a: Any, b: Any, scale: Any, vtype: Any) -> Any:
    """The `RowStatistics` of two parts of a row from those of each."""
    upper, lower = (b, a) if b.row_max > a.row_max else (a, b)
    target_gap, target_sum = a.target_gap + b.target_gap, a.target_sum + b.target_sum
    if lower.row_max == -math.inf:  # its gaps are relative to 0, and infinite where they count
        sum_exp_others = a.sum_exp_others + b.sum_exp_others
        measured = measuring.join_measured(upper.measured, lower.measured)
        return RowStatistics(upper.row_max, sum_exp_others, target_gap, target_sum, upper.top, measured)
    lower_sum = lower.sum_exp_others + own_term(lower.top, lower.row_max, scale, vtype)
    moved_sum = rescale_one(lower_sum, lower.row_max, upper.row_max, scale, vtype)
    return RowStatistics(
        upper.row_max,
        upper.sum_exp_others + moved_sum,
        target_gap + lower.target_sum * (upper.row_max - lower.row_max),
        target_sum,
        upper.top,
        measuring.merge_measured(upper.measured, lower.measured, moved_sum, lower.row_max, upper.row_max, scale, vtype),
    )


@inline
def statistics(row: Any, pending: Any, vtype: Any) -> Any:
    """The `RowStatistics` of a whole row, a `RowInput`.

    `pending` is the gradient of the row before, which is written meanwhile; or a `RowOrder` of this row; or None.
    """
    top = _top_at(row.top, np.int64(-1), vtype)
    stats = RowStatistics(-math.inf, 0.0, 0.0, 0.0, top, measuring.nothing_measured(row.measures))
    for start in range(0, row.classes, SEGMENT_CLASSES):
        part = segment(row, start, min(row.classes, start + SEGMENT_CLASSES), pending, vtype)
        stats = part if start == 0 else merge(stats, part, row.scale, vtype)
    return stats
