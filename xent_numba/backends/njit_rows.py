"""The kernels of the njit backend, from top to bottom: what happens to some rows of logits, and one `prange`.

For a row of logits x, with z = f(x) after the options that change logits, e_j = exp(z_j − m) and S = Σ e_j:

    find_maxima      m = max z
    find_sums        S, the sum T of the targets t_j, and Σ t_j (m − z_j)
    find_results     the loss, Σ t_j (m − z_j) + T log S, and what the gradient needs beside e
    write_rows       the gradient, (T e_j / S − t_j) f'(x_j), or a softmax

`compute_groups` calls them, one after the other, for as many rows as fit into a processor's cache.  What is known of
each row is in a record of the array `rows`; z, and later e, is in the array `e`, as float64.  Long rows are read in
blocks of classes, with what `njit_blocks` does to a block; short ones lie side by side, and loops run over rows.  All
options are values of one `Options`, so there is one compiled kernel for each dtype.

Three rules avoid cancellation.  One class, `top`, is left out of the sum S − e_top, so that log S = log1p(S − 1) is
accurate however small it is where `top` has the maximum.  Where p_top > 1/2, the gradient there is
Σ_{j≠top} t_j − T (S − e_top) / S, and not T p_top − t_top.  And the rounding error of z − m, which would add up over
many equal terms, corrects e in float64.

No loop depends on the number of threads.  Functions are given numbers in one `Options` but arrays one by one, because
Numba counts the references to every array of a tuple whenever a function is given it.  Numba's cache notices changes in
this file, but not in `njit_blocks`: whoever edits that one should save this one too, or clear the cache.  A new version
of the package changes both.
"""

from __future__ import annotations

import math
import os
from typing import Any, NamedTuple

import numpy as np
from numba import njit, prange

from xent_numba.backends.njit_blocks import (
    BLOCK,
    UNSCALE,
    add,
    corrected,
    dense_target,
    exp_differences,
    exp_for_float32,
    exp_scaled,
    first_equal,
    fold_max,
    fold_sum,
    is_among,
    jit,
    load,
    padded,
    store,
    transform,
)

SHORT = 256  # rows of up to so many classes lie side by side, where that can be
TILE_LOGITS = 4096  # so many logits are computed at once, but at least a row, and at most TILE_ROWS
TILE_ROWS = 256
SMALLEST_NORMAL = 2.0**-1022

LOSS, GRADIENT, SOFTMAX, LOG_SOFTMAX, LOGSUMEXP = range(5)  # what `Options.mode` asks for; LOSS: and nothing else
LOGITS, TARGET, OUT = range(3)  # rows of `Call.layouts`


class Options(NamedTuple):
    """All numbers that a kernel is given."""

    mode: int
    rows: int  # A·B
    inner: int  # B
    classes: int  # C
    group: int  # rows in a group
    logits_step: int  # from a class to the next one in `Call.logits`
    target_step: int
    out_step: int
    mantissa: int  # bits of a 16-bit logit: 10 for float16, 7 for bfloat16; 0 for float32 and float64
    q_mantissa: int  # the same for the distribution
    is_precise: bool  # whether results are to have the digits of float64
    has_labels: bool
    has_lse: bool
    is_dense: bool  # whether every class has a target: u_j = w_j (alpha q_j + beta), beside `confidence` at the label
    alpha: float
    beta: float
    confidence: float
    logit_scale: float
    softcap: float  # infinite for none
    z_coefficient: float
    focal_gamma: float
    grad_scale: float


class Call(NamedTuple):
    """All that a kernel is given.  Arrays are contiguous; those that a call lacks have length 0 or are never read.

    The kernels are given the options, and a tuple of all the others, since `prange` takes no tuple within a tuple.
    """

    options: Options
    logits: Any  # the memory that the logits span; uint16 where they are of 16 bits
    distribution: Any  # the memory of a distribution, or the logits again
    out: Any  # the memory of the gradient, or of a softmax
    layouts: Any  # (3, 4): index of the first element, and strides of A, B and C, of these three
    labels: Any  # (A·B,) int64
    ignore: Any  # (k,) int64
    weight: Any  # (C,), and from here on float64
    sample_weight: Any  # (A·B,)
    grad_output: Any  # (A·B,)
    lse: Any  # (A·B,) saved
    losses: Any  # (A·B,) receives the losses of the rows, or their logsumexp


