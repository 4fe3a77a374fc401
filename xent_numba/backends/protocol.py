"""What a backend is given, and what it must provide: the values and methods that every implementation shares."""

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

    All arrays are views with the class axis moved last and the other axes merged, in C order, to two row
    dimensions (A, B), jointly for logits, distribution and gradient, so no layout is copied.  A = 1 wherever
    all row axes merge into one.  No dimension is 0.
    """

    logits: Array  # (A, B, C) float64 | float32 | float16 | bfloat16, any strides
    labels: Array | None  # (A, B) int32 | int64, index targets, already scanned
    distribution: Array | None  # (A, B, C), one of the logits dtypes, distribution targets
    weight: Weights  # (C,) contiguous
    sample_weight: Weights  # (A, B) contiguous
    ignore: tuple[int, ...]  # () where nothing is ignored; each fits int64
    label_smoothing: float  # ε
    logit_scale: float
    softcap: float | None
    z_coefficient: float  # what multiplies lse² in a row: λ, or λ·D1/D2 for a mean (D1, D2: the two denominators)
    denominator: float  # the reduced loss is Σ rows / denominator: 1, or D1 for a mean; never 0
    grad_scale: float  # 1 / denominator, times a scalar grad_output
    n_threads: int | None
    is_plain: bool  # class indices, and no weight, transform, smoothing or ignored class: the commonest call


class Slab(NamedTuple):
    """What one call of a backend computes, and where it writes.  Nearly every call has a single slab."""

    problem: Problem
    rows: Array | None  # (A, B) of the loss dtype: where the loss of each row goes, if anywhere
    grad: Array | None  # (A, B, C)
    lse: Weights  # (A, B) contiguous, given by the user
    grad_output: Weights  # (A, B) contiguous, per row


class LabelScan(NamedTuple):
    """What one pass over the labels finds out."""

    first_bad: int  # flat C-order index of the first label out of range and not ignored; -1 if none
    n_kept: int  # rows that are not ignored
    weight_sum: float  # Σ m_i s_i w_{y_i}: the denominator of the mean
    sample_sum: float  # Σ m_i s_i: the denominator of the mean z-loss


class Backend(Protocol):
    """What an implementation provides.  A, B are the two row dimensions of the canonical view, C the classes."""

    name: str

    def why_not(self) -> str | None:
        """None when this backend can run here, else the reason and the remedy in one sentence."""

    def describe(self) -> dict[str, object]:
        """Facts for `show_config`: versions, threads, vector width, device."""

    def explain(self, logits: Array, distribution: Array | None, grad: Array | None) -> dict[str, object]:
        """How a loss of such arrays (A, B, C) would be computed, and why; only their shapes and strides matter."""

    def scan_labels(
        self,
        labels: Array,  # (A, B) int32 or int64, any strides, no dimension 0
        n_classes: int,
        ignore: tuple[int, ...],
        weight: NDArray[np.float64] | None,  # (C,)
        sample_weight: NDArray[np.float64] | None,  # (A, B)
        n_threads: int | None,
    ) -> LabelScan:
        """Find the first bad label and the denominators in one pass."""

    def cross_entropy(self, problem: Problem, rows: Array | None, grad: Array | None) -> NDArray[np.float64] | None:
        """Loss, and the gradient where `grad` (A, B, C) is given, in one fused pass.

        With `rows` (A, B) the loss of each row goes there and None comes back; without, the partial sums of
        fixed groups of rows come back, for `reduction.total`.  The gradient is that of
        problem.grad_scale · Σ_i row_i.
        """

    def cross_entropy_grad(
        self, problem: Problem, grad: Array, lse: Array | None, grad_output: NDArray[np.float64] | None
    ) -> None:
        """Gradient alone into `grad` (A, B, C), from a saved `lse` (A, B) where given, times `grad_output` (A, B).

        Both are contiguous float64.  Where `lse` is infinite or nan, so are all its row's logits' gradients: nan.
        """

    def softmax(self, logits: Array, out: Array, n_threads: int | None) -> None:
        """softmax over the last axis of (A, B, C)."""

    def log_softmax(self, logits: Array, out: Array, n_threads: int | None) -> None:
        """log_softmax over the last axis of (A, B, C)."""

    def logsumexp(self, logits: Array, out: Array, n_threads: int | None) -> None:
        """logsumexp over the last axis of (A, B, C) into (A, B); −inf of −inf alone, +inf of any +inf, as in SciPy."""
