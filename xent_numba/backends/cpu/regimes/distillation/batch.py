"""The sums of a batch: up to as many parts as a vector has lanes, each part along its classes, and one lane for each.

A batch has as many rows of a few classes, or neighbouring parts of one long row, each with maxima of its own.  Either
way a part and its exponentials stay in the L1 cache, and what follows from its sums is computed for all at once.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from xent_numba.backends.cpu.compile.inline import inline
from xent_numba.backends.cpu.regimes.distillation.output import BLOCK_VECTORS, part_size, write_block
from xent_numba.backends.cpu.regimes.distillation.passes import (
    Ahead,
    Pair,
    add_block_sums,
    find_maxima,
    no_totals,
    total_of,
)
from xent_numba.backends.cpu.regimes.distillation.terms import (
    NearFactors,
    Shifts,
    Sums,
    rebase,
    rebase_factors,
    rescales,
    shifts_of,
    sums_of,
)
from xent_numba.backends.cpu.regimes.lanes.load import PrefetchCursor
from xent_numba.backends.cpu.row.epilogue import centre_of
from xent_numba.backends.cpu.simd.cast import promote
from xent_numba.backends.cpu.simd.exp_shifted import Shift
from xent_numba.backends.cpu.simd.load_store import advance, load, load_scalar, stack_buffer, store, store_scalar
from xent_numba.backends.cpu.simd.reduce import extract_lane, reduce_add, reduce_add_each, reduce_max, reduce_max_each
from xent_numba.backends.cpu.simd.vector import lanes_of, one_lane, select, splat

LANES = 16  # at most
_AT_ONCE = 1 << 12  # logits of each of both whose maxima are found together: both stay in the L1 cache


class Batch(NamedTuple):
    """The logits of some `Parts`."""

    parts: Any
    pair: Any  # `Pair` of pointers to the first part
    t_step: Any  # elements from one part to the next
    s_step: Any
    of_one_row: Any  # whether the parts are those of one row, and not rows


class BatchMemory(NamedTuple):
    """Pointers to what is found out about the parts."""

    t_max: Any  # a vector of the maxima
    s_max: Any
    t_sum: Any  # a vector of float64 for each part: the totals of `add_block_sums`
    s_sum: Any
    apart: Any
    t_lanes: Any  # a vector for each part: the maxima in each of its lanes
    s_lanes: Any


class BatchSums(NamedTuple):
    """What the sums of a batch mean, one part in each lane."""

    sums: Any  # `Sums` of the rows: in all lanes the same for parts of one row
    shifts: Any  # `Shifts` of the parts
    units: Any  # the factors that turn their exponentials into those relative to the maxima of the `Sums`


@inline
def batch_memory(vtype: Any) -> Any:
    """New `BatchMemory` on the stack."""
    vtype64 = promote(vtype)
    return BatchMemory(
        stack_buffer(vtype, 1),
        stack_buffer(vtype, 1),
        stack_buffer(vtype64, LANES),
        stack_buffer(vtype64, LANES),
        stack_buffer(vtype64, LANES),
        stack_buffer(vtype, LANES),
        stack_buffer(vtype, LANES),
    )


@inline
def no_sums(vtype64: Any) -> Any:
    """The `Sums` of no classes."""
    zero, nothing = splat(0.0, vtype64), splat(-math.inf, vtype64)
    return Sums(nothing, nothing, zero, zero, zero)


# ------------------------------------------------------------------------------------------------ lanes
@inline
def lane(a: Any, k: int, vtype: Any) -> Any:
    """Lane k in all lanes of `vtype`."""
    return splat(extract_lane(a, k), vtype)


@inline
def lane_of_shifts(shifts: Any, k: int, vtype: Any) -> Any:
    """Lane k of `Shifts` in all lanes."""
    return Shifts(
        Shift(lane(shifts.t.residual, k, vtype), lane(shifts.t.exponent, k, vtype)),
        Shift(lane(shifts.s.residual, k, vtype), lane(shifts.s.exponent, k, vtype)),
        lane(shifts.origin, k, vtype),
        lane(shifts.origin_error, k, vtype),
    )


@inline
def lane_of_near(near: Any, k: int, vtype: Any) -> Any:
    """Lane k of `NearFactors` in all lanes."""
    return NearFactors(
        lane_of_shifts(near.shifts, k, vtype),
        lane(near.bound, k, vtype),
        lane(near.s_to_t, k, vtype),
        lane(near.p_factor, k, vtype),
        lane(near.q_factor, k, vtype),
        lane(near.ratio, k, vtype),
        lane(near.minus_ratio, k, vtype),
        lane(near.excess, k, vtype),
    )


# ------------------------------------------------------------------------------------------------ parts
@inline
def part_pair(batch: Any, k: int) -> Any:
    """`Pair` of pointers to the logits of part k."""
    return Pair(advance(batch.pair.t, k * batch.t_step), advance(batch.pair.s, k * batch.s_step))


@inline
def _find_part_maxima(batch: Any, k: int, memory: Any, vtype: Any) -> None:
    """Find the maxima of part k."""
    t_lanes, s_lanes = find_maxima(part_pair(batch, k), part_size(batch.parts, k), vtype)
    store_scalar(memory.t_max, k, reduce_max(t_lanes))
    store_scalar(memory.s_max, k, reduce_max(s_lanes))


@inline
def _find_all_maxima(batch: Any, memory: Any, vtype: Any) -> None:
    """Find the maxima of all parts."""
    lanes = lanes_of(vtype)
    for k in range(batch.parts.count):
        t_lanes, s_lanes = find_maxima(part_pair(batch, k), part_size(batch.parts, k), vtype)
        store(memory.t_lanes, k * lanes, t_lanes)
        store(memory.s_lanes, k * lanes, s_lanes)
    store(memory.t_max, 0, reduce_max_each(memory.t_lanes, vtype))
    store(memory.s_max, 0, reduce_max_each(memory.s_lanes, vtype))


@inline
def _sum_part(batch: Any, k: int, memory: Any, kept: Any, pending: Any, scale: Any, vtype: Any) -> Any:
    """Find the sums of part k, whose maxima are known; the `Pending` after as many blocks are written."""
    count, pair = part_size(batch.parts, k), part_pair(batch, k)
    t_max, s_max = one_lane(load_scalar(memory.t_max, k), vtype), one_lane(load_scalar(memory.s_max, k), vtype)
    shifts = lane_of_shifts(shifts_of(t_max, s_max, scale), 0, vtype)
    centres = Pair(lane(centre_of(t_max), 0, vtype), lane(centre_of(s_max), 0, vtype))
    e = Pair(advance(kept.t, k * batch.parts.step), advance(kept.s, k * batch.parts.step))
    lanes = lanes_of(vtype)
    totals = no_totals(vtype)
    for i in range(0, count, BLOCK_VECTORS * lanes):
        stop = min(count - i, BLOCK_VECTORS * lanes)
        block, e_block = Pair(advance(pair.t, i), advance(pair.s, i)), Pair(advance(e.t, i), advance(e.s, i))
        ahead = Ahead(
            PrefetchCursor(advance(block.t, batch.t_step), lanes), PrefetchCursor(advance(block.s, batch.s_step), lanes)
        )
        pending = write_block(pending, vtype)  # first, as its exponentials are where those of this block are kept
        totals = add_block_sums(totals, block, e_block, stop, centres, shifts, scale, ahead, vtype)
    store(memory.t_sum, k * lanes, total_of(totals[0]))
    store(memory.s_sum, k * lanes, total_of(totals[1]))
    store(memory.apart, k * lanes, total_of(totals[2]))
    return pending


@inline
def _no_part(memory: Any, k: int, vtype: Any) -> None:
    """Let part k have no classes."""
    lanes, nothing = lanes_of(vtype), promote(splat(0.0, vtype))
    store_scalar(memory.t_max, k, -math.inf)
    store_scalar(memory.s_max, k, -math.inf)
    store(memory.t_sum, k * lanes, nothing)
    store(memory.s_sum, k * lanes, nothing)
    store(memory.apart, k * lanes, nothing)


@inline
def sum_batch(batch: Any, memory: Any, kept: Any, pending: Any, scale: Any, vtype: Any) -> Any:
    """Find the maxima and the sums of all parts; the `Pending` after as many blocks are written."""
    at_once = batch.parts.count * batch.parts.size <= _AT_ONCE
    if at_once:
        _find_all_maxima(batch, memory, vtype)
    for k in range(batch.parts.count):
        if not at_once:
            _find_part_maxima(batch, k, memory, vtype)
        pending = _sum_part(batch, k, memory, kept, pending, scale, vtype)
    for k in range(batch.parts.count, lanes_of(vtype)):
        _no_part(memory, k, vtype)
    return pending


@inline
def _of_row(parts: Any, units: Any, scale: Any) -> Any:
    """The `Sums` of a row in all lanes, from those of its parts; and the `BatchSums.units` of these."""
    t_max, s_max = splat(reduce_max(parts.t_max), parts.t_max), splat(reduce_max(parts.s_max), parts.s_max)
    t_sum, s_sum, apart = rebase(parts, t_max, s_max, scale)
    t_factor, s_factor = rebase_factors(parts, t_max, s_max, scale)
    one, zero, nothing = splat(1.0, t_sum), splat(0.0, t_sum), splat(-math.inf, t_sum)
    sums = Sums(
        t_max,
        s_max,
        splat(reduce_add(t_sum), zero),
        splat(reduce_add(s_sum), zero),
        splat(reduce_add(apart), zero),
    )
    # The exponentials of a part that has nothing but −inf are 0 in any unit, which itself must not be 0 or infinite.
    t_unit = units[0] * select(parts.t_max > nothing, t_factor, one)
    s_unit = units[1] * select(parts.s_max > nothing, s_factor, one)
    return sums, (t_unit, s_unit)


@inline
def batch_sums(batch: Any, memory: Any, scale: Any, vtype: Any) -> Any:
    """The `BatchSums` of what was found out."""
    t_max, s_max, vtype64 = load(memory.t_max, 0, vtype), load(memory.s_max, 0, vtype), promote(vtype)
    shifts = shifts_of(t_max, s_max, scale)
    units = rescales(shifts, t_max, s_max, scale)
    totals = (
        reduce_add_each(memory.t_sum, vtype64),
        reduce_add_each(memory.s_sum, vtype64),
        reduce_add_each(memory.apart, vtype64),
    )
    sums = sums_of(promote(t_max), promote(s_max), totals, units)
    if batch.of_one_row:
        sums, units = _of_row(sums, units, scale)
    return BatchSums(sums, shifts, units)
