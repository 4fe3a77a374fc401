"""The kernels of the njit backend, from top to bottom: what happens to some rows of logits, and one `prange`.

For a row of logits x, with z = f(x) after the options that change logits, e_j = exp(z_j − m) and S = Σ e_j:

    find_maxima      m = max z
    find_sums        S, the sum T of the targets t_j, and Σ t_j (m − z_j)
    find_results     the loss, Σ t_j (m − z_j) + T log S, and what the gradient needs beside e
    write_rows       the gradient, (T e_j / S − t_j) f'(x_j), or a softmax

`compute_rows` calls them, one after the other, for as many rows as fit into a processor's cache.  What is known of each
row is in a record of the array `rows`; z, and later e, is in `tile`, as float64.  Where rows are long, each is read
in blocks, and loops run over classes; where they are short, they lie side by side, and loops run over rows.  All
options are values of one `Call`, so there is one compiled kernel for each dtype.

Three rules avoid cancellation.  One class, `top`, is left out of the sum S − e_top, so that log S = log1p(S − 1) is
accurate however small it is where `top` has the maximum.  Where p_top > 1/2, the gradient there is
Σ_{j≠top} t_j − T (S − e_top) / S, and not T p_top − t_top.  And the rounding error of z − m, which would add up over
many equal terms, corrects e in float64.

No loop depends on the number of threads.  Each function takes the arrays that it needs from `Call` once, for all rows,
since Numba counts references to them.  Numba's cache notices changes in this file, but not in `njit_blocks`: whoever
edits that one should save this one too, or clear the cache.  A new version of the package changes both.
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

SHORT = 256  # rows of up to so many classes are computed side by side, where that can be
TILE_LOGITS = 8192  # so many logits are computed at once, but at least a row, and at most so many rows:
TILE_ROWS = 256

LOSS, GRADIENT, SOFTMAX, LOG_SOFTMAX, LOGSUMEXP = range(5)  # what `Call.mode` asks for; LOSS: and nothing else
LOGITS, TARGET, OUT = range(3)  # rows of `Call.layouts`


class Call(NamedTuple):
    """All that a kernel is given.  Arrays are contiguous; those that a call lacks have length 0 or are never read."""

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
    mode: int
    rows: int  # A·B
    inner: int  # B
    classes: int  # C
    group: int  # rows in a group
    mantissa: int  # bits of a 16-bit logit: 10 for float16, 7 for bfloat16; 0 for float32 and float64
    q_mantissa: int  # the same for the distribution
    is_precise: bool  # whether results are to have the digits of float64
    is_dense: bool  # whether every class has a target: u_j = w_j (alpha q_j + beta), beside `confidence` at the label
    alpha: float
    beta: float
    confidence: float
    logit_scale: float
    softcap: float  # infinite for none
    z_coefficient: float
    grad_scale: float


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


class Tile(NamedTuple):
    """Arrays for some rows, and for a block of one."""

    e: Any  # z, then e: class k of row r is at r · width + k, or for short rows at k · rows + r
    lost: Any  # rounding errors of z, at the same places
    width: int
    z: Any  # (BLOCK,), as is all below: logits that are read again
    slope: Any  # f'(x)
    u: Any  # targets
    terms: Any  # of a sum, or results


# ------------------------------------------------------------------------------------------------ some rows
@jit
def find_rows(call: Any, first: int, rows: Any) -> None:
    """Where the rows are, and their labels."""
    at, labels, ignore, weight = call.layouts, call.labels, call.ignore, call.weight
    for r in range(rows.size):
        row, a, b = rows[r], (first + r) // call.inner, (first + r) % call.inner
        row.logits = at[LOGITS, 0] + a * at[LOGITS, 1] + b * at[LOGITS, 2]
        row.target = at[TARGET, 0] + a * at[TARGET, 1] + b * at[TARGET, 2]
        row.out = at[OUT, 0] + a * at[OUT, 1] + b * at[OUT, 2]
        row.label, row.label_weight = -1, 0.0
        if labels.size and not is_among(ignore, labels[first + r]):
            row.label = labels[first + r]
            row.label_weight = call.confidence * (weight[row.label] if weight.size else 1.0)


@jit
def find_maxima(call: Any, rows: Any, tile: Any) -> None:
    """z, its maximum, and the class `top`: the first maximum, or, if that is as good and needs no search, the label."""
    logits, e, all_lost, slope, terms = call.logits, tile.e, tile.lost, tile.slope, tile.terms
    step = call.layouts[LOGITS, 3]
    searches = call.is_dense or call.labels.size == 0 or call.logit_scale != 1.0
    for r in range(rows.size):
        row = rows[r]
        row.maximum, row.lost, row.top = -math.inf, 0.0, -1 if searches else row.label
        for start in range(0, call.classes, BLOCK):
            at, count = r * tile.width + start, min(BLOCK, call.classes - start)
            n = padded(count)
            z, lost = e[at : at + n], all_lost[at : at + n]
            load(logits, row.logits + start * step, step, call.mantissa, z, count)
            transform(call.logit_scale, call.softcap, z, lost, slope, count)
            block_max = fold_max(z, terms, n)
            if searches and (block_max > row.maximum or row.top < 0):
                found = first_equal(z, block_max, n)
                if found >= 0:
                    row.top, row.lost = start + found, lost[found]
            row.maximum = block_max if block_max > row.maximum else row.maximum


@jit
def find_gaps(call: Any, rows: Any, tile: Any) -> None:
    """Σ t_j (m − z_j), and the sums of t; a quarter of a difference is finite where both numbers are."""
    distribution, weight, e, all_lost, u, terms = call.distribution, call.weight, tile.e, tile.lost, tile.u, tile.terms
    step = call.layouts[TARGET, 3]
    for r in range(rows.size):
        row, gap, others = rows[r], (0.0, 0.0), (0.0, 0.0)
        row.target_own = 0.0
        for start in range(0, call.classes if call.is_dense else 0, BLOCK):
            at, count = r * tile.width + start, min(BLOCK, call.classes - start)
            n, top = padded(count), row.top - start
            read_targets(call, row.target + start * step, step, start, distribution, weight, u)
            add_gaps(e[at : at + n], all_lost[at : at + n], row.maximum, row.lost, u, terms)
            gap = add(gap, fold_sum(terms, 0, terms, n))
            if 0 <= top < count:
                row.target_own, u[top] = u[top], 0.0
            others = add(others, fold_sum(u, 0, terms, n))
        row.gap, row.target_others = 4.0 * corrected(gap), corrected(others)
        if row.label_weight != 0.0:
            at = r * tile.width + row.label
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
def read_targets(
    call: Any, first: int, step: int, start: int, distribution: Any, weight: Any, u: Any
) -> None:
    """The dense targets of the classes from `start` on."""
    count = min(BLOCK, call.classes - start)
    if call.alpha != 0.0:
        load(distribution, first, step, call.q_mantissa, u, count)
    else:
        u[:count] = 0.0
        u[count : padded(count)] = 0.0
    dense_target(call.alpha, call.beta, weight, start, u, count)


@jit
def find_sums(call: Any, first: int, rows: Any, tile: Any) -> None:
    """e_j = exp(z_j − m), or exp(z_j − lse) with a saved logsumexp, and its sums."""
    e, all_lost, terms, saved = tile.e, tile.lost, tile.terms, call.lse
    for r in range(rows.size):
        row, others = rows[r], (0.0, 0.0)
        shift, lost_at_shift = row.maximum if abs(row.maximum) < math.inf else 0.0, row.lost
        if saved.size:
            shift, lost_at_shift = saved[first + r], 0.0
        row.own = 0.0
        for start in range(0, call.classes, BLOCK):
            at, count = r * tile.width + start, min(BLOCK, call.classes - start)
            n, top = padded(count), row.top - start
            if call.is_precise:
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
def find_results(call: Any, first: int, rows: Any) -> float:
    """The loss of each row, and its gradient but for what differs between classes.  Returns the sum of the losses."""
    saved, losses, sample_weight, grad_output = call.lse, call.losses, call.sample_weight, call.grad_output
    sum_of_losses, has_labels = (0.0, 0.0), call.labels.size > 0
    for r in range(rows.size):
        row, factor = rows[r], sample_weight[first + r] if sample_weight.size else 1.0
        others, own, target = row.others * UNSCALE, row.own * UNSCALE, row.target_others + row.target_own
        is_finite = abs(saved[first + r] if saved.size else row.maximum) < math.inf
        total = 1.0 if saved.size else others + own  # with a saved logsumexp, e is p already
        row.log_sum = math.log1p(others + (own - 1.0)) if is_finite else math.nan
        lse = saved[first + r] if saved.size else row.maximum + row.log_sum
        drift = 2.0 * call.z_coefficient * lse if call.z_coefficient != 0.0 else 0.0
        row.inverse = UNSCALE / total if is_finite else math.nan
        row.pull = target + drift
        row.at_top = (row.target_others - target * (others / total)) + drift * (own / total)
        row.takes_at_top = others / total < 0.5 or (row.label == row.top and not call.is_dense and saved.size == 0)

        loss = row.gap + (0.0 if target == 0.0 and not call.is_dense else target * row.log_sum)
        if call.z_coefficient != 0.0:
            loss += call.z_coefficient * lse * lse
        loss = 0.0 if factor == 0.0 and abs(loss) == math.inf else factor * loss
        if call.mode == LOGSUMEXP:
            loss = lse if is_finite else row.maximum + 0.0 * others
        row.factor = factor * call.grad_scale * call.logit_scale * (grad_output[first + r] if grad_output.size else 1.0)
        if has_labels and row.label < 0:
            loss, row.factor = 0.0, 0.0
        if losses.size:
            losses[first + r] = loss
        sum_of_losses = add(sum_of_losses, loss)
    return corrected(sum_of_losses)


@jit
def write_rows(call: Any, rows: Any, tile: Any) -> None:
    """Write the gradients of the rows, or their softmax or log-softmax."""
    logits, distribution, weight, out = call.logits, call.distribution, call.weight, call.out
    e, lost, z, slope, u, terms = tile.e, tile.lost, tile.z, tile.slope, tile.u, tile.terms
    x_step, q_step, step = call.layouts[LOGITS, 3], call.layouts[TARGET, 3], call.layouts[OUT, 3]
    short, is_capped, has_labels = is_short(call), call.softcap < math.inf, call.labels.size > 0
    is_general = call.is_dense or is_capped or call.is_precise
    n_rows, width = rows.size, tile.width
    for r in range(n_rows):
        row = rows[r]
        for start in range(0, call.classes, BLOCK):
            at, count = r * width + start, min(BLOCK, call.classes - start)
            n = padded(count)
            if call.mode == LOG_SOFTMAX or is_capped:
                load(logits, row.logits + start * x_step, x_step, call.mantissa, z, count)
                transform(call.logit_scale, call.softcap, z, lost, slope, count)
            if call.is_dense:
                read_targets(call, row.target + start * q_step, q_step, start, distribution, weight, u)
            if has_labels and row.label < 0:
                for k in range(n):
                    terms[k] = 0.0
            elif call.mode == GRADIENT and short:
                for k in range(count):
                    z[k] = e[np.uintp(k * n_rows + r)]
                gradient(is_general, row, start, z, 0, count, u, slope, terms)
            elif call.mode == GRADIENT:
                gradient(is_general, row, start, e, at, count, u, slope, terms)
            elif call.mode == SOFTMAX:
                for k in range(n):
                    terms[k] = e[at + k] * row.inverse
            else:
                for k in range(n):
                    terms[k] = (z[k] - row.maximum) - row.log_sum
            store(out, row.out + start * step, step, call.mantissa, terms, count)


@jit
def gradient(
    is_general: bool, row: Any, start: int, e: Any, at: int, count: int, u: Any, slope: Any, terms: Any
) -> None:
    """The gradient at `count` classes from `start` on: (T p_j − t_j) f'(x_j), times the factor of the row."""
    pull, inverse, factor = row.pull, row.inverse, row.factor
    top, label = row.top - start, row.label - start
    has_top, has_label = 0 <= top < count and row.takes_at_top, 0 <= label < count
    if is_general:
        for k in range(count):
            terms[k] = (pull * (e[np.uintp(at + k)] * inverse) - u[k]) * (factor * slope[k])
    else:
        p_factor = pull * inverse * factor
        for k in range(count):
            terms[k] = e[np.uintp(at + k)] * p_factor
    if has_label:
        t = u[label] + row.label_weight
        terms[label] = (pull * (e[at + label] * inverse) - t) * (factor * slope[label])
    if has_top:
        terms[top] = row.at_top * (factor * slope[top])


