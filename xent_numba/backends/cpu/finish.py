"""From the statistics of a row to its loss and to the factors of its gradient.  Rows are lanes; one lane is a row too.

All in float64.  With the maximum m, the sum `rest` over the other classes, the term of the target e_y and S = rest + e_y,

    lse − z_y = s (m − x_y) + log S

is exact where m − x_y is, and log S is log1p(rest) where the target is the maximum: so a loss of 1e-9 keeps all its
digits, and so does the gradient of the target, −rest / S, which is never p − 1.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from xent_numba.backends.cpu.pieces import inline
from xent_numba.backends.cpu.simd import narrow, select, splat, widen
from xent_numba.backends.cpu.terms import scaled
from xent_numba.backends.cpu.vmath import bounded, exp, log1p


class Row(NamedTuple):
    """What one pass over a row has found.  x is f of the logits, before a positive scale s."""

    top: Any  # max x
    rest: Any  # Σ exp(s (x_j − top)), without the target's term if there is a hard target
    dot: Any  # Σ u_j (top − x_j)
    mass: Any  # Σ u_j


class Outcome(NamedTuple):
    """Loss and gradient of a row: ∂loss/∂z_j = p_factor · exp(s (x_j − top)) − u_j, and y_value − u_y at the target."""

    loss: Any
    lse: Any
    p_factor: Any
    y_value: Any


@inline
def log_sum(q: Any, total: Any) -> Any:
    """log S from q = S − 1; nan for a row that has nothing above −inf, or has a NaN or +inf."""
    return select(total > splat(0.0, q), log1p(q), splat(math.nan, q))


@inline
def slope_of_p(mass: Any, lse: Any, z: Any) -> Any:
    """What multiplies p: the mass of the target, + 2 z lse from the z-loss."""
    return mass + splat(2.0 * z, mass) * lse


@inline
def _with_z_loss(loss: Any, lse: Any, z: Any) -> Any:
    return loss + splat(z, loss) * lse * lse  # in this order: lse² may overflow where z is 0


@inline
def finish(row: Any, hard: Any, x_y: Any, s: Any, z: Any, like: Any) -> Any:
    """The `Outcome` of rows in float64 lanes.  `hard` is the target's own part, (1 − ε) w_y, or None."""
    one = splat(1.0, row.rest)
    if hard is None:
        log_s = log_sum(row.rest - one, row.rest)
        lse = scaled(row.top, s) + log_s
        loss = row.mass * log_s + scaled(row.dot, s)
        return Outcome(_with_z_loss(loss, lse, z), lse, slope_of_p(row.mass, lse, z) / row.rest, row.rest)
    zero = splat(0.0, row.rest)
    e_y = widen(exp(narrow(scaled(x_y - row.top, s), like)))
    e_y = select(row.top == splat(-math.inf, zero), zero, e_y)
    total = row.rest + e_y
    log_s = log_sum(select(x_y == row.top, row.rest, total - one), total)
    lse = scaled(row.top, s) + log_s
    nll = scaled(row.top - x_y, s) + log_s
    # A weight of 0 silences even an infinite loss, but not NaN.
    loss = select(hard == zero, zero * log_s, hard * nll) + (row.mass * log_s + scaled(row.dot, s))
    slope = slope_of_p(row.mass, lse, z)
    y_value = (slope * e_y - hard * row.rest) / total
    return Outcome(_with_z_loss(loss, lse, z), lse, (hard + slope) / total, y_value)


@inline
def finish_saved(row: Any, hard: Any, x_y: Any, saved: Any, s: Any, z: Any, like: Any) -> Any:
    """The `Outcome` from a saved lse, where the row's exponentials were taken at row.top = lse / s, rounded.

    p_j = exp(z_j − lse) = exp(s (x_j − top)) · exp(s · top − lse); not finite where the saved value is not.
    """
    correction = exp(scaled(row.top, s) - saved)
    slope = slope_of_p(row.mass, saved, z)
    if hard is None:
        return Outcome(saved, saved, slope * correction, row.rest)
    e_y = widen(exp(bounded(narrow(scaled(x_y - row.top, s), like))))
    y_value = (slope * e_y - hard * row.rest) * correction
    return Outcome(saved, saved, (hard + slope) * correction, y_value)
