"""The backend protocol in plain NumPy: a loop over blocks for each of its methods."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from xent_numba.backends.protocol import LabelScan, RowFields
from xent_numba.backends.reference.blocks import BLOCK, block_rows, is_kept, per_row, store, times, transform
from xent_numba.backends.reference.curvature import block_hessian_diag, block_hvp, transform_term
from xent_numba.backends.reference.distillation import divergence, softened, student_gradient
from xent_numba.backends.reference.loss import block_losses, effective_target, store_gradient
from xent_numba.backends.reference.row_statistics import block_fields
from xent_numba.backends.reference.shards import shard_gradient, shard_statistics
from xent_numba.backends.reference.statistics import block_stats, stats_from
from xent_numba.prepare.layout import row_blocks
from xent_numba.reduction import exact_sum

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    from xent_numba.backends.protocol import DistillationProblem, Problem, Shard, ShardCoefficients, ShardStatistics

    Array = NDArray[Any]
    Float64s = NDArray[np.float64]

LABEL_BLOCK = 1 << 20  # labels that are scanned together


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
                kept = is_kept(y, ignore)
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
                z, lost, slope = transform(block_rows(problem.logits, block), problem)
                target = effective_target(problem, block)
                stats = block_stats(z, lost)
                factor = per_row(problem.sample_weight, block)
                losses = np.where(target.kept, times(factor, block_losses(z, lost, stats, target, problem)), 0.0)
                partials.append(float(np.sum(losses)))
                if rows is not None:
                    rows[block] = losses.reshape(rows[block].shape)
                if grad is not None:
                    store_gradient(grad, block, stats, target, problem, slope * (factor * problem.grad_scale))
        return None if rows is not None else np.array(partials)

    def cross_entropy_grad(
        self, problem: Problem, grad: Array, lse: Array | None, grad_output: Float64s | None
    ) -> None:
        """See `protocol.Backend`."""
        with np.errstate(all="ignore"):
            for block in row_blocks(problem.logits.shape, BLOCK // problem.logits.shape[2]):
                z, lost, slope = transform(block_rows(problem.logits, block), problem)
                target = effective_target(problem, block)
                stats = block_stats(z, lost) if lse is None else stats_from(z, block_rows(lse[..., None], block))
                factor = per_row(problem.sample_weight, block) * per_row(grad_output, block) * problem.grad_scale
                store_gradient(grad, block, stats, target, problem, slope * factor)

    def row_statistics(self, problem: Problem, fields: RowFields) -> None:
        """See `protocol.Backend`."""
        with np.errstate(all="ignore"):
            for block in row_blocks(problem.logits.shape, BLOCK // problem.logits.shape[2]):
                block_fields(problem, block, RowFields(*(None if out is None else out[block] for out in fields)))

    def cross_entropy_hvp(self, problem: Problem, vector: Array, product: Array, gauss_newton: bool) -> None:
        """See `protocol.Backend`."""
        with np.errstate(all="ignore"):
            for block in row_blocks(problem.logits.shape, BLOCK // problem.logits.shape[2]):
                z, lost, slope = transform(block_rows(problem.logits, block), problem)
                target, stats, v = effective_target(problem, block), block_stats(z, lost), block_rows(vector, block)
                values = slope * block_hvp(stats, target, problem, slope * v)
                if not gauss_newton:
                    values = values + transform_term(z, slope, stats, target, problem) * v
                factor = per_row(problem.sample_weight, block) * problem.grad_scale
                store(product, block, np.where(target.kept, values * factor, 0.0))

    def cross_entropy_grad_and_hessian_diag(self, problem: Problem, grad: Array, diag: Array) -> None:
        """See `protocol.Backend`."""
        with np.errstate(all="ignore"):
            for block in row_blocks(problem.logits.shape, BLOCK // problem.logits.shape[2]):
                z, lost, slope = transform(block_rows(problem.logits, block), problem)
                target, stats = effective_target(problem, block), block_stats(z, lost)
                factor = per_row(problem.sample_weight, block) * problem.grad_scale
                values = slope * slope * block_hessian_diag(stats, target, problem)
                values = values + transform_term(z, slope, stats, target, problem)
                store(diag, block, np.where(target.kept, values * factor, 0.0))
                store_gradient(grad, block, stats, target, problem, slope * factor)

    def distillation_loss(
        self, problem: DistillationProblem, rows: Array | None, grad: Array | None
    ) -> Float64s | None:
        """See `protocol.Backend`; one partial sum for each block."""
        partials = []
        temperature, squared = problem.temperature, problem.temperature_squared
        with np.errstate(all="ignore"):
            for block in row_blocks(problem.student.shape, BLOCK // problem.student.shape[2]):
                s, t = block_rows(problem.student, block), block_rows(problem.teacher, block)
                student, teacher = softened(s, temperature), softened(t, temperature)
                found = divergence(t, s, teacher, student, temperature, squared=squared)
                weight = per_row(problem.sample_weight, block)
                losses = times(weight, found.kl)
                partials.append(float(np.sum(losses)))
                if rows is not None:
                    rows[block] = losses.reshape(rows[block].shape)
                if grad is not None:
                    g = student_gradient(teacher, student, found.log_ratios) * (weight * problem.grad_scale)
                    store(grad, block, g * temperature if squared else g / temperature)
        return None if rows is not None else np.array(partials)

    def shard_statistics(self, shard: Shard, found: ShardStatistics) -> None:
        """See `protocol.Backend`."""
        with np.errstate(all="ignore"):
            for block in row_blocks(shard.logits.shape, BLOCK // shard.logits.shape[2]):
                for column, values in zip(found, shard_statistics(shard, block), strict=True):
                    column[block] = values.reshape(column[block].shape)

    def shard_gradient(self, shard: Shard, coefficients: ShardCoefficients, grad: Array) -> None:
        """See `protocol.Backend`."""
        with np.errstate(all="ignore"):
            for block in row_blocks(shard.logits.shape, BLOCK // shard.logits.shape[2]):
                store(grad, block, shard_gradient(shard, coefficients, block))

    def softmax(self, logits: Array, out: Array, n_threads: int | None) -> None:
        """exp(x − lse)."""
        with np.errstate(all="ignore"):
            for block in row_blocks(logits.shape, BLOCK // logits.shape[2]):
                stats = block_stats(block_rows(logits, block))
                store(out, block, stats.exps / stats.sums)

    def log_softmax(self, logits: Array, out: Array, n_threads: int | None) -> None:
        """(x − max) − log Σ exp(x − max), two terms of the same sign."""
        with np.errstate(all="ignore"):
            for block in row_blocks(logits.shape, BLOCK // logits.shape[2]):
                x = block_rows(logits, block)
                stats = block_stats(x)
                store(out, block, (x - stats.top) - stats.log_sums)

    def logsumexp(self, logits: Array, out: Array, n_threads: int | None) -> None:
        """max + log Σ exp(x − max), or the maximum itself where that is infinite."""
        with np.errstate(all="ignore"):
            for block in row_blocks(logits.shape, BLOCK // logits.shape[2]):
                stats = block_stats(block_rows(logits, block))
                out[block] = np.where(np.isfinite(stats.top), stats.lse, stats.top).reshape(out[block].shape)
