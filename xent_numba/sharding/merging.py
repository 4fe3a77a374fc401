"""What the shards of a row know about it, merged; the losses, and the factors of the gradients, that follow from it.

For a row of logits x_j, which are those of `protocol.ShardStatistics`, and their factor s, let m = max x_j.  All sums
are relative to m, and leave out one class at the maximum, so that

    S = 1 + rest,  rest = Σ exp(s (x_j − m)) over all other classes,  lse − z_y = s (m − x_y) + log1p(rest)

keeps its digits however small it is, and wherever the maximum and the label y are: both terms are positive.  So is
1 − p_y = (rest − expm1(s (x_y − m))) / S, which the gradient at the label is made of.  Two parts have two maxima; the
smaller one is then no longer left out, and is rescaled with its sum.  Sums are kept with their rounding errors, so that
very many parts are as good as one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from xent_numba.backends.compensated import scaled_difference, two_sum
from xent_numba.backends.protocol import ShardCoefficients
from xent_numba.backends.reference.blocks import times
from xent_numba.backends.reference.focal import focal_factors
from xent_numba.prepare.denominators import TINY
from xent_numba.reduction import exact_sum

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xent_numba.prepare.options import Options

    Float64s = NDArray[np.float64]

_HUGE = 1e290  # denominators of means between `TINY` and this have all their digits, and an inverse
_LARGEST = 1e300


class Sums(NamedTuple):
    """What is known about N rows: (N,) float64 each."""

    maximum: Float64s  # m; −inf for no class, nan where a logit is
    rest: Float64s  # Σ exp(s (x_j − m)), without one class at the maximum
    rest_error: Float64s
    top: Float64s  # the number of that class, for a dense target; or −1
    gap: Float64s  # Σ u_j (m − x_j) / 4, with 0 for m where that is −inf
    gap_error: Float64s
    target_sum: Float64s  # Σ u_j
    target_error: Float64s
    x_y: Float64s  # the logit of the label's class; 0 in parts that do not have it
    w_y: Float64s  # its class weight; likewise
    owned: Float64s  # how many of the classes are the label's

    def rows(self, part: slice) -> Sums:
        """Those of some of the rows."""
        return Sums(*(column[part] for column in self))


class Weights(NamedTuple):
    """What multiplies the rows and their targets."""

    confidence: float  # 1 − ε, the factor of w_y; 0 for a distribution
    sample: Float64s  # (N,) s_i, and 0 in ignored rows
    targets: float  # a power of 2 for all targets, and so for the denominator of a mean
    denominator: float  # what divides the sum of the rows
    z_coefficient: float
    focal_gamma: float


class Row(NamedTuple):
    """The targets of N rows, and their sums: (N,) each."""

    rest: Float64s  # nan where the maximum is not finite
    label_weight: Float64s  # the part of the target that only the label's class has
    target_sum: Float64s  # Σ u_j, of the part that all classes have


def merge(a: Sums, b: Sums, scale: float, *, dense: bool) -> Sums:
    """The sums of two parts; `dense` says whether there are targets u_j at all."""
    with np.errstate(all="ignore"):
        swap = b.maximum > a.maximum
        low, high = (np.where(swap, x, y) for x, y in ((a.maximum, b.maximum), (b.maximum, a.maximum)))
        maximum = np.maximum(a.maximum, b.maximum)
        d, lost = scaled_difference(low, np.where(high == -np.inf, 0.0, high), scale)
        factor, near = np.exp(d), d > -0.5
        # With the sum itself, and expm1 for the change, many small steps of the maximum add up no errors.
        whole, error = two_sum(np.where(swap, a.rest, b.rest), np.ones(1))
        error = error + np.where(swap, a.rest_error, b.rest_error)
        change = whole * np.expm1(d, out=factor.copy(), where=near) + (whole * lost + error) * factor
        rest, e1 = two_sum(np.where(swap, b.rest, a.rest), np.where(near, whole, 0.0))
        rest, e2 = two_sum(rest, change)
        rest_error = np.where(swap, b.rest_error, a.rest_error) + e1 + e2
        top, gap, gap_error, target_sum, target_error = a.top, a.gap, a.gap_error, a.target_sum, a.target_error
        if dense:
            top = np.where(swap, b.top, a.top)
            lowered = np.where(low > -np.inf, 0.25 * high - 0.25 * low, 0.0)
            gap, e1 = two_sum(a.gap, b.gap)
            gap, e2 = two_sum(gap, np.where(swap, a.target_sum, b.target_sum) * lowered)
            gap_error = a.gap_error + b.gap_error + e1 + e2
            target_sum, e1 = two_sum(a.target_sum, b.target_sum)
            target_error = a.target_error + b.target_error + e1
        return Sums(
            maximum, rest, rest_error, top, gap, gap_error, target_sum, target_error,
            a.x_y + b.x_y, a.w_y + b.w_y, a.owned + b.owned,
        )  # fmt: skip


# ------------------------------------------------------------------------------------------------ weights
def weights_of(sums: Sums, sample: Float64s, labels: tuple[bool, bool], options: Options) -> Weights:
    """The `Weights` of rows with these sample weights, which are 0 in ignored rows.

    `labels`: whether the class weights of the labels enter the mean, and whether there are labels at all.

    A mean does not change when all weights in its denominator are multiplied by one number.  So where they are extreme,
    they are multiplied by the powers of 2 that bring the largest product of two of them next to 1.
    """
    weighted, has_label = labels
    confidence = 1.0 - options.label_smoothing if has_label else 0.0
    if options.reduction != "mean":
        return Weights(confidence, sample, 1.0, 1.0, options.z_loss, options.focal_gamma)
    w = sums.w_y if weighted else np.ones(sample.shape)
    targets = 1.0
    with np.errstate(all="ignore"):
        largest = float(np.max(sample * w, initial=0.0))
        if sample.size and not TINY < largest < _HUGE / sample.size:
            (s_fraction, s_exponent), (w_fraction, w_exponent) = np.frexp(sample), np.frexp(w)
            i = int(np.argmax(np.where(s_fraction * w_fraction > 0.0, s_exponent + w_exponent, -(1 << 20))))
            targets = 2.0 ** min(max(-int(w_exponent[i]), -1000), 1000)
            sample = np.minimum(np.ldexp(sample, -s_exponent[i]), _LARGEST)
            w = np.minimum(w * targets, _LARGEST)
        d1, d2 = exact_sum(sample * w), exact_sum(sample)
    return Weights(confidence, sample, targets, d1, options.z_loss * (d1 / d2) if d2 else 0.0, options.focal_gamma)


# ------------------------------------------------------------------------------------------------ losses
def logsumexp(sums: Sums, scale: float) -> Float64s:
    """lse of the classes so far: nan where there is a nan, and else infinite where the maximum is."""
    with np.errstate(all="ignore"):
        lse = scale * sums.maximum + np.log1p(sums.rest + sums.rest_error)
        return np.where(np.isfinite(sums.maximum), lse, sums.maximum)


def _exp_and_others(x: Float64s, centre: Float64s, rest: Float64s, scale: float) -> tuple[Float64s, Float64s]:
    """e = exp(s (x − m)) of one class, and S − e without cancellation: x is no larger than m."""
    d, lost = scaled_difference(x, centre, scale)
    return np.exp(d) * (1.0 + lost), rest - np.expm1(d)


def _label_weight(sums: Sums, weights: Weights, rest: Float64s, scale: float, *, gradient: bool) -> Float64s:
    """The part of the target that only the label's class has, with the focal factor of the loss or of its gradient."""
    weight = (weights.confidence * weights.targets) * sums.w_y
    if not weights.focal_gamma:
        return weight
    e, others = _exp_and_others(sums.x_y, sums.maximum, rest, scale)
    factors = focal_factors(weights.focal_gamma, e / (1.0 + rest), others / (1.0 + rest))
    return times(weight, factors.gradient if gradient else factors.loss)


