"""Rows of a student beside those of its teacher: the divergence, and its gradient for the student.

The logits are those of the student, the second array is that of the teacher.  A row is read for the two maxima, for the
sums relative to them, for the divergence around the average difference that these give, and for the gradient.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from xent_numba.backends.cuda.hw import intrinsics as hw
from xent_numba.backends.cuda.hw.reduce import exact_difference, row_first, row_sum
from xent_numba.backends.cuda.regimes.sweep import Sum, add_to, sweep
from xent_numba.backends.cuda.row import distillation
from xent_numba.backends.cuda.row.address import address_functions
from xent_numba.backends.cuda.row.epilogue import row_factors_function
from xent_numba.backends.cuda.row.functions import row_functions
from xent_numba.backends.cuda.row.spec import Spec
from xent_numba.backends.cuda.row.top import precedes


def row_from_teacher(spec: Spec, threads: int, batch: int) -> Any:
    """A device function (args, row, thread of the row) that the `threads` threads of a row call together."""
    maths, memory = row_functions(spec), address_functions(spec)
    logits_row, second_row, out_row = memory.logits_row, memory.second_row, memory.out_row
    read, has_output = _read_teacher(spec, threads, batch), bool(spec.output)
    add_terms, add = sweep(spec, threads, batch, _add_terms), row_sum(threads, hw.f64)
    loss_of, row_factors = distillation.divergence(spec), row_factors_function(spec, hw.f64)
    store_row_result: Any = maths.store_row_result
    write: Any = sweep(spec, threads, batch, _store_gradient(spec)) if has_output else None
    zero, inf = hw.f64(0), hw.f64(np.inf)

    @hw.device
    def compute_row(args: Any, row: Any, thread: Any) -> None:
        x, second = logits_row(args, row), second_row(args, row)
        found = read(args, x, second, thread)
        none = Sum(zero, zero)
        h, mean = add_terms(args, x, second, found, (none, none), thread)
        loss, log_total = loss_of(args, found, add(h.value), add(mean.value))
        sample_weight, scale, _ = row_factors(args, row)
        if thread == 0:
            store_row_result(args, row, zero if sample_weight == zero and loss == inf else sample_weight * loss, zero)
        if has_output:
            write(args, x, second, (found, log_total, scale, out_row(args, row)), hw.i64(0), thread)

    return compute_row


def _read_teacher(spec: Spec, threads: int, batch: int) -> Any:
    """(args, x, second, thread) -> `Teacher`, the same for all threads of the row, in two reads of it."""
    memory = address_functions(spec)
    first, add = row_first(threads, hw.f64, precedes), row_sum(threads, hw.f64)
    find_tops, add_sums = sweep(spec, threads, batch, _find_tops), sweep(spec, threads, batch, _add_sums)
    load, stride = memory.access.load, memory.logits_stride
    zero, one, four, nan = hw.f64(0), hw.f64(1), hw.f64(4), hw.f64(np.nan)
    inf, minus_inf, none_yet = hw.f64(np.inf), hw.f64(-np.inf), hw.i64(-1)

    @hw.device
    def read(args: Any, x: Any, second: Any, thread: Any) -> Any:
        tops = find_tops(args, x, second, 0, (minus_inf, none_yet, minus_inf, none_yet), thread)
        t_max, t_first = first(tops[0], tops[1])
        s_max, s_first = first(tops[2], tops[3])
        s_there = hw.f64(load(x + t_first * stride(args)))
        d_top, lost_top = exact_difference(t_max, s_there)
        none = Sum(zero, zero)
        fixed = (t_max, t_first, s_max, s_first, d_top, lost_top)
        t_others, s_others, apart, stream = add_sums(args, x, second, fixed, (none, none, none, none), thread)
        t_others_sum, s_others_sum = add(t_others.value), add(s_others.value)
        t_sum, s_sum = one + t_others_sum, one + s_others_sum
        log_sums = hw.log1p(s_others_sum) - hw.log1p(t_others_sum)
        if not (minus_inf < t_max < inf and minus_inf < s_max < inf):
            log_sums = nan
        tau = hw.f64(args.temperature)
        direct = four * (add(apart.value) / t_sum / tau) + log_sums
        mean = add(stream.value) / t_sum
        total = hw.exp(log_sums + (s_max - s_there) / tau + mean / hw.fmax(tau, one))
        return distillation.Teacher(t_max, s_max, d_top, lost_top, t_sum, s_sum, direct, mean, total)

    return read


@hw.device
def _find_tops(args: Any, fixed: Any, state: Any, j: Any, s: Any, t: Any) -> Any:
    """(the teacher's maximum so far, its class, the student's, its class) with one more class."""
    t_max, t_first, s_max, s_first = state
    if precedes(t, j, t_max, t_first):
        t_max, t_first = t, j
    if precedes(s, j, s_max, s_first):
        s_max, s_first = s, j
    return t_max, t_first, s_max, s_first


@hw.device
def _add_sums(args: Any, fixed: Any, state: Any, j: Any, s: Any, t: Any) -> Any:
    """The sums of `Teacher` with one more class: of the exponentials, without the top classes, of p apart and p w."""
    t_max, t_first, s_max, s_first, d_top, lost_top = fixed
    t_others, s_others, apart, stream = state
    zero, quarter = hw.f64(0), hw.f64(0.25)
    e = hw.exp((t - t_max) / args.temperature)
    if j != t_first:
        t_others = add_to(t_others, e)
    if j != s_first:
        s_others = add_to(s_others, hw.exp((s - s_max) / args.temperature))
    if e > zero:
        # A quarter of the difference does not overflow where the logits are finite.
        difference = e * ((quarter * s_max - quarter * s) - (quarter * t_max - quarter * t))
        after = apart.value + difference
        apart = add_to(apart, difference) if after - after == zero else Sum(after, zero)  # infinite for good
        w = distillation.above_top(args, s, t, d_top, lost_top)
        if w - w == zero:
            stream = add_to(stream, e * w)
    return t_others, s_others, apart, stream


@hw.device
def _add_terms(args: Any, found: Any, state: Any, j: Any, s: Any, t: Any) -> Any:
    """(h, Σ p w) with one more class."""
    h, mean = state
    one_class = distillation.weigh(args, found, s, t)
    return add_to(h, distillation.divergence_term(args, found, one_class)), add_to(mean, one_class.p * one_class.w)


def _store_gradient(spec: Spec) -> Any:
    """(args, (Teacher, log1p(x), scale of the row, output), 0, j, s_j, t_j) -> 0: stores the gradient of a class."""
    memory, stored = address_functions(spec), row_functions(spec).stored
    store, stride, squared = memory.access.store, memory.out_stride, spec.squared

    @hw.device
    def visit(args: Any, fixed: Any, state: Any, j: Any, s: Any, t: Any) -> Any:
        found, log_total, scale, out = fixed
        slope = distillation.student_gradient(distillation.weigh(args, found, s, t), log_total) * scale
        store(out + j * stride(args), stored(slope * args.temperature if squared else slope / args.temperature))
        return state

    return visit
