"""Rows whose sums are taken from their top class, the first of the largest: for row statistics and curvature.

What is measured from the top keeps its digits where it is small: the sum of all other exponentials, and the sums that
`row.top.Measured` has.  All sums are compensated (Kahan): a thread may add thousands of terms.

Two regimes serve any shape and any strides, with one read of a row and, where there is an output, a second one: a block
per row ("online"), and a thread per row ("columns").
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from xent_numba.backends.cuda.hw import intrinsics as hw
from xent_numba.backends.cuda.hw.reduce import row_first, row_sum
from xent_numba.backends.cuda.regimes.sweep import Sum, add_to, sweep
from xent_numba.backends.cuda.row.address import address_functions
from xent_numba.backends.cuda.row.curvature import curvature_epilogue, curvature_visit
from xent_numba.backends.cuda.row.epilogue import RowStatistics
from xent_numba.backends.cuda.row.functions import row_functions
from xent_numba.backends.cuda.row.row_statistics import store_ignored, store_statistics
from xent_numba.backends.cuda.row.spec import Spec
from xent_numba.backends.cuda.row.target import label_logit, target_reader
from xent_numba.backends.cuda.row.top import Measured, RowFromTop, Top, order_key, precedes


class ThreadSums(NamedTuple):
    """What a thread has found in its share of a row so far; the sums are relative to its own top class."""

    top: Any  # `Top`
    others: Any  # `Sum`s: Σ e_j of all classes but the top,
    gap: Any  # and as in `Measured`
    stream: Any
    target_sum: Any  # Σ t_j of a dense target
    before: Any  # int64, as in `RowFromTop`


def row_from_top(spec: Spec, threads: int, batch: int) -> Any:
    """A device function (args, row, thread of the row) that the `threads` threads of a row call together."""
    maths, memory = row_functions(spec), address_functions(spec)
    real, kept_label, key_of = maths.real, maths.kept_label, order_key(spec, maths.real)
    logits_row, second_row, out_row = memory.logits_row, memory.second_row, memory.out_row
    second_out_row, distribution_row = memory.second_out_row, memory.distribution_row
    fill_row, fill_second = memory.fill_row, memory.fill_second
    has_second, has_distribution = bool(spec.second), bool(spec.distribution)
    has_output, has_second_out = bool(spec.output), spec.second_out
    read_label_logit = label_logit(spec, real, hw.device(lambda args, x: x))
    nothing, measure, merge = _nothing(spec), sweep(spec, threads, batch, _add(spec)), _merge(spec, threads)
    store_row, store_ignored_row = store_statistics(spec, maths), store_ignored(spec)
    epilogue: Any = curvature_epilogue(spec, maths) if has_output else None
    write: Any = sweep(spec, threads, batch, curvature_visit(spec, maths, memory)) if has_output else None
    transform, derivative, load_second = maths.transform, maths.derivative, memory.second_load
    second_stride, reads_label_v, zero = memory.second_stride, has_second and spec.focal, real(0)

    @hw.device
    def compute_row(args: Any, row: Any, thread: Any) -> None:
        kept, y = kept_label(args, row)
        out = out_row(args, row) if has_output else hw.i64(0)
        second_out = second_out_row(args, row) if has_second_out else hw.i64(0)
        if kept:
            x = logits_row(args, row)
            second = second_row(args, row) if has_second else hw.i64(0)
            q = distribution_row(args, row) if has_distribution else hw.i64(0)
            x_y, slope_v_y = read_label_logit(args, x, y), zero
            if reads_label_v and 0 <= y < args.n_classes:
                slope_v_y = derivative(args, x_y) * real(load_second(second + y * second_stride(args)))
            share = measure(args, x, second, (key_of(args, x_y), y, q), nothing(), thread)
            found = merge(args, x, second, share)
            if thread == 0:
                store_row(args, row, y, x_y, found)
            if has_output:
                factors = epilogue(args, row, y, transform(args, x_y), slope_v_y, found)
                write(args, x, second, (factors, y, q, out, second_out), hw.i64(0), thread)
        else:  # not read
            if has_output:
                fill_row(args, out, zero, thread, threads)
            if has_second_out:
                fill_second(args, second_out, zero, thread, threads)
            if thread == 0:
                store_ignored_row(args, row)

    return compute_row


def _nothing(spec: Spec) -> Any:
    """() -> the `ThreadSums` of no class."""
    real = row_functions(spec).real
    zero, minus_inf = real(0), real(-np.inf)

    @hw.device
    def nothing() -> Any:
        none = Sum(zero, zero)
        return ThreadSums(Top(minus_inf, hw.i64(-1), minus_inf, zero), none, none, none, none, hw.i64(0))

    return nothing


def _wanted(spec: Spec) -> tuple[bool, bool, bool, bool]:
    """Which sums are: (gap, stream, target sum, classes before the label)."""
    return (
        "entropy" in spec.statistics,
        spec.output == "hvp",
        bool(spec.output) and spec.dense,
        "rank" in spec.statistics,
    )


def _add(spec: Spec) -> Any:
    """(args, (key of the label, y, q), ThreadSums, j, x_j, v_j) -> the ThreadSums with one more class."""
    maths = row_functions(spec)
    exp, transform, derivative = maths.exp, maths.transform, maths.derivative
    has_gap, has_stream, has_target, has_rank = _wanted(spec)
    key_of, rebase, zero = order_key(spec, maths.real), _rebase(spec), maths.real(0)
    target: Any = target_reader(spec, maths.real, address_functions(spec).distribution_stride) if has_target else None

    @hw.device
    def add(args: Any, fixed: Any, share: Any, j: Any, x: Any, v: Any) -> Any:
        label_key, y, q = fixed
        top, others, gap, stream, target_sum, before = share
        key, z = key_of(args, x), transform(args, x)
        slope_v = derivative(args, x) * v if has_stream else zero
        if has_target:
            t_j = target(args, q, j, y)
            target_sum = add_to(target_sum, t_j)
        if has_rank and precedes(key, j, label_key, y):
            before += 1
        share = ThreadSums(top, others, gap, stream, target_sum, before)
        if precedes(key, j, top.key, top.j):
            return rebase(share, Top(key, j, z, slope_v))
        term = exp(z - top.z)
        others = add_to(others, term)
        if has_gap and term != zero:  # 0 · inf is 0 here
            gap = add_to(gap, term * (top.z - z))
        if has_stream:
            stream = add_to(stream, term * (slope_v - top.slope_v))
        return ThreadSums(top, others, gap, stream, target_sum, before)

    return add


def _rebase(spec: Spec) -> Any:
    """(ThreadSums, another top) -> the ThreadSums relative to that, which comes before its own; its own becomes another class."""
    maths = row_functions(spec)
    exp, one, zero, minus_inf = maths.exp, maths.real(1), maths.real(0), maths.real(-np.inf)
    has_gap, has_stream, _, _ = _wanted(spec)

    @hw.device
    def rebase(share: Any, top: Any) -> Any:
        old, others, gap, stream, target_sum, before = share
        if old.j < 0 or (old.z == minus_inf and top.z > minus_inf):  # nothing that counts so far
            none = Sum(zero, zero)
            return ThreadSums(top, none, none, none, target_sum, before)
        scale = exp(old.z - top.z)
        with_old = one + others.value
        if has_gap:
            gap = (
                Sum(zero, zero)
                if scale == zero
                else Sum((gap.value + with_old * (top.z - old.z)) * scale, gap.compensation * scale)
            )
        if has_stream:
            stream = Sum((stream.value + with_old * (old.slope_v - top.slope_v)) * scale, stream.compensation * scale)
        return ThreadSums(top, Sum(with_old * scale, others.compensation * scale), gap, stream, target_sum, before)

    return rebase


def _merge(spec: Spec, threads: int) -> Any:
    """(args, x, second, ThreadSums of a thread) -> `RowFromTop`, the same for all threads of the row."""
    maths, memory = row_functions(spec), address_functions(spec)
    real, transform, derivative = maths.real, maths.transform, maths.derivative
    has_gap, has_stream, has_target, has_rank = _wanted(spec)
    first, add, count = row_first(threads, real, precedes), row_sum(threads, real), row_sum(threads, hw.i64)
    load, load_second, rebase = memory.access.load, memory.second_load, _rebase(spec)
    stride, second_stride, zero = memory.logits_stride, memory.second_stride, real(0)

    @hw.device
    def merge(args: Any, x: Any, second: Any, share: Any) -> Any:
        key, index = first(share.top.key, share.top.j)
        if index != share.top.j:
            logit, slope_v = real(load(x + index * stride(args))), zero
            if has_stream:
                slope_v = derivative(args, logit) * real(load_second(second + index * second_stride(args)))
            share = rebase(share, Top(key, index, transform(args, logit), slope_v))
        top, others, gap, stream, target_sum, before = share
        total = add(others.value)
        measured = Measured(add(gap.value) if has_gap else zero, add(stream.value) if has_stream else zero)
        stats = RowStatistics(top.z, total, zero, add(target_sum.value) if has_target else zero)
        return RowFromTop(top, stats, measured, count(before) if has_rank else before)

    return merge
