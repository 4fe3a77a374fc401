"""The kernels of the njit backend: functions for one row of logits, and one `prange` over groups of rows.

Nothing here needs more than Numba's manual.  From top to bottom: `load` reads a block of a row as float64,
`transform` turns logits x into z, `fold_max` finds their maximum m, `exp_differences` computes e_j = exp(z_j − m),
`fold_sum` adds them, and `store` writes results.  `compute_groups` puts them together, and `compute_in_parallel` at the
end has the only `prange`.  Where results are in float32 or less, two shorter ways do the same for the commonest calls:
`compute_tile` for rows of a few classes, and `max_in_memory` and `exp_in_memory` for logits that need no staging.

All arithmetic is in float64, whatever the dtype of the logits, and all options are values of one `Call`.  So there is
one compiled kernel for each dtype, and no option overflows or loses digits that its result would have.

The loops are written for LLVM to vectorise.  Each runs over a small contiguous array and does the same to every element
without branches (`a if b else c` is a choice, not a branch); sums and maxima fold the upper half of an array onto its
lower half until one element is left, which is as accurate as a pairwise sum.  No loop depends on the number of threads.

Three rules avoid cancellation.  A class m is left out of the sum S − e_m, so that log S = log1p(S − 1) is accurate
however small it is where m has the maximum.  Where p_m > 1/2, the gradient there is Σ_{j≠m} t_j − T (S − e_m) / S, and
not T p_m − t_m.  And the rounding error of z − m, which would add up over many equal terms, corrects e in float64.

Functions that call each other are in one file, because Numba's cache notices changes in the file of a function only.
"""

from __future__ import annotations

import math
import os
from typing import Any, NamedTuple

import numpy as np
from numba import njit, prange

BLOCK = 1024  # classes that are in the small arrays at a time
LANES = 16  # what is computed there is padded to a multiple of so many elements
SHORT = 256  # rows of up to so many classes are computed side by side, where that can be
TILE = 32  # how many of them
KEEP = 1 << 16  # rows of up to so many classes keep their exponentials for the gradient; longer ones compute them again
HEADROOM = 60  # exponentials are scaled by 2^HEADROOM, so that a sum of terms below the smallest normal number is right
UNSCALE = 2.0**-HEADROOM

LOG2_E = 1.0 / math.log(2.0)
LN2 = math.log(2.0)
LN2_HIGH = float.fromhex("0x1.62e42fefa3800p-1")  # ln 2 in two parts; a product of the first with n is exact
LN2_LOW = float.fromhex("0x1.ef35793c76730p-45")
ROUND = 1.5 * 2.0**52  # adding it rounds to an integer, which is then in the last bits of the sum
# exp is 0 from LEAST on, or infinite from MOST on, with that scale; it is 0 from NOTHING on without it
LEAST, MOST, NOTHING = -(1023 + HEADROOM) * math.log(2.0), (1024 - HEADROOM) * math.log(2.0), -1023 * math.log(2.0)
FACTORS = [1.0 / math.factorial(k) for k in range(14)]
F2, F3, F4, F5, F6, F7, F8, F9, F10, F11, F12, F13 = FACTORS[2:]

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


jit = njit(nogil=True, error_model="numpy")


# ------------------------------------------------------------------------------------------------ numbers
@njit(nogil=True, error_model="numpy", fastmath={"contract"})
def exp_parts(d: float, lost: float, bias: int) -> tuple[float, float]:
    """(s, p) with exp(d + lost) = s (1 + p): s is 2^n (times 2^(bias − 1023)), and p = exp(r) − 1 for |r| ≤ ln 2 / 2.

    The flag lets LLVM fuse a multiplication and an addition, which does not touch NaN and infinity.
    """
    rounded = d * LOG2_E + ROUND
    n = rounded - ROUND
    r = (d - n * LN2_HIGH) + (lost - n * LN2_LOW)
    p = F10 + r * (F11 + r * (F12 + r * F13))
    p = F6 + r * (F7 + r * (F8 + r * (F9 + r * p)))
    p = F2 + r * (F3 + r * (F4 + r * (F5 + r * p)))
    # n + bias becomes the exponent of a float64
    s = np.int64((np.float64(rounded).view(np.int64) + bias) << 52).view(np.float64)
    return s, r + r * r * p


