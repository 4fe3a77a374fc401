"""The mathematics of one row: transform, effective target, loss and gradient, composed from what a spec has on.

Two kinds of target.  *Sparse* (a label, no smoothing): the statistics (m, s) run over the other classes only,
m = max z_j and s = Σ exp(z_j - m) for j ≠ y.  The label's own logit joins at the end, so that a tiny loss is
log1p(s') and the label's gradient -Σ p_j, never 1 - (1 - tiny).  *Dense* (smoothing or a distribution): besides
them t = Σ t_j and d = Σ t_j (m - z_j), which has no cancellation, and 0 · (-inf) is left out.

The maximum starts at the lowest finite number, not at -inf: merging two rows' halves then never meets inf - inf.
A row without any term above -inf has the sum 0, and becomes NaN in `close`.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from xent_numba.backends.cuda.hw import intrinsics as hw
from xent_numba.backends.cuda.hw.access import access
from xent_numba.backends.cuda.row.address import rows
from xent_numba.backends.cuda.row.epilogue import class_weight, closing
from xent_numba.backends.cuda.row.spec import Spec


class RowMath(NamedTuple):
    """Device functions.  `real` is float32, or float64 where the logits or the distribution are."""

    real: Any
    stored: Any  # in which a result is rounded to the dtype of the logits: float64 for float64 logits, else float32
    floor: Any  # where a maximum starts
    low: Any  # -inf
    exp: Any  # e^d for d ≤ 0
    term: Any  # (z, m) -> e^(z - m), the summand of a row
    transform: Any  # (a, x) -> z
    label: Any  # (a, row) -> (live, y); y = -1 where there is no label
    label_score: Any  # (a, base, y) -> z_y, NaN for a label out of range
    target: Any  # (a, element of the distribution, class, y) -> t_j
    close: Any  # (a, row, y, m, s, d, t, z_y) -> (loss, lse, m, k, k_y, scale): see `emit`
    emit: Any  # (a, x, m, k, k_y, scale, t_j, is the label) -> what is stored
    finish: Any  # (a, row, loss, lse) -> None: stores what is asked of a row, by one thread


@cache
def rowmath(spec: Spec) -> RowMath:
    """The composition for `spec`."""
    real = hw.f64 if spec.wide else hw.f32
    exp = hw.exp if spec.wide else _exp2
    transform, slope = _transform(spec, real, exp)
    return RowMath(
        real,
        hw.f64 if spec.dtype == "float64" else hw.f32,
        real(np.finfo(np.float64 if spec.wide else np.float32).min),
        real(-np.inf),
        exp,
        _term(spec, real, exp),
        transform,
        _label(spec),
        _label_score(spec, real, transform),
        _target(spec, real),
        closing(spec, real, exp),
        _emit(spec, real, exp, transform, slope),
        _finish(spec),
    )


_LOG2_E = hw.f32(1.4426950408889634)


@hw.device
def _exp2(d: Any) -> Any:
    # x - max is rounded first, then scaled: folding both into one fma would round max · log2(e) instead.
    return hw.ex2(d * _LOG2_E)


def _term(spec: Spec, real: Any, exp: Any) -> Any:
    one, high = real(1), real(np.inf)
    if spec.lse:  # +inf - +inf must not look like the NaN of a NaN logit
        return hw.device(lambda z, m: one if z == high else exp(z - m))
    return hw.device(lambda z, m: exp(z - m))


def _transform(spec: Spec, real: Any, exp: Any) -> tuple[Any, Any]:
    """z = f(x) and f'(x)."""
    one, two, four = real(1), real(2), real(4)
    if spec.softcap:

        @hw.device
        def capped(a: Any, x: Any) -> Any:
            return real(a.softcap) * hw.tanh(real(a.inner_scale) * x)

        @hw.device
        def slope(a: Any, x: Any) -> Any:
            # sech² by exponentials: 1 - tanh² has no digits left where tanh is close to 1
            u = exp(-two * abs(real(a.inner_scale) * x))
            return real(a.logit_scale) * four * u / ((one + u) * (one + u))

        return capped, slope
    if spec.scaled:
        return hw.device(lambda a, x: real(a.logit_scale) * x), hw.device(lambda a, x: real(a.logit_scale))
    return hw.device(lambda a, x: x), hw.device(lambda a, x: one)