# ------------------------------------------------------------------------------------------------ short rows
@jit
def is_short(call: Any) -> bool:
    """Whether rows lie side by side: short ones of a loss that is to have the digits of float32."""
    return (
        call.classes <= SHORT and call.labels.size > 0 and call.lse.size == 0
        and not (call.is_dense or call.is_precise) and call.logit_scale == 1.0 and call.softcap == math.inf
    )  # fmt: skip


@jit
def find_short_maxima(call: Any, rows: Any, tile: Any) -> None:
    """What `find_maxima` and `find_gaps` find, for rows that lie side by side, with the labels as `top`."""
    logits, e, z, m = call.logits, tile.e, tile.z, tile.terms
    step, n_rows, classes = call.layouts[LOGITS, 3], rows.size, call.classes
    m[:n_rows] = -math.inf
    for r in range(n_rows):
        load(logits, rows[r].logits, step, call.mantissa, z, classes)
        for k in range(classes):
            e[np.uintp(k * n_rows + r)] = z[k]
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
def find_short_sums(call: Any, rows: Any, tile: Any) -> None:
    """What `find_sums` finds, for rows that lie side by side."""
    e, m, others, n_rows = tile.e, tile.terms, tile.z, rows.size
    for r in range(n_rows):
        m[r] = m[r] if abs(m[r]) < math.inf else 0.0
        others[r] = 0.0
    for k in range(call.classes):
        for r in range(n_rows):
            e[np.uintp(k * n_rows + r)] = exp_scaled(e[np.uintp(k * n_rows + r)] - m[r])
    for r in range(n_rows):
        row = rows[r]
        at = max(row.label, 0) * n_rows + r
        row.own, e[at] = e[at], 0.0
    for k in range(call.classes):
        for r in range(n_rows):
            others[r] += e[np.uintp(k * n_rows + r)]
    for r in range(n_rows):
        rows[r].others = others[r]


