"""Cross-entropy and its derivatives with 200 digits, straight from the definition: what all else is held to.

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
        n, c = x.shape
        losses, grads = np.zeros(n, object), np.zeros((n, c), object)
        rows = _rows(x, target, weight, sample_weight, ignore, label_smoothing, logit_scale, softcap)
        for i, s, t, z, slope, _, p, lse in rows:
            factor = slope_factor = mpmath.mpf(1)
            if focal_gamma:
                y = int(target[i])
                q, gamma = mpmath.fsum(p[:y] + p[y + 1 :]), mpmath.mpf(focal_gamma)
                factor = q**gamma
                slope_factor = factor - gamma * q ** (gamma - 1) * p[y] * mpmath.log(p[y]) if q and p[y] else factor
            losses[i] = s * (
                factor * mpmath.fsum(t[j] * (lse - z[j]) for j in range(c) if t[j] != 0) + z_coefficient * lse**2
            )
            t = [slope_factor * v for v in t]
            mass = mpmath.fsum(t)
            for j in range(c) if columns is None else columns:
                grads[i, j] = s * slope[j] * (mass * p[j] - t[j] + 2 * z_coefficient * lse * p[j])
        return losses, grads


def exact_curvature(
    x, target, v, *, weight=None, sample_weight=None, ignore=(-100,), label_smoothing=0.0, logit_scale=1.0,
    softcap=None, z_coefficient=0.0, focal_gamma=0.0, gauss_newton=False,
):  # fmt: skip
    """H v and the diagonal of H, for the Hessian H of the sum of the losses of the rows of x (N, C)."""
    with mpmath.workdps(DIGITS):
        n, c = x.shape
        products, diagonals = np.zeros((n, c), object), np.zeros((n, c), object)
        rows = _rows(x, target, weight, sample_weight, ignore, label_smoothing, logit_scale, softcap)
        for i, s, t, _, slope, bend, p, lse in rows:
            phi, psi, y = 1, 0, 0
            if focal_gamma:
                y = int(target[i])
                first, second = (
                    mpmath.diff(lambda q: -((1 - q) ** focal_gamma) * mpmath.log(q), p[y], k) for k in (1, 2)
                )
                phi, psi = -p[y] * first, -t[y] * p[y] * (first + p[y] * second)
            mass = phi * mpmath.fsum(t)
            factor, zeta = mass + 2 * z_coefficient * lse, 2 * z_coefficient
            u = [slope[j] * mpmath.mpf(float(v[i, j])) for j in range(c)]
            mean = mpmath.fsum(p[j] * u[j] for j in range(c))
            for j in range(c):
                lead = p[j] - (j == y)
                by_cap = 0 if gauss_newton else bend[j] * (factor * p[j] - phi * t[j])
                product = slope[j] * (p[j] * (factor * (u[j] - mean) + zeta * mean) + psi * (u[y] - mean) * lead)
                products[i, j] = s * (product + by_cap * mpmath.mpf(float(v[i, j])))
                diag = slope[j] ** 2 * (p[j] * (factor * (1 - p[j]) + zeta * p[j]) - psi * lead**2)
                diagonals[i, j] = s * (diag + by_cap)
        return products, diagonals


def _rows(x, target, weight, sample_weight, ignore, label_smoothing, logit_scale, softcap):
    """For each row that is not ignored: i, s_i, t, z = f(x), f', f'', p, lse."""
    mp = mpmath.mpf
    n, c = x.shape
    w = [mp(1)] * c if weight is None else [mp(float(v)) for v in weight]
    s = [mp(1)] * n if sample_weight is None else [mp(float(v)) for v in sample_weight]
    epsilon, scale = mp(label_smoothing), mp(logit_scale)
    for i in range(n):
        if np.ndim(target) == 1:
            if int(target[i]) in ignore:
                continue
            t = [epsilon / c * w[j] + (1 - epsilon) * w[j] * (j == int(target[i])) for j in range(c)]
        else:
            t = [w[j] * ((1 - epsilon) * mp(float(target[i, j])) + epsilon / c) for j in range(c)]
        u = [scale * mp(float(v)) for v in x[i]]
        if softcap is None:
            z, slope, bend = u, [scale] * c, [mp(0)] * c
        else:
            cap = mp(softcap)
            z = [cap * mpmath.tanh(v / cap) for v in u]
            slope = [scale * mpmath.sech(v / cap) ** 2 for v in u]
            bend = [-2 * scale / cap * mpmath.tanh(v / cap) * d for v, d in zip(u, slope, strict=True)]
        top = max(z)
        e = [mpmath.exp(v - top) for v in z]
        total = mpmath.fsum(e)
        lse = top + mpmath.log(total)
        p = [v / total for v in e]
        yield i, s[i], t, z, slope, bend, p, lse


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
