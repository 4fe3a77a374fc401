"""A shard of the classes of each row: its statistics, and its gradient from those of all shards.

What is computed, and from what, `protocol.ShardStatistics` and `protocol.ShardCoefficients` say; all in float64.  The
x_j are the logits times the sign of the logit_scale, or what the softcap makes of them, and s is their scale.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from xent_numba.backends.cuda.hw import intrinsics as hw
from xent_numba.backends.cuda.hw.reduce import row_first, row_sum
from xent_numba.backends.cuda.regimes.sweep import Sum, add_to, sweep
from xent_numba.backends.cuda.row.address import address_functions
from xent_numba.backends.cuda.row.functions import row_functions
from xent_numba.backends.cuda.row.spec import Spec
from xent_numba.backends.cuda.row.target import target_reader
from xent_numba.backends.cuda.row.top import order_key, precedes


def row_of_shard(spec: Spec, threads: int, batch: int) -> Any:
    """A device function (args, row, thread of the row) that the `threads` threads of a row call together."""
    return _gradient(spec, threads, batch) if spec.shard == "gradient" else _statistics(spec, threads, batch)


def _key(spec: Spec) -> Any:
    """(args, x) -> x_j."""
    return row_functions(spec).transform if spec.softcap else order_key(spec, hw.f64)


def _statistics(spec: Spec, threads: int, batch: int) -> Any:
    """The statistics of a row, in two reads: for the maximum, and for the sums relative to it."""
    maths, memory = row_functions(spec), address_functions(spec)
    kept_label, logits_row, distribution_row = maths.kept_label, memory.logits_row, memory.distribution_row
    has_distribution = bool(spec.distribution)
    find_top, add_sums = sweep(spec, threads, batch, _find_top(spec)), sweep(spec, threads, batch, _add_sums(spec))
    first, add = row_first(threads, hw.f64, precedes), row_sum(threads, hw.f64)
    zero, minus_inf, none_yet = hw.f64(0), hw.f64(-np.inf), hw.i64(-1)

    @hw.device
    def compute_row(args: Any, row: Any, thread: Any) -> None:
        kept, _ = kept_label(args, row)
        maximum, rest, gap, target_sum, top = zero, zero, zero, zero, none_yet
        if kept:
            x = logits_row(args, row)
            q = distribution_row(args, row) if has_distribution else hw.i64(0)
            share = find_top(args, x, 0, 0, (minus_inf, none_yet), thread)
            maximum, top = first(share[0], share[1])
            centre = zero if maximum == minus_inf else maximum
            none = Sum(zero, zero)
            rests, gaps, targets = add_sums(args, x, 0, (top, centre, q), (none, none, none), thread)
            rest, gap, target_sum = add(rests.value), add(gaps.value), add(targets.value)
        if thread == 0:
            hw.store_f64(args.maximum + 8 * row, maximum)
            hw.store_f64(args.rest + 8 * row, rest)
            hw.store_f64(args.gap + 8 * row, gap)
            hw.store_f64(args.target_sum + 8 * row, target_sum)
            hw.store_i64(args.top + 8 * row, top)

    return compute_row


def _find_top(spec: Spec) -> Any:
    """(args, 0, (maximum so far, its class), j, x, 0) -> the same with one more class."""
    key_of = _key(spec)

    @hw.device
    def visit(args: Any, fixed: Any, state: Any, j: Any, x: Any, v: Any) -> Any:
        key = key_of(args, x)
        return (key, j) if precedes(key, j, state[0], state[1]) else state

    return visit


def _add_sums(spec: Spec) -> Any:
    """(args, (top class, centre, q), (rest, gap, Σ u), j, x, 0) -> the same with one more class."""
    key_of, dense, exp = _key(spec), spec.dense, row_functions(spec).exp
    target: Any = target_reader(spec, hw.f64, address_functions(spec).distribution_stride)
    zero, quarter, no_label = hw.f64(0), hw.f64(0.25), hw.i64(-1)

    @hw.device
    def visit(args: Any, fixed: Any, state: Any, j: Any, x: Any, v: Any) -> Any:
        top, centre, q = fixed
        rest, gap, target_sum = state
        key = key_of(args, x)
        if j != top:
            rest = add_to(rest, exp(args.scale * (key - centre)))
        if dense:
            u = target(args, q, j, no_label)
            target_sum = add_to(target_sum, u)
            if u != zero:
                term = u * (quarter * centre - quarter * key)
                after = gap.value + term
                gap = add_to(gap, term) if after - after == zero else Sum(after, zero)  # infinite for good
        return rest, gap, target_sum

    return visit


def _gradient(spec: Spec, threads: int, batch: int) -> Any:
    """The gradient of a row, in one read."""
    maths, memory = row_functions(spec), address_functions(spec)
    kept_label, logits_row, out_row, fill_row = maths.kept_label, memory.logits_row, memory.out_row, memory.fill_row
    has_distribution, distribution_row = bool(spec.distribution), memory.distribution_row
    write, zero = sweep(spec, threads, batch, _store_gradient(spec)), hw.f64(0)

    @hw.device
    def compute_row(args: Any, row: Any, thread: Any) -> None:
        kept, _ = kept_label(args, row)
        out = out_row(args, row)
        if kept:
            q = distribution_row(args, row) if has_distribution else hw.i64(0)
            fixed = (
                hw.load_f64(args.centre + 8 * row), hw.load_f64(args.p_factor + 8 * row),
                hw.load_f64(args.u_factor + 8 * row), hw.load_f64(args.at_own + 8 * row),
                hw.load_i64(args.own + 8 * row), q, out,
            )  # fmt: skip
            write(args, logits_row(args, row), 0, fixed, hw.i64(0), thread)
        else:
            fill_row(args, out, zero, thread, threads)

    return compute_row


def _store_gradient(spec: Spec) -> Any:
    """(args, coefficients of the row with q and the output, 0, j, x, 0) -> 0: stores the gradient of a class."""
    maths, memory, key_of = row_functions(spec), address_functions(spec), _key(spec)
    exp, derivative, stored = maths.exp, maths.derivative, maths.stored
    store, stride, dense, softcap = memory.access.store, memory.out_stride, spec.dense, spec.softcap
    target: Any = target_reader(spec, hw.f64, memory.distribution_stride)
    no_label = hw.i64(-1)

    @hw.device
    def visit(args: Any, fixed: Any, state: Any, j: Any, x: Any, v: Any) -> Any:
        centre, p_factor, u_factor, at_own, own, q, out = fixed
        slope = p_factor * exp(args.scale * (key_of(args, x) - centre))
        if dense:
            slope -= u_factor * target(args, q, j, no_label)
        if softcap:
            slope *= derivative(args, x)
        store(out + j * stride(args), stored(at_own if j == own else slope))
        return state

    return visit
