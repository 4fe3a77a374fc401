"""Second derivatives of short rows, and of rows whose classes are apart: a vector of rows, one row in each lane."""

from __future__ import annotations

from typing import Any, NamedTuple

from numba import types

from xent_numba.backends.cpu.compile.inline import inline, optional, specialize
from xent_numba.backends.cpu.plan import TILE_CLASSES
from xent_numba.backends.cpu.regimes.curvature.operands import second_order_vtype
from xent_numba.backends.cpu.regimes.curvature.tile_elements import (
    DiagonalFactors,
    ProductFactors,
    rescaled_diagonal,
    rescaled_product,
)
from xent_numba.backends.cpu.regimes.item_epilogue import label_weights, labels_of, row_values
from xent_numba.backends.cpu.regimes.lanes.gradient import ScaledFactors, rescaled, tile_gradient
from xent_numba.backends.cpu.regimes.lanes.load import load_tile, prefetch_cursor, rows_view
from xent_numba.backends.cpu.regimes.lanes.merge import first_tile, merge_lanes, merged_statistics
from xent_numba.backends.cpu.regimes.lanes.rows import load_item_tile, tile_at, tile_buffer, values_at
from xent_numba.backends.cpu.regimes.lanes.tile import Tile, TileInput, tile_exponentials, tile_statistics
from xent_numba.backends.cpu.regimes.staging import flush_carry, staging_of, write_tile
from xent_numba.backends.cpu.regimes.work_items import work_item
from xent_numba.backends.cpu.row.curvature import (
    add_bend,
    demote_finite,
    diagonal_at,
    diagonal_of_x,
    magnitude_of,
    offset_without_focal,
    row_curvature,
    y_if_needed,
)
from xent_numba.backends.cpu.row.epilogue import RowStatistics, Top, label_of_top
from xent_numba.backends.cpu.row.measures import Measures
from xent_numba.backends.cpu.row.operands import dense_target_of
from xent_numba.backends.cpu.row.target import dense_target_at, is_distribution_type
from xent_numba.backends.cpu.row.transform import apply_transform, chain_rule
from xent_numba.backends.cpu.simd.cast import demote, promote
from xent_numba.backends.cpu.simd.load_store import stack_buffer
from xent_numba.backends.cpu.simd.vector import lanes_of, select, splat


# ------------------------------------------------------------------------------------------------ statistics
class _Item(NamedTuple):
    """A vector of rows once their statistics are known."""

    stats: Any  # `RowStatistics`
    rescale: Any  # `tile_rescale` of the exponentials in the tile, where that holds whole rows
    tile: Any  # its buffers
    v: Any  # buffer of a tile of the vector, or None
    inputs: Any  # `TileInput`


@optional
def _measures(v: Any) -> Any:
    """The `Measures` for a tile of the vector; None for None."""
    return Measures(None, v)


@inline
def _load(operands: Any, vector: Any, v: Any, item: Any, tile: Any, vtype: Any) -> None:
    """Load the classes of a tile from every array that is read for each of them."""
    load_item_tile(operands, item, tile, vtype)
    if vector is not None:
        load_tile(rows_view(vector, item, tile.first), tile.classes, v, vtype)


@inline
def _item_statistics(operands: Any, vector: Any, item: Any, vtype: Any) -> Any:
    """The `_Item` of a work item."""
    classes = operands.logits.shape[2]
    distribution = tile_buffer(operands.distribution, vtype)
    buffers = Tile(stack_buffer(vtype, TILE_CLASSES), stack_buffer(vtype, TILE_CLASSES), distribution, 0, 0)
    v = tile_buffer(vector, vtype)
    y = labels_of(operands.labels, item, classes, operands.ignored_classes, vtype)
    dense = dense_target_of(operands.dense, distribution, operands.dense_weight)
    inputs = TileInput(y, dense, operands.transform, operands.scale, None, True, _measures(v))
    tile = tile_at(buffers, 0, classes)
    _load(operands, vector, v, item, tile, vtype)
    cursor = prefetch_cursor(rows_view(operands.logits, item, 0), tile.classes, vtype)
    stats, rescale = tile_statistics(tile, inputs, cursor, vtype)
    merged = first_tile(stats)
    for first in range(TILE_CLASSES, classes, TILE_CLASSES):
        tile = tile_at(buffers, first, classes)
        _load(operands, vector, v, item, tile, vtype)
        part, _ = tile_statistics(tile, inputs, None, vtype)
        merged = merge_lanes(merged, part, None, operands.scale)
    return _Item(merged_statistics(merged), rescale, buffers, v, inputs)


# ------------------------------------------------------------------------------------------------ labels
class _Labels(NamedTuple):
    """The labels of the rows; for a distribution, the classes of their `Top` in their place."""

    y: Any
    x: Any  # the logit there, as given
    weight: Any  # float64
    is_top: Any  # mask: y is the class of the `Top`
    u: Any  # the smoothing at y, float64; 0 for a distribution, where it is part of the weight
    stats: Any  # `RowStatistics` in float64 without the label_weight


