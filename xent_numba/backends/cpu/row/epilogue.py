"""From the statistics of rows to their losses and to the factors of their gradients.  Rows are lanes; one lane is a
row too.

All in float64.  With the maximum m, the sum `rest` over the other classes, the term of the target e_y and S = rest +
e_y,

    lse − z_y = s (m − x_y) + log S

is exact where m − x_y is, and log S is log1p(rest) where the target is the maximum: so a loss of 1e-9 keeps all its
digits, and so does the gradient of the target, −rest / S, which is never p − 1.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from xent_numba.backends.cpu.compile.inline import inline
from xent_numba.backends.cpu.simd.cast import narrow, widen
from xent_numba.backends.cpu.simd.math import bounded, exp, log1p, scaled
from xent_numba.backends.cpu.simd.vector import select, splat


class Row(NamedTuple):
    """What one pass over a row has found.  x is f of the logits, before the size s of a logit_scale."""

    top: Any  # max x
    rest: Any  # Σ exp(s (x_j − top)), without the target's term if there is a hard target
    dot: Any  # Σ u_j (top − x_j)
    mass: Any  # Σ u_j


class Factors(NamedTuple):
    """∂loss/∂z_j = of_p · exp(s (x_j − top)) − u_j, and at_target − u_y at the hard target's class."""

    of_p: Any
    at_target: Any


@inline
def target_term(row: Any, hard: Any, x_y: Any, s: Any, like: Any) -> Any:
    """e_y = exp(s (x_y − top)), 0 without a hard target.  `hard` is the target's own part, (1 − ε) w_y, or None."""
    zero = splat(0.0, row.rest)
    if hard is None:
        return zero
    e_y = widen(exp(bounded(narrow(scaled(x_y - row.top, s), like))))
    return select(row.top == splat(-math.inf, zero), zero, e_y)


@inline
def log_of(q: Any, total: Any) -> Any:
    """log S from q = S − 1; nan for a row that has nothing above −inf, or has a NaN or +inf."""
    return select(total > splat(0.0, q), log1p(q), splat(math.nan, q))


@inline
def log_sum(row: Any, hard: Any, x_y: Any, total: Any) -> Any:
    """log S, exact where the target is the maximum."""
    q = total - splat(1.0, total)
    if hard is not None:
        q = select(x_y == row.top, row.rest, q)
    return log_of(q, total)


@inline
def _distance(a: Any, b: Any, s: Any) -> Any:
    """s · (a − b), finite where s · a and s · b are."""
    d = scaled(a - b, s)
    if s is None:
        return d
    return select(d < splat(math.inf, d), d, scaled(a, s) - scaled(b, s))


@inline
def loss(row: Any, hard: Any, x_y: Any, log_s: Any, s: Any, z: float) -> Any:
    """T lse − Σ t z, plus the z-loss."""
    value = row.mass * log_s + scaled(row.dot, s)
    if hard is not None:
        zero = splat(0.0, log_s)
        # A weight of 0 silences even an infinite loss, but not NaN.
        value = value + select(hard == zero, zero * log_s, hard * (_distance(row.top, x_y, s) + log_s))
    lse = scaled(row.top, s) + log_s
    return value + splat(z, lse) * lse * lse  # in this order: lse² may overflow where z is 0


@inline
def factors(row: Any, hard: Any, e_y: Any, inverse: Any, lse: Any, z: float) -> Any:
    """The factors of the gradient, from `inverse` = 1 / S."""
    slope = row.mass + splat(2.0 * z, lse) * lse
    if hard is None:
        return Factors(slope * inverse, slope)
    return Factors((hard + slope) * inverse, (slope * e_y - hard * row.rest) * inverse)


@inline
def inverse_of_saved(row: Any, saved: Any, s: Any) -> Any:
    """1 / S from a saved lse, where the row's exponentials are taken at row.top = lse / s, rounded.

    p_j = exp(z_j − lse) = exp(s (x_j − top)) · exp(s · top − lse); not finite where the saved value is not.
    """
    return exp(bounded(scaled(row.top, s) - saved))
