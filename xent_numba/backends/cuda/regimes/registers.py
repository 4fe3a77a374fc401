"""A row in the registers of the threads that share it: read once, written once.  The body of two regimes.

The registers hold the row as it was loaded.  Pass 1 finds the maximum, pass 2 the sums, pass 3 stores; exp is
computed twice, which is cheaper than the registers that would keep it, and makes working in place safe: nobody
stores before everybody has read, because the reductions lie between.
"""

from __future__ import annotations

from typing import Any

from xent_numba.backends.cuda.hw import intrinsics as hw
from xent_numba.backends.cuda.hw.reduce import reducer
from xent_numba.backends.cuda.row.address import rows
from xent_numba.backends.cuda.row.spec import Spec
from xent_numba.backends.cuda.row.transform_target import rowmath


def row_in_registers(spec: Spec, threads: int, vectors: int) -> Any:
    """A device function (a, row, thread of the row) for rows of up to threads · vectors · lanes classes."""
    m_, r_ = rowmath(spec), rows(spec)
    lanes, words, word = r_.access.lanes, r_.access.words, r_.access.word
    element, fetch, put, fill = r_.access.element, r_.fetch, r_.put, r_.fill
    q_words, q_word, q_element = max(r_.target_access.words, lanes), r_.target_access.word, r_.target_access.element
    if r_.target_access.lanes == lanes:
        q_words = r_.target_access.words
    x_step, g_step = r_.x_step, r_.g_step
    logits_address, out_address, distribution_address = r_.logits, r_.out, r_.distribution
    shift, fetch_target = r_.shift, r_.fetch_target
    real, floor, low, term, transform = m_.real, m_.floor, m_.low, m_.term, m_.transform
    stored = m_.stored
    label, label_score, target, close, emit, finish = m_.label, m_.label_score, m_.target, m_.close, m_.emit, m_.finish
    reduce = reducer(real, threads, spec.dense)
    maximum, sums = reduce.maximum, reduce.sums
    dense, stores, ragged, has_q = spec.dense, bool(spec.store), not spec.whole, bool(spec.distribution)
    sums_exp = not spec.saved_lse
    sparse_label = bool(spec.labels) and not dense
    total_words, stride = vectors * words, threads * lanes
    zero = real(0)

    @hw.device
    def run(a: Any, row: Any, thread: Any) -> None:
        live, y = label(a, row)
        out = out_address(a, row) if stores else hw.i64(0)
        if not live:  # an ignored row is not read
            if stores:
                fill(a, out, zero, thread, threads)
            if thread == 0:
                finish(a, row, zero, zero)
            return
        base = logits_address(a, row)
        start = thread * lanes - shift(base)
        # Seen from `start`, so that unrolled loops compare constants with one 32-bit register each.
        before, room, own = hw.i32(-start), hw.i32(a.n_classes - start), hw.i32(y - start)
        registers = hw.cuda.local.array(total_words, word)
        place = base + start * x_step(a)  # one address; the vectors lie at constant distances from it
        for i in range(vectors):
            if i * stride < room:
                fetch(a, place + i * stride * x_step(a), start + i * stride, registers, i * words)
        z_y = label_score(a, base, y)

        m = floor
        for i in range(vectors if sums_exp else 0):
            if i * stride < room:
                for k in range(lanes):
                    at = i * stride + k
                    z = transform(a, real(element(registers, i * words, k)))
                    if (ragged and (at < before or at >= room)) or (sparse_label and at == own):
                        z = low
                    m = hw.fmax(m, z)
        if sums_exp:
            m = maximum(m)

        s, d, t = zero, zero, zero
        q_base = distribution_address(a, row) if has_q else hw.i64(0)
        q_registers = hw.cuda.local.array(q_words, q_word)
        for i in range(vectors if sums_exp or dense else 0):
            if i * stride < room:
                if has_q:
                    fetch_target(a, q_base, start + i * stride, q_registers)
                for k in range(lanes):
                    at = i * stride + k
                    z = transform(a, real(element(registers, i * words, k)))
                    inside = not ragged or (at >= before and at < room)
                    if not inside or (sparse_label and at == own):
                        z = low
                    if sums_exp:
                        s += term(z, m)
                    if dense and inside:
                        t_j = target(a, q_element(q_registers, 0, k), start + at, y)
                        t += t_j
                        if t_j != zero:
                            d += t_j * (m - z)
        if sums_exp or dense:
            s, d, t = sums(s, d, t)

        loss, lse, m, k_others, k_label, scale = close(a, row, y, m, s, d, t, z_y)
        if thread == 0:
            finish(a, row, loss, lse)
        if stores:
            same = not ragged or ((out ^ base) & 15) == 0
            values = hw.cuda.local.array(lanes, stored)
            target_place = out + start * g_step(a)
            for i in range(vectors):
                first = start + i * stride
                if i * stride < room:
                    if has_q:
                        fetch_target(a, q_base, first, q_registers)
                    for k in range(lanes):
                        at = i * stride + k
                        t_j = target(a, q_element(q_registers, 0, k), start + at, y) if dense else zero
                        x = real(element(registers, i * words, k))
                        values[k] = emit(a, x, m, k_others, k_label, scale, t_j, sparse_label and at == own)
                    put(a, target_place + i * stride * g_step(a), first, values, same)

    return run
