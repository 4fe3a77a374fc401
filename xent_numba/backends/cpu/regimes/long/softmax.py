"""softmax, log_softmax and logsumexp of long rows, whose classes lie side by side, from their statistics.

For a confident row, whose sum S of exponentials is close to 1, log S is log1p of the sum over all classes but the
largest.  S − 1 does not have all digits of that sum where it is small; the row is then summed once more without the
class of its maximum.
"""

from __future__ import annotations

import math
from typing import Any

from xent_numba.backends.cpu.compile.inline import inline
from xent_numba.backends.cpu.regimes.long.gradient import (
    GradientScalars,
    RowOutput,
    gradient_coefficients,
    write_gradient,
)
from xent_numba.backends.cpu.regimes.long.statistics import class_with, statistics
from xent_numba.backends.cpu.regimes.staging import flush_tail
from xent_numba.backends.cpu.regimes.work_items import work_item
from xent_numba.backends.cpu.row.epilogue import log_of_sum
from xent_numba.backends.cpu.row.operands import RowInput, row_pointer
from xent_numba.backends.cpu.row.transform import load_logit
from xent_numba.backends.cpu.simd.cache_control import elements_to_alignment, stream
from xent_numba.backends.cpu.simd.cast import promote
from xent_numba.backends.cpu.simd.load_store import advance, load, load_n, pointer, stack_buffer, store_n
from xent_numba.backends.cpu.simd.reduce import extract_lane
from xent_numba.backends.cpu.simd.vector import lanes_of, one_lane, splat, zero_vector


@inline
def _has_nan(row: Any, vtype: Any) -> bool:
    """Whether one of the logits is NaN."""
    for j in range(row.classes):
        x = load_logit(row.logits, j, None, vtype)
        if x != x:
            return True
    return False


@inline
def _log_sum(row: Any, stats: Any, exact: bool, vtype: Any) -> Any:
    """log S, S = Σ exp(x_j − max x), from the statistics; with all digits of its own if it is to be `exact`."""
    total = stats.sum_exp_others
    others = total - 1.0
    if others < 0.5 and exact:
        y = class_with(row, 0, row.classes, splat(stats.row_max, vtype))
        if y >= 0:
            others = statistics(
                RowInput(row.logits, row.classes, y, None, None, None, None, None), None, vtype
            ).sum_exp_others
    vtype64 = promote(vtype)
    return extract_lane(log_of_sum(one_lane(others, vtype64), one_lane(total, vtype64)), 0)


@inline
def _write_softmax(out: Any, row: Any, stats: Any, streaming: bool, vtype: Any) -> None:
    """Write exp(x_j − max x) / S from `out` on, where that is not None."""
    if out is not None:
        row_max = stats.row_max if stats.row_max > -math.inf else 0.0
        scalars = GradientScalars(row_max, 1.0 / stats.sum_exp_others, 0.0, 0.0)
        output = RowOutput(out, stack_buffer(vtype, 2), streaming)
        carry = write_gradient(row, output, 0, row.classes, gradient_coefficients(None, scalars, None, vtype), 0, vtype)
        flush_tail(output.staging, carry, advance(out, row.classes), vtype)


@inline
def _write_log_softmax(out: Any, row: Any, stats: Any, streaming: bool, vtype: Any) -> None:
    """Write (x_j − max x) − log S from `out` on, where that is not None."""
    if out is not None:
        lanes = lanes_of(vtype)
        log_s = _log_sum(row, stats, True, vtype)
        shift, log_sums, zero = splat(stats.row_max, vtype), splat(log_s, vtype), splat(0.0, vtype)
        head = elements_to_alignment(out, 0, vtype) if streaming else -1
        i = 0
        if head > 0:
            i = min(head, row.classes)
            store_n(out, 0, i, (load_n(row.logits, 0, i, zero) - shift) - log_sums)
        while i + lanes <= row.classes and head >= 0:
            stream(out, i, (load(row.logits, i, vtype) - shift) - log_sums)
            i += lanes
        while i < row.classes:
            count = min(lanes, row.classes - i)
            store_n(out, i, count, (load_n(row.logits, i, count, zero) - shift) - log_sums)
            i += count


@inline
def _write_logsumexp(out: Any, i: int, row: Any, stats: Any, vtype: Any) -> None:
    """out[i] = max x + log S, where `out` is not None."""
    if out is not None:
        row_max = stats.row_max
        if row_max == math.inf:
            out[i] = math.nan if _has_nan(row, vtype) else math.inf
        elif row_max == -math.inf:
            out[i] = row_max + stats.sum_exp_others  # the sum is 0, or nan
        else:
            exact = abs(row_max) < 4.0  # otherwise the result has no more digits than log S has as it is
            out[i] = row_max + _log_sum(row, stats, exact, vtype)


@inline
def softmax_long_rows(operands: Any, start: int, stop: int) -> None:
    """Compute what `SoftmaxOperands` ask for, for the rows start … stop."""
    vtype = zero_vector(pointer(operands.logits))
    for i in range(start, stop):
        a, b, _, _ = work_item(operands.logits.shape, i, 1)
        row = RowInput(row_pointer(operands.logits, a, b), operands.logits.shape[2], -1, None, None, None, None, None)
        stats = statistics(row, None, vtype)
        _write_softmax(row_pointer(operands.softmax, a, b), row, stats, operands.streaming, vtype)
        _write_log_softmax(row_pointer(operands.log_softmax, a, b), row, stats, operands.streaming, vtype)
        _write_logsumexp(operands.logsumexp, i, row, stats, vtype)