def _rows(sums: Sums, weights: Weights, scale: float, *, gradient: bool) -> Row:
    """The `Row` of merged sums, for the loss or for its gradient."""
    finite = np.isfinite(sums.maximum)
    rest = np.where(finite, sums.rest + sums.rest_error, np.nan)
    return Row(
        rest,
        _label_weight(sums, weights, rest, scale, gradient=gradient),
        weights.targets * (sums.target_sum + sums.target_error),
    )


def row_losses(sums: Sums, weights: Weights, scale: float) -> Float64s:
    """s_i (T lse − Σ t_j z_j + λ lse²) of every row."""
    with np.errstate(all="ignore"):
        row = _rows(sums, weights, scale, gradient=False)
        below = times(row.label_weight, 0.25 * sums.maximum - 0.25 * sums.x_y)
        quarter = below + weights.targets * (sums.gap + sums.gap_error)
        log_sum = np.log1p(row.rest)
        losses = (row.label_weight + row.target_sum) * log_sum + 4.0 * (scale * quarter)
        if weights.z_coefficient:
            losses = losses + weights.z_coefficient * (scale * sums.maximum + log_sum) ** 2
        return times(weights.sample, losses)


# ------------------------------------------------------------------------------------------------ gradients
class Own(NamedTuple):
    """The class of each row whose gradient is computed by itself: the label's, or that at the maximum; (N,) each."""

    j: NDArray[np.int64]  # within the shard; −1 for none
    x: Float64s
    u: Float64s  # the part of its target that all classes have
    slope: Float64s  # f'(x) of a softcap, else 1


def coefficients(sums: Sums, weights: Weights, own: Own, factor: Float64s, scale: float) -> ShardCoefficients:
    """The `ShardCoefficients` of rows, (N,) each; `factor` multiplies the whole gradient of a row."""
    with np.errstate(all="ignore"):
        row = _rows(sums, weights, scale, gradient=True)
        centre = np.where(np.isfinite(sums.maximum), sums.maximum, np.where(sums.maximum == -np.inf, 0.0, np.nan))
        total = 1.0 + row.rest
        z = np.zeros(1)
        if weights.z_coefficient:
            z = 2.0 * weights.z_coefficient * (scale * sums.maximum + np.log1p(row.rest))
        p_factor = (row.label_weight + row.target_sum + z) / total
        e, others = _exp_and_others(own.x, centre, row.rest, scale)
        u = weights.targets * own.u
        at_own = ((row.target_sum - u + z) * e - (u + row.label_weight) * others) / total
        return ShardCoefficients(
            centre, p_factor * factor, weights.targets * factor, own.j, at_own * factor * own.slope
        )
