"""Regime "online": any number of classes, any strides.  A running (max, Σ exp) in one read, a second read to store.

Each thread walks its share of a row in batches of vectors, loads a whole batch before it computes, and rescales
its sum only where a batch raises its maximum.  The sum over the batches is compensated (Kahan): a thread may add
hundreds of them, and the error stays that of one.  The second read of a long row may be served by the L2 cache.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from xent_numba.backends.cuda.hw import intrinsics as hw
from xent_numba.backends.cuda.hw.reduce import WARP, reducer
from xent_numba.backends.cuda.row.address import rows
from xent_numba.backends.cuda.row.spec import Spec
from xent_numba.backends.cuda.row.transform_target import rowmath

BATCH = 4  # vectors that a thread has in flight


class Walk(NamedTuple):
    """Device functions over the classes [begin, end) of a row; `begin` may lie before class 0 by the row's shift."""

    statistics: Any  # (a, row, base, y, thread, begin, end) -> (m, s, d, t) of this thread
    merge: Any  # (m, s, d, t) of a thread -> those of all threads
    store: Any  # (a, row, base, y, thread, begin, end, m, k, k_y, scale) -> None


def walk(spec: Spec, threads: int, batch: int = BATCH) -> Walk:
    """The two reads of a row by `threads` threads, and the merge between them."""
    m_ = rowmath(spec)
    reduce = reducer(m_.real, max(threads, WARP), spec.dense)  # one thread has nothing to merge
    return Walk(
        _statistics(spec, threads, batch),
        _merge(m_.term, reduce.maximum, reduce.sums, spec),
        _store(spec, threads, batch),
    )


def build(spec: Spec, threads: int, batch: int = BATCH) -> Any:
    """The kernel; a launch has any number of blocks of `threads` threads, each takes every so-manieth row."""
    m_, r_, w_ = rowmath(spec), rows(spec), walk(spec, threads, batch)
    label, label_score, close, finish = m_.label, m_.label_score, m_.close, m_.finish
    logits_address, out_address, shift, fill = r_.logits, r_.out, r_.shift, r_.fill
    statistics, merge, store = w_.statistics, w_.merge, w_.store
    stores, zero, floor = bool(spec.store), m_.real(0), m_.floor
    reads_twice = not spec.saved_lse or spec.dense

    def kernel(a: Any) -> None:
        thread = hw.thread()
        for row in range(hw.i64(hw.block()), a.n_rows, hw.blocks()):
            live, y = label(a, row)
            if live:
                base = logits_address(a, row)
                z_y = label_score(a, base, y)
                begin = -shift(base)
                m, s, d, t = floor, zero, zero, zero
                if reads_twice:
                    m, s, d, t = statistics(a, row, base, y, thread, begin, a.n_classes)
                    m, s, d, t = merge(m, s, d, t)
                loss, lse, m, k, k_y, scale = close(a, row, y, m, s, d, t, z_y)
                if thread == 0:
                    finish(a, row, loss, lse)
                if stores:
                    store(a, row, base, y, thread, begin, a.n_classes, m, k, k_y, scale)
            else:
                if stores:
                    fill(a, out_address(a, row), zero, thread, threads)
                if thread == 0:
                    finish(a, row, zero, zero)
            hw.barrier()  # the next row uses the same shared memory

    return kernel


