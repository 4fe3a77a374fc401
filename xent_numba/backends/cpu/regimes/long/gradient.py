"""The gradient of one long row whose classes lie side by side; each element is written once.

Large gradients are streamed, that is, written as aligned vectors past the caches, so that memory is not read before it
is written.  A row seldom begins or ends at a full cache line: the elements of a line that the row does not complete
wait in a staging buffer (the carry) for the row after it, or are written alone.

What is written need not be the gradient of the loss.  It is the `element` of some coefficients, which `ELEMENTS` says
for each class of them, computed from the exponential of each logit.  Such a class has the fields

    shift           what is subtracted from a logit before exp, a `Shift` in all lanes
    keep_residual   whether the residual of the shift counts, see `has_residual`
    at_target       what is written at class y of the row, if there is one

A row may have two outputs that are computed together (`outputs`).  Then `element` gives a pair of vectors, `at_target`
are `OwnValues`, and `RowOutput` has two pointers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from numba import types

from xent_numba.backends.cpu.compile.inline import by_class, inline, specialize
from xent_numba.backends.cpu.regimes.long.outputs import (
    are_alike,
    first_of,
    insert_own,
    load_each,
    next_own,
    store_each,
    store_n_each,
    store_own,
    stream_each,
)
from xent_numba.backends.cpu.row.target import dense_target_part
from xent_numba.backends.cpu.row.transform import apply_transform, chain_rule
from xent_numba.backends.cpu.simd.cache_control import elements_to_alignment, prefetch_ahead
from xent_numba.backends.cpu.simd.exp_shifted import (
    Shift,
    drop_residual,
    exp_shifted_for_product,
    has_residual,
    rescale_to_max,
    scale_for_product,
    shift_of,
)
from xent_numba.backends.cpu.simd.load_store import load_part
from xent_numba.backends.cpu.simd.math import apply_scale
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
    rescale: Any  # another factor of the exponentials, where p_factor may be too small for both; else None


class RowOutput(NamedTuple):
    """Where the gradient of one row is written."""

    p: Any  # pointer to its C elements; a pair for two outputs
    staging: Any  # pointer to memory for two vectors, or a pair
    streaming: bool  # whether to write past the caches


class ScaledShift(NamedTuple):
    """A shift and a factor: factor · `exp_shifted_for_product` of the shift is factor' · exp(s (x − centre)).

    The exponential itself is that times a power of 2, chosen so that it is a normal number wherever the product is.
    """

    shift: Any  # a `Shift` in all lanes
    factor: float
    keep_residual: bool


@specialize
def gradient_coefficients(focal_gamma: Any, scalars: Any, scale: Any, vtype: Any) -> Any:
    """The `GradientCoefficients` from `GradientScalars`.

    A focal factor may be so small that p_factor, times the scale of the exponentials, would be no normal number.  Where
    p_factor is large instead, exponentials times p_factor alone might overflow.
    """

    def together(focal_gamma: Any, scalars: Any, scale: Any, vtype: Any) -> Any:
        shift, p_factor, keep_residual = scaled_shift(scalars.centre, scalars.p_factor, scale, vtype)
        return GradientCoefficients(shift, p_factor, scalars.u_factor, scalars.at_target, keep_residual, None)

    def apart(focal_gamma: Any, scalars: Any, scale: Any, vtype: Any) -> Any:
        is_large = abs(scalars.p_factor) > 1.0
        p_factor, factor = (1.0, scalars.p_factor) if is_large else (scalars.p_factor, 1.0)
        shift, rescale, keep_residual = scaled_shift(scalars.centre, factor, scale, vtype)
        return GradientCoefficients(shift, p_factor, scalars.u_factor, scalars.at_target, keep_residual, rescale)

    return together if isinstance(focal_gamma, types.NoneType) else apart


@inline
def scaled_shift(centre: float, factor: float, scale: Any, vtype: Any) -> Any:
    """The `ScaledShift` for factor · exp(s (x − centre)); the centre is finite, or not a number."""
    c = one_lane(centre, vtype)
    shift = shift_of(c, scale)
    rescaling = extract_lane(rescale_to_max(shift, c, scale), 0)
    shifts = Shift(splat(extract_lane(shift.residual, 0), vtype), splat(extract_lane(shift.exponent, 0), vtype))
    shifts, scaled_factor = scale_for_product(shifts, factor * rescaling, scale)
    return ScaledShift(shifts, scaled_factor, has_residual(shifts, scale))


# ------------------------------------------------------------------------------------------------ vectors
@inline
def subtract_dense_target(g: Any, u_factor: Any, dense: Any, i: Any, count: Any) -> Any:
    """g_j − u_factor · u_j, for `count` classes from i on, None for a whole vector; the other lanes are those of g."""
    if dense is None:
        return g
    return g - splat(u_factor, g) * dense_target_part(dense, i, count, g)


def _gradient(coefficients: Any, e: Any, x: Any, i: int, count: Any, row: Any) -> Any:
    """The gradient of `GradientCoefficients`."""
    g = apply_scale(e * splat(coefficients.p_factor, e), coefficients.rescale)
    g = subtract_dense_target(g, coefficients.u_factor, row.dense, i, count)
    return chain_rule(g, x, row.transform)


# element(coefficients, e, x, i, count, row): what is written for the classes from i on, a whole vector where `count` is
# None, as if none of them were class y.  x are the logits as given, and e `exp_shifted_for_product` of them with the
# shift of the coefficients.
ELEMENTS: dict[type, Any] = {GradientCoefficients: _gradient}
element = by_class(ELEMENTS)


@inline
def _element(row: Any, i: int, count: Any, shift: Any, coefficients: Any, vtype: Any) -> Any:
    """What is written for the classes from i on; `shift` is that of the coefficients, or that without its residual."""
    x = load_part(row.logits, i, count, vtype)
    e = exp_shifted_for_product(apply_transform(x, row.transform), shift, row.scale)
    return element(coefficients, e, x, i, count, row)


# ------------------------------------------------------------------------------------------------ parts of a row
@inline
def _store_gradient(row: Any, out: Any, start: int, stop: int, coefficients: Any, vtype: Any) -> None:
    """Write the gradient of the classes start … stop through the caches; `out` may be where the logits are."""
    lanes = lanes_of(vtype)
    without_residual = drop_residual(coefficients.shift, row.scale)
    i = start
    while i + lanes <= stop and not coefficients.keep_residual:
        store_each(out, i, _element(row, i, None, without_residual, coefficients, vtype))
        i += lanes
    while i < stop:
        count = min(lanes, stop - i)
        store_n_each(out, i, count, _element(row, i, count, coefficients.shift, coefficients, vtype))
        i += count
    store_own(out, start, stop, row.y, coefficients.at_target, vtype)


@inline
def _stream_gradient(row: Any, output: Any, start: int, stop: int, coefficients: Any, carry: int, vtype: Any) -> int:
    """Write the gradient of the classes start … stop past the caches, as far as they fill vectors; return the carry.

    Before and after, the staging buffer holds the `carry` elements that begin the vector in memory which the next
    element to be written is part of.
    """
    lanes, out, staging, y = lanes_of(vtype), output.p, output.staging, row.y
    without_residual, alike = drop_residual(coefficients.shift, row.scale), are_alike(out, vtype)
    head = lanes - carry if carry > 0 else elements_to_alignment(first_of(out), start, vtype)
    if head < 0:
        _store_gradient(row, out, start, stop, coefficients, vtype)
        return 0
    i = start
    if head > 0:
        count = min(head, stop - start)
        g = insert_own(_element(row, i, count, coefficients.shift, coefficients, vtype), i, y, coefficients.at_target)
        i += count
        if carry > 0:
            store_n_each(staging, carry, count, g)
            if count < head:
                return carry + count
            stream_each(out, start - carry, load_each(staging, vtype), alike)
        else:
            store_n_each(out, start, count, g)
    while i + lanes <= stop:
        own = next_own(coefficients.at_target, y, i, stop)  # first all vectors before the one with this class
        while i + lanes <= min(own, stop) and not coefficients.keep_residual:
            prefetch_ahead(row.logits, i)
            stream_each(out, i, _element(row, i, None, without_residual, coefficients, vtype), alike)
            i += lanes
        if i + lanes <= stop and (coefficients.keep_residual or own < i + lanes):
            g = _element(row, i, None, coefficients.shift, coefficients, vtype)
            stream_each(out, i, insert_own(g, i, y, coefficients.at_target), alike)
            i += lanes
    if i < stop:
        g = _element(row, i, stop - i, coefficients.shift, coefficients, vtype)
        store_n_each(staging, 0, stop - i, insert_own(g, i, y, coefficients.at_target))
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
