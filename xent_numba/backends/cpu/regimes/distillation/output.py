"""Writing the gradient of long rows: most of it while the next rows are summed.

To sum exponentials keeps the arithmetic units busy, and to write a gradient the memory: a little of each in turn is
faster than one after the other.  So the gradient of rows that are far apart is `Pending`: their exponentials are kept,
and after each block of the rows that follow, one of its blocks is written.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from xent_numba.backends.cpu.compile.inline import inline, optional
from xent_numba.backends.cpu.regimes.distillation.passes import Pair, far_pass
from xent_numba.backends.cpu.regimes.staging import flush_full_lines, flush_tail, write_row
from xent_numba.backends.cpu.simd.load_store import advance, load_scalar
from xent_numba.backends.cpu.simd.vector import lanes_of, splat

BLOCK_VECTORS = 16  # whose gradient is written together
BUFFER_VECTORS = BLOCK_VECTORS + 2  # with the carry before a block, and what whole vectors write beyond its end


class Parts(NamedTuple):
    """Parts of rows, as many as a vector has lanes or fewer: whole rows, or neighbouring classes of a single row."""

    count: Any
    size: Any  # classes of each part
    last: Any  # classes of the last one
    step: Any  # elements from one part of `kept` to the next: whole vectors


class Output(NamedTuple):
    """Where the gradient of some parts is written."""

    p: Any  # pointer to that of the first part
    step: Any  # elements from one part to the next
    buffer: Any  # memory for a block, and for the carry before it
    streaming: Any  # whether to write past the caches
    joined: Any  # whether each part begins where the one before ends
    ends: Any  # whether the next row to be computed does not begin where the last part ends


class Pending(NamedTuple):
    """A gradient that is being written: factor · (q − p) of each part."""

    parts: Any  # `Parts`
    kept: Any  # `Pair` of pointers to the exponentials
    factors: Any  # pointer to what those of the teacher are multiplied by in each part; then those of the student
    output: Any  # `Output`
    part: Any  # where the next block begins
    i: Any
    carry: Any  # elements of an unfinished line at the beginning of the buffer


@inline
def part_size(parts: Any, k: int) -> int:
    """How many classes part k has."""
    return parts.last if k + 1 == parts.count else parts.size


@inline
def block_size(parts: Any, k: int, i: int, vtype: Any) -> int:
    """How many classes of part k the block from its class i on has."""
    return min(BLOCK_VECTORS * lanes_of(vtype), part_size(parts, k) - i)


@optional
def block_memory(pending: Any) -> Any:
    """Where the next block is laid out: behind the carry; None for None."""
    return advance(pending.output.buffer, pending.carry)


@optional
def write_laid_out(pending: Any, vtype: Any) -> Any:
    """The `Pending` after its next block, which is laid out, is written; None for None."""
    parts, kept, factors, output, part, i, carry = pending
    count = block_size(parts, part, i, vtype)
    out = advance(output.p, part * output.step + i)
    if output.streaming:
        carry = flush_full_lines(output.buffer, carry, count, out, vtype)
    else:
        write_row(output.buffer, out, count, False, vtype)
    i += count
    if i == part_size(parts, part):
        part, i = part + 1, np.int64(0)
        if (not output.joined) or (part == parts.count and output.ends):
            flush_tail(output.buffer, carry, advance(out, count), vtype)
            carry = np.int64(0)
    return Pending(parts, kept, factors, output, part, i, carry)


@optional
def write_block(pending: Any, vtype: Any) -> Any:
    """The `Pending` after one more block, if there is one; None for None."""
    parts, kept, factors, _, part, i, _ = pending
    if part < parts.count:
        first = part * parts.step + i
        e = Pair(advance(kept.t, first), advance(kept.s, first))
        p_factor = splat(load_scalar(factors, part), vtype)
        q_factor = splat(load_scalar(factors, lanes_of(vtype) + part), vtype)
        far_pass(e, block_memory(pending), block_size(parts, part, i, vtype), p_factor, q_factor, vtype)
        pending = write_laid_out(pending, vtype)
    return pending


@optional
def write_all(pending: Any, vtype: Any) -> Any:
    """The `Pending` after all its blocks; None for None."""
    while pending.part < pending.parts.count:
        pending = write_block(pending, vtype)
    return pending