ROW = np.dtype(
    [
        ("logits", np.int64),  # index of its first logit in `Call.logits`
        ("target", np.int64),  # the same in `Call.distribution`
        ("out", np.int64),  # the same in `Call.out`
        ("label", np.int64),  # −1 where there is none, or it is to be ignored
        ("label_weight", np.float64),  # the target at the label, beside that of every class
        # from `find_maxima`
        ("maximum", np.float64),  # m
        ("lost", np.float64),  # the rounding error of z there
        ("top", np.int64),  # the class that sums leave out
        # from `find_sums`
        ("others", np.float64),  # the sum of e without the class `top`
        ("own", np.float64),  # e at `top`
        ("target_others", np.float64),  # the sum of t without the class `top`
        ("target_own", np.float64),  # t at `top`
        ("gap", np.float64),  # Σ t_j (m − z_j)
        # from `find_results`
        ("loss", np.float64),  # or logsumexp
        ("log_sum", np.float64),  # log S
        ("inverse", np.float64),  # 1 / S
        ("pull", np.float64),  # the factor of p_j in the gradient: T, and what the z-loss adds
        ("at_top", np.float64),  # the gradient at `top`, before `factor`
        ("takes_at_top", np.bool_),  # whether it is to be taken
        ("factor", np.float64),  # of the whole gradient
    ],
    align=True,
)


# rows of `blocks`: logits that are read again, their rounding errors, f'(x), targets, and terms of a sum or results
Z, LOST, SLOPE, TARGETS, TERMS = range(5)

# In `e`, class k of row r is at r · width + k, or where rows lie side by side at k · (number of rows) + r.


# ------------------------------------------------------------------------------------------------ some rows
@jit
def find_rows(o: Options, at: Any, labels: Any, ignore: Any, weight: Any, first: int, rows: Any) -> None:
    """Where the rows are, and their labels."""
    for r in range(rows.size):
        row, a, b = rows[r], (first + r) // o.inner, (first + r) % o.inner
        row.logits = at[LOGITS, 0] + a * at[LOGITS, 1] + b * at[LOGITS, 2]
        row.target = at[TARGET, 0] + a * at[TARGET, 1] + b * at[TARGET, 2]
        row.out = at[OUT, 0] + a * at[OUT, 1] + b * at[OUT, 2]
        row.label, row.label_weight = -1, 0.0
        if o.has_labels and not is_among(ignore, labels[first + r]):
            row.label = labels[first + r]
            row.label_weight = o.confidence * (weight[row.label] if weight.size else 1.0)


@jit
def is_ignored(o: Options, row: Any) -> bool:
    """Whether the label of a row is one that is to be ignored, so that its loss and gradient are 0."""
    return o.has_labels and row.label < 0


@jit
def find_maxima(o: Options, logits: Any, rows: Any, e: Any, all_lost: Any, blocks: Any) -> None:
    """z, its maximum, and the class `top`: the first maximum, or, if that is as good and needs no search, the label."""
    slope, terms, step, width = blocks[SLOPE], blocks[TERMS], o.logits_step, padded(o.classes)
    searches = o.is_dense or not o.has_labels or o.logit_scale != 1.0 or o.is_precise
    for r in range(rows.size):
        row = rows[r]
        row.maximum, row.lost, row.top = -math.inf, 0.0, -1 if searches else row.label
        if is_ignored(o, row):
            continue
        for start in range(0, o.classes, BLOCK):
            at, count = r * width + start, min(BLOCK, o.classes - start)
            n = padded(count)
            z, lost = e[at : at + n], all_lost[at : at + n]
            load(logits, row.logits + start * step, step, o.mantissa, z, count)
            transform(o.logit_scale, o.softcap, z, lost, slope, count)
            block_max = fold_max(z, terms, n)
            if searches and (block_max > row.maximum or row.top < 0):
                found = first_equal(z, block_max, n)
                if found >= 0:
                    row.top, row.lost = start + found, lost[found]
            row.maximum = block_max if block_max > row.maximum else row.maximum


