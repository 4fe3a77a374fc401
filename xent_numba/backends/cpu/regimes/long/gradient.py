"""The gradient of one long row whose classes lie side by side; each element is written once.

Large gradients are streamed, that is, written as aligned vectors past the caches, so that memory is not read before it
is written.  A row seldom begins or ends at a full cache line: the elements of a line that the row does not complete
wait in a staging buffer (the carry) for the row after it, or are written alone.

The gradient of a row can only be computed when all of the row has been read.  It is then written little by little while
the next row is read (`PendingGradient`), so that memory does both at once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from xent_numba.backends.cpu.compile.inline import inline
from xent_numba.backends.cpu.row.target import dense_target, dense_target_n, insert_target
from xent_numba.backends.cpu.row.transform import apply_transform, chain_rule
from xent_numba.backends.cpu.simd.cache_control import elements_to_alignment, prefetch_ahead, stream
from xent_numba.backends.cpu.simd.exp_shifted import (
    Shift,
    drop_residual,
    exp_shifted_for_product,
    has_residual,
    rescale_to_max,
    scale_for_product,
    shift_of,
)
from xent_numba.backends.cpu.simd.load_store import load, load_n, load_scalar, store, store_n, store_scalar
from xent_numba.backends.cpu.simd.reduce import extract_lane
from xent_numba.backends.cpu.simd.vector import lanes_of, one_lane, splat


class GradientScalars(NamedTuple):
    """The gradient of a row: p_factor · exp(s (x_j − centre)) − u_factor · u_j, times f'; `at_target` at its label."""

    centre: float
    p_factor: float
    u_factor: float
    at_target: float


class GradientCoefficients(NamedTuple):
    """`GradientScalars` made ready for vectors: p_factor · exp(s (x_j − shift)) − u_factor · u_j, times f'."""

    shift: Any  # a `Shift` in all lanes, for `exp_shifted_for_product`
    p_factor: Any
    u_factor: Any
    at_target: Any
    keep_residual: Any  # whether the residual of the shift counts, see `has_residual`


class RowOutput(NamedTuple):
    """Where the gradient of one row is written."""

    p: Any  # pointer to its C elements
    staging: Any  # pointer to memory for two vectors
    streaming: bool  # whether to write past the caches


class PendingGradient(NamedTuple):
    """The gradient of a row that is written while the next row is read."""

    row: Any  # `RowInput`
    output: Any  # `RowOutput`
    coefficients: Any  # `GradientCoefficients`
    progress: Any  # pointer to two integers: how many elements are done; the carry, of this row or the row before


@inline
def gradient_coefficients(scalars: Any, scale: Any, vtype: Any) -> Any:
    """The `GradientCoefficients` from `GradientScalars`."""
    centre = one_lane(scalars.centre, vtype)
    shift = shift_of(centre, scale)
    rescaling = extract_lane(rescale_to_max(shift, centre, scale), 0)
    shifts = Shift(splat(extract_lane(shift.residual, 0), vtype), splat(extract_lane(shift.exponent, 0), vtype))
    shifts, p_factor = scale_for_product(shifts, scalars.p_factor * rescaling, scale)
    return GradientCoefficients(shifts, p_factor, scalars.u_factor, scalars.at_target, has_residual(shifts, scale))


# ------------------------------------------------------------------------------------------------ vectors
@inline
def subtract_dense_target(g: Any, u_factor: Any, dense: Any, i: Any) -> Any:
    """g_j − u_factor · u_j, for a vector of classes from i on."""
    if dense is None:
        return g
    return g - splat(u_factor, g) * dense_target(dense, i, g)


@inline
def subtract_dense_target_n(g: Any, u_factor: Any, dense: Any, i: Any, count: Any) -> Any:
    """g_j − u_factor · u_j, for the `count` classes from i on; the other lanes are those of `g`."""
    if dense is None:
        return g
    return g - splat(u_factor, g) * dense_target_n(dense, i, count, g)


@inline
def _gradient(row: Any, i: int, shift: Any, coefficients: Any, vtype: Any) -> Any:
    """The gradient of a vector of classes from i on, all of them as if they were not the target."""
    x = load(row.logits, i, vtype)
    e = exp_shifted_for_product(apply_transform(x, row.transform), shift, row.scale)
    g = subtract_dense_target(e * splat(coefficients.p_factor, vtype), coefficients.u_factor, row.dense, i)
    return chain_rule(g, x, row.transform)


