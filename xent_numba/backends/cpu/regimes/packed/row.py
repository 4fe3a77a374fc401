"""One row of the `packed` regime, along its classes: its sums, and its gradient."""

from __future__ import annotations

from typing import Any, NamedTuple

from xent_numba.backends.cpu.compile.inline import inline
from xent_numba.backends.cpu.regimes.lanes.gradient import times_factors
from xent_numba.backends.cpu.regimes.lanes.tile import exp_of_tile
from xent_numba.backends.cpu.regimes.long.gradient import subtract_dense_target
from xent_numba.backends.cpu.row.target import (
    add_dense_sums,
    add_dense_term,
    dense_target_n,
    exclude_target,
    insert_target,
    no_dense_sums,
)
from xent_numba.backends.cpu.simd.cache_control import prefetch_l1, prefetch_l2
from xent_numba.backends.cpu.simd.cast import promote
from xent_numba.backends.cpu.simd.load_store import load, store
from xent_numba.backends.cpu.simd.vector import lanes_of, splat


class PackedRow(NamedTuple):
    """One row in a tile, and what its sums are computed from."""

    p: Any  # its logits, after the transform; the last vector is filled up with −inf
    classes: int
    excluded: Any  # class that is left out of the sum of exponentials; None where its logit is masked with −inf
    shift: Any  # `TileShift`, the same in all lanes
    saved_shift: Any  # not None if the shift is a saved log-sum-exp
    scale: Any
    dense: Any  # `DenseTarget`, or None
    prefetch: Any  # `PrefetchRows`


# ------------------------------------------------------------------------------------------------ sums
@inline
def _store_exp(row: Any, i: int, e: Any, grad: Any) -> None:
    """Replace logits by their exponentials, if there is a gradient to be made of them."""
    if grad is not None:
        store(row, i, e)


@inline
def _add_dense(sums: Any, x: Any, i: int, classes: int, centre: Any, dense: Any) -> Any:
    """(Σ u (centre − x) / 4, Σ u) with the classes from i on added."""
    if dense is None:
        return sums
    u = dense_target_n(dense, i, min(lanes_of(x), classes - i), x)
    return add_dense_term(sums, u, centre, x)


@inline
def _exp_term(row: Any, i: int, grad: Any, dense_sums: Any) -> Any:
    """The exponentials of the classes from i on, without the excluded class, and `dense_sums` with them added."""
    prefetch_l2(row.prefetch.l2, i)
    prefetch_l1(row.prefetch.l1, i)
    x = load(row.p, i, row.shift.centre)
    e = exp_of_tile(x, row.shift, row.saved_shift, row.scale)
    _store_exp(row.p, i, e, grad)
    dense_sums = _add_dense(dense_sums, x, i, row.classes, row.shift.centre, row.dense)
    return exclude_target(e, i, row.excluded), dense_sums


@inline
def row_sums(row: Any, grad: Any) -> Any:
    """Σ exp and the `DenseSums`, per lane in float64; the exponentials replace the logits for a gradient.

    Four sums run side by side in the arithmetic of the logits.
    """
    zero = splat(0.0, row.shift.centre)
    step, classes = lanes_of(zero), row.classes
    sum0, sum1, sum2, sum3 = zero, zero, zero, zero
    dense_sums = no_dense_sums(promote(zero))
    i = 0
    while i + 4 * step <= classes:
        run = zero, zero
        e0, run = _exp_term(row, i, grad, run)
        e1, run = _exp_term(row, i + step, grad, run)
        e2, run = _exp_term(row, i + 2 * step, grad, run)
        e3, run = _exp_term(row, i + 3 * step, grad, run)
        sum0, sum1, sum2, sum3 = sum0 + e0, sum1 + e1, sum2 + e2, sum3 + e3
        dense_sums = add_dense_sums(dense_sums, run, row.dense)
        i += 4 * step
    run = zero, zero
    while i < classes:
        e0, run = _exp_term(row, i, grad, run)
        sum0 = sum0 + e0
        i += step
    dense_sums = add_dense_sums(dense_sums, run, row.dense)
    return promote((sum0 + sum1) + (sum2 + sum3)), dense_sums


# ------------------------------------------------------------------------------------------------ gradient
@inline
def to_gradient(row: Any, out: Any, classes: int, excluded: Any, factors: Any, dense: Any) -> None:
    """Write the gradient made of a row of exponentials; `factors` is the `ScaledFactors` of the row.

    The target value goes to the excluded class, before the dense target is subtracted.  Whole vectors are written:
    what is beyond the last class is overwritten by the next row.
    """
    step = lanes_of(factors.p_factor)
    for i in range(0, classes, step):
        g = insert_target(times_factors(load(row, i, factors.p_factor), factors), i, excluded, factors.at_target)
        store(out, i, subtract_dense_target(g, factors.u_factor, dense, i, min(step, classes - i)))
