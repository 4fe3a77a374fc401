"""Maximum and sums over the threads that share a row, in a fixed order: same inputs, same bits.

Inside a warp by butterfly shuffles, between warps through shared memory; every thread gets the result.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from xent_numba.backends.cuda.hw import intrinsics as hw

WARP = 32


class Reduce(NamedTuple):
    """Over all threads of a row."""

    maximum: Any  # value -> value
    sums: Any  # (s, d, t) -> (s, d, t); d and t only where `dense`


def reducer(real: Any, threads: int, dense: bool) -> Reduce:
    """The two reductions for rows of `threads` threads: one warp, or a block of whole warps."""

    @hw.device
    def warp_max(value: Any) -> Any:
        for mask in (16, 8, 4, 2, 1):
            value = hw.fmax(value, hw.shfl_xor(value, mask))
        return value

    @hw.device
    def warp_sum(value: Any) -> Any:
        for mask in (16, 8, 4, 2, 1):
            value += hw.shfl_xor(value, mask)
        return value

    @hw.device
    def warp_sums(s: Any, d: Any, t: Any) -> Any:
        if dense:
            return warp_sum(s), warp_sum(d), warp_sum(t)
        return warp_sum(s), d, t

    if threads == WARP:
        return Reduce(warp_max, warp_sums)
    warps = threads // WARP
    slots = 3 * warps
    zero = real(0)

    @hw.device
    def block_max(value: Any) -> Any:
        maxima = hw.cuda.shared.array(warps, real)
        value = warp_max(value)
        if hw.thread() % WARP == 0:
            maxima[hw.thread() // WARP] = value
        hw.barrier()
        # Every warp reduces all partial maxima itself: repeats are harmless to a maximum, and no second barrier.
        return warp_max(maxima[hw.thread() % warps])

    @hw.device
    def block_sums(s: Any, d: Any, t: Any) -> Any:
        partial = hw.cuda.shared.array(slots, real)
        s, d, t = warp_sums(s, d, t)
        if hw.thread() % WARP == 0:
            at = hw.thread() // WARP
            partial[at] = s
            if dense:
                partial[warps + at] = d
                partial[2 * warps + at] = t
        hw.barrier()
        lane = hw.thread() % WARP
        s = partial[lane] if lane < warps else zero
        if dense:
            d = partial[warps + lane] if lane < warps else zero
            t = partial[2 * warps + lane] if lane < warps else zero
        return warp_sums(s, d, t)

    return Reduce(block_max, block_sums)
