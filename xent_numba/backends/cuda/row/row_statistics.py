"""What `row_statistics` stores of a row: log-probability and rank of the label, entropy, argmax, log-sum-exp."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from xent_numba.backends.cuda.hw import intrinsics as hw
from xent_numba.backends.cuda.row.spec import STATISTICS, Spec

if TYPE_CHECKING:
    from xent_numba.backends.cuda.row.functions import RowFunctions


def store_statistics(spec: Spec, maths: RowFunctions) -> Any:
    """(args, row, y, logit of the label, RowFromTop) -> None: stores what the spec names; one thread calls it."""
    real, transform = maths.real, maths.transform
    store, size, stored = _result(spec)
    log_prob, entropy, argmax, rank, logsumexp = _wanted(spec)
    one, inf, minus_inf, nan = real(1), real(np.inf), real(-np.inf), real(np.nan)

    @hw.device
    def store_row(args: Any, row: Any, y: Any, x_y: Any, found: Any) -> None:
        row_max, others = found.top.z, found.stats.sum_exp_others
        finite = minus_inf < row_max < inf  # not of a row with NaN, which is the top then
        log_total = hw.log1p(others) if finite else nan
        if log_prob:
            store(args.log_prob + size * row, stored((transform(args, x_y) - row_max) - log_total))
        if entropy:
            store(args.entropy + size * row, stored(log_total + found.measured.gap / (one + others)))
        if logsumexp:
            store(args.logsumexp + size * row, stored(row_max + log_total if finite else row_max))
        if argmax:
            hw.store_i64(args.argmax + 8 * row, found.top.j)
        if rank:
            hw.store_i64(args.rank + 8 * row, found.before + 1)

    return store_row


def store_ignored(spec: Spec) -> Any:
    """(args, row) -> None: stores what the spec names of an ignored row."""
    store, size, stored = _result(spec)
    log_prob, entropy, argmax, rank, logsumexp = _wanted(spec)
    zero = stored(0)

    @hw.device
    def store_row(args: Any, row: Any) -> None:
        if log_prob:
            store(args.log_prob + size * row, zero)
        if entropy:
            store(args.entropy + size * row, zero)
        if logsumexp:
            store(args.logsumexp + size * row, zero)
        if argmax:
            hw.store_i64(args.argmax + 8 * row, hw.i64(-1))
        if rank:
            hw.store_i64(args.rank + 8 * row, hw.i64(0))

    return store_row


def _result(spec: Spec) -> tuple[Any, int, Any]:
    """How a real number of a row is stored: the function, its bytes, its type."""
    return (hw.store_f64, 8, hw.f64) if spec.dtype == "float64" else (hw.store_f32, 4, hw.f32)


def _wanted(spec: Spec) -> tuple[bool, ...]:
    """Which statistics are stored, in the order of `STATISTICS`."""
    return tuple(name in spec.statistics for name in STATISTICS)
