"""The mathematics of a distillation: the terms of a vector of classes, and what their sums mean.

t and s are the logits of teacher and student, e_t and e_s their exponentials relative to the maximum of the row.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from numba import types

from xent_numba.backends.cpu.compile.inline import inline, specialize
from xent_numba.backends.cpu.row.epilogue import centre_of, log_of_sum
from xent_numba.backends.cpu.row.target import product_or_zero
from xent_numba.backends.cpu.simd.cast import demote, promote
from xent_numba.backends.cpu.simd.exp_shifted import (
    exp_scaled_difference,
    exp_shifted_scaled,
    rescale_to_max,
    shift_of,
)
from xent_numba.backends.cpu.simd.math import apply_scale, clamp_exp_arg, exp, unscale
from xent_numba.backends.cpu.simd.reduce import all_true
from xent_numba.backends.cpu.simd.vector import fma, polynomial, select, splat, zero_float64_vector, zero_vector

FAR = 0.5  # from this KL on, the sums of the second pass are exact enough
EQUAL = 1e-4  # up to this KL, ⟨p, t − s⟩ must be known without rounding t − s
_DOWN = 2.0**-8  # what Σ e_t (t − s − o) is multiplied by, so that no product of a finite loss overflows


class DistillationOperands(NamedTuple):
    """The arguments of a call: N = A·B rows of C classes.  (A, B, C) arrays have any strides."""

    student: Any  # (A, B, C)
    teacher: Any  # (A, B, C)
    sample_weight: Any  # (N,) float64, or (0,)
    row_losses: Any  # (N,) where the loss of each row is written; or (0,)
    grad: Any  # (A, B, C) where the gradient is written, or None
    scale: Any  # 1 / τ, or None for 1
    loss_factor: float  # 1 or τ²
    grad_factor: float  # what multiplies q − p
    streaming: bool  # whether the gradient is written past the caches
    batch_rows: int  # rows along their classes that are computed together
    part_classes: int  # the classes of each part of a row: all of them where several rows are computed together
    kept: Any  # (chunks, 2 K) where a chunk of such rows keeps the exponentials of a batch, K of t and K of s
    chunk: int  # work items of a chunk


@specialize
def compute_type(teacher: Any, student: Any) -> Any:
    """A vector of the arithmetic for pointers to the logits: float64 if either is (its value has no meaning)."""
    if types.float64 in (teacher.dtype, student.dtype):
        return lambda teacher, student: zero_float64_vector()
    return lambda teacher, student: zero_vector(student)


# ------------------------------------------------------------------------------------------------ sums
class Sums(NamedTuple):
    """What the first two passes find out about some classes of the rows, in float64."""

    t_max: Any  # max t
    s_max: Any
    t_sum: Any  # Σ exp((t − max t)/τ)
    s_sum: Any
    apart: Any  # Σ exp((t − max t)/τ) ((t − max t) − (s − max s))


class Shifts(NamedTuple):
    """What is subtracted from the logits, and from their differences, in each lane."""

    t: Any  # `Shift` for exp, near max t
    s: Any
    origin: Any  # of t − s; with the next, the unrounded o = max t − max s
    origin_error: Any


@inline
def difference(a: Any, b: Any) -> Any:
    """a − b as rounded, and its rounding error, which is NaN for an infinite difference."""
    d = a - b
    back = d - a
    return d, (a - (d - back)) - (b + back)


@inline
def apart(t: Any, s: Any, origin: Any, origin_error: Any) -> Any:
    """t − s − origin, rounded only once."""
    d, error = difference(t, s)
    return (d - origin) + (error - origin_error)


@inline
def shifts_of(t_max: Any, s_max: Any, scale: Any) -> Any:
    """The `Shifts` for maxima in all lanes."""
    t_centre, s_centre = centre_of(t_max), centre_of(s_max)
    origin, error = difference(t_centre, s_centre)
    return Shifts(shift_of(t_centre, scale), shift_of(s_centre, scale), origin, error)


@inline
def add_terms(run: Any, t: Any, s: Any, t_centre: Any, s_centre: Any, shifts: Any, scale: Any) -> Any:
    """The three sums of a `Sums`, scaled, in the arithmetic of the logits, with the terms of one more vector.

    Also returns its exponentials.
    """
    e_t = exp_shifted_scaled(t, shifts.t, scale)
    e_s = exp_shifted_scaled(s, shifts.s, scale)
    return (run[0] + e_t, run[1] + e_s, fma(e_t, (t - t_centre) - (s - s_centre), run[2])), e_t, e_s


@inline
def careful_term(t: Any, s: Any, shifts: Any, scale: Any) -> Any:
    """The term of Σ e_t (t − s − o) of one vector, scaled, as if the difference were not rounded.

    It is 0 where e_t is, and does not overflow where the loss is finite.  Where the student excludes a class that the
    teacher allows, it is infinite, even if e_t is 0.
    """
    e_t, lowest, half = exp_shifted_scaled(t, shifts.t, scale), splat(float("-inf"), t), splat(0.5, t)
    halves = apart(t * half, s * half, shifts.origin * half, shifts.origin_error * half)
    term = product_or_zero(e_t * splat(2.0 * _DOWN * unscale(t), t), halves)
    return select((s == lowest) & (lowest < t), splat(float("inf"), t), term)


@inline
def rescales(shifts: Any, t_max: Any, s_max: Any, scale: Any) -> Any:
    """The factors, in float64, that turn scaled exponentials of t and of s into those of `Sums`; maxima as logits."""
    t_factor = rescale_to_max(shifts.t, centre_of(t_max), scale)
    s_factor = rescale_to_max(shifts.s, centre_of(s_max), scale)
    down = splat(unscale(t_max), t_factor)
    return t_factor * down, s_factor * down


@inline
def sums_of(t_max: Any, s_max: Any, totals: Any, factors: Any) -> Any:
    """The `Sums` from maxima in float64, the sums of `add_terms` and their `rescales`."""
    return Sums(t_max, s_max, totals[0] * factors[0], totals[1] * factors[1], totals[2] * factors[0])


@inline
def merge_sums(a: Any, b: Any, scale: Any) -> Any:
    """The `Sums` of two parts of the rows from those of each."""
    t_max, s_max = select(b.t_max > a.t_max, b.t_max, a.t_max), select(b.s_max > a.s_max, b.s_max, a.s_max)
    a_t, a_s, a_apart = rebase(a, t_max, s_max, scale)
    b_t, b_s, b_apart = rebase(b, t_max, s_max, scale)
    return Sums(t_max, s_max, a_t + b_t, a_s + b_s, a_apart + b_apart)


@inline
def rebase_factors(sums: Any, t_max: Any, s_max: Any, scale: Any) -> Any:
    """What the exponentials of `Sums` are multiplied by to be relative to other maxima."""
    t_new, s_new = centre_of(t_max), centre_of(s_max)
    down = splat(unscale(t_new), t_new)
    t_factor = exp_scaled_difference(centre_of(sums.t_max), t_new, scale) * down
    return t_factor, exp_scaled_difference(centre_of(sums.s_max), s_new, scale) * down


@inline
def rebase(sums: Any, t_max: Any, s_max: Any, scale: Any) -> Any:
    """The three sums of a `Sums` relative to other maxima."""
    t_factor, s_factor = rebase_factors(sums, t_max, s_max, scale)
    t_sum, s_sum = product_or_zero(sums.t_sum, t_factor), product_or_zero(sums.s_sum, s_factor)
    t_move, s_move = centre_of(sums.t_max) - centre_of(t_max), centre_of(sums.s_max) - centre_of(s_max)
    return t_sum, s_sum, product_or_zero(sums.apart, t_factor) + product_or_zero(t_sum, t_move - s_move)


@inline
def with_careful_sum(sums: Any, total: Any, factors: Any, vtype: Any) -> Any:
    """The `Sums` with a sum of `careful_term` as the third one."""
    apart_sum = total * (factors[0] * splat(1.0 / (_DOWN * unscale(vtype)), total))
    return Sums(sums.t_max, sums.s_max, sums.t_sum, sums.s_sum, apart_sum)


# ------------------------------------------------------------------------------------------------ outcome
class Outcome(NamedTuple):
    """What the `Sums` of whole rows mean."""

    kl: Any  # exact where it is at least `FAR`, or not a number
    mean: Any  # ⟨p, t − s⟩ − o


@inline
def outcome_of(sums: Any, scale: Any) -> Any:
    """The `Outcome` of whole rows.

    A NaN, or +inf, makes a sum of exponentials NaN, and a row of −inf makes one 0.  Otherwise a careful sum is NaN only
    where a difference is infinite, as where the student excludes a class.
    """
    one = splat(1.0, sums.t_sum)
    log_t, log_s = log_of_sum(sums.t_sum - one, sums.t_sum), log_of_sum(sums.s_sum - one, sums.s_sum)
    mean = sums.apart / sums.t_sum
    mean = select(mean == mean, mean, splat(float("inf"), mean))
    return Outcome(apply_scale(mean, scale) + (log_s - log_t), mean)


@inline
def needs_care(found: Any) -> Any:
    """Where the `Outcome` must be that of careful sums: rows that are nearly equal, and those with infinite terms."""
    kl = found.kl
    is_infinite = splat(1e300, kl) < kl
    return select(is_infinite, is_infinite, kl < splat(EQUAL, kl))


_remainder32 = polynomial(
    (
        -1.6522619212490385e-10, 2.4024590104335354e-9, -2.5241562507148836e-8, 2.7252125299064776e-7,
        -2.7531933802457027e-6, 2.4814820330669545e-5, -0.00019842395254820763, 0.0013888637909569708,
        -0.008333314750556732, 0.041666683267678895, -0.16666667478518897, 0.49999999835776484,
    )
)  # fmt: skip
_remainder64 = polynomial(
    (
        4.83839749083010862e-14, -7.75328990906130131e-13, 1.14698600837490040e-11, -1.60574485190133385e-10,
        2.08767637585196325e-9, -2.50521205845229504e-8, 2.75573191962732793e-7, -2.75573191740515541e-6,
        2.48015873016455160e-5, -1.98412698413747393e-4, 1.38888888888888348e-3, -8.33333333333323619e-3,
        4.16666666666666668e-2, -1.66666666666666669e-1, 0.5,
    )
)  # fmt: skip


@specialize
def exp_remainder(d: Any) -> Any:
    """(exp(−d) − 1 + d) / d² for d² < `series_bound`; the relative error is 6e-9 in float32 and 1e-18 in float64."""
    if d.dtype == types.float32:
        return lambda d: _remainder32(d)
    return lambda d: _remainder64(d)


@specialize
def series_bound(vtype: Any) -> Any:
    """The d² up to which `exp_remainder` is exact: few classes of rows that are not far apart are beyond."""
    bound = 9.0 if vtype.dtype == types.float32 else 1.0
    return lambda vtype: bound


# ------------------------------------------------------------------------------------------------ third pass
class NearFactors(NamedTuple):
    """What the third pass needs to know of the rows that are not far apart, in each lane."""

    shifts: Any  # with c as the origin
    bound: Any  # up to which δ² the series is used
    s_to_t: Any  # e_s times this is e_t exp(−δ), in the scale of e_t
    p_factor: Any  # e_t times this is factor · p
    q_factor: Any  # e_s times this is factor · q
    ratio: Any  # q / p = exp(−δ) · ratio / p_factor
    minus_ratio: Any
    excess: Any  # ratio − p_factor


@inline
def p_and_q_factors(sums: Any, factors: Any, factor: Any) -> Any:
    """What the scaled e_t and e_s of `rescales` are multiplied by for factor · p and factor · q, in float64."""
    return factor * factors[0] / sums.t_sum, factor * factors[1] / sums.s_sum


@inline
def near_factors(sums: Any, found: Any, shifts: Any, factors: Any, factor: Any, scale: Any, vtype: Any) -> Any:
    """The `NearFactors` of rows, as vectors of the arithmetic of the logits with as many lanes as the `Sums`."""
    t_centre, s_centre = centre_of(sums.t_max), centre_of(sums.s_max)
    origin, error = difference(t_centre, s_centre)
    c = origin + found.mean
    back = c - origin
    c_error = ((origin - (c - back)) + (found.mean - back)) + error
    high = demote(c, vtype)
    low = demote((c - promote(high)) + c_error, vtype)
    exponent = apply_scale(found.mean, scale)
    s_to_t = exp(clamp_exp_arg(exponent)) * factors[1] / factors[0]
    kl = found.kl
    one, zero = splat(1.0, kl), splat(0.0, kl)
    is_near = kl < splat(FAR, kl)
    log_ratio = zero - select(is_near, kl, zero)
    less_1 = log_ratio + log_ratio * log_ratio * exp_remainder(zero - log_ratio)
    p_factor, q_factor = p_and_q_factors(sums, factors, factor)
    return NearFactors(
        Shifts(shifts.t, shifts.s, high, low),
        demote(select(is_near, splat(series_bound(vtype), one), zero - one), vtype),
        demote(s_to_t, vtype),
        demote(p_factor, vtype),
        demote(q_factor, vtype),
        demote((one + less_1) * p_factor, vtype),
        demote((zero - one - less_1) * p_factor, vtype),
        demote(less_1 * p_factor, vtype),
    )


@inline
def near_terms(run: Any, t: Any, s: Any, e_t: Any, near: Any, scale: Any) -> Any:
    """Σ e_t (exp(−δ) − 1 + δ) in the arithmetic of the logits with the terms of one more vector, and its gradient."""
    d = apply_scale(apart(t, s, near.shifts.origin, near.shifts.origin_error), scale)
    is_small = d * d < near.bound
    u = d * exp_remainder(d)
    by_ratio = e_t * fma(d, fma(u, near.ratio, near.minus_ratio), near.excess)
    if all_true(is_small):
        return fma(e_t * d, u, run), by_ratio
    # Where the teacher excludes a class, δ is not finite, and e_t is 0.
    e_s = exp_shifted_scaled(s, near.shifts.s, scale)
    by_series = fma(e_t * d, u, run)  # as above: a row has the same bits in whatever vector of rows
    h = select(is_small, by_series, run + ((e_s * near.s_to_t - e_t) + product_or_zero(e_t, d)))
    return h, select(is_small, by_ratio, e_s * near.q_factor - e_t * near.p_factor)
