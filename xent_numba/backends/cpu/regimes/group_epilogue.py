"""A vector of rows, one a lane: what a call says of each, and from their statistics to losses and factors."""

from __future__ import annotations

from typing import Any, NamedTuple

from xent_numba.backends.cpu.compile.inline import inline, unless_none
from xent_numba.backends.cpu.regimes.lanes_tile import heeded
from xent_numba.backends.cpu.row.epilogue import Row, factors, inverse_of_saved, log_sum, loss, target_term
from xent_numba.backends.cpu.row.operands import times
from xent_numba.backends.cpu.row.transform import factor
from xent_numba.backends.cpu.simd.cast import narrow, shortened, whole, widen
from xent_numba.backends.cpu.simd.load_store import keep, load, load_part, pointer, put, scratch
from xent_numba.backends.cpu.simd.math import divided, scaled
from xent_numba.backends.cpu.simd.reduce import lane
from xent_numba.backends.cpu.simd.vector import lanes_of, select, splat


@unless_none
def labels_of(labels: Any, i: int, rows: int, classes: int, ignored: Any, like: Any) -> Any:
    """The class of each row, −1 in lanes without one; None where there are no labels."""
    nothing = whole(like)
    y = load(pointer(labels), i, nothing) if rows == lanes_of(like) else load_part(pointer(labels), i, rows, nothing)
    for value in ignored:
        y = select(y == splat(value, y), nothing, y)
    y = select(y < splat(classes, y), y, nothing)  # what is out of range is ignored: the scan saw to it
    return shortened(select(y < splat(0, y), nothing, y), like)


@inline
def row_values(array: Any, i: int, rows: int, wide: Any) -> Any:
    """array[i + r] in lane r, or 1 where the array is empty."""
    if array.size == 0:
        return splat(1.0, wide)
    memory = scratch(wide, 1)
    for r in range(lanes_of(wide)):
        put(memory, r, array[i + r] if r < rows else 0.0)
    return load(memory, 0, wide)


@unless_none
def hard_of(hard: Any, weight: Any, y: Any, wide: Any) -> Any:
    """(1 − ε) w_y of each row; None for a distribution."""
    if weight.size == 0:
        return splat(hard, wide)
    memory = scratch(wide, 1)
    for r in range(lanes_of(wide)):
        put(memory, r, hard * weight[max(lane(y, r), 0)])
    return load(memory, 0, wide)


@unless_none
def saved_of(lse: Any, i: int, rows: int, s: Any, like: Any) -> Any:
    """What stands in for the maximum where a log-sum-exp is saved: it, without the scale."""
    given = row_values(lse, i, rows, widen(like))
    return narrow(given / splat(factor(s), given), like)


@inline
def inverse_of(lse: Any, row: Any, total: Any, i: int, rows: int, s: Any, like: Any) -> Any:
    """1 / S."""
    if lse is None:
        return divided(splat(1.0, total), total)
    return inverse_of_saved(row, row_values(lse, i, rows, widen(like)), s)


@inline
def lse_of(saved: Any, row: Any, log_s: Any, i: int, rows: int, s: Any) -> Any:
    if saved is None:
        return scaled(row.top, s) + log_s
    return row_values(saved, i, rows, log_s)


@inline
def put_rows(out: Any, i: int, rows: int, loss: Any) -> None:
    if out.size:
        for r in range(lanes_of(loss)):
            if r < rows:
                out[i + r] = lane(loss, r)


@inline
def kept(loss: Any, y: Any, rows: int) -> Any:
    """The loss, 0 in lanes that have no row or an ignored one."""
    if y is None:
        return keep(loss, rows, splat(0.0, loss))
    return heeded(loss, y)


# ------------------------------------------------------------------------------------------------ the end of a row
class End(NamedTuple):
    """What loss and gradient of the rows have in common."""

    row: Any  # in float64
    x_y: Any
    hard: Any
    e_y: Any
    total: Any
    log_s: Any
    scale: Any  # the sample weights


@inline
def end_of(call: Any, row: Any, x_y: Any, y: Any, i: int, rows: int, like: Any) -> Any:
    """Of the rows from i on, with their statistics and the logits at their targets."""
    wide = widen(like)
    row = Row(widen(row.top), row.rest, row.dot, row.mass)
    hard = hard_of(call.hard, call.weight, y, wide)
    e_y = target_term(row, hard, x_y, call.s, like)
    total = row.rest + e_y
    log_s = log_sum(row, hard, x_y, total)
    return End(row, x_y, hard, e_y, total, log_s, row_values(call.sample_weight, i, rows, wide))


@inline
def losses(call: Any, end: Any, y: Any, rows: int) -> Any:
    """The losses times their sample weights, 0 in lanes without a row and in ignored ones."""
    value = loss(end.row, end.hard, end.x_y, end.log_s, call.s, call.z)
    return kept(times(value, end.scale), y, rows)


@inline
def slopes(call: Any, lse: Any, end: Any, i: int, rows: int, like: Any) -> Any:
    """The factor of exp(s (x − top)) in float64, that of u, and the value at the target: all times their scale."""
    wide = widen(like)
    inverse = inverse_of(lse, end.row, end.total, i, rows, call.s, like)
    by = factors(end.row, end.hard, end.e_y, inverse, lse_of(lse, end.row, end.log_s, i, rows, call.s), call.z)
    k = end.scale * row_values(call.upstream, i, rows, wide) * splat(call.grad_scale, wide)
    return by.of_p * k, narrow(k, like), narrow(by.at_target * k, like)