@jit
def two_sum(a: float, b: float) -> tuple[float, float]:
    """a + b, and its rounding error (Knuth)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


@jit
def product(a: float, b: float) -> tuple[float, float]:
    """a · b and its rounding error (Dekker), 0 where its computation overflows."""
    high = 134217729.0 * a  # 2^27 + 1: a becomes a sum of numbers of 26 bits
    high = high - (high - a)
    low = a - high
    top = 134217729.0 * b
    top = top - (top - b)
    rest = b - top
    total = a * b
    lost = ((high * top - total) + high * rest + low * top) + low * rest
    return total, lost if abs(lost) < math.inf else 0.0


@jit
def add(sums: tuple[float, float], term: float) -> tuple[float, float]:
    """(sum, sum of rounding errors) with one more term."""
    total, lost = two_sum(sums[0], term)
    return total, sums[1] + lost


@jit
def corrected(sums: tuple[float, float]) -> float:
    """The sum that `add` has made, an infinite one as it is."""
    return sums[0] + sums[1] if abs(sums[1]) < math.inf else sums[0]


@jit
def power_of_two(n: int) -> float:
    """2^n, for a normal number."""
    return np.int64((n + 1023) << 52).view(np.float64)


@jit
def from_half(bits: int, mantissa: int) -> float:
    """The value of a 16-bit float: its bits in the places of a float64, times the ratio of the two exponent biases."""
    bias = (1 << (14 - mantissa)) - 1
    size = np.int64((bits & 0x7FFF) << (52 - mantissa)).view(np.float64) * power_of_two(1023 - bias)
    infinite = power_of_two(bias + 1)
    size = size if size < infinite else (math.inf if size == infinite else math.nan)
    return -size if bits > 0x7FFF else size


@jit
def to_half(value: float, mantissa: int) -> Any:
    """The bits of a 16-bit float, rounded once, to nearest even."""
    bias, cut = (1 << (14 - mantissa)) - 1, 52 - mantissa
    size = abs(value)
    bits: Any = np.float64(size).view(np.int64)
    normal = ((bits + ((1 << (cut - 1)) - 1) + ((bits >> cut) & 1)) >> cut) - ((1023 - bias) << mantissa)
    unit = power_of_two(cut + 1 - bias)  # adding it rounds to the spacing of the subnormal numbers
    subnormal = np.float64(size + unit).view(np.int64) - np.float64(unit).view(np.int64)
    found: Any = subnormal if size < power_of_two(1 - bias) else normal
    infinite = 0x7FFF >> mantissa << mantissa
    found = found if found < infinite else infinite
    found = infinite + (1 << (mantissa - 1)) if value != value else found
    return found + 0x8000 if value < 0.0 else found


# ------------------------------------------------------------------------------------------------ blocks of a row
@jit
def padded(count: int) -> int:
    """The least multiple of LANES that is not less."""
    return (count + LANES - 1) & -LANES


@jit
def load(memory: Any, first: int, step: int, mantissa: int, values: Any, count: int) -> None:
    """values[k] = memory[first + k · step] as float64; the padding is 0.

    An unsigned index spares the question whether it is negative and so counts from the end, here and below.
    """
    if step != 1:
        for k in range(count):
            item = memory[np.uintp(first + k * step)]
            values[k] = from_half(np.int64(item), mantissa) if mantissa else np.float64(item)
    elif mantissa:
        for k in range(count):
            values[k] = from_half(np.int64(memory[np.uintp(first + k)]), mantissa)
    else:
        for k in range(count):
            values[k] = memory[np.uintp(first + k)]
    for k in range(count, padded(count)):
        values[k] = 0.0


@jit
def store(memory: Any, first: int, step: int, mantissa: int, values: Any, count: int) -> None:
    """memory[first + k · step] = values[k], rounded once."""
    if step != 1:
        for k in range(count):
            memory[np.uintp(first + k * step)] = to_half(values[k], mantissa) if mantissa else values[k]
    elif mantissa:
        for k in range(count):
            memory[np.uintp(first + k)] = to_half(values[k], mantissa)
    else:
        for k in range(count):
            memory[np.uintp(first + k)] = values[k]


@jit
def transform(scale: float, cap: float, z: Any, lost: Any, slope: Any, count: int) -> None:
    """Turn a block of logits into z = f(x); the rounding errors of a product, or f'(x) of a softcap, go beside it.

    With a = exp(−2 |u|), tanh |u| is (1 − a) / (1 + a), and 1 − tanh² u is 4a / (1 + a)².
    """
    if cap < math.inf:
        for k in range(count):
            u = scale * z[k] / cap
            d = -2.0 * abs(u)
            s, p = exp_parts(NOTHING if d < NOTHING else d, 0.0, 1023)
            v, a = (s - 1.0) + s * p, s * (1.0 + p)  # v = a − 1, with all its digits
            size = -cap * v / (2.0 + v)
            z[k] = -size if u < 0.0 else size
            slope[k] = 4.0 * a / ((1.0 + a) * (1.0 + a))
    elif scale != 1.0:
        for k in range(count):
            z[k], lost[k] = product(scale, z[k])
    for k in range(count, padded(count)):
        z[k], lost[k] = -math.inf, 0.0


@jit
def dense_target(alpha: float, beta: float, weight: Any, start: int, u: Any, count: int) -> None:
    """Turn a block of a distribution q into the dense target w (alpha q + beta)."""
    if beta != 0.0:
        for k in range(count):
            u[k] = alpha * u[k] + beta
    if weight.size:
        for k in range(count):
            u[k] *= weight[np.uintp(start + k)]


@jit
def half_of(n: int) -> int:
    """Where to fold an array of n elements: at a multiple of LANES while there are more than that."""
    return padded(n // 2) if n > LANES else n // 2


@jit
def fold_max(z: Any, scratch: Any, n: int) -> float:
    """The maximum of z[:n], where n is a multiple of LANES; any number or NaN if there is a NaN."""
    half = half_of(n)
    for k in range(n - half):
        scratch[k] = z[k] if z[k] > z[half + k] else z[half + k]
    for k in range(n - half, half):
        scratch[k] = z[k]
    while half > 1:
        n, half = half, half_of(half)
        for k in range(n - half):
            scratch[k] = scratch[k] if scratch[k] > scratch[half + k] else scratch[half + k]
    return scratch[0]


@jit
def fold_sum(terms: Any, at: int, scratch: Any, n: int) -> float:
    """The pairwise sum of n terms from terms[at] on, where n is a multiple of LANES."""
    half = half_of(n)
    for k in range(n - half):
        scratch[k] = terms[np.uintp(at + k)] + terms[np.uintp(at + half + k)]
    for k in range(n - half, half):
        scratch[k] = terms[np.uintp(at + k)]
    while half > 1:
        n, half = half, half_of(half)
        for k in range(n - half):
            scratch[k] += scratch[half + k]
    return scratch[0]


@jit
def first_equal(z: Any, value: float, n: int) -> int:
    """The index of the first element that equals the value; −1 if none does."""
    for start in range(0, n, LANES):
        hits = 0
        for k in range(LANES):
            hits += 1 if z[np.uintp(start + k)] == value else 0
        if hits:
            for k in range(start, n):
                if z[k] == value:
                    return k
    return -1


@jit
def exp_differences(z: Any, lost: Any, shift: float, lost_at_shift: float, e: Any, at: int, n: int) -> None:
    """e = exp(z − shift) · 2^HEADROOM, from e[at] on, corrected for the rounding of z and of the difference."""
    for k in range(n):
        d, error = two_sum(z[k], -shift)
        error += lost[k] - lost_at_shift
        error = error if abs(error) < 1.0 else 0.0  # NaN where z is infinite
        d = LEAST if d < LEAST else d
        d = MOST if d > MOST else d
        s, p = exp_parts(d, error, 1023 + HEADROOM)
        e[np.uintp(at + k)] = s * (1.0 + p)


@njit(nogil=True, error_model="numpy", fastmath={"contract"})
def exp_scaled(d: float) -> float:
    """exp(d) · 2^HEADROOM at half the cost, with an error of 1e-8, for results in float32 and less."""
    d = LEAST if d < LEAST else d
    d = MOST if d > MOST else d
    rounded = d * LOG2_E + ROUND
    r = d - (rounded - ROUND) * LN2
    s = np.int64((np.float64(rounded).view(np.int64) + (1023 + HEADROOM)) << 52).view(np.float64)
    return s * (1.0 + r * (1.0 + r * (F2 + r * (F3 + r * (F4 + r * (F5 + r * (F6 + r * F7)))))))


@jit
def max_in_memory(memory: Any, first: int, count: int, scratch: Any) -> float:
    """The maximum of memory[first : first + count], as from `load` and `fold_max`."""
    half = (count + 1) // 2
    for k in range(count - half):
        a, b = memory[np.uintp(first + k)], memory[np.uintp(first + half + k)]
        scratch[k] = a if a > b else b
    for k in range(count - half, half):
        scratch[k] = memory[np.uintp(first + k)]
    for k in range(half, padded(half)):
        scratch[k] = -math.inf
    return fold_max(scratch, scratch, padded(half))


@jit
def exp_in_memory(memory: Any, first: int, shift: float, e: Any, at: int, count: int) -> None:
    """e = exp(memory[first + k] − shift), as from `load` and `exp_for_float32`; the padding is 0."""
    for k in range(count):
        e[np.uintp(at + k)] = exp_scaled(np.float64(memory[np.uintp(first + k)]) - shift)
    for k in range(count, padded(count)):
        e[at + k] = 0.0


@jit
def exp_for_float32(z: Any, shift: float, e: Any, at: int, n: int) -> None:
    """What `exp_differences` computes, by `exp_scaled`."""
    for k in range(n):
        e[np.uintp(at + k)] = exp_scaled(z[k] - shift)


@jit
def is_among(values: Any, label: int) -> bool:
    """Whether a label is one of these."""
    found = False
    for value in values:
        found |= label == value
    return found


# ------------------------------------------------------------------------------------------------ short rows
@jit
def is_short(call: Any) -> bool:
    """Whether rows are computed by `compute_tile`: short ones of a loss that is to have the digits of float32."""
    return (
        call.classes <= SHORT and call.labels.size > 0 and call.lse.size == 0
        and not (call.is_dense or call.is_precise) and call.logit_scale == 1.0 and call.softcap == math.inf
    )  # fmt: skip


@jit
def compute_tile(call: Any, first_row: int, rows: int, tile: Any, lanes: Any, y: Any) -> float:
    """Compute some short rows at once, of which each has a lane: class k of row r is tile[k, r].  Returns their loss.

    This is `compute_groups` for class indices without smoothing.  Maxima and sums need no folding here.
    """
    classes, losses, weight, sample_weight, z_coefficient = (
        call.classes, call.losses, call.weight, call.sample_weight, call.z_coefficient
    )  # fmt: skip
    labels, ignore, layouts, inner, mantissa = call.labels, call.ignore, call.layouts, call.inner, call.mantissa
    logits, out, grad_output, grad_scale, mode = call.logits, call.out, call.grad_output, call.grad_scale, call.mode
    row_max, shift, sums, e_label, z_label, values = lanes[0], lanes[1], lanes[2], lanes[3], lanes[4], lanes[5]
    first, step_a, step_b, step = layouts[LOGITS, 0], layouts[LOGITS, 1], layouts[LOGITS, 2], layouts[LOGITS, 3]
    for r in range(rows):
        row = first_row + r
        at = first + row // inner * step_a + row % inner * step_b
        if mantissa:
            load(logits, at, step, mantissa, values, classes)
            for k in range(classes):
                tile[k, r] = values[k]
        else:
            for k in range(classes):
                tile[k, r] = logits[np.uintp(at + k * step)]
    for r in range(TILE):
        row_max[r], sums[r] = -math.inf, 0.0
    for k in range(classes):
        for r in range(TILE):
            row_max[r] = tile[k, r] if tile[k, r] > row_max[r] else row_max[r]
    for r in range(TILE):
        shift[r] = row_max[r] if abs(row_max[r]) < math.inf else 0.0
    for r in range(rows):
        label = labels[first_row + r]
        y[r] = -1 if is_among(ignore, label) else label
        z_label[r] = tile[max(y[r], 0), r]
    for k in range(classes):
        for r in range(TILE):
            tile[k, r] = exp_scaled(tile[k, r] - shift[r])
    for r in range(rows):
        if y[r] >= 0:
            e_label[r], tile[y[r], r] = tile[y[r], r], 0.0
    for k in range(classes):
        for r in range(TILE):
            sums[r] += tile[k, r]

    tile_loss = (0.0, 0.0)
    first, step_a, step_b, step = layouts[OUT, 0], layouts[OUT, 1], layouts[OUT, 2], layouts[OUT, 3]
    for r in range(rows):
        row, label = first_row + r, y[r]
        loss, at_label, p_factor = 0.0, 0.0, 0.0
        if label >= 0:
            w = weight[label] if weight.size else 1.0
            factor = sample_weight[row] if sample_weight.size else 1.0
            others, own = sums[r] * UNSCALE, e_label[r] * UNSCALE
            total = others + own if abs(row_max[r]) < math.inf else math.nan
            log_sum = math.log1p(others + (own - 1.0)) if total == total else math.nan
            lse = row_max[r] + log_sum
            loss = 0.0 * log_sum if w == 0.0 else w * ((row_max[r] - z_label[r]) + log_sum)
            loss += z_coefficient * lse * lse if z_coefficient != 0.0 else 0.0
            loss = 0.0 if factor == 0.0 and abs(loss) == math.inf else factor * loss
            factor *= grad_scale * (grad_output[row] if grad_output.size else 1.0)
            drift = 2.0 * z_coefficient * lse if z_coefficient != 0.0 else 0.0
            p_factor = (w + drift) / total * UNSCALE * factor
            at_label = (drift * own - w * others) / total * factor
        if losses.size:
            losses[row] = loss
        tile_loss = add(tile_loss, loss)
        if mode == GRADIENT:
            for k in range(classes):
                values[k] = tile[k, r] * p_factor
            if label >= 0:
                values[label] = at_label
            else:
                values[:classes] = 0.0
            store(out, first + row // inner * step_a + row % inner * step_b, step, mantissa, values, classes)
    return corrected(tile_loss)


# ------------------------------------------------------------------------------------------------ rows
def compute_groups(call: Any, partials: Any, first_group: int, last_group: int) -> None:
    """Compute the rows of some groups, in order: all that `Call.mode` asks for, and the sum of each group's losses.

    Each row takes three passes over its blocks: the maximum, the sums, and the gradient or whatever is to be written.
    """
    mode, classes, scale, cap, z_coefficient = (
        call.mode,
        call.classes,
        call.logit_scale,
        call.softcap,
        call.z_coefficient,
    )
    logits, distribution, out, weight = call.logits, call.distribution, call.out, call.weight
    labels, losses, sample_weight, grad_output = call.labels, call.losses, call.sample_weight, call.grad_output
    ignore, saved, mantissa, layouts = call.ignore, call.lse, call.mantissa, call.layouts
    is_dense, alpha, beta = call.is_dense, call.alpha, call.beta
    passes = 2 if mode in (LOSS, LOGSUMEXP) else 3
    # The class `top` is left out of sums: the first maximum, or, where that is as good and needs no search, the label.
    finds_top = is_dense or labels.size == 0 or scale != 1.0
    single, keeps = classes <= BLOCK, classes <= KEEP
    x_step, q_step, out_step = layouts[LOGITS, 3], layouts[TARGET, 3], layouts[OUT, 3]
    z, lost, slope, u, terms = np.empty(BLOCK), np.zeros(BLOCK), np.ones(BLOCK), np.zeros(BLOCK), np.zeros(BLOCK)
    e = np.empty(padded(classes) if keeps else BLOCK)

    short = is_short(call)
    # nothing to do to the logits before the exponential, so no need to stage them
    is_plain = not (finds_top or call.is_precise) and mantissa == 0 and x_step == 1 and cap == math.inf
    tile, lanes = np.zeros((classes if short else 0, TILE)), np.zeros((6, SHORT + LANES))
    y = np.zeros(TILE, np.int64)

    for group in range(first_group, last_group):
        group_sum = (0.0, 0.0)
        if short:
            last_row = min((group + 1) * call.group, call.rows)
            for row in range(group * call.group, last_row, TILE):
                tile_loss = compute_tile(call, row, min(TILE, last_row - row), tile, lanes, y)
                group_sum = add(group_sum, tile_loss)
            partials[group] = corrected(group_sum)
            continue
        for row in range(group * call.group, min((group + 1) * call.group, call.rows)):
            a, b = row // call.inner, row % call.inner
            x_row = layouts[LOGITS, 0] + a * layouts[LOGITS, 1] + b * layouts[LOGITS, 2]
            q_row = layouts[TARGET, 0] + a * layouts[TARGET, 1] + b * layouts[TARGET, 2]
            out_row = layouts[OUT, 0] + a * layouts[OUT, 1] + b * layouts[OUT, 2]
            label, label_weight = -1, 0.0
            if labels.size:
                label = labels[row]
                if is_among(ignore, label):
                    if losses.size:
                        losses[row] = 0.0
                    if mode == GRADIENT:
                        for k in range(classes):
                            out[np.uintp(out_row + k * out_step)] = 0
                    continue
                label_weight = call.confidence * (weight[label] if weight.size else 1.0)
            factor = sample_weight[row] if sample_weight.size else 1.0

            # what the passes find; the sums come with their rounding errors
            row_max, top, lost_at_max, e_top, top_target, label_gap = -math.inf, label, 0.0, 0.0, 0.0, 0.0
            if finds_top:
                top = -1
            others, gap, rest = (0.0, 0.0), (0.0, 0.0), (0.0, 0.0)  # others, rest: without the class `top`
            shift, lost_at_shift, loss, log_sum, inverse, lse = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
            others_at_top, closes, rest_sum, target_sum = 0.0, False, 0.0, 0.0
            for task in range(passes):
                for start in range(0, classes, BLOCK):
                    count = min(BLOCK, classes - start)
                    n = padded(count)
                    has_top, has_label = start <= top < start + count, start <= label < start + count
                    if is_plain and task == 0:
                        block_max = max_in_memory(logits, x_row + start, count, terms)
                        row_max = block_max if block_max > row_max else row_max
                        continue
                    if (task == 0 or not single) and not is_plain:
                        load(logits, x_row + start * x_step, x_step, mantissa, z, count)
                        transform(scale, cap, z, lost, slope, count)
                    if task == 0:
                        block_max = fold_max(z, terms, n)
                        if finds_top and (block_max > row_max or top < 0):
                            found = first_equal(z, block_max, n)
                            if found >= 0:
                                top, lost_at_max = start + found, lost[found]
                        row_max = block_max if block_max > row_max else row_max
                        continue
                    at = start if keeps else 0
                    if (task == 1 or not keeps) and call.is_precise:
                        exp_differences(z, lost, shift, lost_at_shift, e, at, n)
                    elif (task == 1 or not keeps) and is_plain:
                        exp_in_memory(logits, x_row + start, shift, e, at, count)
                    elif task == 1 or not keeps:
                        exp_for_float32(z, shift, e, at, n)
                    if is_dense:
                        if alpha != 0.0:
                            load(distribution, q_row + start * q_step, q_step, call.q_mantissa, u, count)
                        else:
                            u[:count] = 0.0
                        dense_target(alpha, beta, weight, start, u, count)
                    if task == 1:
                        if has_top:
                            k = at + top - start
                            e_top, e[k] = e[k], 0.0
                        others = add(others, fold_sum(e, at, terms, n))
                        if has_top:
                            e[k] = e_top
                        if has_label and is_plain:
                            label_gap = 0.25 * row_max - 0.25 * logits[x_row + label]
                        elif has_label:
                            k = label - start
                            label_gap = 0.25 * row_max - 0.25 * z[k] + (0.25 * lost_at_max - 0.25 * lost[k])
                        if is_dense:
                            for k in range(n):  # a quarter of a difference is finite where both numbers are
                                quarter = (0.25 * row_max - 0.25 * z[k]) + (0.25 * lost_at_max - 0.25 * lost[k])
                                terms[k] = 0.0 if u[k] == 0.0 else u[k] * quarter
                            gap = add(gap, fold_sum(terms, 0, terms, n))
                            if has_top:
                                top_target, u[top - start] = u[top - start], 0.0
                            rest = add(rest, fold_sum(u, 0, u, n))
                        continue
                    drift = 2.0 * z_coefficient * lse if z_coefficient != 0.0 else 0.0
                    p_top = e[at + top - start] * inverse if has_top else 0.0
                    at_top = (rest_sum - target_sum * others_at_top) + drift * p_top
                    if mode == GRADIENT and is_plain and out_step == 1:
                        p_factor = (target_sum + drift) * inverse * factor
                        for k in range(count):
                            out[np.uintp(out_row + start + k)] = e[np.uintp(at + k)] * p_factor
                        if has_top:
                            at_top = at_top if closes else (target_sum + drift) * p_top - label_weight
                            out[out_row + top] = at_top * factor
                        continue
                    for k in range(n):
                        terms[k] = e[np.uintp(at + k)] * inverse
                    if mode == LOG_SOFTMAX:
                        for k in range(n):
                            terms[k] = (z[k] - row_max) - log_sum
                    elif mode == GRADIENT:
                        for k in range(n):
                            terms[k] = (target_sum + drift) * terms[k] - u[k]
                        if has_label:
                            terms[label - start] -= label_weight
                        if has_top and closes:
                            terms[top - start] = at_top
                        for k in range(n):
                            terms[k] = terms[k] * (factor * slope[k])
                    store(out, out_row + start * out_step, out_step, mantissa, terms, count)
                # between the passes
                if task == 0:
                    is_finite = abs(row_max) < math.inf
                    shift, lost_at_shift = row_max if is_finite else 0.0, lost_at_max
                    if saved.size:
                        shift, lost_at_shift, lse = saved[row], 0.0, saved[row]
                        is_finite = abs(shift) < math.inf
                elif task == 1:
                    sum_others = corrected(others) * UNSCALE
                    log_sum = math.log1p(sum_others + (e_top * UNSCALE - 1.0)) if is_finite else math.nan
                    total = 1.0 if saved.size else sum_others + e_top * UNSCALE
                    inverse = UNSCALE / total if is_finite else math.nan
                    lse = lse if saved.size else row_max + log_sum
                    others_at_top = sum_others / total
                    closes = others_at_top < 0.5 or (top == label and not is_dense and saved.size == 0)
                    rest_sum = corrected(rest) + (label_weight if label != top else 0.0)
                    target_sum = rest_sum + top_target + (label_weight if label == top else 0.0)
                    if mode == LOGSUMEXP:
                        loss = lse if is_finite else row_max + sum_others * 0.0
                    else:
                        loss = 4.0 * corrected(gap) + (0.0 if label_weight == 0.0 else 4.0 * label_weight * label_gap)
                        loss += target_sum * log_sum
                        if z_coefficient != 0.0:
                            loss += z_coefficient * lse * lse
                        loss = 0.0 if factor == 0.0 and abs(loss) == math.inf else factor * loss
                    if losses.size:
                        losses[row] = loss
                    factor *= call.grad_scale * (grad_output[row] if grad_output.size else 1.0) * scale
            group_sum = add(group_sum, loss)
        partials[group] = corrected(group_sum)


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
