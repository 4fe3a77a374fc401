"""Second derivatives of long rows, whose classes lie side by side: one row at a time, along its classes.

As in `regimes.long.rows`, what is written for a row is written while the next row is read.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from xent_numba.backends.cpu.compile.inline import inline
from xent_numba.backends.cpu.regimes.curvature.elements import DiagonalCoefficients, ProductCoefficients
from xent_numba.backends.cpu.regimes.curvature.long_label import curvature_of, mask_of, row_label, value_at
from xent_numba.backends.cpu.regimes.curvature.operands import measures_of, second_order_vtype, top_of
from xent_numba.backends.cpu.regimes.long.gradient import scaled_shift
from xent_numba.backends.cpu.regimes.long.outputs import OwnValues, store_element
from xent_numba.backends.cpu.regimes.long.pending import complete_pending, next_pending, no_pending
from xent_numba.backends.cpu.regimes.long.statistics import statistics
from xent_numba.backends.cpu.regimes.work_items import work_item
from xent_numba.backends.cpu.row.curvature import (
    add_bend,
    diagonal_at,
    diagonal_of_x,
    magnitude_of,
    needs_label,
    offset_without_focal,
)
from xent_numba.backends.cpu.row.operands import (
    RowInput,
    is_ignored,
    row_input,
    row_pointer,
    value_or_one,
)
from xent_numba.backends.cpu.row.target import smoothing_at
from xent_numba.backends.cpu.row.transform import chain_rule
from xent_numba.backends.cpu.simd.cast import promote
from xent_numba.backends.cpu.simd.load_store import stride
from xent_numba.backends.cpu.simd.reduce import extract_lane
from xent_numba.backends.cpu.simd.vector import one_lane, select

_LEAST = 1e-22  # at least what multiplies the exponentials of a row, or they would be no normal numbers in float32


# ------------------------------------------------------------------------------------------------ one row
@inline
def _centre(stats: Any) -> Any:
    """What is subtracted from the logits before exp."""
    return stats.row_max if stats.row_max > -math.inf else 0.0


@inline
def _with_class(row: Any, y: Any) -> Any:
    """The `RowInput` with y for the class that has a scalar of its own, −1 for none."""
    return RowInput(row.logits, row.classes, y, row.dense, row.transform, row.scale, row.top, row.measures)


@inline
def _input(operands: Any, vector: Any, a: int, b: int) -> Any:
    """The `RowInput` of row (a, b), which leaves out its `Top`, with the `Measures` for a vector or without."""
    row = row_input(operands, a, b)
    measures = measures_of(vector, a, b)
    return RowInput(
        row.logits, row.classes, row.y, row.dense, row.transform, row.scale, top_of(row.transform), measures
    )


@inline
def _write_zeros(out: Any, classes: int, vtype: Any) -> None:
    """Write the result of an ignored row."""
    for j in range(classes):
        store_element(out, j, 0.0, vtype)


# ------------------------------------------------------------------------------------------------ products
@inline
def _product_coefficients(operands: Any, second: Any, row: Any, stats: Any, factor: float, vtype: Any) -> Any:
    """(`ProductCoefficients`, the class with a scalar of its own or −1) of a row; `factor` multiplies all of it."""
    label, v, zeta = (
        row_label(operands.distribution, stats, operands, row, vtype),
        row.measures.stream,
        operands.z_coefficient,
    )
    x_y, v_y = value_at(row.logits, label.y, vtype), value_at(v, label.y, vtype)
    found = curvature_of(operands, label, x_y, vtype)
    at_top, mean = one_lane(stats.measured.at_top, found.inverse), one_lane(stats.measured.stream, found.inverse)
    mean = mean * found.inverse
    along = promote(chain_rule(v_y, x_y, row.transform)) - at_top  # of the label
    kappa, offset = found.psi * (along - mean), offset_without_focal(found.spread, mean, at_top, zeta)
    at_target, y = 0.0, np.int64(-1)
    if needs_label(row.transform, operands.focal_gamma):
        y = np.int64(label.y)
        h = found.p_y * (found.spread * along - offset) - kappa * found.q_y
        g = found.at_target - one_lane(smoothing_at(row.dense, max(label.y, 0)), h)
        h = chain_rule(add_bend(h, second.bend, g * promote(v_y), x_y, row.transform), x_y, row.transform)
        at_target = extract_lane(h, 0) * factor
    magnitude = magnitude_of(found.spread)
    p_factor = factor * extract_lane(magnitude * found.inverse, 0)
    shift, scaled, keep_residual = scaled_shift(_centre(stats), p_factor, row.scale, vtype)
    return ProductCoefficients(
        shift,
        keep_residual,
        at_target,
        scaled,
        extract_lane(found.spread / magnitude, 0),
        stats.measured.at_top,
        extract_lane((offset - kappa) / magnitude, 0),
        factor,
        second.bend,
        v,
    ), y


@inline
def _no_product(operands: Any, second: Any, vtype: Any) -> Any:
    """A `PendingGradient` with nothing to write."""
    row = _input(operands, second.vector, 0, 0)
    shift, factor, keep_residual = scaled_shift(0.0, 0.0, row.scale, vtype)
    coefficients = ProductCoefficients(
        shift, keep_residual, 0.0, factor, 0.0, 0.0, 0.0, 0.0, second.bend, row.measures.stream
    )
    return no_pending(row_pointer(operands.grad, 0, 0), row, coefficients, operands.streaming, vtype)


@inline
def _product_row(operands: Any, second: Any, i: int, pending: Any, vtype: Any) -> Any:
    """Row i of a Hessian-vector product as pending, once that of the row before is complete."""
    a, b, _, _ = work_item(operands.logits.shape, i, 1)
    row, out = _input(operands, second.vector, a, b), row_pointer(operands.grad, a, b)
    if is_ignored(operands.labels, row.y):
        complete_pending(pending, 0, True, vtype)
        _write_zeros(out, row.classes, vtype)
        return pending
    stats = statistics(row, pending, vtype)
    complete_pending(pending, stride(operands.grad, 1), b == 0, vtype)
    factor = value_or_one(operands.sample_weight, i) * second.scale
    coefficients, y = _product_coefficients(operands, second, row, stats, factor, vtype)
    return next_pending(pending, _with_class(row, y), coefficients, out)


@inline
def long_products(operands: Any, second: Any, start: int, stop: int) -> None:
    """The rows start … stop of a Hessian-vector product."""
    vtype = second_order_vtype(operands, second)
    pending = _no_product(operands, second, vtype)
    for i in range(start, stop):
        pending = _product_row(operands, second, i, pending, vtype)
    complete_pending(pending, 0, True, vtype)


# ------------------------------------------------------------------------------------------------ diagonals
@inline
def _diagonal_coefficients(operands: Any, second: Any, row: Any, stats: Any, weight: float, vtype: Any) -> Any:
    """The `DiagonalCoefficients` of a row with this sample weight."""
    label, zeta = row_label(operands.distribution, stats, operands, row, vtype), operands.z_coefficient
    x_y, x_top = value_at(row.logits, label.y, vtype), value_at(row.logits, stats.top.y, vtype)
    found = curvature_of(operands, label, x_y, vtype)
    is_top = mask_of(label.is_top, vtype)
    transform, factor, g_factor = row.transform, weight * second.scale, weight * operands.grad_scale
    g_y = found.at_target - one_lane(smoothing_at(row.dense, max(label.y, 0)), found.at_target)
    g_top = found.spread * found.p_top - one_lane(smoothing_at(row.dense, max(stats.top.y, 0)), g_y)
    h_top = diagonal_at(found, found.p_top, found.q_top, select(is_top, found.q_top, found.p_top), zeta)
    at_y = extract_lane(chain_rule(g_y, x_y, transform), 0) * g_factor
    at_top = diagonal_of_x(h_top, select(is_top, g_y, g_top), second.bend, x_top, transform)
    at_label, y = 0.0, np.int64(-1)
    if needs_label(transform, operands.focal_gamma) and not label.is_top:
        y = np.int64(label.y)
        h_y = diagonal_at(found, found.p_y, found.q_y, found.q_y, zeta)
        at_label = extract_lane(diagonal_of_x(h_y, g_y, second.bend, x_y, transform), 0) * factor
    own = OwnValues(np.int64(label.y), at_y, np.int64(stats.top.y), extract_lane(at_top, 0) * factor, y, at_label)
    inverse, spread = extract_lane(found.inverse, 0), extract_lane(found.spread, 0)
    square = spread - 2.0 * zeta + extract_lane(found.psi, 0)
    largest = max(abs(spread * g_factor), abs(spread * factor), abs(square * factor), _LEAST)
    shift, scaled, keep_residual = scaled_shift(_centre(stats), largest * inverse, row.scale, vtype)
    return DiagonalCoefficients(
        shift,
        keep_residual,
        own,
        scaled,
        spread * g_factor / largest,
        spread * factor / largest,
        square * factor / largest * (scaled / largest),
        g_factor,
        second.bend,
    )


@inline
def _no_diagonal(operands: Any, second: Any, vtype: Any) -> Any:
    """A `PendingGradient` of two outputs with nothing to write."""
    row, none = _input(operands, None, 0, 0), np.int64(-1)
    shift, factor, keep_residual = scaled_shift(0.0, 0.0, row.scale, vtype)
    own = OwnValues(none, 0.0, none, 0.0, none, 0.0)
    coefficients = DiagonalCoefficients(shift, keep_residual, own, factor, 0.0, 0.0, 0.0, 0.0, second.bend)
    return no_pending(_outputs(operands, second, 0, 0), row, coefficients, operands.streaming, vtype)


@inline
def _outputs(operands: Any, second: Any, a: int, b: int) -> Any:
    """Where the gradient and the diagonal of row (a, b) are written."""
    return row_pointer(operands.grad, a, b), row_pointer(second.diag, a, b)


@inline
def _diagonal_row(operands: Any, second: Any, i: int, pending: Any, vtype: Any) -> Any:
    """The gradient and the diagonal of row i as pending, once those of the row before are complete."""
    a, b, _, _ = work_item(operands.logits.shape, i, 1)
    row, out = _input(operands, None, a, b), _outputs(operands, second, a, b)
    if is_ignored(operands.labels, row.y):
        complete_pending(pending, 0, True, vtype)
        _write_zeros(out[0], row.classes, vtype)
        _write_zeros(out[1], row.classes, vtype)
        return pending
    stats = statistics(row, pending, vtype)
    row_stride = stride(operands.grad, 1)
    complete_pending(pending, row_stride, b == 0 or row_stride != stride(second.diag, 1), vtype)
    weight = value_or_one(operands.sample_weight, i)
    return next_pending(pending, row, _diagonal_coefficients(operands, second, row, stats, weight, vtype), out)


@inline
def long_diagonals(operands: Any, second: Any, start: int, stop: int) -> None:
    """The gradients and diagonals of the rows start … stop."""
    vtype = second_order_vtype(operands, second)
    pending = _no_diagonal(operands, second, vtype)
    for i in range(start, stop):
        pending = _diagonal_row(operands, second, i, pending, vtype)
    complete_pending(pending, 0, True, vtype)
