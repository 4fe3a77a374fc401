"""What the sums of a batch tell of its rows: their divergences, with careful sums where these matter."""

from __future__ import annotations

from typing import Any, NamedTuple

from xent_numba.backends.cpu.compile.inline import inline
from xent_numba.backends.cpu.regimes.distillation.batch import lane_of_shifts
from xent_numba.backends.cpu.regimes.distillation.passes import Pair, careful_sum, no_total, total_of
from xent_numba.backends.cpu.regimes.distillation.terms import (
    FAR,
    Outcome,
    Sums,
    needs_care,
    outcome_of,
    rescales,
    shifts_of,
    with_careful_sum,
)
from xent_numba.backends.cpu.regimes.item_epilogue import row_values
from xent_numba.backends.cpu.row.operands import row_pointer, value_or_one
from xent_numba.backends.cpu.simd.cast import demote, promote
from xent_numba.backends.cpu.simd.load_store import first_n_or, load, load_scalar, stack_buffer, store, store_scalar
from xent_numba.backends.cpu.simd.reduce import any_true, reduce_add
from xent_numba.backends.cpu.simd.vector import lanes_of, select, splat


class BatchItem(NamedTuple):
    """The rows (a, b) … (a, b + rows − 1), of a call or of a thread."""

    a: Any
    b: Any
    rows: Any
    first_row: Any  # the index of the first one in arrays of one value per row, (A·B,)
    is_last: Any  # whether there are no rows after these


class RowsOutcome(NamedTuple):
    """What the sums of a batch tell of its rows, one in each lane, or the same in all lanes."""

    sums: Any
    found: Any  # `Outcome`
    is_near: Any  # the mask of the rows that are not far apart


@inline
def _with_care(operands: Any, sums: Any, care: Any, item: Any, of_one_row: bool, vtype: Any) -> Any:
    """The `Sums` of a batch with careful sums in the lanes where the mask is set."""
    scale, zero = operands.scale, splat(0.0, sums.t_sum)
    t_max, s_max = demote(sums.t_max, vtype), demote(sums.s_max, vtype)
    shifts = shifts_of(t_max, s_max, scale)
    flags, totals = stack_buffer(zero, 1), stack_buffer(zero, 1)
    store(flags, 0, select(care, splat(1.0, zero), zero))
    store(totals, 0, zero)
    for r in range(item.rows):
        if load_scalar(flags, r) > 0.0:
            t, s = row_pointer(operands.teacher, item.a, item.b + r), row_pointer(operands.student, item.a, item.b + r)
            classes, lane_shifts = operands.student.shape[2], lane_of_shifts(shifts, r, vtype)
            total = careful_sum(no_total(vtype), Pair(t, s), classes, lane_shifts, scale, vtype)
            store_scalar(totals, r, reduce_add(total_of(total)))
    total = splat(load_scalar(totals, 0), zero) if of_one_row else load(totals, 0, zero)
    careful = with_careful_sum(sums, total, rescales(shifts, t_max, s_max, scale), vtype)
    return Sums(sums.t_max, sums.s_max, sums.t_sum, sums.s_sum, select(care, careful.apart, sums.apart))


@inline
def rows_outcome(operands: Any, sums: Any, item: Any, of_one_row: bool, vtype: Any) -> Any:
    """The `RowsOutcome` of the `Sums` of a batch."""
    found, one = outcome_of(sums, operands.scale), splat(1.0, sums.t_sum)
    rows = lanes_of(vtype) if of_one_row else item.rows
    care = needs_care(Outcome(first_n_or(found.kl, rows, one), found.mean))
    if any_true(care):
        sums = _with_care(operands, sums, care, item, of_one_row, vtype)
        found = outcome_of(sums, operands.scale)
    return RowsOutcome(sums, found, first_n_or(found.kl, rows, one) < splat(FAR, one))


@inline
def weights_of_rows(operands: Any, item: Any, of_one_row: bool, vtype: Any) -> Any:
    """The sample weights of the rows of a batch."""
    vtype64 = promote(vtype)
    if of_one_row:
        return splat(value_or_one(operands.sample_weight, item.first_row), vtype64)
    return row_values(operands.sample_weight, item, vtype64)