@jit
def find_gaps(o: Options, distribution: Any, weight: Any, rows: Any, e: Any, all_lost: Any, blocks: Any) -> None:
    """Σ t_j (m − z_j), and the sums of t; a quarter of a difference is finite where both numbers are."""
    u, terms, step, width = blocks[TARGETS], blocks[TERMS], o.target_step, padded(o.classes)
    for r in range(rows.size):
        row, gap, others = rows[r], (0.0, 0.0), (0.0, 0.0)
        row.target_own = 0.0
        if is_ignored(o, row):
            continue
        for start in range(0, o.classes if o.is_dense else 0, BLOCK):
            at, count = r * width + start, min(BLOCK, o.classes - start)
            n, top = padded(count), row.top - start
            read_targets(o, row.target + start * step, step, start, distribution, weight, u)
            add_gaps(e[at : at + n], all_lost[at : at + n], row.maximum, row.lost, u, terms)
            gap = add(gap, fold_sum(terms, 0, terms, n))
            if 0 <= top < count:
                row.target_own, u[top] = u[top], 0.0
            others = add(others, fold_sum(u, 0, terms, n))
        row.gap, row.target_others = 4.0 * corrected(gap), corrected(others)
        if row.label_weight != 0.0:
            at = r * width + row.label
            quarter = (0.25 * row.maximum - 0.25 * e[at]) + (0.25 * row.lost - 0.25 * all_lost[at])
            row.gap += 4.0 * row.label_weight * quarter
        row.target_own += row.label_weight if row.label == row.top else 0.0
        row.target_others += row.label_weight if row.label != row.top else 0.0


@jit
def add_gaps(z: Any, lost: Any, maximum: float, lost_at_max: float, u: Any, terms: Any) -> None:
    """terms = t_j (m − z_j) / 4, and 0 where t_j is."""
    for k in range(z.size):
        quarter = (0.25 * maximum - 0.25 * z[k]) + (0.25 * lost_at_max - 0.25 * lost[k])
        terms[k] = 0.0 if u[k] == 0.0 else u[k] * quarter


@jit
def read_targets(o: Options, first: int, step: int, start: int, distribution: Any, weight: Any, u: Any) -> None:
    """The dense targets of the classes from `start` on."""
    count = min(BLOCK, o.classes - start)
    if o.alpha != 0.0:
        load(distribution, first, step, o.q_mantissa, u, count)
    else:
        u[:count] = 0.0
        u[count : padded(count)] = 0.0
    dense_target(o.alpha, o.beta, weight, start, u, count)


@jit
def find_sums(o: Options, saved: Any, first: int, rows: Any, e: Any, all_lost: Any, terms: Any) -> None:
    """e_j = exp(z_j − m), or exp(z_j − lse) with a saved logsumexp, and its sums."""
    width = padded(o.classes)
    for r in range(rows.size):
        row, others = rows[r], (0.0, 0.0)
        shift, lost_at_shift = row.maximum if abs(row.maximum) < math.inf else 0.0, row.lost
        if o.has_lse:
            shift, lost_at_shift = saved[first + r], 0.0
        row.own = 0.0
        if is_ignored(o, row):
            continue
        for start in range(0, o.classes, BLOCK):
            at, count = r * width + start, min(BLOCK, o.classes - start)
            n, top = padded(count), row.top - start
            if o.is_precise:
                exp_differences(e[at : at + n], all_lost[at : at + n], shift, lost_at_shift)
            else:
                exp_for_float32(e[at : at + n], shift)
            if 0 <= top < count:
                row.own, e[at + top] = e[at + top], 0.0
            others = add(others, fold_sum(e, at, terms, n))
            if 0 <= top < count:
                e[at + top] = row.own
        row.others = corrected(others)


@jit
def focal_factors(o: Options, row: Any, others: float, own: float, lse: float) -> tuple[float, float]:
    """What multiplies the label's weight in the loss, q^γ, and in the gradient: see `reference.focal`.

    `others` and `own` are divided by S.  A label that is not `top` has a p of at most 1/2, so q may be 1 − p.
    """
    if o.focal_gamma == 0.0:
        return 1.0, 1.0
    if row.label == row.top:
        p, q = own, others
        nll = -math.log1p(-q) if q < 0.5 else -math.log(p)
    else:
        nll = row.gap / row.label_weight if row.label_weight != 0.0 else 0.0
        nll += lse - row.maximum if o.has_lse else row.log_sum
        p = math.exp(-nll)
        q = (others + own) - p
    if q < SMALLEST_NORMAL:
        return 0.0, 0.0
    log_q = math.log1p(-p) if p < 0.5 else min(math.log(q), 0.0)
    power = math.exp(o.focal_gamma * log_q)
    return power, power * (1.0 + o.focal_gamma * (p * nll / q if p != 0.0 else 0.0))