@specialize
def _labels(distribution: Any, found: Any, operands: Any, item: Any, vtype: Any) -> Any:
    """The `_Labels` of an `_Item`."""
    if isinstance(distribution, types.NoneType):
        return _labels_given
    return _labels_of_top


def _labels_given(distribution: Any, found: Any, operands: Any, item: Any, vtype: Any) -> Any:
    """The `_Labels` of rows with labels."""
    stats, y = found.stats, found.inputs.y
    x = values_at(operands.logits, found.tile.logits, item, y, vtype)
    weight = label_weights(operands.confidence, operands.weight, y, promote(x))
    u = _smoothing_at(found.inputs.dense, select(y < splat(0, y), splat(0, y), y), x)
    return _Labels(y, x, weight, y == stats.top.y, u, _in_float64(stats, stats.target_gap, stats.target_sum))


def _labels_of_top(distribution: Any, found: Any, operands: Any, item: Any, vtype: Any) -> Any:
    """The `_Labels` of rows with a distribution."""
    y, stats = found.stats.top.y, _in_float64(found.stats, found.stats.target_gap, found.stats.target_sum)
    x = values_at(operands.logits, found.tile.logits, item, y, vtype)
    q = values_at(distribution, found.tile.distribution, item, y, vtype)
    u = promote(dense_target_at(found.inputs.dense, q, y))
    rest = label_of_top(stats, u)
    return _Labels(y, x, u, y == y, splat(0.0, u), _in_float64(found.stats, rest.target_gap, rest.target_sum))


@inline
def _in_float64(stats: Any, target_gap: Any, target_sum: Any) -> Any:
    """The `RowStatistics` in float64, with these sums of the target."""
    top = Top(stats.top.y, promote(stats.top.x))
    return RowStatistics(promote(stats.row_max), stats.sum_exp_others, target_gap, target_sum, top, None)


@specialize
def _smoothing_at(dense: Any, y: Any, vtype: Any) -> Any:
    """u_y of rows with labels y in float64; 0 for a distribution, where it is part of the label_weight."""
    if isinstance(dense, types.NoneType) or is_distribution_type(dense):
        return lambda dense, y, vtype: splat(0.0, promote(vtype))
    return lambda dense, y, vtype: promote(dense_target_at(dense, splat(0.0, vtype), y))


@inline
def _curvature(operands: Any, labels: Any, vtype: Any) -> Any:
    """The `RowCurvature` of rows with these `_Labels`."""
    x_y = promote(apply_transform(labels.x, operands.transform))
    return row_curvature(operands, labels.stats, labels.weight, x_y, labels.is_top, vtype)


# ------------------------------------------------------------------------------------------------ products
@inline
def _product_factors(operands: Any, second: Any, item: Any, found: Any, vtype: Any) -> Any:
    """The `ProductFactors` of an `_Item`, with the factor in float64."""
    labels, zeta, transform = (
        _labels(operands.distribution, found, operands, item, vtype),
        operands.z_coefficient,
        operands.transform,
    )
    curvature = _curvature(operands, labels, vtype)
    at_top, mean = found.stats.measured.at_top, found.stats.measured.stream * curvature.inverse
    v_y = values_at(second.vector, found.v, item, labels.y, vtype)
    along = promote(chain_rule(v_y, labels.x, transform)) - at_top
    kappa, offset = curvature.psi * (along - mean), offset_without_focal(curvature.spread, mean, at_top, zeta)
    h = curvature.p_y * (curvature.spread * along - offset) - kappa * curvature.q_y
    g = (curvature.at_target - labels.u) * promote(v_y)
    h = chain_rule(add_bend(h, second.bend, g, labels.x, transform), labels.x, transform)
    weight = row_values(operands.sample_weight, item, h) * splat(second.scale, h)
    magnitude = magnitude_of(curvature.spread)
    return ProductFactors(
        weight * magnitude * curvature.inverse,
        demote(curvature.spread / magnitude, vtype),
        demote(at_top, vtype),
        demote((offset - kappa) / magnitude, vtype),
        demote(weight, vtype),
        second.bend,
        y_if_needed(transform, operands.focal_gamma, labels.y),
        demote(h * weight, vtype),
        found.v,
    )


@inline
def _product_item(operands: Any, second: Any, item: Any, staging: Any, vtype: Any) -> Any:
    """Write the Hessian-vector products of a work item; returns the staging buffer after it."""
    found, classes = _item_statistics(operands, second.vector, item, vtype), operands.logits.shape[2]
    factors, rescale = _product_factors(operands, second, item, found, vtype), found.rescale
    for first in range(0, classes, TILE_CLASSES):
        tile = tile_at(found.tile, first, classes)
        if classes > TILE_CLASSES:
            _load(operands, second.vector, found.v, item, tile, vtype)
            rescale = tile_exponentials(tile, found.inputs, found.stats.row_max)
        scaled = rescaled_product(factors, rescale, vtype)
        tile_gradient(tile, tile.exp, found.inputs, factors.y, scaled, vtype)
        staging = write_tile(staging, tile.exp, rows_view(operands.grad, item, first), tile.classes, vtype)
    return staging


