"""A shard of the classes of a block of rows: its statistics, and its gradient from those of all shards.

The logits x_j stand for what the sign of logit_scale or the softcap makes of them, as in `protocol.ShardStatistics`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from xent_numba.backends.compensated import scaled_difference, sum_of
from xent_numba.backends.reference.blocks import block_rows, softcap_slope, times
from xent_numba.backends.reference.statistics import sum_without

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xent_numba.backends.protocol import Shard, ShardCoefficients
    from xent_numba.backends.reference.blocks import Block

    Float64s = NDArray[np.float64]


def signed(x: Float64s, logit_scale: float, softcap: float | None) -> Float64s:
    """±x or its softcap: what `scale_of` multiplies."""
    if softcap is not None:
        return softcap * np.tanh(logit_scale * x / softcap)
    if logit_scale == 0.0:
        return 0.0 * x  # 0, but nan for an infinite logit
    return -x if logit_scale < 0.0 else x


def slope_of(x: Float64s, logit_scale: float, softcap: float) -> Float64s:
    """f'(x) of a softcap."""
    return softcap_slope(logit_scale * x / softcap, logit_scale)


def scale_of(logit_scale: float, softcap: float | None) -> float:
    """s, the factor of differences of `signed` logits."""
    return 1.0 if softcap is not None or logit_scale == 0.0 else abs(logit_scale)


def _dense_target(shard: Shard, block: Block) -> Float64s | None:
    """u_j = w_j (α q_j + β) as (R, C), or (1, C) where all rows have the same; None where there is no dense target."""
    if not shard.has_dense:
        return None
    w = np.ones((1, shard.logits.shape[2])) if shard.weight is None else shard.weight[None]
    if shard.distribution is None:
        return shard.beta * w
    return w * (shard.alpha * block_rows(shard.distribution, block) + shard.beta)


def _exps(x: Float64s, centre: Float64s, scale: float) -> Float64s:
    """exp(s (x − centre)), corrected for the rounding of the product, which adds up over many equal terms."""
    d, lost = scaled_difference(x, centre, scale)
    return np.exp(d) * (1.0 + lost)


def _read(shard: Shard, block: Block) -> tuple[Float64s, NDArray[np.bool] | None]:
    """The logits of a block as given, 0 in rows that are not kept; and which rows are, (R, 1), or None for all."""
    x = block_rows(shard.logits, block)
    if shard.kept is None:
        return x, None
    kept = shard.kept[block].reshape(-1, 1)
    return np.where(kept, x, 0.0), kept


def shard_statistics(shard: Shard, block: Block) -> tuple[NDArray[np.generic], ...]:
    """The `ShardStatistics` of a block, (R, 1) each."""
    x = signed(_read(shard, block)[0], shard.logit_scale, shard.softcap)
    first = np.argmax(x, axis=1, keepdims=True)
    maximum = np.take_along_axis(x, first, axis=1)
    centre = np.where(maximum == -np.inf, 0.0, maximum)
    rest = sum_without(_exps(x, centre, scale_of(shard.logit_scale, shard.softcap)), first)
    u = _dense_target(shard, block)
    if u is None:
        return maximum, rest, first, np.zeros(rest.shape), np.zeros(rest.shape)
    gap = sum_of(times(u, 0.25 * centre - 0.25 * x))  # a quarter of the difference does not overflow
    return maximum, rest, first, gap, np.broadcast_to(sum_of(u), rest.shape)


def shard_gradient(shard: Shard, coefficients: ShardCoefficients, block: Block) -> Float64s:
    """The gradient of a block, (R, C)."""
    own = coefficients.own[block].reshape(-1)
    centre, p_factor, u_factor, at_own = (
        column[block].reshape(-1, 1)
        for column in (coefficients.centre, coefficients.p_factor, coefficients.u_factor, coefficients.at_own)
    )
    given, kept = _read(shard, block)
    x = signed(given, shard.logit_scale, shard.softcap)
    g = p_factor * _exps(x, centre, scale_of(shard.logit_scale, shard.softcap))
    u = _dense_target(shard, block)
    if u is not None:
        g = g - u_factor * u
    if shard.softcap is not None:
        g = g * slope_of(given, shard.logit_scale, shard.softcap)
    rows = np.flatnonzero(own >= 0)
    g[rows, own[rows]] = at_own[rows, 0]
    return g if kept is None else np.where(kept, g, 0.0)
