"""Regime "split": few rows with very many classes.  Each row is cut into slices that go to different blocks.

Three kernels: the statistics of each slice; their merge, with the loss of the row; and, for a gradient, a second
read.  With a saved log Σ exp and a sparse target the last one suffices.  The slices are merged in a fixed order.
"""

from __future__ import annotations

from typing import Any

from xent_numba.backends.cuda.hw import intrinsics as hw
from xent_numba.backends.cuda.hw.reduce import WARP, reducer
from xent_numba.backends.cuda.regimes.online import BATCH, walk
from xent_numba.backends.cuda.row.address import rows
from xent_numba.backends.cuda.row.spec import Spec
from xent_numba.backends.cuda.row.transform_target import rowmath

PARTS = 4  # numbers per slice, and per row: (m, s, d, t), and (m, k, k_y, scale)


def build_partial(spec: Spec, threads: int, batch: int = BATCH) -> Any:
    """Kernel (a, parts, length): slice x of row y, `length` classes (whole vectors) per slice."""
    m_, r_, w_ = rowmath(spec), rows(spec), walk(spec, threads, batch)
    label, logits_address, shift = m_.label, r_.logits, r_.shift
    statistics, merge = w_.statistics, w_.merge
    put, size = (hw.store_f64, 8) if spec.wide else (hw.store_f32, 4)

    def kernel(a: Any, parts: Any, length: Any) -> None:
        row, thread = hw.i64(hw.block_y()), hw.thread()
        live, y = label(a, row)
        if live:
            base = logits_address(a, row)
            begin = hw.block() * length - shift(base)
            end = min(begin + length, a.n_classes)
            m, s, d, t = statistics(a, row, base, y, thread, begin, end)
            m, s, d, t = merge(m, s, d, t)
            if thread == 0:
                at = parts + (row * hw.blocks() + hw.block()) * PARTS * size
                put(at, m)
                put(at + size, s)
                put(at + 2 * size, d)
                put(at + 3 * size, t)

    return kernel


def build_finish(spec: Spec) -> Any:
    """Kernel (a, parts, results, slices): a warp per row merges its slices, stores the loss and what `emit` needs."""
    m_, r_ = rowmath(spec), rows(spec)
    real, floor, term, label, label_score = m_.real, m_.floor, m_.term, m_.label, m_.label_score
    close, finish, logits_address = m_.close, m_.finish, r_.logits
    reduce = reducer(real, WARP, spec.dense)
    maximum, sums = reduce.maximum, reduce.sums
    dense, zero = spec.dense, real(0)
    get, put, size = (hw.load_f64, hw.store_f64, 8) if spec.wide else (hw.load_f32, hw.store_f32, 4)

    def kernel(a: Any, parts: Any, results: Any, slices: Any) -> None:
        row, lane = hw.i64(hw.block()), hw.thread()
        live, y = label(a, row)
        if live:
            z_y = label_score(a, logits_address(a, row), y)
            top = floor
            for i in range(lane, slices, WARP):
                top = hw.fmax(top, get(parts + (row * slices + i) * PARTS * size))
            top = maximum(top)
            s, d, t = zero, zero, zero
            for i in range(lane, slices, WARP):
                at = parts + (row * slices + i) * PARTS * size
                m_i = get(at)
                s += get(at + size) * term(m_i, top)
                if dense:
                    t_i = get(at + 3 * size)
                    d += get(at + 2 * size)
                    t += t_i
                    if t_i != zero:
                        d += t_i * (top - m_i)
            s, d, t = sums(s, d, t)
            loss, lse, m, k, k_y, scale = close(a, row, y, top, s, d, t, z_y)
            if lane == 0:
                finish(a, row, loss, lse)
                at = results + row * PARTS * size
                put(at, m)
                put(at + size, k)
                put(at + 2 * size, k_y)
                put(at + 3 * size, scale)
        elif lane == 0:
            finish(a, row, zero, zero)

    return kernel


def build_store(spec: Spec, threads: int, batch: int = BATCH) -> Any:
    """Kernel (a, results, length): the gradient of slice x of row y."""
    m_, r_, w_ = rowmath(spec), rows(spec), walk(spec, threads, batch)
    label, label_score, close, store = m_.label, m_.label_score, m_.close, w_.store
    logits_address, out_address, shift, fill = r_.logits, r_.out, r_.shift, r_.fill
    saved, zero, floor = bool(spec.saved_lse) and not spec.dense, m_.real(0), m_.floor
    get, size = (hw.load_f64, 8) if spec.wide else (hw.load_f32, 4)

    def kernel(a: Any, results: Any, length: Any) -> None:
        row, thread = hw.i64(hw.block_y()), hw.thread()
        live, y = label(a, row)
        if live:
            base = logits_address(a, row)
            begin = hw.block() * length - shift(base)
            end = min(begin + length, a.n_classes)
            m, k, k_y, scale = floor, zero, zero, zero
            if saved:
                # In place another block may have overwritten the label's logit: only its own thread uses k_y, and
                # that thread has not stored yet.
                z_y = label_score(a, base, y)
                loss, lse, m, k, k_y, scale = close(a, row, y, floor, zero, zero, zero, z_y)
            else:
                at = results + row * PARTS * size
                m, k, k_y, scale = get(at), get(at + size), get(at + 2 * size), get(at + 3 * size)
            store(a, row, base, y, thread, begin, end, m, k, k_y, scale)
        else:
            fill(a, out_address(a, row), zero, hw.block() * threads + thread, hw.blocks() * threads)

    return kernel
