"""What a backend is given, and what it must provide.

A, B are the two row dimensions of the canonical views, and C is the number of classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[Any]
    Weights = NDArray[np.float64] | None


class Problem(NamedTuple):
    """One validated cross-entropy call, in canonical form.

    Its arrays are views with the class axis moved last and the other axes merged, in C order, into two row dimensions
    (A, B).  They are merged jointly for logits, distribution and gradient, so that no layout is copied.  A = 1 wherever
    all row axes merge into one.  No dimension is 0.
    """

    logits: Array  # (A, B, C) float64 | float32 | float16 | bfloat16, any strides
    labels: Array | None  # (A, B) int32 | int64, for index targets; `scan_labels` has found no bad one
    distribution: Array | None  # (A, B, C) in one of the dtypes of logits, for distributions
    weight: Weights  # (C,) contiguous
    sample_weight: Weights  # (A, B) contiguous
    ignore: tuple[int, ...]  # labels of ignored rows, each of which fits int64
    label_smoothing: float  # ε
    logit_scale: float
    softcap: float | None
    # Factor of lse² in a row: λ = z_loss, or λ·D1/D2 for a mean, with the denominators of loss and z-loss.
    z_coefficient: float
    focal_gamma: float  # γ; other than 0 only with labels and without label_smoothing
    denominator: float  # the reduced loss is Σ rows / denominator, which is D1 for a mean and else 1; never 0
    grad_scale: float  # 1 / denominator, times a scalar grad_output
    n_threads: int | None
    is_plain: bool  # the commonest call: class indices, no weight or option but a z-loss, no class ignored


class Slab(NamedTuple):
    """What one call of a backend computes, and where it writes.  Nearly every call has a single slab."""

    problem: Problem
    rows: Array | None  # (A, B) of the dtype of the loss: receives the loss of each row
    grad: Array | None  # (A, B, C): receives the gradient
    lse: Weights  # (A, B) contiguous: the logsumexp of each row, saved by the user
    grad_output: Weights  # (A, B) contiguous: the upstream gradient of each row

    def cut(self, block: tuple[slice, slice]) -> Slab:
        """A block of the rows, given as slices of A and B; what was contiguous may no longer be."""
        problem, *others = self
        labels, distribution, sample_weight, *cut = (
            None if array is None else array[block]
            for array in (problem.labels, problem.distribution, problem.sample_weight, *others)
        )
        part = problem._replace(
            logits=problem.logits[block], labels=labels, distribution=distribution, sample_weight=sample_weight
        )
        return Slab(part, *cut)


class Shard(NamedTuple):
    """Some of the classes of each row, in canonical form as in `Problem`; C is the number of these classes alone.

    The dense part of their target is u_j = weight_j (α q_j + β), with a distribution q; a label is no part of it.
    """

    logits: Array  # (A, B, C)
    kept: NDArray[np.bool] | None  # (A, B) contiguous: False in rows that are not read; None where all of them are
    distribution: Array | None  # (A, B, C)
    weight: Weights  # (C,) contiguous; None where there is no dense target
    alpha: float
    beta: float  # 0 without smoothing: then there is a dense target only where there is a distribution
    logit_scale: float
    softcap: float | None
    n_threads: int | None

    @property
    def has_dense(self) -> bool:
        """Whether there is a dense target."""
        return self.distribution is not None or self.beta != 0.0


class ShardStatistics(NamedTuple):
    """What a shard knows about each row: (A, B) arrays that a backend fills.

    x_j is a logit times the sign of logit_scale, and s = |logit_scale|; with a softcap, x_j is what that makes of a
    logit, and s = 1.  What is relative to the maximum m is relative to 0 where that is −inf.
    """

    maximum: NDArray[np.float64]  # m = max x_j; nan where there is one
    rest: NDArray[np.float64]  # Σ exp(s (x_j − m)) over all classes but one at the maximum
    top: NDArray[np.int64]  # a class at the maximum; −1 where the rest is large, so that no digits depend on it
    gap: NDArray[np.float64]  # Σ u_j (m − x_j) / 4
    target_sum: NDArray[np.float64]  # Σ u_j


class ShardCoefficients(NamedTuple):
    """The gradient of each row: p_factor · exp(s (x_j − centre)) − u_factor · u_j, times f'(x_j) with a softcap.

    (A, B) arrays, contiguous.  At class `own` of a row, if that is not −1, the gradient is `at_own` instead.
    """

    centre: NDArray[np.float64]
    p_factor: NDArray[np.float64]
    u_factor: NDArray[np.float64]
    own: NDArray[np.int64]
    at_own: NDArray[np.float64]


class LabelScan(NamedTuple):
    """What one pass over the labels finds.  m_i = 1 where row i is kept, 0 where it is ignored."""

    first_bad: int  # flat C-order index of the first label out of range and not ignored; -1 if none
    weight_sum: float  # Σ m_i s_i w_{y_i}: the denominator of the mean
    sample_sum: float  # Σ m_i s_i: the denominator of the mean z-loss


class Backend(Protocol):
    """What an implementation provides."""

    name: str

    def why_not(self) -> str | None:
        """None if this backend can run here, else the reason and the remedy in one sentence."""

    def describe(self) -> dict[str, object]:
        """Facts for `show_config`: versions, threads, vector width, device."""

    def explain(self, logits: Array, distribution: Array | None, grad: Array | None) -> dict[str, object]:
        """How a loss of such arrays (A, B, C) would be computed, and why; only shapes, strides and dtypes matter."""

    def scan_labels(
        self,
        labels: Array,  # (A, B) int32 or int64, any strides, no dimension 0
        n_classes: int,
        ignore: tuple[int, ...],
        weight: NDArray[np.float64] | None,  # (C,)
        sample_weight: NDArray[np.float64] | None,  # (A, B)
        n_threads: int | None,
    ) -> LabelScan:
        """Find the first bad label, and sum the denominators of a mean, in one pass."""

    def cross_entropy(self, problem: Problem, rows: Array | None, grad: Array | None) -> NDArray[np.float64] | None:
        """Loss, and the gradient where `grad` (A, B, C) is given, in one fused pass.

        With `rows` (A, B), the loss of each row goes there, and the result is None.  Without it, the result is the
        partial sums of fixed groups of rows, for `reduction.total`.  The gradient is that of
        problem.grad_scale · Σ_i row_i.
        """

    def cross_entropy_grad(
        self, problem: Problem, grad: Array, lse: Array | None, grad_output: NDArray[np.float64] | None
    ) -> None:
        """Gradient alone into `grad` (A, B, C), from a saved `lse` (A, B) where given, times `grad_output` (A, B).

        Both are contiguous float64.  Where `lse` is infinite or nan, the gradient of the whole row is nan.
        """

    def shard_statistics(self, shard: Shard, found: ShardStatistics) -> None:
        """Fill `found`, of contiguous arrays (A, B), with the statistics of the classes of a shard.

        Rows that are not kept get any numbers.  Where the maximum is not finite, only that itself counts.
        """

    def shard_gradient(self, shard: Shard, coefficients: ShardCoefficients, grad: Array) -> None:
        """Write the gradient of a shard into `grad` (A, B, C), which may be its logits; 0 in rows not kept."""

    def softmax(self, logits: Array, out: Array, n_threads: int | None) -> None:
        """softmax over the last axis of (A, B, C)."""

    def log_softmax(self, logits: Array, out: Array, n_threads: int | None) -> None:
        """log_softmax over the last axis of (A, B, C)."""

    def logsumexp(self, logits: Array, out: Array, n_threads: int | None) -> None:
        """logsumexp over the last axis of (A, B, C) into (A, B), infinite values as in `xent_numba.logsumexp`."""
