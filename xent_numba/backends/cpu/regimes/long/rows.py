"""Long rows, whose classes lie side by side: one row at a time, along its classes.

The statistics of a row are computed in one pass (`statistics`), during which the gradient of the row before it is
written (`gradient`).  The losses of a vector of rows are computed together (`epilogue`).
"""

from __future__ import annotations

from typing import Any

from numba import types

from xent_numba.backends.cpu.compile.inline import inline, optional, specialize
from xent_numba.backends.cpu.regimes.long.epilogue import (
    RowTerms,
    buffer_row,
    buffered_losses,
    gradient_factor,
    gradient_scalars,
    labelled,
    loss_buffer,
    row_terms,
)
from xent_numba.backends.cpu.regimes.long.gradient import (
    GradientScalars,
    RowOutput,
    gradient_coefficients,
)
from xent_numba.backends.cpu.regimes.long.outputs import store_element
from xent_numba.backends.cpu.regimes.long.pending import complete_pending, next_pending, no_pending
from xent_numba.backends.cpu.regimes.long.saved import gradient_from_saved
from xent_numba.backends.cpu.regimes.long.statistics import statistics
from xent_numba.backends.cpu.regimes.work_items import work_item
from xent_numba.backends.cpu.row.epilogue import RowStatistics
from xent_numba.backends.cpu.row.operands import (
    is_ignored,
    row_input,
    row_pointer,
    store_loss,
    vtype_of,
)
from xent_numba.backends.cpu.simd.cast import promote
from xent_numba.backends.cpu.simd.load_store import stride
from xent_numba.backends.cpu.simd.reduce import extract_lane
from xent_numba.backends.cpu.simd.vector import lanes_of


# ------------------------------------------------------------------------------------------------ pending gradients
@specialize
def _no_gradient(saved_lse: Any, operands: Any, vtype: Any) -> Any:
    """A `PendingGradient` with nothing to write; None where no gradient is asked for, or it needs no statistics."""
    if isinstance(saved_lse, types.NoneType):
        return lambda saved_lse, operands, vtype: _empty_gradient(operands.grad, operands, vtype)
    return lambda saved_lse, operands, vtype: None


@optional
def _empty_gradient(grad: Any, operands: Any, vtype: Any) -> Any:
    """A `PendingGradient` that is complete: of no classes."""
    coefficients = gradient_coefficients(
        operands.focal_gamma, GradientScalars(0.0, 0.0, 0.0, 0.0), operands.scale, vtype
    )
    return no_pending(row_pointer(grad, 0, 0), row_input(operands, 0, 0), coefficients, operands.streaming, vtype)


@inline
def _next_gradient(pending: Any, row: Any, terms: Any, out: Any, factor: float, operands: Any, vtype: Any) -> Any:
    """The `PendingGradient` of a row, once that of the row before is complete."""
    if pending is None:
        return None
    scalars = gradient_scalars(row, terms, factor, operands, vtype)
    coefficients = gradient_coefficients(operands.focal_gamma, scalars, row.scale, vtype)
    return next_pending(pending, row, coefficients, out)


# ------------------------------------------------------------------------------------------------ rows
@inline
def _write_zeros(out: Any, classes: int, vtype: Any) -> None:
    """Write a gradient of zeros, if a gradient is asked for."""
    if out is not None:
        for j in range(classes):
            store_element(out, j, 0.0, vtype)


@inline
def _compute_row(operands: Any, saved_lse: Any, i: int, k: int, buffer: Any, pending: Any, vtype: Any) -> Any:
    """Compute row i: put what its loss is made of at lane k of the buffer, and return its gradient as pending.

    The pending gradient of the row before is completed.  With a `saved_lse` the gradient is written at once, and
    there is no loss.
    """
    a, b, _, _ = work_item(operands.logits.shape, i, 1)
    row, out = row_input(operands, a, b), row_pointer(operands.grad, a, b)
    if is_ignored(operands.labels, row.y):
        complete_pending(pending, 0, True, vtype)
        _write_zeros(out, row.classes, vtype)
        buffer_row(buffer, k, RowTerms(RowStatistics(0.0, 0.0, 0.0, 0.0, None, None), 0.0, 0.0, 0.0))  # a loss of 0
        return pending
    factor = gradient_factor(operands, i)
    if saved_lse is not None:
        output = RowOutput(out, None, operands.streaming)
        gradient_from_saved(row, output, saved_lse[i], factor, operands, vtype)
        return pending
    stats = statistics(row, pending, vtype)
    row = labelled(row, stats.top)
    terms = row_terms(operands, row, stats, i, vtype)
    buffer_row(buffer, k, terms)
    complete_pending(pending, _row_stride(operands.grad), b == 0, vtype)
    return _next_gradient(pending, row, terms, out, factor, operands, vtype)


@optional
def _row_stride(grad: Any) -> Any:
    """The distance between the rows of a gradient; None without one."""
    return stride(grad, 1)


@inline
def _store_losses(
    saved_lse: Any, operands: Any, buffer: Any, first: int, count: int, group: int, partials: Any, vtype: Any
) -> None:
    """Compute and store the losses of `count` buffered rows; with a saved log-sum-exp there are none."""
    if saved_lse is None:
        losses = buffered_losses(buffer, operands, vtype)
        for k in range(count):
            loss = extract_lane(losses, k)
            store_loss(operands.row_losses, first + k, loss)
            partials[(first + k) // group] += loss


@inline
def long_rows(operands: Any, start: int, stop: int, group: int, partials: Any) -> None:
    """Compute the rows start … stop, and add their losses in order to partials[row // group]."""
    vtype = vtype_of(operands)
    lanes = lanes_of(vtype)
    buffer = loss_buffer(promote(vtype))
    pending = _no_gradient(operands.saved_lse, operands, vtype)
    for first in range(start, stop, lanes):
        count = min(lanes, stop - first)
        for k in range(count):
            pending = _compute_row(operands, operands.saved_lse, first + k, k, buffer, pending, vtype)
        _store_losses(operands.saved_lse, operands, buffer, first, count, group, partials, vtype)
    complete_pending(pending, 0, True, vtype)