@inline
def _gradient_n(row: Any, i: int, count: int, coefficients: Any, vtype: Any) -> Any:
    """The gradient of the `count` classes from i on, all of them as if they were not the target."""
    x = load_n(row.logits, i, count, splat(0.0, vtype))
    e = exp_shifted_for_product(apply_transform(x, row.transform), coefficients.shift, row.scale)
    g = subtract_dense_target_n(e * splat(coefficients.p_factor, vtype), coefficients.u_factor, row.dense, i, count)
    return chain_rule(g, x, row.transform)


@inline
def store_element(p: Any, i: int, value: float, vtype: Any) -> None:
    """p[i] = value, rounded once to the dtype in memory."""
    store_n(p, i, 1, splat(value, vtype))


# ------------------------------------------------------------------------------------------------ parts of a row
@inline
def _store_gradient(row: Any, out: Any, start: int, stop: int, coefficients: Any, vtype: Any) -> None:
    """Write the gradient of the classes start … stop through the caches; `out` may be where the logits are."""
    lanes = lanes_of(vtype)
    without_residual = drop_residual(coefficients.shift, row.scale)
    i = start
    while i + lanes <= stop and not coefficients.keep_residual:
        store(out, i, _gradient(row, i, without_residual, coefficients, vtype))
        i += lanes
    while i < stop:
        count = min(lanes, stop - i)
        store_n(out, i, count, _gradient_n(row, i, count, coefficients, vtype))
        i += count
    if start <= row.y < stop:
        store_element(out, row.y, coefficients.at_target, vtype)


@inline
def _stream_gradient(row: Any, output: Any, start: int, stop: int, coefficients: Any, carry: int, vtype: Any) -> int:
    """Write the gradient of the classes start … stop past the caches, as far as they fill vectors; return the carry.

    Before and after, the staging buffer holds the `carry` elements that begin the vector in memory which the next
    element to be written is part of.
    """
    lanes, out, staging, y = lanes_of(vtype), output.p, output.staging, row.y
    without_residual = drop_residual(coefficients.shift, row.scale)
    head = lanes - carry if carry > 0 else elements_to_alignment(out, start, vtype)
    if head < 0:
        _store_gradient(row, out, start, stop, coefficients, vtype)
        return 0
    i = start
    if head > 0:
        count = min(head, stop - start)
        g = insert_target(_gradient_n(row, i, count, coefficients, vtype), i, y, coefficients.at_target)
        i += count
        if carry > 0:
            store_n(staging, carry, count, g)
            if count < head:
                return carry + count
            stream(out, start - carry, load(staging, 0, vtype))
        else:
            store_n(out, start, count, g)
    while i + lanes <= stop:
        target_or_stop = y if i <= y else stop  # first all vectors before the one with the target, then all after it
        while i + lanes <= min(target_or_stop, stop) and not coefficients.keep_residual:
            prefetch_ahead(row.logits, i)
            stream(out, i, _gradient(row, i, without_residual, coefficients, vtype))
            i += lanes
        if i + lanes <= stop and (coefficients.keep_residual or i <= y < i + lanes):
            g = _gradient(row, i, coefficients.shift, coefficients, vtype)
            stream(out, i, insert_target(g, i, y, coefficients.at_target))
            i += lanes
    if i < stop:
        g = _gradient_n(row, i, stop - i, coefficients, vtype)
        store_n(staging, 0, stop - i, insert_target(g, i, y, coefficients.at_target))
    return stop - i


@inline
def write_gradient(row: Any, output: Any, start: int, stop: int, coefficients: Any, carry: int, vtype: Any) -> int:
    """Write the gradient of the classes start … stop of a `RowInput`, and return the carry.

    The carry is how many of the last elements before `stop` are still in the staging buffer: 0 without streaming.
    """
    if output.streaming:
        return _stream_gradient(row, output, start, stop, coefficients, carry, vtype)
    _store_gradient(row, output.p, start, stop, coefficients, vtype)
    return carry


@inline
def write_pending(pending: Any, vectors: int, vtype: Any) -> None:
    """Write some more vectors of a pending gradient, if there is one and it is not complete."""
    if pending is not None:
        output, classes = pending.output, pending.row.classes
        start, carry = load_scalar(pending.progress, 0), load_scalar(pending.progress, 1)
        if start < classes:
            lanes = lanes_of(vtype)
            head = 0
            if start == 0 and output.streaming:  # complete the first vector in memory, so that all others are aligned
                head = lanes - carry if carry > 0 else max(0, elements_to_alignment(output.p, 0, vtype))
            stop = min(classes, start + head + vectors * lanes)
            carry = write_gradient(pending.row, output, start, stop, pending.coefficients, carry, vtype)
            store_scalar(pending.progress, 0, stop)
            store_scalar(pending.progress, 1, carry)
