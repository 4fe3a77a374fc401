"""What is written for some classes of a long row: a Hessian-vector product, or the gradient and the diagonal.

`row.curvature` has the formulas.  `factor` times the exponential of a logit is p_j times all that multiplies the row.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from xent_numba.backends.cpu.compile.inline import inline
from xent_numba.backends.cpu.regimes.long.gradient import ELEMENTS, subtract_dense_target
from xent_numba.backends.cpu.row.curvature import add_bend, diagonal_of_x, is_bent
from xent_numba.backends.cpu.row.transform import chain_rule
from xent_numba.backends.cpu.simd.load_store import load_part
from xent_numba.backends.cpu.simd.vector import fma, splat


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
    """The gradient f' (slope · P − u_factor · u_j), and the diagonal f'² P (spread − square · e_j), and a softcap term.

    P = factor · e_j is p_j times the largest of what multiplies the two, so that the other factors are at most 1.
    """

    shift: Any
    keep_residual: bool
    at_target: Any  # `OwnValues`
    factor: float
    slope: float
    spread: float
    square: float
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
    """An element of the gradient, and one of the diagonal."""
    p = e * splat(coefficients.factor, e)
    g = subtract_dense_target(p * splat(coefficients.slope, e), coefficients.u_factor, row.dense, i, count)
    h = p * fma(e, splat(-coefficients.square, e), splat(coefficients.spread, e))
    return chain_rule(g, x, row.transform), diagonal_of_x(h, g, coefficients.bend, x, row.transform)


ELEMENTS[ProductCoefficients] = _product.py_func
ELEMENTS[DiagonalCoefficients] = _diagonal.py_func
