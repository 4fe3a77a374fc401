"""The divergence of a student from its teacher, KL(p ‖ q), for a block of rows, and its gradient for the student.

With t and s the logits of teacher and student, τ the temperature, p = softmax(t/τ), q = softmax(s/τ), and an average

    δ_j = (t_j − s_j)/τ − c,   c near Σ p (t − s)/τ

there are two forms, each exact where it is used:

    far apart      KL = Σ p_j ((t_j − max t) − (s_j − max s))/τ + log S_s − log S_t
    nearly equal   KL = μ + log1p(H − μ),   μ = Σ p δ,   H = Σ p (exp(−δ) − 1 + δ)

In the second every term of H is ≥ 0, and with x = H − μ the KL is H − (x − log1p(x)), where nothing cancels as μ is
nearly 0: a KL of 1e-30 has all its digits.  It is computed in units of ν = max(τ, 1), as w = ν δ, h = ν² H and y = ν x,
which neither overflow nor vanish, whatever the temperature.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from xent_numba.backends.compensated import difference, sum_of
from xent_numba.backends.reference.statistics import sum_without

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float64s = NDArray[np.float64]

FAR = 0.5  # a larger KL is computed in the first form
TERMS = 20  # of the power series below, for float64


class Softened(NamedTuple):
    """softmax(x/τ) of a block x (R, C)."""

    first: NDArray[np.int64]  # (R, 1) the class of the maximum
    top: Float64s  # (R, 1) max x
    p: Float64s  # (R, C)
    log_sums: Float64s  # (R, 1) log Σ exp((x − max x)/τ)


class Divergence(NamedTuple):
    """The KL of each row, and where q/p is known better than from p and q themselves, its logarithm."""

    kl: Float64s  # (R, 1)
    log_ratios: Float64s  # (R, C) log(q/p); nan where it is better not used


def softened(x: Float64s, temperature: float) -> Softened:
    """The softmax of a block of logits at a temperature."""
    first = np.argmax(x, axis=1, keepdims=True)
    top = np.take_along_axis(x, first, axis=1)
    below, lost = difference(x, top)
    lost = lost / temperature
    exps = np.exp(below / temperature) * np.where(np.isfinite(lost), 1.0 + lost, 1.0)
    log_sums = np.where(np.isfinite(top), np.log1p(sum_without(exps, first)), np.nan)
    return Softened(first, top, exps / sum_of(exps), log_sums)


def divergence(
    t: Float64s, s: Float64s, teacher: Softened, student: Softened, temperature: float, *, squared: bool
) -> Divergence:
    """The divergence of the rows s of the student from the rows t of its teacher; times τ² if `squared`.

    Rows without a value, of −inf alone or with a NaN or +inf, are nan.
    """
    p, q = teacher.p, student.p
    log_sums = student.log_sums - teacher.log_sums
    # A quarter of the difference does not overflow where the logits are finite.
    apart = (0.25 * student.top - 0.25 * s) - (0.25 * teacher.top - 0.25 * t)
    direct = 4.0 * (sum_of(np.where(p > 0.0, p * apart, 0.0)) / temperature) + log_sums
    excluded = np.any(np.isneginf(s) & (t > -np.inf), axis=1, keepdims=True)  # by the student alone, even if p is 0
    direct = np.where(excluded & ~np.isnan(log_sums), np.inf, direct)

    unit, small = max(temperature, 1.0), min(temperature, 1.0)
    d, lost = difference(t, s)
    d_top, lost_top = (np.take_along_axis(array, teacher.first, axis=1) for array in (d, lost))
    w = ((d - d_top) + (lost - lost_top)) / small
    counts = (p > 0.0) & np.isfinite(w)  # elsewhere p δ is 0
    w = np.where(counts, w, 0.0)
    mean = sum_of(p * w)
    w = np.where(counts, w - mean, 0.0)
    delta = w / unit
    # Where |δ| is large, p exp(−δ) is q times the sum of all such terms, and may be found where p is 0.
    s_top = np.take_along_axis(s, teacher.first, axis=1)
    total = np.exp(log_sums + (student.top - s_top) / temperature + mean / unit)
    large_terms = unit * (unit * (q * total - p * (1.0 - delta)))
    small_terms = p * w * w * _exp_remainder(np.clip(delta, -1.0, 1.0))
    h = sum_of(np.where(counts & (np.abs(delta) <= 1.0), small_terms, large_terms))
    y = h / unit - sum_of(p * w)
    near = direct < FAR
    x = np.where(near, y / unit, 0.0)
    centred = np.maximum(h - y * y * _log_remainder(x), 0.0)
    kl = np.where(near, centred * small * small if squared else centred / unit / unit, direct)
    if squared:
        kl = np.where(near, kl, temperature * (temperature * direct))
    return Divergence(kl, np.where(near & counts, -(delta + np.log1p(x)), np.nan))


def student_gradient(teacher: Softened, student: Softened, log_ratios: Float64s) -> Float64s:
    """q − p, as p (exp(log(q/p)) − 1) where that has more digits."""
    small = np.abs(log_ratios) < 1.0
    return np.where(small, teacher.p * np.expm1(np.where(small, log_ratios, 0.0)), student.p - teacher.p)


def _exp_remainder(d: Float64s) -> Float64s:
    """(exp(−d) − 1 + d) / d² for |d| ≤ 1, by its power series Σ (−d)^k / (k + 2)!."""
    result = np.ones_like(d)
    for k in range(TERMS, 0, -1):
        result = 1.0 - d * result / (k + 2)
    return 0.5 * result


def _log_remainder(x: Float64s) -> Float64s:
    """(x − log1p(x)) / x², from log1p(x) = 2 artanh(z), z = x / (2 + x), by its power series; for −½ < x < 1."""
    z = x / (2.0 + x)
    series = np.zeros_like(z)
    for k in range(TERMS, -1, -1):
        series = 1.0 / (2 * k + 3) + z * z * series
    return (1.0 - 2.0 * z * series / (2.0 + x)) / (2.0 + x)
