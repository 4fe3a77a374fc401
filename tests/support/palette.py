"""Rows of few distinct values, for which exact results are cheap at any length, and how far from them a result is.

With value v_k in n_k of the other classes, loss = log1p(Σ n_k exp(v_k − v_y)) and the gradient of the target is
−Σ_{j≠y} p_j: neither cancels, so 60 digits are plenty.  Exact numbers leave here as pairs of float64, high + low.
"""

from __future__ import annotations

import math
from functools import lru_cache

import mpmath
import numpy as np

DIGITS = 60


@lru_cache(maxsize=200_000)
def _exp(distance):
    with mpmath.workdps(DIGITS):
        return mpmath.exp(distance)


def pair(exact):
    """Exact numbers as float64 (high, low)."""
    with mpmath.workdps(DIGITS):
        exact = list(exact)
        high = [float(v) for v in exact]
        low = [float(v - mpmath.mpf(h)) for v, h in zip(exact, high, strict=True)]
    return np.array(high), np.array(low)


def distinct(row):
    """The values of a row, where each class has its own among them, and how many classes have each."""
    return np.unique(np.asarray(row, np.float64), return_inverse=True, return_counts=True)


def exact_row(row, y, known=None):
    """(loss, gradient at the target, {value of another class: its probability}) of one row as mpmath numbers.

    What `distinct` finds in the row may be given, where it is known.
    """
    values, where, counts = known or distinct(row)
    counts = counts - (np.arange(values.size) == where[y])
    values, counts = values[counts > 0], counts[counts > 0]
    with mpmath.workdps(DIGITS):
        target = mpmath.mpf(float(row[y]))
        top = mpmath.mpf(max(float(row[y]), float(values.max(initial=-math.inf))))
        terms = [_exp(mpmath.mpf(v) - top) if v > -math.inf else mpmath.mpf(0) for v in values.tolist()]
        others = mpmath.fsum(int(n) * e for n, e in zip(counts, terms, strict=True))
        own = _exp(target - top)
        total = others + own
        loss = mpmath.log1p(others / own)
        return loss, -others / total, {v: e / total for v, e in zip(values.tolist(), terms, strict=True)}


def focal(exact, gamma):
    """What `exact_row` returns, for a focal loss: each gradient with the factor φ instead of 1, the loss with q^γ."""
    loss, own, others = exact
    if gamma == 0.0:
        return exact
    with mpmath.workdps(DIGITS):
        q, gamma = -own, mpmath.mpf(gamma)
        power = q**gamma
        factor = power + gamma * power / q * (1 - q) * loss if q else q
        return power * loss, factor * own, {v: factor * p for v, p in others.items()}


def excess(found, truth, dtype, *, larger=0.0, gamma=0.0):
    """Worst error over bound: (4 + |ln v|) units in the last place of v, or of what is `larger`.

    For a focal loss, the bound is (8 + |ln v|) (1 + γ) units.

    The units are those of the arithmetic: float64 for float64, else float32.  What is stored in 16 bits may be off by
    half a unit of its own format on top of that, for it is rounded once.  What is not normal may be 0.
    """
    high, low = truth
    return float(np.max(_errors(found, high, low, dtype) / _bounds(high, dtype, larger, gamma), initial=0.0))


def _errors(found, high, low, dtype):
    kind = np.dtype(dtype)
    found = np.asarray(found).astype(np.float64)
    error = np.abs((found - high) - low)
    if kind.itemsize == 2:
        digits, lowest = (11, -14) if kind.char == "e" else (8, -126)
        exponent = np.maximum(np.frexp(found)[1] - 1, lowest)
        error = np.maximum(error - np.ldexp(1.0, exponent - digits), 0.0)
    return error


def _bounds(high, dtype, larger=0.0, gamma=0.0):
    precision = np.finfo(np.float64 if np.dtype(dtype).char == "d" else np.float32)
    size = np.maximum(np.abs(high), larger)
    normal = size >= precision.tiny
    size = np.where(normal, size, 1.0)
    unit = np.ldexp(float(precision.eps), np.frexp(size)[1] - 1)
    units = (8 if gamma else 4) + np.abs(np.log(size))
    return np.where(normal, unit * units * (1 + gamma), float(precision.tiny))


def row_excess(row, y, loss, grad, known=None, gamma=0.0):
    """The worst error over its bound in one row's loss (or None) and gradient (or None), with focal_gamma = γ."""
    values, where, _ = known = known or distinct(row)
    exact, own, others = focal(exact_row(row, y, known), gamma)
    worst = 0.0
    if loss is not None:
        worst = excess([loss], pair([exact]), np.float64 if row.dtype.char == "d" else np.float32, gamma=gamma)
    if grad is not None:
        high, low = pair([*(others.get(v, 0) for v in values.tolist()), own])
        where = where.copy()
        where[y] = values.size
        errors = _errors(grad, high[where], low[where], row.dtype)
        worst = max(worst, float(np.max(errors / _bounds(high, row.dtype, 0.0, gamma)[where], initial=0.0)))
    return worst
