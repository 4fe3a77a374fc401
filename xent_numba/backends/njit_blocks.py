"""What the njit kernels do to a number, and to a block of a row: a small contiguous array of float64.

The loops are written for LLVM to vectorise.  Each does the same to every element without branches (`a if b else c` is a
choice, not a branch); sums and maxima fold the parts of an array onto each other until one element is left,
which is as accurate as a pairwise sum.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

BLOCK = 1024  # classes that are in the small arrays at a time
LANES = 64  # what is computed there is padded to a multiple of so many elements
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
def store(memory: Any, first: int, step: int, mantissa: int, values: Any, at: int, factor: float, count: int) -> None:
    """memory[first + k · step] = values[at + k] · factor, rounded once to the dtype of the memory."""
    if step != 1:
        for k in range(count):
            value = values[np.uintp(at + k)] * factor
            memory[np.uintp(first + k * step)] = to_half(value, mantissa) if mantissa else value
    elif mantissa:
        for k in range(count):
            memory[np.uintp(first + k)] = to_half(values[np.uintp(at + k)] * factor, mantissa)
    else:
        for k in range(count):
            memory[np.uintp(first + k)] = values[np.uintp(at + k)] * factor


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
def fold_max(z: Any, scratch: Any, n: int) -> float:
    """The maximum of z[:n], where n is a multiple of LANES; any number or NaN if there is a NaN."""
    n //= 4
    for k in range(n):
        a = z[k] if z[k] > z[n + k] else z[n + k]
        b = z[2 * n + k] if z[2 * n + k] > z[3 * n + k] else z[3 * n + k]
        scratch[k] = a if a > b else b
    while n > 1:
        half = n - n // 2
        for k in range(n // 2):
            scratch[k] = scratch[k] if scratch[k] > scratch[half + k] else scratch[half + k]
        n = half
    return scratch[0]


@jit
def fold_sum(terms: Any, at: int, scratch: Any, n: int) -> float:
    """The pairwise sum of n terms from terms[at] on, where n is a multiple of LANES."""
    n //= 4
    for k in range(n):
        a = terms[np.uintp(at + k)] + terms[np.uintp(at + n + k)]
        scratch[k] = a + (terms[np.uintp(at + 2 * n + k)] + terms[np.uintp(at + 3 * n + k)])
    while n > 1:
        half = n - n // 2
        for k in range(n // 2):
            scratch[k] += scratch[half + k]
        n = half
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
def exp_differences(z: Any, lost: Any, shift: float, lost_at_shift: float) -> None:
    """Replace z by exp(z − shift) · 2^HEADROOM, corrected for the rounding of z and of the difference."""
    for k in range(z.size):
        d, error = two_sum(z[k], -shift)
        error += lost[k] - lost_at_shift
        error = error if abs(error) < 1.0 else 0.0  # NaN where z is infinite
        d = LEAST if d < LEAST else d
        d = MOST if d > MOST else d
        s, p = exp_parts(d, error, 1023 + HEADROOM)
        z[k] = s * (1.0 + p)


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
def exp_for_float32(z: Any, shift: float) -> None:
    """What `exp_differences` computes, by `exp_scaled`."""
    for k in range(z.size):
        z[k] = exp_scaled(z[k] - shift)


@jit
def is_among(values: Any, label: int) -> bool:
    """Whether a label is one of these."""
    found = False
    for value in values:
        found |= label == value
    return found