@jit
def find_results(
    o: Options, first: int, rows: Any, saved: Any, losses: Any, sample_weight: Any, grad_output: Any
) -> float:
    """The loss of each row, and its gradient but for what differs between classes.  Returns the sum of the losses."""
    sum_of_losses = (0.0, 0.0)
    for r in range(rows.size):
        row, factor = rows[r], sample_weight[first + r] if sample_weight.size else 1.0
        others, own, target = row.others * UNSCALE, row.own * UNSCALE, row.target_others + row.target_own
        is_finite = abs(saved[first + r] if o.has_lse else row.maximum) < math.inf
        total = 1.0 if o.has_lse else others + own  # with a saved logsumexp, e is p already
        row.log_sum = math.log1p(others + (own - 1.0)) if is_finite else math.nan
        lse = saved[first + r] if o.has_lse else row.maximum + row.log_sum
        in_loss, in_gradient = focal_factors(o, row, others / total, own / total, lse)
        drift = 2.0 * o.z_coefficient * lse if o.z_coefficient != 0.0 else 0.0
        loss = row.gap * in_loss + target * in_loss * row.log_sum
        if o.z_coefficient != 0.0:
            loss += o.z_coefficient * lse * lse
        if o.focal_gamma != 0.0:
            row.label_weight, target = row.label_weight * in_gradient, target * in_gradient
            row.target_others *= in_gradient
        if o.mode != LOSS:
            row.inverse = UNSCALE / total if is_finite else math.nan
            row.pull = target + drift
            row.at_top = (row.target_others - target * (others / total)) + drift * (own / total)
            row.takes_at_top = others / total < 0.5 or (row.label == row.top and not o.is_dense and not o.has_lse)

        loss = 0.0 if factor == 0.0 and abs(loss) == math.inf else factor * loss
        if o.mode == LOGSUMEXP:
            loss = lse if is_finite else (row.maximum if others == others else math.nan)
        row.factor = factor * o.grad_scale * o.logit_scale * (grad_output[first + r] if grad_output.size else 1.0)
        if is_ignored(o, row):
            loss, row.factor = 0.0, 0.0
        if losses.size:
            losses[first + r] = loss
        sum_of_losses = add(sum_of_losses, loss)
    return corrected(sum_of_losses)


@jit
def write_rows(
    o: Options, logits: Any, distribution: Any, weight: Any, out: Any, rows: Any, e: Any, blocks: Any
) -> None:
    """Write the gradients of the rows, or their softmax or log-softmax."""
    z, lost, slope, u, terms = blocks[Z], blocks[LOST], blocks[SLOPE], blocks[TARGETS], blocks[TERMS]
    x_step, q_step, step = o.logits_step, o.target_step, o.out_step
    is_capped = o.softcap < math.inf
    n_rows, width = rows.size, padded(o.classes)
    for r in range(n_rows):
        row = rows[r]
        for start in range(0, o.classes, BLOCK):
            at, count = r * width + start, min(BLOCK, o.classes - start)
            n = padded(count)
            if o.mode == LOG_SOFTMAX or is_capped:
                load(logits, row.logits + start * x_step, x_step, o.mantissa, z, count)
                transform(o.logit_scale, o.softcap, z, lost, slope, count)
            if o.is_dense:
                read_targets(o, row.target + start * q_step, q_step, start, distribution, weight, u)
            if is_ignored(o, row):
                for k in range(n):
                    terms[k] = 0.0
            elif o.mode == GRADIENT:
                gradient(row, start, e, at, count, u, slope, terms)
            else:
                for k in range(n):
                    terms[k] = (z[k] - row.maximum) - row.log_sum
            store(out, row.out + start * step, step, o.mantissa, terms, 0, 1.0, count)


@jit
def gradient(row: Any, start: int, e: Any, at: int, count: int, u: Any, slope: Any, terms: Any) -> None:
    """The gradient at `count` classes from `start` on: (T p_j − t_j) f'(x_j), times the factor of the row."""
    top, label = row.top - start, row.label - start
    pull, inverse, factor = row.pull, row.inverse, row.factor
    if 0 <= label < count:
        u[label] += row.label_weight
    for k in range(count):
        terms[k] = (pull * (e[np.uintp(at + k)] * inverse) - u[k]) * (factor * slope[k])
    if 0 <= label < count:
        u[label] = 0.0  # it stays so where there are no other targets
    if 0 <= top < count and row.takes_at_top:
        terms[top] = row.at_top * (factor * slope[top])


