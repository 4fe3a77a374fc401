"""The numpy backend: plain NumPy in float64, simple and slow; the tests compare the other backends with it.

The logits are converted to float64 a block of rows at a time, so the memory for that does not grow with them.

Two rules avoid cancellation.  The largest class is left out of the sum S − 1 = Σ_{j ≠ argmax} exp(z_j − max), so that
log S = log1p(S − 1) is accurate however small it is.  And the gradient at an index target is −Σ_{j ≠ y} p_j, which is
never computed as p_y − 1.

A block has shape (R, C): R rows, C classes.  A quantity with one value for each row has shape (R, 1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from xent_numba.backends.compensated import exp_of_difference, product, sum_of
from xent_numba.backends.protocol import LabelScan
from xent_numba.prepare.layout import row_blocks
from xent_numba.reduction import exact_sum

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    from xent_numba.backends.protocol import Problem

    Array = NDArray[Any]
    Float64s = NDArray[np.float64]

BLOCK = 1 << 16  # logits in a block, for each of which there are a few float64 temporaries
LABEL_BLOCK = 1 << 20  # labels that are scanned together

Block = tuple[slice, slice]


class Stats(NamedTuple):
    """The statistics of a block z (R, C): p = exps / sums, lse = log Σ exp(z)."""

    exps: Float64s  # (R, C) exp(z − max), or exp(z − lse) with a saved lse
    sums: Float64s  # (R, 1) the sum of exps
    first: NDArray[np.int64]  # (R, 1) the class of the maximum
    others: Float64s  # (R, 1) the sum of exps without that class
    top: Float64s  # (R, 1) max z
    lost_at_top: Float64s  # (R, 1) the rounding error of z at the maximum
    log_sums: Float64s  # (R, 1) lse − max
    lse: Float64s  # (R, 1)


class Target(NamedTuple):
    """The effective target of a block: a dense t (R, C), or t_y = w_y at one class y and 0 elsewhere."""

    t: Float64s | None  # (R, C); None for class indices without smoothing
    y: NDArray[np.int64]  # (R, 1) the class; 0 in ignored rows, and for a distribution
    w: Float64s  # (R, 1) the weight of that class; 1 for a distribution
    kept: NDArray[np.bool]  # (R, 1) False in ignored rows


class Reference:
    """The whole backend protocol in plain NumPy."""

    name = "numpy"

    def why_not(self) -> str | None:
        """None: NumPy is always installed."""
        return None

    def describe(self) -> dict[str, object]:
        """Versions and threads."""
        return {"numpy": np.__version__, "threads": 1, "precision": "float64"}

    def explain(self, logits: Array, distribution: Array | None, grad: Array | None) -> dict[str, object]:
        """Blocks of rows, whatever the shape."""
        rows = max(1, BLOCK // logits.shape[2])
        return {
            "regime": "blocks",
            "why": f"{rows} {'row' if rows == 1 else 'rows'} at a time, to keep float64 temporaries in the cache",
        }

    def scan_labels(
        self,
        labels: Array,
        n_classes: int,
        ignore: tuple[int, ...],
        weight: Float64s | None,
        sample_weight: Float64s | None,
        n_threads: int | None,
    ) -> LabelScan:
        """See `protocol.Backend`."""
        first = 0
        weight_sums, sample_sums = [], []
        with np.errstate(all="ignore"):
            for block in row_blocks(labels.shape, LABEL_BLOCK):
                y = labels[block].reshape(-1)
                kept = _kept(y, ignore)
                bad = kept & ((y < 0) | (y >= n_classes))
                if bad.any():
                    return LabelScan(first + int(np.argmax(bad)), 0.0, 0.0)
                first += y.size
                s = np.ones(y.shape) if sample_weight is None else sample_weight[block].reshape(-1)
                w = np.ones(y.shape) if weight is None else weight[np.where(kept, y, 0)]
                sample_sums.append(exact_sum(np.where(kept, s, 0.0)))
                weight_sums.append(exact_sum(np.where(kept, s * w, 0.0)))
            return LabelScan(-1, exact_sum(np.array(weight_sums)), exact_sum(np.array(sample_sums)))

    def cross_entropy(self, problem: Problem, rows: Array | None, grad: Array | None) -> Float64s | None:
        """See `protocol.Backend`; one partial sum for each block."""
        partials = []
        with np.errstate(all="ignore"):
            for block in row_blocks(problem.logits.shape, BLOCK // problem.logits.shape[2]):
                z, lost, slope = _transform(_rows(problem.logits, block), problem)
                target = _effective_target(problem, block)
                stats = _stats(z, lost)
                factor = _per_row(problem.sample_weight, block)
                losses = np.where(
                    target.kept, _times(factor, _losses(z, lost, stats, target, problem.z_coefficient)), 0.0
                )
                partials.append(float(np.sum(losses)))
                if rows is not None:
                    rows[block] = losses.reshape(rows[block].shape)
                if grad is not None:
                    _store_gradient(grad, block, stats, target, problem, slope * (factor * problem.grad_scale))
        return None if rows is not None else np.array(partials)

    def cross_entropy_grad(
        self, problem: Problem, grad: Array, lse: Array | None, grad_output: Float64s | None
    ) -> None:
        """See `protocol.Backend`."""
        with np.errstate(all="ignore"):
            for block in row_blocks(problem.logits.shape, BLOCK // problem.logits.shape[2]):
                z, lost, slope = _transform(_rows(problem.logits, block), problem)
                target = _effective_target(problem, block)
                stats = _stats(z, lost) if lse is None else _stats_from(z, _rows(lse[..., None], block))
                factor = _per_row(problem.sample_weight, block) * _per_row(grad_output, block) * problem.grad_scale
                _store_gradient(grad, block, stats, target, problem, slope * factor)

    def softmax(self, logits: Array, out: Array, n_threads: int | None) -> None:
        """exp(x − lse)."""
        with np.errstate(all="ignore"):
            for block in row_blocks(logits.shape, BLOCK // logits.shape[2]):
                stats = _stats(_rows(logits, block))
                _store(out, block, stats.exps / stats.sums)

    def log_softmax(self, logits: Array, out: Array, n_threads: int | None) -> None:
        """(x − max) − log Σ exp(x − max), two terms of the same sign."""
        with np.errstate(all="ignore"):
            for block in row_blocks(logits.shape, BLOCK // logits.shape[2]):
                x = _rows(logits, block)
                stats = _stats(x)
                _store(out, block, (x - stats.top) - stats.log_sums)

    def logsumexp(self, logits: Array, out: Array, n_threads: int | None) -> None:
        """max + log Σ exp(x − max), or the maximum itself where that is infinite."""
        with np.errstate(all="ignore"):
            for block in row_blocks(logits.shape, BLOCK // logits.shape[2]):
                stats = _stats(_rows(logits, block))
                out[block] = np.where(np.isfinite(stats.top), stats.lse, stats.top).reshape(out[block].shape)


def _rows(array: Array, block: Block) -> Float64s:
    """A block of (A, B, C) as new float64 (R, C)."""
    part = array[block]
    return part.astype(np.float64, order="C").reshape(-1, part.shape[-1])


def _store(out: Array, block: Block, values: Float64s) -> None:
    """Write (R, C) into a block of (A, B, C), rounded once, to nearest."""
    if out.dtype.itemsize == 2 and out.dtype.char != "e":
        # NumPy converts to bfloat16 by way of float32, which would round twice.  A float32 that is truncated instead,
        # with its last bit set where that was inexact ("rounding to odd"), rounds as the float64 would.
        cut = values.astype(np.float32)
        bits = cut.view(np.int32)
        bits -= np.abs(cut) > np.abs(values)
        bits |= (cut != values) & np.isfinite(values)
        values = cut.astype(np.float64)
    out[block] = values.reshape(out[block].shape)


def _per_row(values: Float64s | None, block: Block) -> Float64s:
    """A block of (A, B) factors as (R, 1)."""
    return np.ones((1, 1)) if values is None else _rows(values[..., None], block)


def _times(weight: Float64s, value: Float64s) -> Float64s:
    """weight · value, with 0 · inf = 0, as a class of target 0 adds nothing; 0 · nan is nan."""
    return np.where((weight == 0.0) & np.isinf(value), 0.0, weight * value)


def _kept(labels: Array, ignore: tuple[int, ...]) -> NDArray[np.bool]:
    """Where the labels are none of those to ignore."""
    kept = np.ones(labels.shape, dtype=np.bool)
    for value in ignore:
        kept &= labels != value
    return kept


def _transform(x: Float64s, problem: Problem) -> tuple[Float64s, Float64s, Float64s]:
    """z = f(x), its rounding error where z is a product (else 0), and f'(x)."""
    nothing = np.zeros((1, 1))
    scaled, lost = (x, nothing) if problem.logit_scale == 1.0 else product(x, problem.logit_scale)
    if problem.softcap is None:
        return scaled, lost, np.full((1, 1), problem.logit_scale)
    u = scaled / problem.softcap
    a = np.exp(-2.0 * np.abs(u))
    # f' = scale · (1 − tanh² u) = scale · sech² u, without cancellation where tanh is nearly 1
    return problem.softcap * np.tanh(u), nothing, problem.logit_scale * (4.0 * a / (1.0 + a) ** 2)


