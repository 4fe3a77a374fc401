"""What is written for some classes of a long row: a Hessian-vector product, or the diagonal of the Hessian.

`row.curvature` has the formulas.  `factor` times the exponential of a logit is p_j times all that multiplies the row.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from xent_numba.backends.cpu.compile.inline import inline
from xent_numba.backends.cpu.regimes.long.gradient import ELEMENTS, subtract_dense_target
from xent_numba.backends.cpu.row.curvature import add_bend, diagonal_of_x, is_bent
from xent_numba.backends.cpu.row.target import insert_target
from xent_numba.backends.cpu.row.transform import chain_rule
from xent_numba.backends.cpu.simd.load_store import load_part
from xent_numba.backends.cpu.simd.vector import splat


class ProductCoefficients(NamedTuple):
    """f' p_j (spread · (f' v_j − at_top) − offset), plus the term of a softcap, all times what multiplies the row."""

    shift: Any
    keep_residual: bool
    at_target: float
    factor: float
    spread: float
    at_top: float
    offset: float
    u_factor: float  # what multiplies the row
    bend: float
    v: Any  # pointer to the vector


class DiagonalCoefficients(NamedTuple):
    """f'² p_j (spread − square · p_j), plus the term of a softcap, all times what multiplies the row; p_j = e · p."""

    shift: Any
    keep_residual: bool
    at_target: float  # at the class of the `Top`
    factor: float
    p: float
    spread: float
    square: float
    y: Any  # the class of the label where that has another formula, else −1
    at_label: float
    u_factor: float
    bend: float


@inline
def _gradient_of_z(coefficients: Any, p: Any, i: Any, count: Any, row: Any) -> Any:
    """∂loss/∂z for the classes from i on, where p is p_j, both times what multiplies the row; 0 where it has no use."""
    if not is_bent(row.transform):
        return p
    return subtract_dense_target(p * splat(coefficients.spread, p), coefficients.u_factor, row.dense, i, count)


@inline
def _product(coefficients: Any, e: Any, x: Any, i: Any, count: Any, row: Any) -> Any:
    """An element of a Hessian-vector product."""
    v, p = load_part(coefficients.v, i, count, e), e * splat(coefficients.factor, e)
    along = chain_rule(v, x, row.transform) - splat(coefficients.at_top, e)
    h = p * (splat(coefficients.spread, e) * along - splat(coefficients.offset, e))
    g = _gradient_of_z(coefficients, p, i, count, row)
    return chain_rule(add_bend(h, coefficients.bend, g * v, x, row.transform), x, row.transform)


@inline
def _diagonal(coefficients: Any, e: Any, x: Any, i: Any, count: Any, row: Any) -> Any:
    """An element of the diagonal."""
    p = e * splat(coefficients.factor, e)
    h = p * (splat(coefficients.spread, e) - splat(coefficients.square, e) * (e * splat(coefficients.p, e)))
    g = _gradient_of_z(coefficients, p, i, count, row)
    h = diagonal_of_x(h, g, coefficients.bend, x, row.transform)
    return insert_target(h, i, coefficients.y, coefficients.at_label)


ELEMENTS[ProductCoefficients] = _product.py_func
ELEMENTS[DiagonalCoefficients] = _diagonal.py_func
