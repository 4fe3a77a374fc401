"""One row of very many classes, its segments in parallel: for calls with fewer rows than threads.

The segments and their order are those of `statistics`, so the bits are those of a row that one thread walks.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from xent_numba.backends.cpu.compile.inline import inline
from xent_numba.backends.cpu.compile.kernel import kernel
from xent_numba.backends.cpu.plan import SEGMENT_CLASSES
from xent_numba.backends.cpu.regimes.long import (
    buffer_row,
    buffered_losses,
    loss_buffer,
    row_gradient_factors,
    value_at_target,
)
from xent_numba.backends.cpu.regimes.long_gradient import (
    gradient_coefficients,
    load_logit,
    store_gradient,
    stream_gradient,
)
from xent_numba.backends.cpu.regimes.long_stats import merge, segment
from xent_numba.backends.cpu.regimes.staging import flush_tail
from xent_numba.backends.cpu.row.epilogue import RowStatistics
from xent_numba.backends.cpu.row.operands import (
    Operands,
    dense_target_of,
    label,
    label_weight_of,
    row_pointer,
    store_loss,
    value_or_one,
    vtype_of,
)
from xent_numba.backends.cpu.runtime.parallel_for import parallel_for
from xent_numba.backends.cpu.simd.cast import promote
from xent_numba.backends.cpu.simd.load_store import advance, stack_buffer
from xent_numba.backends.cpu.simd.reduce import extract_lane


class Place(NamedTuple):
    """Where row i is, and what it is."""

    a: int
    b: int
    y: int


@inline
def _place(call: Any, labels: Any, i: int) -> Any:
    width, n = call.logits.shape[1:]
    a = i // width
    return Place(a, i - a * width, label(labels, i, n, call.ignored))


@kernel
def split_statistics(fields: Any, i: int, parts: Any, loop: int) -> None:
    """Into parts[k]: top, rest, dot and mass of segment k of row i, which is not an ignored one."""
    parallel_for(_one_part, (fields, i, parts), parts.shape[0], loop)


@inline
def _one_part(fields: Any, i: int, parts: Any, k: int) -> None:
    call = Operands(*fields)
    vtype = vtype_of(call)
    n = call.logits.shape[2]
    at_row = _place(call, call.labels, i)
    p = row_pointer(call.logits, at_row.a, at_row.b)
    t = dense_target_of(call.dense, row_pointer(call.distribution, at_row.a, at_row.b), call.dense_weight)
    row = segment(
        p, k * SEGMENT_CLASSES, min(n, (k + 1) * SEGMENT_CLASSES), at_row.y, call.transform, call.scale, t, None, vtype
    )
    parts[k, 0], parts[k, 1], parts[k, 2], parts[k, 3] = row.row_max, row.sum_exp_others, row.target_gap, row.target_sum


@kernel
def split_outcome(fields: Any, i: int, parts: Any, slope: Any) -> Any:
    """The loss of row i from its parts; into `slope`: shift, factor of p, factor of u and the value at the target."""
    return _outcome(Operands(*fields), i, parts, slope)


@inline
def _outcome(call: Any, i: int, parts: Any, slope: Any) -> Any:
    vtype = vtype_of(call)
    at_row = _place(call, call.labels, i)
    p = row_pointer(call.logits, at_row.a, at_row.b)
    t = dense_target_of(call.dense, row_pointer(call.distribution, at_row.a, at_row.b), call.dense_weight)
    row = RowStatistics(parts[0, 0], parts[0, 1], parts[0, 2], parts[0, 3])
    for k in range(1, parts.shape[0]):
        row = merge(row, RowStatistics(parts[k, 0], parts[k, 1], parts[k, 2], parts[k, 3]), call.scale, vtype)
    x_y = load_logit(p, max(at_row.y, 0), call.transform, vtype)
    label_weight = label_weight_of(call.confidence, call.weight, at_row.y)
    scale = value_or_one(call.sample_weight, i)
    pending = loss_buffer(promote(vtype))
    buffer_row(pending, 0, row, x_y, label_weight, scale)
    loss = extract_lane(buffered_losses(pending, call.confidence, call.scale, call.z_loss, vtype), 0)
    store_loss(call.rows, i, loss)
    k = scale * value_or_one(call.upstream, i) * call.grad_scale
    by = row_gradient_factors(row, label_weight, x_y, call.scale, call.z_loss, vtype)
    slope[0] = row.row_max if row.row_max > -np.inf else 0.0
    slope[1] = extract_lane(by.p_factor, 0) * k
    slope[2] = k
    slope[3] = value_at_target(at_row.y, extract_lane(by.at_target, 0), k, p, t, call.transform, vtype)
    return loss


@kernel
def split_gradient(fields: Any, i: int, slope: Any, segments: int, loop: int) -> None:
    """The gradient of row i, the last segments first: they are the likeliest to be in a cache still."""
    parallel_for(_one_gradient, (fields, i, slope, segments), segments, loop)


@inline
def _one_gradient(fields: Any, i: int, slope: Any, segments: int, k: int) -> None:
    k = segments - 1 - k
    call = Operands(*fields)
    vtype = vtype_of(call)
    n = call.logits.shape[2]
    at_row = _place(call, call.labels, i)
    p, out = row_pointer(call.logits, at_row.a, at_row.b), row_pointer(call.grad, at_row.a, at_row.b)
    t = dense_target_of(call.dense, row_pointer(call.distribution, at_row.a, at_row.b), call.dense_weight)
    start, stop = k * SEGMENT_CLASSES, min(n, (k + 1) * SEGMENT_CLASSES)
    by = gradient_coefficients(slope[0], slope[1], slope[2], call.scale, vtype)
    if call.streaming:
        staging = stack_buffer(vtype, 2)
        carry = stream_gradient(
            p, out, start, stop, at_row.y, slope[3], by, call.transform, call.scale, t, staging, 0, vtype
        )  # fmt: skip
        flush_tail(staging, carry, advance(out, stop), vtype)
    else:
        store_gradient(p, out, start, stop, at_row.y, slope[3], by, call.transform, call.scale, t, vtype)