# ------------------------------------------------------------------------------------------------ all rows
@jit
def compute_rows(call: Any, first: int, rows: Any, tile: Any) -> float:
    """Compute all that `Call.mode` asks for, for rows from `first` on.  Returns the sum of their losses."""
    find_rows(call, first, rows)
    if is_short(call):
        find_short_maxima(call, rows, tile)
        find_short_sums(call, rows, tile)
    else:
        find_maxima(call, rows, tile)
        find_gaps(call, rows, tile)
        find_sums(call, first, rows, tile)
    loss = find_results(call, first, rows)
    if call.mode not in (LOSS, LOGSUMEXP):
        write_rows(call, rows, tile)
    return loss


def compute_groups(call: Any, partials: Any, first_group: int, last_group: int) -> None:
    """Compute the rows of some groups, in order, and the sum of each group's losses."""
    width = padded(call.classes)
    n_rows = max(1, min(TILE_ROWS, TILE_LOGITS // width, call.group))
    size = n_rows * width
    z, slope, u, terms = np.zeros(BLOCK), np.ones(BLOCK), np.zeros(BLOCK), np.zeros(BLOCK)
    tile = Tile(np.empty(size), np.zeros(size), width, z, slope, u, terms)
    rows = np.zeros(n_rows, ROW)
    for group in range(first_group, last_group):
        last, loss = min((group + 1) * call.group, call.rows), (0.0, 0.0)
        for first in range(group * call.group, last, n_rows):
            loss = add(loss, compute_rows(call, first, rows[: last - first], tile))
        partials[group] = corrected(loss)


def compute_in_parallel(call: Any, partials: Any) -> None:
    """Compute all groups, each by whichever thread is free: which one it is changes nothing in the result."""
    for group in prange(partials.size):
        groups_in_order(call, partials, group, group + 1)


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