def _stats(z: Float64s, lost: Float64s | None = None) -> Stats:
    """The statistics of a block of transformed logits; `lost` is the rounding error of z."""
    lost = np.zeros((1, 1)) if lost is None else lost
    first = np.argmax(z, axis=1, keepdims=True)
    top = np.max(z, axis=1, keepdims=True)
    lost_at_top = np.take_along_axis(np.broadcast_to(lost, z.shape), first, axis=1)
    exps = exp_of_difference(z, top, lost - lost_at_top)
    others = _sum_without(exps, first)
    log_sums = np.log1p(others)
    log_sums = np.where(np.isfinite(top), log_sums, np.nan)  # with an infinite or nan maximum, the row is nan
    return Stats(exps, sum_of(exps), first, others, top, lost_at_top, log_sums, top + log_sums)


def _sum_without(exps: Float64s, y: NDArray[np.int64]) -> Float64s:
    """The sum of exps without class y (R, 1)."""
    others = exps.copy()
    np.put_along_axis(others, y, 0.0, axis=1)
    return sum_of(others)


def _stats_from(z: Float64s, lse: Float64s) -> Stats:
    """The statistics from a saved lse, which is infinite or nan exactly where the maximum of the row is."""
    lse = np.where(np.isfinite(lse), lse, np.nan)
    zero = np.zeros_like(lse)
    exps, first = exp_of_difference(z, lse, zero), np.argmax(z, axis=1, keepdims=True)
    sums = np.where(np.isnan(lse), np.nan, 1.0)
    return Stats(exps, sums, first, _sum_without(exps, first), lse, zero, zero, lse)