@inline
def lanes_products(operands: Any, second: Any, start: int, stop: int) -> None:
    """The work items start … stop of a Hessian-vector product."""
    vtype = second_order_vtype(operands, second)
    staging = staging_of(operands.grad, operands.streaming, vtype)
    for index in range(start, stop):
        item = work_item(operands.logits.shape, index, lanes_of(vtype))
        staging = _product_item(operands, second, item, staging, vtype)
        staging = flush_carry(staging, operands.grad, item, index + 1 == stop, vtype)


# ------------------------------------------------------------------------------------------------ diagonals
class _Factors(NamedTuple):
    """What is written for a work item, with the factors of exponentials in float64."""

    gradient: Any  # `ScaledFactors`
    diagonal: Any  # `DiagonalFactors`
    y: Any  # the classes with a value of their own in the gradient


@inline
def _diagonal_factors(operands: Any, second: Any, item: Any, found: Any, vtype: Any) -> Any:
    """The `_Factors` of an `_Item`."""
    labels, zeta, transform = (
        _labels(operands.distribution, found, operands, item, vtype),
        operands.z_coefficient,
        operands.transform,
    )
    curvature = _curvature(operands, labels, vtype)
    y_top, is_top = found.stats.top.y, labels.is_top
    x_top = values_at(operands.logits, found.tile.logits, item, y_top, vtype)
    g_y = curvature.at_target - labels.u
    u_top = _smoothing_at(found.inputs.dense, select(y_top < splat(0, y_top), splat(0, y_top), y_top), vtype)
    g_top = select(is_top, g_y, curvature.spread * curvature.p_top - u_top)
    h_top = diagonal_at(
        curvature, curvature.p_top, curvature.q_top, select(is_top, curvature.q_top, curvature.p_top), zeta
    )
    h_y = diagonal_at(curvature, curvature.p_y, curvature.q_y, curvature.q_y, zeta)
    weight = row_values(operands.sample_weight, item, h_y)
    factor, g_factor = weight * splat(second.scale, weight), weight * splat(operands.grad_scale, weight)
    magnitude = magnitude_of(curvature.spread)
    diagonal = DiagonalFactors(
        factor * magnitude * curvature.inverse,
        curvature.inverse,
        demote(curvature.spread / magnitude, vtype),
        demote_finite((curvature.spread - splat(2.0 * zeta, factor) + curvature.psi) / magnitude, vtype),
        demote(factor, vtype),
        second.bend,
        y_top,
        demote(diagonal_of_x(h_top, g_top, second.bend, x_top, transform) * factor, vtype),
        y_if_needed(transform, operands.focal_gamma, select(is_top, y_top, labels.y)),
        demote(diagonal_of_x(select(is_top, h_top, h_y), g_y, second.bend, labels.x, transform) * factor, vtype),
    )
    gradient = ScaledFactors(
        curvature.spread * curvature.inverse * g_factor,
        demote(g_factor, vtype),
        demote(curvature.at_target * g_factor, vtype),
        None,
    )
    return _Factors(gradient, diagonal, labels.y)


@inline
def _diagonal_item(operands: Any, second: Any, item: Any, stagings: Any, vtype: Any) -> Any:
    """Write the gradients and diagonals of a work item; returns the two staging buffers after it."""
    found, classes = _item_statistics(operands, None, item, vtype), operands.logits.shape[2]
    factors, rescale = _diagonal_factors(operands, second, item, found, vtype), found.rescale
    out, (of_grad, of_diag) = stack_buffer(vtype, TILE_CLASSES), stagings
    for first in range(0, classes, TILE_CLASSES):
        tile = tile_at(found.tile, first, classes)
        if classes > TILE_CLASSES:
            _load(operands, None, None, item, tile, vtype)
            rescale = tile_exponentials(tile, found.inputs, found.stats.row_max)
        diagonal = rescaled_diagonal(factors.diagonal, rescale, vtype)
        tile_gradient(tile, out, found.inputs, None, diagonal, vtype)
        tile_gradient(
            tile,
            tile.exp,
            found.inputs,
            factors.y,
            rescaled(operands.focal_gamma, factors.gradient, rescale, vtype),
            vtype,
        )
        of_diag = write_tile(of_diag, out, rows_view(second.diag, item, first), tile.classes, vtype)
        of_grad = write_tile(of_grad, tile.exp, rows_view(operands.grad, item, first), tile.classes, vtype)
    return of_grad, of_diag


@inline
def lanes_diagonals(operands: Any, second: Any, start: int, stop: int) -> None:
    """The gradients and diagonals of the work items start … stop."""
    vtype = second_order_vtype(operands, second)
    of_grad = staging_of(operands.grad, operands.streaming, vtype)
    of_diag = staging_of(second.diag, operands.streaming, vtype)
    for index in range(start, stop):
        item = work_item(operands.logits.shape, index, lanes_of(vtype))
        of_grad, of_diag = _diagonal_item(operands, second, item, (of_grad, of_diag), vtype)
        of_grad = flush_carry(of_grad, operands.grad, item, index + 1 == stop, vtype)
        of_diag = flush_carry(of_diag, second.diag, item, index + 1 == stop, vtype)