@jit
def is_simple(o: Options) -> bool:
    """Whether what is to be written is a multiple of e, but for the label."""
    no_options = o.logit_scale == 1.0 and o.softcap == math.inf
    return o.mode == SOFTMAX or (o.mode == GRADIENT and no_options and not (o.is_dense or o.is_precise))


@jit
def write_simple_rows(o: Options, out: Any, rows: Any, e: Any, terms: Any) -> None:
    """What `write_rows` does, in that case."""
    step, width = o.out_step, padded(o.classes)
    for r in range(rows.size):
        row = rows[r]
        p_factor = row.inverse if o.mode == SOFTMAX else row.pull * row.inverse * row.factor
        store(out, row.out, step, o.mantissa, e, r * width, p_factor, o.classes)
        if o.mode == GRADIENT and row.label >= 0:
            at_label = row.pull * (e[r * width + row.label] * row.inverse) - row.label_weight
            terms[0] = row.factor * (row.at_top if row.takes_at_top else at_label)
            store(out, row.out + row.label * step, step, o.mantissa, terms, 0, 1.0, 1)
        elif o.mode == GRADIENT:
            terms[:BLOCK] = 0.0
            for start in range(0, o.classes, BLOCK):
                store(out, row.out + start * step, step, o.mantissa, terms, 0, 1.0, min(BLOCK, o.classes - start))


# ------------------------------------------------------------------------------------------------ short rows
@jit
def is_short(o: Options) -> bool:
    """Whether rows lie side by side: short ones of a loss that is to have the digits of float32."""
    return (
        o.classes <= SHORT and o.has_labels and not o.has_lse
        and not (o.is_dense or o.is_precise) and o.logit_scale == 1.0 and o.softcap == math.inf
    )  # fmt: skip


@jit
def find_short_maxima(o: Options, logits: Any, rows: Any, e: Any, z: Any, m: Any) -> None:
    """What `find_maxima` and `find_gaps` find, for rows that lie side by side, with the labels as `top`."""
    step, n_rows, classes = o.logits_step, rows.size, o.classes
    m[:n_rows] = -math.inf
    for r in range(n_rows):
        at = rows[r].logits
        if o.mantissa:
            load(logits, at, step, o.mantissa, z, classes)
            for k in range(classes):
                e[np.uintp(k * n_rows + r)] = z[k]
        else:
            for k in range(classes):
                e[np.uintp(k * n_rows + r)] = logits[np.uintp(at + k * step)]
    for k in range(classes):
        for r in range(n_rows):
            z_kr = e[np.uintp(k * n_rows + r)]
            m[r] = z_kr if z_kr > m[r] else m[r]
    for r in range(n_rows):
        row = rows[r]
        row.maximum, row.lost, row.top = m[r], 0.0, row.label
        row.target_others, row.target_own = 0.0, row.label_weight
        row.gap = row.label_weight * (m[r] - e[max(row.label, 0) * n_rows + r]) if row.label_weight != 0.0 else 0.0


@jit
def find_short_sums(o: Options, rows: Any, e: Any, others: Any, m: Any) -> None:
    """What `find_sums` finds, for rows that lie side by side."""
    n_rows = rows.size
    for r in range(n_rows):
        m[r] = m[r] if abs(m[r]) < math.inf else 0.0
        others[r] = 0.0
    for k in range(o.classes):
        for r in range(n_rows):
            e[np.uintp(k * n_rows + r)] = exp_scaled(e[np.uintp(k * n_rows + r)] - m[r])
    for r in range(n_rows):
        row = rows[r]
        at = max(row.label, 0) * n_rows + r
        row.own, e[at] = e[at], 0.0
    for k in range(o.classes):
        for r in range(n_rows):
            others[r] += e[np.uintp(k * n_rows + r)]
    for r in range(n_rows):
        rows[r].others = others[r]


