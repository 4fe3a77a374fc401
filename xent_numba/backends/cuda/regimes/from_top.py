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
    """What a thread has found in its share of a row so far.

    Its sums are relative to an origin, a class that was the top once, with the terms e_j = exp(z_j − z_origin).  The
    origin follows the top only where that has risen by more than 1: rescaling the sums whenever the top rises would add
    up one error for each class of an ascending row.
    """

    top: Any  # `Top`
    origin: Any  # `Top`
    others: Any  # `Sum`s: Σ e_j of all classes but the top,
    gap: Any  # Σ e_j (z_origin − z_j),
    stream: Any  # Σ e_j (f'_j v_j − f'_origin v_origin),
    target_sum: Any  # and Σ t_j of a dense target, of all classes
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
            sums = measure(args, x, second, (key_of(args, x_y), y, q), nothing(), thread)
            found = merge(args, x, second, sums)
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
        top = Top(minus_inf, hw.i64(-1), minus_inf, zero)
        return ThreadSums(top, top, none, none, none, none, hw.i64(0))

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
    transform, derivative, key_of = maths.transform, maths.derivative, order_key(spec, maths.real)
    _, has_stream, has_target, has_rank = _wanted(spec)
    join, rebase, one, zero = _join(spec), _rebase(spec), maths.real(1), maths.real(0)
    target: Any = target_reader(spec, maths.real, address_functions(spec).distribution_stride) if has_target else None

    @hw.device
    def add(args: Any, fixed: Any, sums: Any, j: Any, x: Any, v: Any) -> Any:
        label_key, y, q = fixed
        top, origin, others, gap, stream, target_sum, before = sums
        key = key_of(args, x)
        if has_target:
            target_sum = add_to(target_sum, target(args, q, j, y))
        if has_rank and precedes(key, j, label_key, y):
            before += 1
        found = Top(key, j, transform(args, x), derivative(args, x) * v if has_stream else zero)
        sums = ThreadSums(top, origin, others, gap, stream, target_sum, before)
        rises = precedes(key, j, top.key, top.j)
        if rises:
            top, found = found, top
        sums = join(sums, found, top)
        return rebase(sums, top) if rises and not top.z - origin.z <= one else sums

    return add


def _join(spec: Spec) -> Any:
    """(ThreadSums, a class, the top) -> the ThreadSums with this class among the others, and with this top."""
    maths = row_functions(spec)
    exp, zero = maths.exp, maths.real(0)
    has_gap, has_stream, _, _ = _wanted(spec)

    @hw.device
    def join(sums: Any, found: Any, top: Any) -> Any:
        _, origin, others, gap, stream, target_sum, before = sums
        if found.j >= 0:
            term = exp(found.z - origin.z)
            others = add_to(others, term)
            if has_gap and term != zero:  # 0 · inf is 0 here
                gap = add_to(gap, term * (origin.z - found.z))
            if has_stream:
                stream = add_to(stream, term * (found.slope_v - origin.slope_v))
        return ThreadSums(top, origin, others, gap, stream, target_sum, before)

    return join


def _rebase(spec: Spec) -> Any:
    """(ThreadSums, a top) -> the ThreadSums with this top and this origin."""
    maths = row_functions(spec)
    exp, zero, minus_inf = maths.exp, maths.real(0), maths.real(-np.inf)
    has_gap, has_stream, _, _ = _wanted(spec)

    @hw.device
    def rebase(sums: Any, top: Any) -> Any:
        _, origin, others, gap, stream, target_sum, before = sums
        none = Sum(zero, zero)
        if origin.j < 0 or (origin.z == minus_inf and top.z > minus_inf):  # nothing that counts so far
            return ThreadSums(top, top, none, none, none, target_sum, before)
        scale = exp(origin.z - top.z)
        if has_gap:
            rebased = (gap.value + others.value * (top.z - origin.z)) * scale
            gap = none if scale == zero else Sum(rebased, gap.compensation * scale)
        if has_stream:
            rebased = (stream.value + others.value * (origin.slope_v - top.slope_v)) * scale
            stream = Sum(rebased, stream.compensation * scale)
        others = Sum(others.value * scale, others.compensation * scale)
        return ThreadSums(top, top, others, gap, stream, target_sum, before)

    return rebase


def _merge(spec: Spec, threads: int) -> Any:
    """(args, x, second, ThreadSums of a thread) -> `RowFromTop`, the same for all threads of the row."""
    maths, memory = row_functions(spec), address_functions(spec)
    real, transform, derivative = maths.real, maths.transform, maths.derivative
    has_gap, has_stream, has_target, has_rank = _wanted(spec)
    first, add, count = row_first(threads, real, precedes), row_sum(threads, real), row_sum(threads, hw.i64)
    load, load_second, rebase = memory.access.load, memory.second_load, _rebase(spec)
    join = _join(spec)
    stride, second_stride, zero = memory.logits_stride, memory.second_stride, real(0)

    @hw.device
    def merge(args: Any, x: Any, second: Any, sums: Any) -> Any:
        key, index = first(sums.top.key, sums.top.j)
        row_top = sums.top
        if index != sums.top.j:
            logit, slope_v = real(load(x + index * stride(args))), zero
            if has_stream:
                slope_v = derivative(args, logit) * real(load_second(second + index * second_stride(args)))
            row_top = Top(key, index, transform(args, logit), slope_v)
            sums = join(sums, sums.top, row_top)
        top, _, others, gap, stream, target_sum, before = rebase(sums, row_top)
        total = add(others.value)
        measured = Measured(add(gap.value) if has_gap else zero, add(stream.value) if has_stream else zero)
        stats = RowStatistics(top.z, total, zero, add(target_sum.value) if has_target else zero)
        return RowFromTop(top, stats, measured, count(before) if has_rank else before)

    return merge