def _effective_target(problem: Problem, block: Block) -> Target:
    """The target with weights and smoothing: (1 − ε) t + (ε / C) w, where t is w_y at y, or w q."""
    c, epsilon = problem.logits.shape[2], problem.label_smoothing
    w = np.ones(c) if problem.weight is None else problem.weight
    if problem.labels is None:
        assert problem.distribution is not None
        q = _rows(problem.distribution, block)
        if epsilon:
            q = (1.0 - epsilon) * q + epsilon / c
        one = np.ones((len(q), 1))
        return Target(w * q, np.zeros(one.shape, dtype=np.int64), one, one > 0)
    labels = problem.labels[block].reshape(-1, 1)
    kept = _kept(labels, problem.ignore)
    y = np.where(kept, labels, 0).astype(np.int64)
    t = None
    if epsilon:
        t = np.tile(epsilon / c * w, (len(y), 1))
        np.put_along_axis(t, y, np.take_along_axis(t, y, axis=1) + (1.0 - epsilon) * w[y], axis=1)
    return Target(t, y, w[y], kept)


def _losses(z: Float64s, lost: Float64s, stats: Stats, target: Target, z_coefficient: float) -> Float64s:
    """Σ_j t_j (lse − z_j) + λ lse² as (R, 1), where lse − z = (max − z) + log Σ exp(z − max), two terms ≥ 0."""
    # A quarter of the difference does not overflow where max and z are finite.
    below = (0.25 * stats.top - 0.25 * z) + (0.25 * stats.lost_at_top - 0.25 * lost)
    if target.t is None:
        losses = 4.0 * _times(target.w, np.take_along_axis(below, target.y, axis=1) + 0.25 * stats.log_sums)
    else:
        losses = 4.0 * sum_of(_times(target.t, below + 0.25 * stats.log_sums))
    if z_coefficient:
        losses = losses + z_coefficient * stats.lse**2
    return losses


def _store_gradient(
    grad: Array, block: Block, stats: Stats, target: Target, problem: Problem, factor: Float64s
) -> None:
    """Write (T p − t + 2 λ lse p) · factor; 0 in ignored rows.

    At the maximum, where p may be nearly 1, T p − t is (T − t) p − t (1 − p): a one-hot distribution keeps its digits.
    """
    p = stats.exps / stats.sums
    if target.t is None:
        g = target.w * p
        at_target = 0.0 - target.w * (_sum_without(stats.exps, target.y) / stats.sums)
        np.put_along_axis(g, target.y, at_target, axis=1)
    else:
        total = sum_of(target.t)
        g = total * p - target.t
        top = np.take_along_axis(target.t, stats.first, axis=1)
        p_top = np.take_along_axis(p, stats.first, axis=1)
        np.put_along_axis(g, stats.first, (total - top) * p_top - top * (stats.others / stats.sums), axis=1)
    if problem.z_coefficient:
        g = g + 2.0 * problem.z_coefficient * stats.lse * p
    _store(grad, block, np.where(target.kept, g * factor, 0.0))


BACKEND = Reference()