@jit
def write_short_rows(o: Options, out: Any, rows: Any, e: Any, p_factor: Any, terms: Any) -> None:
    """Write the gradients of rows that lie side by side."""
    n_rows, classes, step = rows.size, o.classes, o.out_step
    for r in range(n_rows):
        p_factor[r] = rows[r].pull * rows[r].inverse * rows[r].factor
    for k in range(classes):
        for r in range(n_rows):
            e[np.uintp(k * n_rows + r)] *= p_factor[r]
    for r in range(n_rows):
        row = rows[r]
        if row.label >= 0:
            e[row.label * n_rows + r] = row.at_top * row.factor
        for k in range(classes):
            terms[k] = e[np.uintp(k * n_rows + r)] if row.label >= 0 else 0.0
        store(out, row.out, step, o.mantissa, terms, 0, 1.0, classes)


# ------------------------------------------------------------------------------------------------ all rows
def compute_groups(o: Options, arrays: Any, partials: Any, first_group: int, last_group: int) -> None:
    """Compute all that `Options.mode` asks for, for the rows of some groups, and the sum of each group's losses."""
    logits, distribution, out, layouts, labels, ignore, weight, sample_weight, grad_output, saved, losses = arrays
    width = padded(o.classes)
    n_rows = max(1, min(TILE_ROWS, TILE_LOGITS // width, o.group))
    all_rows, e, lost, blocks = (
        np.zeros(n_rows, ROW),
        np.empty(n_rows * width),
        np.zeros(n_rows * width),
        np.zeros((5, BLOCK)),
    )
    blocks[SLOPE] = 1.0
    for group in range(first_group, last_group):
        last, loss = min((group + 1) * o.group, o.rows), (0.0, 0.0)
        for first in range(group * o.group, last, n_rows):
            rows = all_rows[: last - first]
            find_rows(o, layouts, labels, ignore, weight, first, rows)
            if is_short(o):
                find_short_maxima(o, logits, rows, e, blocks[Z], blocks[TERMS])
                find_short_sums(o, rows, e, blocks[Z], blocks[TERMS])
            else:
                find_maxima(o, logits, rows, e, lost, blocks)
                find_gaps(o, distribution, weight, rows, e, lost, blocks)
                find_sums(o, saved, first, rows, e, lost, blocks[TERMS])
            loss = add(loss, find_results(o, first, rows, saved, losses, sample_weight, grad_output))
            if is_short(o) and o.mode == GRADIENT:
                write_short_rows(o, out, rows, e, blocks[Z], blocks[TERMS])
            elif is_simple(o):
                write_simple_rows(o, out, rows, e, blocks[TERMS])
            elif o.mode not in (LOSS, LOGSUMEXP):
                write_rows(o, logits, distribution, weight, out, rows, e, blocks)
        partials[group] = corrected(loss)


def compute_in_parallel(o: Options, arrays: Any, partials: Any) -> None:
    """Compute all groups, each by whichever thread is free: which one it is changes nothing in the result."""
    for group in prange(partials.size):
        groups_in_order(o, arrays, partials, group, group + 1)


def scan_labels(labels: Any, classes: int, ignore: Any, weight: Any, sample_weight: Any) -> tuple[int, float, float]:
    """The index of the first bad label (-1 for none), the sum of s w_y and that of s, over the rows that are kept."""
    by_weight, by_sample = (0.0, 0.0), (0.0, 0.0)
    for row in range(labels.size):
        label = labels[row]
        kept = True
        for value in ignore:
            if label == value:
                kept = False
        if kept:
            if label < 0 or label >= classes:
                return row, 0.0, 0.0
            s = sample_weight[row] if sample_weight.size else 1.0
            w = weight[label] if weight.size else 1.0
            by_weight, by_sample = add(by_weight, s * w), add(by_sample, s)
    return -1, corrected(by_weight), corrected(by_sample)


def compiled(function: Any, **options: Any) -> Any:
    """A compiled function that Numba caches on disk, or compiles in each process where it finds no place for that."""
    options = {"nogil": True, "error_model": "numpy", **options}
    if os.environ.get("XENT_NUMBA_CACHE_DIR") != "":
        try:
            return njit(cache=True, **options)(function)
        except RuntimeError:  # neither the folder of this file nor the user's cache directory can be written to
            pass
    return njit(**options)(function)


groups_in_order = compiled(compute_groups)
groups_in_parallel = compiled(compute_in_parallel, parallel=True)
scan = compiled(scan_labels)
