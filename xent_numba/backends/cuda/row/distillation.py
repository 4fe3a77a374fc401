"""The divergence of a student from its teacher: its mathematics for one class, and for the sums over a row.

With t and s the logits of teacher and student, τ the temperature, p = softmax(t/τ), q = softmax(s/τ), and the average
c near Σ p (t − s)/τ, the divergence is in one of two forms, as `backends.reference.distillation` derives them:

    far apart      KL = Σ p_j ((max s − s_j) − (max t − t_j))/τ + log S_s − log S_t
    nearly equal   KL = H − (x − log1p(x)),  x = H − Σ p δ,  H = Σ p (exp(−δ) − 1 + δ),  δ_j = (t_j − s_j)/τ − c

in units of ν = max(τ, 1): w = ν δ, h = ν² H and y = ν x.  All arithmetic is float64.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from xent_numba.backends.cuda.hw import intrinsics as hw
from xent_numba.backends.cuda.hw.reduce import exact_difference
from xent_numba.backends.cuda.row.spec import Spec

FAR = 0.5  # a larger KL is computed in the first form
TERMS = 18  # of the power series below


class Teacher(NamedTuple):
    """What two reads of a row of teacher and student have found."""

    t_max: Any  # max t
    s_max: Any  # max s
    d_top: Any  # t − s where t is largest, and its rounding error
    lost_top: Any
    t_sum: Any  # Σ exp((t_j − max t)/τ)
    s_sum: Any  # Σ exp((s_j − max s)/τ)
    direct: Any  # the KL in its first form
    mean: Any  # Σ p w, with w relative to d_top
    total: Any  # Σ p exp(−δ)


class Softened(NamedTuple):
    """One class of a row."""

    p: Any
    q: Any
    w: Any
    delta: Any
    counts: Any  # whether p > 0 and w is finite; w and δ are 0 where it is not


def polynomial(coefficients: list[float]) -> Any:
    """(x) -> Σ c_k x^k, by Horner's rule."""
    c = hw.f64(coefficients[0])
    if len(coefficients) == 1:
        return hw.device(lambda x: c)
    rest = polynomial(coefficients[1:])
    return hw.device(lambda x: c + x * rest(x))


# (x) -> (exp(x) − 1 − x) / x² for |x| ≤ 1
exp_remainder = polynomial([1.0 / math.factorial(k + 2) for k in range(TERMS)])
# (z²) -> (artanh(z) − z) / z³ for |z| ≤ 1/3
_artanh_remainder = polynomial([1.0 / (2 * k + 3) for k in range(TERMS)])


@hw.device
def log_remainder(x: Any) -> Any:
    """(x − log1p(x)) / x² for −½ < x < 1, from log1p(x) = 2 artanh(z), z = x / (2 + x)."""
    inverse = hw.f64(1) / (hw.f64(2) + x)
    z = x * inverse
    return (hw.f64(1) - hw.f64(2) * z * _artanh_remainder(z * z) * inverse) * inverse


@hw.device
def weigh(args: Any, row: Any, s: Any, t: Any) -> Any:
    """(args, Teacher, s_j, t_j) -> Softened."""
    zero, one = hw.f64(0), hw.f64(1)
    p = hw.exp((t - row.t_max) / args.temperature) / row.t_sum
    q = hw.exp((s - row.s_max) / args.temperature) / row.s_sum
    w = above_top(args, s, t, row.d_top, row.lost_top) - row.mean
    counts = p > zero and w - w == zero
    w = w if counts else zero
    return Softened(p, q, w, w / hw.fmax(args.temperature, one), counts)


@hw.device
def above_top(args: Any, s: Any, t: Any, d_top: Any, lost_top: Any) -> Any:
    """(t_j − s_j), less that of the teacher's top class, over min(τ, 1)."""
    d, lost = exact_difference(t, s)
    return ((d - d_top) + (lost - lost_top)) / -hw.fmax(-args.temperature, -hw.f64(1))


@hw.device
def divergence_term(args: Any, row: Any, one_class: Any) -> Any:
    """The term of h of a class."""
    p, q, w, delta, counts = one_class
    unit, one = hw.fmax(args.temperature, hw.f64(1)), hw.f64(1)
    if counts and -one <= delta <= one:
        return p * w * w * exp_remainder(-delta)
    return unit * (unit * (q * row.total - p * (one - delta)))


def divergence(spec: Spec) -> Any:
    """(args, Teacher, h, Σ p w) -> (the loss of a row, log1p(x), NaN where the rows are far apart)."""
    squared, zero, one, nan = spec.squared, hw.f64(0), hw.f64(1), hw.f64(np.nan)

    @hw.device
    def loss(args: Any, row: Any, h: Any, mean: Any) -> Any:
        tau = hw.f64(args.temperature)
        if not row.direct < FAR:
            return (tau * (tau * row.direct) if squared else row.direct), nan
        unit, small = hw.fmax(tau, one), -hw.fmax(-tau, -one)
        y = h / unit - mean
        x = y / unit
        centred = hw.fmax(h - y * y * log_remainder(x), zero)
        return (centred * small * small if squared else centred / unit / unit), hw.log1p(x)

    return loss


@hw.device
def student_gradient(one_class: Any, log_total: Any) -> Any:
    """q − p, as p (exp(log(q/p)) − 1) where that has more digits; `log_total` is the log1p(x) of the row."""
    p, q, _, delta, counts = one_class
    log_ratio = -(delta + log_total)
    one = hw.f64(1)
    return p * hw.expm1(log_ratio) if counts and -one < log_ratio < one else q - p
