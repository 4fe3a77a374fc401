"""The gradient of a tile, made of its exponentials; or another output, as `TILE_ELEMENTS` says."""

from __future__ import annotations

from typing import Any, NamedTuple

from numba import types

from xent_numba.backends.cpu.compile.inline import by_class, inline, specialize
from xent_numba.backends.cpu.row.target import dense_target_lanes, insert_target_lanes, is_distribution_type
from xent_numba.backends.cpu.row.transform import chain_rule
from xent_numba.backends.cpu.simd.cast import demote
from xent_numba.backends.cpu.simd.load_store import load, store
from xent_numba.backends.cpu.simd.vector import lanes_of, select, splat


class ScaledFactors(NamedTuple):
    """A gradient made of exponentials: p_factor · exp − u_factor · u, and at_target − u_factor · u at the label."""

    p_factor: Any
    u_factor: Any
    at_target: Any
    rescale: Any  # another factor of the exponentials, where p_factor may be too small for both; else None


@inline
def zero_ignored(g: Any, y: Any) -> Any:
    """`g`, with 0 in the lanes of ignored rows, whose label is −1."""
    if y is None:
        return g
    return select(y < splat(0, y), splat(0.0, g), g)


@inline
def subtract_dense_target_lanes(g: Any, k: Any, dense: Any, j: int, tile_j: int) -> Any:
    """g − k u of class j, which is class tile_j of the tile."""
    if dense is None:
        return g
    return g - k * dense_target_lanes(dense, j, tile_j, g)


@specialize
def rescaled(focal_gamma: Any, factors: Any, rescale: Any, vtype: Any) -> Any:
    """The `ScaledFactors` of exponentials that must be multiplied by `rescale`, from those with p_factor in float64.

    A focal factor may be so small that p_factor, times `rescale`, would be no normal number.  Where p_factor is large
    instead, exponentials times p_factor alone might overflow.
    """

    def together(focal_gamma: Any, factors: Any, rescale: Any, vtype: Any) -> Any:
        return ScaledFactors(demote(factors.p_factor * rescale, vtype), factors.u_factor, factors.at_target, None)

    def apart(focal_gamma: Any, factors: Any, rescale: Any, vtype: Any) -> Any:
        one = splat(1.0, rescale)
        is_large = factors.p_factor * factors.p_factor > one
        p_factor = select(is_large, factors.p_factor * rescale, factors.p_factor)
        remaining = demote(select(is_large, one, rescale), vtype)
        return ScaledFactors(demote(p_factor, vtype), factors.u_factor, factors.at_target, remaining)

    return together if isinstance(focal_gamma, types.NoneType) else apart


@inline
def times_factors(e: Any, factors: Any) -> Any:
    """The exponentials times p_factor, and times `rescale` where that is not part of it."""
    return _rescale(e * factors.p_factor, factors.rescale)


@inline
def _rescale(g: Any, factor: Any) -> Any:
    """g times a factor, which may be None."""
    if factor is None:
        return g
    return g * factor


@specialize
def _with_target(g: Any, j: int, tile_j: int, y: Any, factors: Any, dense: Any) -> Any:
    """The gradient of class j, which is class tile_j of the tile, from that of its exponentials.

    Both parts of the target are subtracted for a label.  For a distribution, at_target is all of the gradient at y.
    """
    if not is_distribution_type(dense):
        return lambda g, j, tile_j, y, factors, dense: subtract_dense_target_lanes(
            insert_target_lanes(g, j, y, factors.at_target), factors.u_factor, dense, j, tile_j
        )
    return lambda g, j, tile_j, y, factors, dense: insert_target_lanes(
        subtract_dense_target_lanes(g, factors.u_factor, dense, j, tile_j), j, y, factors.at_target
    )


def _gradient(factors: Any, e: Any, x: Any, tile: Any, j: int, y: Any, inputs: Any) -> Any:
    """The gradient of `ScaledFactors`."""
    g = _with_target(times_factors(e, factors), tile.first + j, j, y, factors, inputs.dense)
    return chain_rule(g, x, inputs.transform)


# tile_element(factors, e, x, tile, j, y, inputs): what is written for class j of a tile, which is tile.first + j of the
# rows.  e are its exponentials as in `tile.exp`, x its logits as given, and y the classes that the sums leave out.
TILE_ELEMENTS: dict[type, Any] = {ScaledFactors: _gradient}
tile_element = by_class(TILE_ELEMENTS)


@inline
def tile_gradient(tile: Any, out: Any, inputs: Any, y: Any, factors: Any, vtype: Any) -> None:
    """Write the gradient made of the exponentials of a tile to the buffer `out`, which may be that of the exponentials.

    y is the class that each row left out of its sum.  Of factors of another class, `TILE_ELEMENTS` says what is
    written.  In ignored rows it is 0.
    """
    lanes = lanes_of(vtype)
    for j in range(tile.classes):
        e, x = load(tile.exp, j * lanes, vtype), load(tile.logits, j * lanes, vtype)
        g = tile_element(factors, e, x, tile, j, y, inputs)
        store(out, j * lanes, zero_ignored(g, inputs.y))
