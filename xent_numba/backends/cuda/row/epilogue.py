"""From the statistics of a row to its loss and to the factors of its gradient."""

from __future__ import annotations

from typing import Any

import numpy as np

from xent_numba.backends.cuda.hw import intrinsics as hw
from xent_numba.backends.cuda.hw.access import access
from xent_numba.backends.cuda.row.spec import Spec


def closing(spec: Spec, real: Any, exp: Any) -> Any:
    """(a, row, y, m, s, d, t, z_y) -> (loss, lse, m, k, k_y, scale), where, before the slope of the transform,

    a sparse gradient is k · exp(z_j - m), and k_y at the label; a dense one (k · exp(z_j - m) - t_j) · scale;
    a softmax is k · exp(z_j - m), and a log_softmax z_j - m - k.
    """
    scales = _scales(spec, real)
    if spec.saved_lse:
        return _close_saved(spec, real, exp, scales)
    if spec.dense:
        return _close_dense(spec, real, scales)
    return _close_sparse(spec, real, exp, scales) if spec.labels else _close_plain(spec, real)


def class_weight(spec: Spec, real: Any) -> Any:
    """(a, class) -> w_j, 1 where there are no class weights or the class is out of range."""
    one = real(1)
    if not spec.weight:
        return hw.device(lambda a, j: one)
    load, size = access(spec.weight).load, access(spec.weight).size

    @hw.device
    def weight(a: Any, j: Any) -> Any:
        return real(load(a.weight + size * j)) if 0 <= j < a.n_classes else one

    return weight


def _scales(spec: Spec, real: Any) -> Any:
    """(a, row) -> (factor of the row's loss, factor of its gradient, coefficient of lse²)."""
    factor = _factor("sample_weight", spec.sample_weight, real)
    upstream = _factor("grad_output", spec.grad_output, real)
    one, zero = real(1), real(0)
    lse2: Any = hw.device(lambda a: real(a.z_coefficient)) if spec.z_loss else hw.device(lambda a: zero)
    gradient: Any = hw.device(lambda a: one)
    ratio: Any = hw.device(lambda a: one)
    if spec.store == "grad":
        gradient = hw.device(lambda a: real(a.grad_scale))
    if spec.device_scales:
        # (1 / denominator, ratio of the two denominators), written by the deferred scan of the labels
        ratio = hw.device(lambda a: real(hw.load_f64(a.scales + 8)))
        if spec.store == "grad":
            gradient = hw.device(lambda a: real(hw.load_f64(a.scales) * a.grad_scale))

    @hw.device
    def scales(a: Any, row: Any) -> Any:
        s = factor(a, row)
        return s, s * gradient(a) * upstream(a, row), lse2(a) * ratio(a)

    return scales


def _factor(name: str, dtype: str, real: Any) -> Any:
    one = real(1)
    if not dtype:
        return hw.device(lambda a, row: one)
    load, size = access(dtype).load, access(dtype).size
    if name == "sample_weight":
        return hw.device(lambda a, row: real(load(a.sample_weight + size * row)))
    return hw.device(lambda a, row: real(load(a.grad_output + a.upstream_step * row)))


def _close_sparse(spec: Spec, real: Any, exp: Any, scales: Any) -> Any:
    weight = class_weight(spec, real)
    z_loss = spec.z_loss
    two, zero, nan, high = real(2), real(0), real(np.nan), real(np.inf)

    @hw.device
    def close(a: Any, row: Any, y: Any, m_others: Any, s: Any, d: Any, t: Any, z: Any) -> Any:
        m = hw.fmax(m_others, z)
        others, own = s * exp(m_others - m), exp(z - m)
        total = others + own
        if not (total > zero and m < high):  # all -inf, +inf or NaN
            others, total = nan, nan
        log_total = hw.log1p(others) if z >= m_others else hw.log(total)
        lse = m + log_total
        w = weight(a, y)
        loss = w * ((m - z) + log_total) if w > zero else zero * lse
        row_scale, scale, lse2 = scales(a, row)
        inverse = scale / total
        if z_loss:
            push = two * lse2 * lse
            loss += lse2 * lse * lse
            k, k_y = (w + push) * inverse, (push * own - w * others) * inverse
        else:
            k, k_y = w * inverse, -(w * others) * inverse
        return row_scale * loss if row_scale > zero else zero * lse, lse, m, k, k_y, scale

    return close


def _close_dense(spec: Spec, real: Any, scales: Any) -> Any:
    z_loss = spec.z_loss
    two, zero, nan, high = real(2), real(0), real(np.nan), real(np.inf)

    @hw.device
    def close(a: Any, row: Any, y: Any, m: Any, s: Any, d: Any, t: Any, z: Any) -> Any:
        total = s if s > zero and m < high and z == z else nan  # z: NaN for a label out of range
        log_total = hw.log(total)
        lse = m + log_total
        loss = t * log_total + d
        row_scale, scale, lse2 = scales(a, row)
        if z_loss:
            loss += lse2 * lse * lse
            t += two * lse2 * lse
        return row_scale * loss if row_scale > zero else zero * lse, lse, m, t / total, zero, scale

    return close


def _close_plain(spec: Spec, real: Any) -> Any:
    logarithm, keeps_infinities = spec.store == "log_softmax", spec.lse
    one, zero, nan, high, low = real(1), real(0), real(np.nan), real(np.inf), real(-np.inf)

    @hw.device
    def close(a: Any, row: Any, y: Any, m: Any, s: Any, d: Any, t: Any, z: Any) -> Any:
        if keeps_infinities:  # log of a sum, not a normalisation: of -inf alone it is -inf, of any +inf it is +inf
            return zero, m + hw.log(s) if s > zero or s != s else low, m, zero, zero, one
        total = s if s > zero and m < high else nan
        log_total = hw.log(total)
        return zero, m + log_total, m, log_total if logarithm else one / total, zero, one

    return close


def _close_saved(spec: Spec, real: Any, exp: Any, scales: Any) -> Any:
    """With log Σ exp given there is nothing to sum: p_j = exp(z_j - lse), and p_y - 1 = expm1(z_y - lse).

    What float32 cannot hold of a float64 lse goes to the factors: exp(z - lse) = exp(z - high) · exp(-rest).
    """
    weight = class_weight(spec, real)
    load, size = access(spec.saved_lse).load, access(spec.saved_lse).size
    dense, two, zero, has_label = spec.dense, real(2), real(0), bool(spec.labels)
    least, most, nan = hw.f64(-np.inf), hw.f64(np.inf), real(np.nan)

    @hw.device
    def close(a: Any, row: Any, y: Any, m: Any, s: Any, d: Any, t: Any, z: Any) -> Any:
        saved = hw.f64(load(a.saved_lse + size * row))
        high = real(saved) if least < saved < most else nan
        if has_label and (y < 0 or y >= a.n_classes):
            high = nan
        rest = real(saved - hw.f64(high))
        row_scale, scale, lse2 = scales(a, row)
        push = two * lse2 * high
        fine = hw.exp(-rest)
        if dense:
            return zero, high, high, (t + push) * fine, zero, scale
        w = weight(a, y)
        from_label = (z - high) - rest
        k_y = w * hw.expm1(from_label) + push * hw.exp(from_label)
        return zero, high, high, (w + push) * fine * scale, k_y * scale, scale

    return close
