"""The divergence of short rows, and of rows whose classes are apart in memory: one row in each lane.

Both arrays are transposed into tiles, up to TILE_CLASSES classes at a time; the gradient takes the place of the
student's.
"""

from __future__ import annotations

from typing import Any

from xent_numba.backends.cpu.compile.inline import inline, optional
from xent_numba.backends.cpu.plan import TILE_CLASSES
from xent_numba.backends.cpu.regimes.distillation.passes import (
    Ahead,
    Pair,
    careful_sum,
    exponentials,
    far_pass,
    find_maxima,
    near_pass,
    no_total,
    sum_terms,
    total_of,
)
from xent_numba.backends.cpu.regimes.distillation.terms import (
    FAR,
    Sums,
    compute_type,
    merge_sums,
    near_factors,
    needs_care,
    outcome_of,
    rescales,
    shifts_of,
    sums_of,
    with_careful_sum,
)
from xent_numba.backends.cpu.regimes.item_epilogue import row_values, store_losses
from xent_numba.backends.cpu.regimes.lanes.load import load_tile, prefetch_cursor, rows_view
from xent_numba.backends.cpu.regimes.staging import (
    flush_carry,
    staging_of,
    write_tile,
)
from xent_numba.backends.cpu.regimes.work_items import work_item
from xent_numba.backends.cpu.row.epilogue import centre_of
from xent_numba.backends.cpu.row.operands import apply_weight
from xent_numba.backends.cpu.simd.cast import demote, promote
from xent_numba.backends.cpu.simd.load_store import first_n_or, pointer, stack_buffer
from xent_numba.backends.cpu.simd.math import log1p
from xent_numba.backends.cpu.simd.reduce import any_true, reduce_add
from xent_numba.backends.cpu.simd.vector import lanes_of, select, splat


@inline
def _load(operands: Any, item: Any, tiles: Any, first: int, vtype: Any) -> Any:
    """Load the classes from `first` on into the tiles; how many elements these then have."""
    count = min(operands.student.shape[2] - first, TILE_CLASSES)
    load_tile(rows_view(operands.teacher, item, first), count, tiles.t, vtype)
    load_tile(rows_view(operands.student, item, first), count, tiles.s, vtype)
    return count * lanes_of(vtype)


@inline
def _tile_sums(tiles: Any, kept: Any, stop: int, scale: Any, ahead: Any, vtype: Any) -> Any:
    """The `Sums` of the classes of a tile."""
    t_max, s_max = find_maxima(tiles, stop, vtype)
    shifts = shifts_of(t_max, s_max, scale)
    centres = Pair(centre_of(t_max), centre_of(s_max))
    totals = sum_terms(tiles, kept, stop, centres, shifts, scale, ahead, vtype)
    return sums_of(promote(t_max), promote(s_max), totals, rescales(shifts, t_max, s_max, scale))


@optional
def _write(grad: Any, tile: Any, item: Any, first: int, staging: Any) -> Any:
    """Write the gradient in a tile, of the classes from `first` on; the staging buffer after it, None without one."""
    count = min(grad.shape[2] - first, TILE_CLASSES)
    return write_tile(staging[0], tile, rows_view(grad, item, first), count, staging[1])


@optional
def _tile_of(grad: Any, tile: Any) -> Any:
    """The tile, for the gradient; None without a gradient."""
    return tile


@inline
def _compute_item(operands: Any, grad: Any, item: Any, staging: Any, vtype: Any) -> Any:
    """The losses of a work item, whose gradient is written, and the staging buffer after it."""
    classes, scale = operands.student.shape[2], operands.scale
    tiles = Pair(stack_buffer(vtype, TILE_CLASSES), stack_buffer(vtype, TILE_CLASSES))
    kept = Pair(stack_buffer(vtype, TILE_CLASSES), stack_buffer(vtype, TILE_CLASSES))
    stop = _load(operands, item, tiles, 0, vtype)
    ahead = Ahead(
        prefetch_cursor(rows_view(operands.teacher, item, 0), min(classes, TILE_CLASSES), vtype),
        prefetch_cursor(rows_view(operands.student, item, 0), min(classes, TILE_CLASSES), vtype),
    )
    sums = _tile_sums(tiles, kept, stop, scale, ahead, vtype)
    for first in range(TILE_CLASSES, classes, TILE_CLASSES):
        stop = _load(operands, item, tiles, first, vtype)
        sums = merge_sums(sums, _tile_sums(tiles, kept, stop, scale, ahead, vtype), scale)
    found = outcome_of(sums, scale)
    t_max, s_max = demote(sums.t_max, vtype), demote(sums.s_max, vtype)
    shifts = shifts_of(t_max, s_max, scale)
    factors = rescales(shifts, t_max, s_max, scale)
    care = needs_care(found)
    if any_true(care):
        total = no_total(vtype)
        for first in range(0, classes, TILE_CLASSES):
            if classes > TILE_CLASSES:
                stop = _load(operands, item, tiles, first, vtype)
            total = careful_sum(total, tiles, stop, shifts, scale, vtype)
        careful = with_careful_sum(sums, total_of(total), factors, vtype)
        sums = Sums(sums.t_max, sums.s_max, sums.t_sum, sums.s_sum, select(care, careful.apart, sums.apart))
        found = outcome_of(sums, scale)
    weight = row_values(operands.sample_weight, item, sums.t_sum)
    near = near_factors(sums, found, shifts, factors, weight * splat(operands.grad_factor, weight), scale, vtype)
    zero = splat(0.0, sums.t_sum)
    is_near = first_n_or(found.kl, item.rows, zero + splat(FAR, zero)) < splat(FAR, zero)
    total, any_near = no_total(vtype), any_true(is_near)
    if any_near or grad is not None:
        for first in range(0, classes, TILE_CLASSES):
            if classes > TILE_CLASSES:
                stop = _load(operands, item, tiles, first, vtype)
                exponentials(tiles.t, kept.t, stop, shifts.t, scale, vtype)
                exponentials(tiles.s, kept.s, stop, shifts.s, scale, vtype)
            tile = _tile_of(grad, tiles.s)
            if any_near:
                total = near_pass(total, tiles, kept, tile, stop, near, scale, vtype)
            elif grad is not None:
                far_pass(kept, tile, stop, near.p_factor, near.q_factor, vtype)
            staging = _write(grad, tile, item, first, (staging, vtype))
    h = total_of(total) * (factors[0] / sums.t_sum)
    kl = select(is_near, log1p(select(is_near, h, zero)), found.kl)
    losses = apply_weight(kl * splat(operands.loss_factor, kl), weight)
    return first_n_or(losses, item.rows, zero), staging


@inline
def lanes_rows(operands: Any, start: int, stop: int, group: int, partials: Any) -> None:
    """Compute the work items start … stop, in order, and store the sum of the losses of each `group` of them.

    `start` is a multiple of `group`.
    """
    vtype = compute_type(pointer(operands.teacher), pointer(operands.student))
    lanes = lanes_of(vtype)
    staging = staging_of(operands.grad, operands.streaming, vtype)
    for first in range(start, stop, group):
        sum_of_losses = 0.0
        for index in range(first, min(stop, first + group)):
            item = work_item(operands.student.shape, index, lanes)
            losses, staging = _compute_item(operands, operands.grad, item, staging, vtype)
            staging = flush_carry(staging, operands.grad, item, index + 1 == stop, vtype)
            store_losses(operands.row_losses, item, losses)
            sum_of_losses += reduce_add(losses)
        partials[first // group] = sum_of_losses
