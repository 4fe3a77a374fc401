"""Cross-entropy and its gradient with 200 digits, straight from the definition: what all else is held to.

p_y − 1 loses as many digits as the row is confident, 130 for a lead of 300; hence so many.
"""

from __future__ import annotations

import mpmath
import numpy as np

DIGITS = 200


def exact_rows(
    x, target, *, weight=None, sample_weight=None, ignore=(-100,), label_smoothing=0.0, logit_scale=1.0, softcap=None,
    z_coefficient=0.0, focal_gamma=0.0, columns=None,
):  # fmt: skip
    """Losses and gradients (of all columns, or those given) of the rows of x (N, C), as arrays of mpmath numbers."""
    with mpmath.workdps(DIGITS):
        mp = mpmath.mpf
        n, c = x.shape
        w = [mp(1)] * c if weight is None else [mp(float(v)) for v in weight]
        s = [mp(1)] * n if sample_weight is None else [mp(float(v)) for v in sample_weight]
        epsilon, scale = mp(label_smoothing), mp(logit_scale)
        losses, grads = np.zeros(n, object), np.zeros((n, c), object)
        for i in range(n):
            if np.ndim(target) == 1:
                if int(target[i]) in ignore:
                    continue
                t = [epsilon / c * w[j] + (1 - epsilon) * w[j] * (j == int(target[i])) for j in range(c)]
            else:
                t = [w[j] * ((1 - epsilon) * mp(float(target[i, j])) + epsilon / c) for j in range(c)]
            u = [scale * mp(float(v)) for v in x[i]]
            if softcap is None:
                z, slope = u, [scale] * c
            else:
                cap = mp(softcap)
                z = [cap * mpmath.tanh(v / cap) for v in u]
                slope = [scale * mpmath.sech(v / cap) ** 2 for v in u]
            top = max(z)
            e = [mpmath.exp(v - top) for v in z]
            total = mpmath.fsum(e)
            lse = top + mpmath.log(total)
            p = [v / total for v in e]
            factor = slope_factor = mp(1)
            if focal_gamma:
                y = int(target[i])
                q, gamma = mpmath.fsum(p[:y] + p[y + 1 :]), mp(focal_gamma)
                factor = q**gamma
                slope_factor = factor - gamma * q ** (gamma - 1) * p[y] * mpmath.log(p[y]) if q and p[y] else factor
            losses[i] = s[i] * (
                factor * mpmath.fsum(t[j] * (lse - z[j]) for j in range(c) if t[j] != 0) + z_coefficient * lse**2
            )
            t = [slope_factor * v for v in t]
            mass = mpmath.fsum(t)
            for j in range(c) if columns is None else columns:
                grads[i, j] = s[i] * slope[j] * (mass * p[j] - t[j] + 2 * z_coefficient * lse * p[j])
        return losses, grads


def excess(values, exact, precision):
    """The worst error over the (4 + |ln v|) ulp of the accuracy law; values below the smallest normal may be 0."""
    worst = 0.0
    tiny, eps = np.finfo(precision).tiny, np.finfo(precision).eps
    with mpmath.workdps(DIGITS):
        for value, truth in zip(np.ravel(values), np.ravel(exact), strict=True):
            size = abs(truth)
            error = abs(mpmath.mpf(float(value)) - truth)
            if size < tiny:
                worst = max(worst, float(error / tiny))
                continue
            ulp = mpmath.mpf(2) ** mpmath.floor(mpmath.log(size, 2)) * mpmath.mpf(float(eps))
            worst = max(worst, float(error / (ulp * (4 + abs(mpmath.log(size))))))
    return worst


def equal_others(value, n):
    """Loss and gradient at the target, whose logit is 0, of a row with n − 1 other classes that have this logit."""
    with mpmath.workdps(DIGITS):
        others = (n - 1) * mpmath.exp(mpmath.mpf(value))
        return mpmath.log1p(others), -others / (1 + others)


def ulps(value, exact, precision=np.float64):
    """The error of one value in units of the last place of the exact one."""
    with mpmath.workdps(DIGITS):
        unit = mpmath.mpf(2) ** mpmath.floor(mpmath.log(abs(exact), 2)) * mpmath.mpf(float(np.finfo(precision).eps))
        return float(abs(mpmath.mpf(float(value)) - exact) / unit)
