"""Maximum and sums over the threads that share a row, in a fixed order: the same inputs give the same bits.

Within a warp by butterfly shuffles, between the warps of a block through shared memory; every thread gets the result.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from xent_numba.backends.cuda.hw import intrinsics as hw
from xent_numba.backends.cuda.hw.sizes import WARP


class Reductions(NamedTuple):
    """Device functions that all threads of a row call together."""

    reduce_max: Any  # (value) -> the largest of all threads
    reduce_add: Any  # (a, b, c, d) -> the sum of each; only that of the first where the target is not dense


@hw.device
def compensated_add(total: Any, compensation: Any, term: Any) -> Any:
    """(total + term, its new compensation) by Kahan's algorithm; the compensation is what the total is too large by."""
    compensated = term - compensation
    new_total = total + compensated
    return new_total, (new_total - total) - compensated


@hw.device
def exact_difference(a: Any, b: Any) -> Any:
    """(a − b rounded, the rounding error)."""
    difference = a - b
    bit = difference - a
    return difference, (a - (difference - bit)) - (b + bit)


@hw.device
def warp_add(value: Any) -> Any:
    """The sum of the values of a warp."""
    for lane_mask in (16, 8, 4, 2, 1):
        value += hw.shfl_xor(value, lane_mask)
    return value


def reductions(real: Any, threads: int, dense: bool) -> Reductions:
    """The reductions for rows of `threads` threads, one warp or a block of whole warps, in the float type `real`."""

    @hw.device
    def warp_max(value: Any) -> Any:
        for lane_mask in (16, 8, 4, 2, 1):
            value = hw.fmax(value, hw.shfl_xor(value, lane_mask))
        return value

    @hw.device
    def warp_add_all(a: Any, b: Any, c: Any, d: Any) -> Any:
        if dense:
            return warp_add(a), warp_add(b), warp_add(c), warp_add(d)
        return warp_add(a), b, c, d

    if threads == WARP:
        return Reductions(warp_max, warp_add_all)
    warps = threads // WARP
    slots = 4 * warps
    zero = real(0)

    @hw.device
    def block_max(value: Any) -> Any:
        maxima = hw.cuda.shared.array(warps, real)
        value = warp_max(value)
        if hw.thread_index() % WARP == 0:
            maxima[hw.thread_index() // WARP] = value
        hw.barrier()
        # Every warp reduces the maxima of all warps itself, which saves a second barrier.  Where a warp has more lanes
        # than there are maxima it reads some of them twice, which does not change a maximum.
        return warp_max(maxima[hw.thread_index() % warps])

    @hw.device
    def block_add_all(a: Any, b: Any, c: Any, d: Any) -> Any:
        sums = hw.cuda.shared.array(slots, real)
        a, b, c, d = warp_add_all(a, b, c, d)
        if hw.thread_index() % WARP == 0:
            warp = hw.thread_index() // WARP
            sums[warp] = a
            if dense:
                sums[warps + warp] = b
                sums[2 * warps + warp] = c
                sums[3 * warps + warp] = d
        hw.barrier()
        lane = hw.thread_index() % WARP
        a = sums[lane] if lane < warps else zero
        if dense:
            b = sums[warps + lane] if lane < warps else zero
            c = sums[2 * warps + lane] if lane < warps else zero
            d = sums[3 * warps + lane] if lane < warps else zero
        return warp_add_all(a, b, c, d)

    return Reductions(block_max, block_add_all)


def row_sum(threads: int, real: Any) -> Any:
    """(value) -> its sum over the threads of a row, one of them, one warp or a block of whole warps.

    All of them call it and get the result; it may be called again at once.
    """
    if threads == 1:
        return hw.device(lambda value: value)
    warps, zero = threads // WARP, real(0)

    @hw.device
    def block_sum(value: Any) -> Any:
        sums = hw.cuda.shared.array(warps, real)
        value = warp_add(value)
        hw.barrier()  # a call before this one may still be reading
        if hw.thread_index() % WARP == 0:
            sums[hw.thread_index() // WARP] = value
        hw.barrier()
        lane = hw.thread_index() % WARP
        return warp_add(sums[lane] if lane < warps else zero)

    return warp_add if threads == WARP else block_sum


def row_first(threads: int, real: Any, precedes: Any) -> Any:
    """(key, index) -> the pair that comes before those of all other threads of a row, which is the same for all.

    `precedes(key, index, other key, other index)` is a strict order of all pairs but those of a negative index.
    """
    if threads == 1:
        return hw.device(lambda key, index: (key, index))
    warps = threads // WARP

    @hw.device
    def warp_first(key: Any, index: Any) -> Any:
        for lane_mask in (16, 8, 4, 2, 1):
            other_key, other_index = hw.shfl_xor(key, lane_mask), hw.shfl_xor(index, lane_mask)
            if precedes(other_key, other_index, key, index):
                key, index = other_key, other_index
        return key, index

    @hw.device
    def block_first(key: Any, index: Any) -> Any:
        keys = hw.cuda.shared.array(warps, real)
        indices = hw.cuda.shared.array(warps, hw.i64)
        key, index = warp_first(key, index)
        hw.barrier()  # a call before this one may still be reading
        if hw.thread_index() % WARP == 0:
            keys[hw.thread_index() // WARP] = key
            indices[hw.thread_index() // WARP] = index
        hw.barrier()
        warp = hw.thread_index() % warps  # every warp looks at all of them, some twice, which changes nothing
        return warp_first(keys[warp], indices[warp])

    return warp_first if threads == WARP else block_first