def _label(spec: Spec) -> Any:
    if not spec.labels:
        return hw.device(lambda a, row: (True, hw.i64(-1)))
    read = rows(spec).label
    if spec.ignore == 0:
        return hw.device(lambda a, row: (True, read(a, row)))
    if spec.ignore == 1:

        @hw.device
        def one(a: Any, row: Any) -> Any:
            y = read(a, row)
            return y != a.ignore, y

        return one

    @hw.device
    def several(a: Any, row: Any) -> Any:
        y = read(a, row)
        live = True
        for k in range(a.n_ignore):
            live = live and y != hw.load_i64(a.ignore_list + 8 * k)
        return live, y

    return several


def _label_score(spec: Spec, real: Any, transform: Any) -> Any:
    low, nan = real(-np.inf), real(np.nan)
    if not spec.labels:
        return hw.device(lambda a, base, y: low)
    load, size, strided = access(spec.dtype).load, access(spec.dtype).size, not spec.unit
    step = hw.device(lambda a: a.x_class) if strided else hw.device(lambda a: size)

    @hw.device
    def label_score(a: Any, base: Any, y: Any) -> Any:
        # Out of range only where the check of the labels was deferred: such a row is NaN until it reports.
        if y < 0 or y >= a.n_classes:
            return nan
        return transform(a, real(load(base + y * step(a))))

    return label_score


def _target(spec: Spec, real: Any) -> Any:
    """t_j of a dense target; `keep` is 1 - ε and `share` ε / C."""
    zero = real(0)
    weight = class_weight(spec, real)
    if not spec.smoothing:
        return hw.device(lambda a, q, j, y: weight(a, j) * real(q))

    @hw.device
    def of_distribution(a: Any, q: Any, j: Any, y: Any) -> Any:
        return weight(a, j) * (real(a.keep) * real(q) + real(a.share))

    @hw.device
    def of_label(a: Any, q: Any, j: Any, y: Any) -> Any:
        return weight(a, j) * ((real(a.keep) if j == y else zero) + real(a.share))

    return of_distribution if spec.distribution else of_label


def _emit(spec: Spec, real: Any, exp: Any, transform: Any, slope: Any) -> Any:
    if spec.store == "softmax":
        return hw.device(lambda a, x, m, k, k_y, scale, t, own: exp(transform(a, x) - m) * k)
    if spec.store == "log_softmax":
        return hw.device(lambda a, x, m, k, k_y, scale, t, own: (transform(a, x) - m) - k)
    if spec.dense:
        return hw.device(
            lambda a, x, m, k, k_y, scale, t, own: (exp(transform(a, x) - m) * k - t) * scale * slope(a, x)
        )
    return hw.device(
        lambda a, x, m, k, k_y, scale, t, own: (k_y if own else exp(transform(a, x) - m) * k) * slope(a, x)
    )


def _finish(spec: Spec) -> Any:
    want_rows, want_lse = spec.rows, spec.lse
    store, size, stored = (hw.store_f64, 8, hw.f64) if spec.dtype == "float64" else (hw.store_f32, 4, hw.f32)

    @hw.device
    def finish_rows(a: Any, row: Any, loss: Any, lse: Any) -> None:
        store(a.rows + size * row, stored(loss))

    @hw.device
    def finish_lse(a: Any, row: Any, loss: Any, lse: Any) -> None:
        store(a.lse + size * row, stored(lse))

    if want_rows:
        return finish_rows
    return finish_lse if want_lse else hw.device(lambda a, row, loss, lse: None)
