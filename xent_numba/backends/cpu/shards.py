"""Shards of the classes: from a `Shard` to the arguments of its kernels, and what goes to the reference instead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from xent_numba.backends.cpu.arguments import native, side_by_side, transform_of
from xent_numba.backends.cpu.compile.kernel import signature_key
from xent_numba.backends.cpu.fallback import computes_in_float64, limits_of, weight_range
from xent_numba.backends.cpu.plan import STREAM_BYTES, Plan, plan
from xent_numba.backends.cpu.regimes import shards as regimes
from xent_numba.backends.cpu.row.target import DenseCoefficients
from xent_numba.backends.cpu.runtime import threads
from xent_numba.backends.protocol import ShardCoefficients, ShardStatistics
from xent_numba.backends.reference import BACKEND as REFERENCE
from xent_numba.backends.reference.shards import scale_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xent_numba.backends.protocol import Shard

    Array = NDArray[Any]

_STATISTICS = {"long": regimes.statistics_long, "lanes": regimes.statistics_lanes}
_GRADIENT = {"long": regimes.gradient_long, "lanes": regimes.gradient_lanes}
_ALL = np.ones(0, np.bool)
# What the factors of a gradient may be.  Exponentials are multiplied by them before they lose a scale of 2^32 or 2^64.
_FACTORS = {False: (1e-37, 1e28), True: (1e-300, 1e270)}


def in_range(shard: Shard) -> bool:
    """Whether the kernels can compute with the options of a shard."""
    limits, scale, cap = limits_of(shard), abs(shard.logit_scale), shard.softcap
    low, high = limits.logit_scale
    smallest, largest = weight_range(shard.weight)
    return (
        low < scale < high
        and (cap is None or low < scale / cap < high)
        and limits.weight[0] < smallest
        and largest < limits.weight[1]
    )


def run_statistics(shard: Shard, found: ShardStatistics) -> None:
    """Fill `found`."""
    fields, chosen = _operands(shard), _plan(shard, None)
    kept = _ALL if shard.kept is None else shard.kept.reshape(-1)
    maximum, rest, top, gap, target_sum = (column.reshape(-1) for column in found)
    top_x = np.full(maximum.shape, -np.inf)
    _run(_STATISTICS[chosen.regime], fields, ((maximum, rest, top, top_x, gap, target_sum), kept), chosen, shard)
    with np.errstate(all="ignore"):
        # Where the sum leaves out a class just below the maximum, the rest is large enough for a difference.
        below = np.flatnonzero((top_x < maximum) & (maximum < np.inf))
        if below.size:
            scale = scale_of(shard.logit_scale, shard.softcap)
            rest[below] += np.expm1(scale * (top_x[below] - maximum[below]))
            top[below] = -1
        maximum[np.isnan(rest) & (maximum < np.inf)] = np.nan
    rows = np.nonzero(found.maximum == np.inf)
    if rows[0].size:  # the kernels pass over a NaN beside +inf, which a logsumexp may not
        _by_reference(shard, rows, found)


def run_gradient(shard: Shard, coefficients: ShardCoefficients, grad: Array) -> None:
    """Write the gradient into `grad`."""
    outside = _rows_out_of_range(shard, coefficients)
    written = None
    if outside is not None:  # first, as `grad` may overwrite the logits
        part = _select(shard, outside)
        written = np.empty_like(part.logits)
        columns: list[Array] = [column[outside][None] for column in coefficients]
        REFERENCE.shard_gradient(part, ShardCoefficients(*columns), written)
    own = coefficients.own if shard.kept is None else np.where(shard.kept, coefficients.own, regimes.SKIPPED)
    chosen = _plan(shard, grad)
    factors = tuple(column.reshape(-1) for column in coefficients._replace(own=own))
    arguments = (factors, native(grad), grad.nbytes >= STREAM_BYTES)
    _run(_GRADIENT[chosen.regime], _operands(shard), arguments, chosen, shard)
    if outside is not None and written is not None:
        grad[outside] = written[0]


def _plan(shard: Shard, grad: Array | None) -> Plan:
    """The regime of a shard: long or lanes."""
    contiguous = side_by_side(shard.logits, shard.distribution, grad)
    float64 = computes_in_float64(shard.logits, shard.distribution, shard.softcap)
    return plan(shard.logits.shape, contiguous, float64, False, False)


def _operands(shard: Shard) -> tuple[Any, ...]:
    """The fields of `ShardOperands`."""
    float64 = computes_in_float64(shard.logits, shard.distribution, shard.softcap)
    q = None if shard.distribution is None else native(shard.distribution)
    weight = None if shard.weight is None else shard.weight.astype(np.float64 if float64 else np.float32)
    dense = DenseCoefficients(shard.alpha if q is not None else 0.0, shard.beta, 0.0) if shard.has_dense else None
    return native(shard.logits), q, weight, dense, *transform_of(shard)


def _run(kernel: Any, fields: tuple[Any, ...], arguments: tuple[Any, ...], chosen: Plan, shard: Shard) -> None:
    """Run a kernel by its plan."""
    groups = -(-chosen.work_items // chosen.group)
    loop = threads.parallel_loop(shard.n_threads, chosen.parallel)
    kernel(signature_key(fields), fields, *arguments, chosen.group, chosen.work_items, groups, loop)


# ------------------------------------------------------------------------------------------------ by the reference
def _rows_out_of_range(shard: Shard, coefficients: ShardCoefficients) -> tuple[Array, ...] | None:
    """The rows whose factors the kernels cannot hold; None where there are none, nearly always."""
    least, most = _FACTORS[computes_in_float64(shard.logits, shard.distribution, shard.softcap)]
    bad = np.zeros((1, 1), np.bool)
    with np.errstate(all="ignore"):
        for factor in (coefficients.p_factor, coefficients.u_factor if shard.has_dense else None):
            if factor is not None:
                size = np.abs(factor)
                bad = bad | ((size != 0.0) & ((size < least) | (size > most)))
    return np.nonzero(bad) if bad.any() else None


def _select(shard: Shard, rows: tuple[Array, ...]) -> Shard:
    """Some of the rows, as a shard of logits (1, R, C)."""
    q, kept = shard.distribution, shard.kept
    return shard._replace(
        logits=shard.logits[rows][None],
        distribution=None if q is None else q[rows][None],
        kept=None if kept is None else kept[rows][None],
    )


def _by_reference(shard: Shard, rows: tuple[Array, ...], found: ShardStatistics) -> None:
    """Fill some rows of `found` by the reference."""
    columns: list[Array] = [column[rows][None] for column in found]
    part = ShardStatistics(*columns)
    REFERENCE.shard_statistics(_select(shard, rows), part)
    for column, values in zip(found, part, strict=True):
        column[rows] = values[0]
