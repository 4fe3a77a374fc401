"""What is written for a class of a vector of rows: the counterpart of `elements`, with a row in each lane.

`row.curvature` has the formulas.  `factor` times an exponential of a tile is p_j times all that multiplies the row.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from xent_numba.backends.cpu.compile.inline import inline
from xent_numba.backends.cpu.regimes.lanes.gradient import TILE_ELEMENTS, subtract_dense_target_lanes
from xent_numba.backends.cpu.row.curvature import add_bend, diagonal_of_x, is_bent
from xent_numba.backends.cpu.row.target import insert_target_lanes
from xent_numba.backends.cpu.row.transform import chain_rule
from xent_numba.backends.cpu.simd.cast import demote
from xent_numba.backends.cpu.simd.load_store import load
from xent_numba.backends.cpu.simd.vector import lanes_of


class ProductFactors(NamedTuple):
    """f' p_j (spread · (f' v_j − at_top) − offset), plus the term of a softcap, all times what multiplies each row."""

    factor: Any
    spread: Any
    at_top: Any
    offset: Any
    u_factor: Any  # what multiplies each row
    bend: float
    y: Any  # the class with a value of its own, or None
    at_target: Any
    v: Any  # buffer of the tile of the vector


class DiagonalFactors(NamedTuple):
    """f'² p_j (spread − square · p_j), plus the term of a softcap, all times what multiplies each row; p_j = e · p."""

    factor: Any
    p: Any
    spread: Any
    square: Any
    u_factor: Any
    bend: float
    y_top: Any  # the class of the `Top`
    at_top: Any
    y: Any  # the class of the label, where that has another formula; or None
    at_label: Any


@inline
def rescaled_product(factors: Any, rescale: Any, vtype: Any) -> Any:
    """The `ProductFactors` of exponentials that must be multiplied by `rescale`, from a factor in float64."""
    factor, spread, at_top, offset, u_factor, bend, y, at_target, v = factors
    return ProductFactors(demote(factor * rescale, vtype), spread, at_top, offset, u_factor, bend, y, at_target, v)


@inline
def rescaled_diagonal(factors: Any, rescale: Any, vtype: Any) -> Any:
    """The `DiagonalFactors` of exponentials that must be multiplied by `rescale`, from factors in float64."""
    factor, p, spread, square, u_factor, bend, y_top, at_top, y, at_label = factors
    factor, p = demote(factor * rescale, vtype), demote(p * rescale, vtype)
    return DiagonalFactors(factor, p, spread, square, u_factor, bend, y_top, at_top, y, at_label)


@inline
def _gradient_of_z(factors: Any, p: Any, tile: Any, j: int, inputs: Any) -> Any:
    """∂loss/∂z of class j of the tile, where p is p_j, both times what multiplies the row; p where it has no use."""
    if not is_bent(inputs.transform):
        return p
    return subtract_dense_target_lanes(p * factors.spread, factors.u_factor, inputs.dense, tile.first + j, j)


@inline
def _product(factors: Any, e: Any, x: Any, tile: Any, j: Any, y: Any, inputs: Any) -> Any:
    """An element of a Hessian-vector product."""
    v, p = load(factors.v, j * lanes_of(e), e), e * factors.factor
    h = p * (factors.spread * (chain_rule(v, x, inputs.transform) - factors.at_top) - factors.offset)
    g = _gradient_of_z(factors, p, tile, j, inputs)
    h = chain_rule(add_bend(h, factors.bend, g * v, x, inputs.transform), x, inputs.transform)
    return insert_target_lanes(h, tile.first + j, factors.y, factors.at_target)


@inline
def _diagonal(factors: Any, e: Any, x: Any, tile: Any, j: Any, y: Any, inputs: Any) -> Any:
    """An element of the diagonal."""
    p = e * factors.factor
    h = p * (factors.spread - factors.square * (e * factors.p))
    g = _gradient_of_z(factors, p, tile, j, inputs)
    h = diagonal_of_x(h, g, factors.bend, x, inputs.transform)
    h = insert_target_lanes(h, tile.first + j, factors.y_top, factors.at_top)
    return insert_target_lanes(h, tile.first + j, factors.y, factors.at_label)


TILE_ELEMENTS[ProductFactors] = _product.py_func
TILE_ELEMENTS[DiagonalFactors] = _diagonal.py_func
