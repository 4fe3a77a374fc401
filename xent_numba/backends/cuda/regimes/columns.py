"""Regime "columns": classes far apart and rows side by side, as in images (N, C, H, W).  A thread per row.

Neighbouring threads then read neighbouring addresses for each class, so every access of a warp is one run of
memory although each is a scalar.  The statistics are those of "online", by a single thread: nothing to reduce.
"""

from __future__ import annotations

from typing import Any

from xent_numba.backends.cuda.hw import intrinsics as hw
from xent_numba.backends.cuda.regimes.online import walk
from xent_numba.backends.cuda.row.address import rows
from xent_numba.backends.cuda.row.spec import Spec
from xent_numba.backends.cuda.row.transform_target import rowmath

BATCH = 8  # classes that a thread has in flight


def build(spec: Spec, threads: int, batch: int = BATCH) -> Any:
    """The kernel; a launch has ceil(rows / threads) blocks."""
    m_, r_, w_ = rowmath(spec), rows(spec), walk(spec, 1, batch)
    label, label_score, close, finish = m_.label, m_.label_score, m_.close, m_.finish
    logits_address, out_address, shift, fill = r_.logits, r_.out, r_.shift, r_.fill
    statistics, store = w_.statistics, w_.store
    stores, zero, floor = bool(spec.store), m_.real(0), m_.floor
    reads_twice = not spec.saved_lse or spec.dense

    def kernel(a: Any) -> None:
        row = hw.i64(hw.block()) * threads + hw.thread()
        if row < a.n_rows:
            live, y = label(a, row)
            if live:
                base = logits_address(a, row)
                z_y = label_score(a, base, y)
                begin = -shift(base)  # 0 for rows of this regime; any others would be right too, only slow
                m, s, d, t = floor, zero, zero, zero
                if reads_twice:
                    m, s, d, t = statistics(a, row, base, y, 0, begin, a.n_classes)
                loss, lse, m, k, k_y, scale = close(a, row, y, m, s, d, t, z_y)
                finish(a, row, loss, lse)
                if stores:
                    store(a, row, base, y, 0, begin, a.n_classes, m, k, k_y, scale)
            else:
                if stores:
                    fill(a, out_address(a, row), zero, 0, 1)
                finish(a, row, zero, zero)

    return kernel