def _statistics(spec: Spec, threads: int, batch: int) -> Any:
    m_, r_ = rowmath(spec), rows(spec)
    lanes, words, word = r_.access.lanes, r_.access.words, r_.access.word
    element, fetch, x_step = r_.access.element, r_.fetch, r_.x_step
    q_element, q_word, q_words = r_.target_access.element, r_.target_access.word, max(r_.target_access.words, lanes)
    fetch_target, distribution_address = r_.fetch_target, r_.distribution
    real, floor, low, exp, term = m_.real, m_.floor, m_.low, m_.exp, m_.term
    transform, target = m_.transform, m_.target
    dense, has_q = spec.dense, bool(spec.distribution)
    sparse_label = bool(spec.labels) and not dense
    ragged = not spec.whole and spec.unit
    sums_exp = not spec.saved_lse
    stride, total_words, zero = threads * lanes, batch * words, real(0)

    @hw.device
    def statistics(a: Any, row: Any, base: Any, y: Any, thread: Any, begin: Any, end: Any) -> Any:
        registers = hw.cuda.local.array(total_words, word)
        q_registers = hw.cuda.local.array(q_words, q_word)
        q_base = distribution_address(a, row) if has_q else hw.i64(0)
        m, s, lost, d, t = floor, zero, zero, zero, zero
        for start in range(begin + thread * lanes, end, stride * batch):
            # Seen from `start`: unrolled loops then compare constants with one 32-bit register each.
            room, own = hw.i32(min(end - start, stride * batch)), hw.i32(min(y - start, stride * batch))
            before, last = hw.i32(min(-start, lanes)), hw.i32(min(a.n_classes - start, stride * batch))
            if sums_exp:
                place = base + start * x_step(a)
                for i in range(batch):
                    if i * stride < room:
                        fetch(a, place + i * stride * x_step(a), start + i * stride, registers, i * words)
                top = m
                for i in range(batch):
                    if i * stride < room:
                        for k in range(lanes):
                            at = i * stride + k
                            z = transform(a, real(element(registers, i * words, k)))
                            if (ragged and (at < before or at >= last)) or (sparse_label and at == own):
                                z = low
                            top = hw.fmax(top, z)
                if top > m:
                    shrink = exp(m - top)
                    s *= shrink
                    lost *= shrink
                    if dense and t != zero:
                        d += t * (top - m)
                    m = top
            batch_s, batch_d, batch_t = zero, zero, zero
            for i in range(batch):
                if i * stride < room:
                    if has_q:
                        fetch_target(a, q_base, start + i * stride, q_registers)
                    for k in range(lanes):
                        at = i * stride + k
                        inside = not ragged or (at >= before and at < last)
                        z = zero
                        if sums_exp:
                            z = transform(a, real(element(registers, i * words, k)))
                            if not inside or (sparse_label and at == own):
                                z = low
                            batch_s += term(z, m)
                        if dense and inside:
                            t_j = target(a, q_element(q_registers, 0, k), start + at, y)
                            batch_t += t_j
                            if t_j != zero:
                                batch_d += t_j * (m - z)
            addend = batch_s - lost
            grown = s + addend
            lost = (grown - s) - addend
            s = grown
            if dense:
                d += batch_d
                t += batch_t
        return m, s, d, t

    return statistics


def _merge(term: Any, maximum: Any, sums: Any, spec: Spec) -> Any:
    dense, zero = spec.dense, rowmath(spec).real(0)

    @hw.device
    def merge(m: Any, s: Any, d: Any, t: Any) -> Any:
        top = maximum(m)
        s *= term(m, top)
        if dense and t != zero:
            d += t * (top - m)
        s, d, t = sums(s, d, t)
        return top, s, d, t

    return merge


def _store(spec: Spec, threads: int, batch: int) -> Any:
    if not spec.store:
        return None
    m_, r_ = rowmath(spec), rows(spec)
    lanes, words, word = r_.access.lanes, r_.access.words, r_.access.word
    element, fetch, put, out_address = r_.access.element, r_.fetch, r_.put, r_.out
    x_step, g_step = r_.x_step, r_.g_step
    q_element, q_word, q_words = r_.target_access.element, r_.target_access.word, max(r_.target_access.words, lanes)
    fetch_target, distribution_address = r_.fetch_target, r_.distribution
    real, stored, target, emit = m_.real, m_.stored, m_.target, m_.emit
    dense, has_q = spec.dense, bool(spec.distribution)
    sparse_label = bool(spec.labels) and not dense
    ragged = not spec.whole and spec.unit
    stride, total_words, zero = threads * lanes, batch * words, real(0)

    @hw.device
    def store(
        a: Any, row: Any, base: Any, y: Any, thread: Any, begin: Any, end: Any, m: Any, k: Any, k_y: Any, scale: Any
    ) -> None:
        out = out_address(a, row)
        same = not ragged or ((out ^ base) & 15) == 0
        registers = hw.cuda.local.array(total_words, word)
        q_registers = hw.cuda.local.array(q_words, q_word)
        values = hw.cuda.local.array(lanes, stored)
        q_base = distribution_address(a, row) if has_q else hw.i64(0)
        for start in range(begin + thread * lanes, end, stride * batch):
            place, target_place = base + start * x_step(a), out + start * g_step(a)
            room, own = hw.i32(min(end - start, stride * batch)), hw.i32(min(y - start, stride * batch))
            for i in range(batch):
                if i * stride < room:
                    fetch(a, place + i * stride * x_step(a), start + i * stride, registers, i * words)
            for i in range(batch):
                if i * stride < room:
                    if has_q:
                        fetch_target(a, q_base, start + i * stride, q_registers)
                    for lane in range(lanes):
                        at = i * stride + lane
                        t_j = target(a, q_element(q_registers, 0, lane), start + at, y) if dense else zero
                        x = real(element(registers, i * words, lane))
                        values[lane] = emit(a, x, m, k, k_y, scale, t_j, sparse_label and at == own)
                    put(a, target_place + i * stride * g_step(a), start + i * stride, values, same)

    return store
