"""Regime "tile": at most 32 classes.  A block moves a tile of rows through shared memory, a thread computes a row.

Rows this short lie several to a vector, so the tile is copied as one run of elements, and each thread then reads
its own row from shared memory.  One unused word after every 32 keeps threads that read the same class of
neighbouring rows on different banks whatever the number of classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from xent_numba.backends.cuda.hw import intrinsics as hw
from xent_numba.backends.cuda.row.address import rows
from xent_numba.backends.cuda.row.spec import Spec
from xent_numba.backends.cuda.row.transform_target import rowmath

MAX_CLASSES = 32


def tile_bytes(spec: Spec, threads: int, classes: int) -> int:
    """Dynamic shared memory of a launch."""
    last = threads * classes - 1
    return (last + (last >> 5) + 1) * (8 if spec.wide else 4)


def build(spec: Spec, threads: int) -> Any:
    """The kernel; a launch has ceil(rows / threads) blocks and `tile_bytes` of shared memory.

    Rows are packed (row stride = classes) and arrays start on 16 bytes; `threads` is a multiple of 32.
    """
    m_, r_ = rowmath(spec), rows(spec)
    lanes, words, word, element = r_.access.lanes, r_.access.words, r_.access.word, r_.access.element
    load, load_vector, store, store_vector = (
        r_.access.load,
        r_.access.load_vector,
        r_.access.store,
        r_.access.store_vector,
    )
    size, distribution_address = r_.access.size, r_.distribution
    q_load, q_size = r_.target_access.load, r_.target_access.size
    real, stored, floor, term, transform, target = m_.real, m_.stored, m_.floor, m_.term, m_.transform, m_.target
    label, close, emit, finish = m_.label, m_.close, m_.emit, m_.finish
    dense, stores, has_q, has_label = spec.dense, bool(spec.store), bool(spec.distribution), bool(spec.labels)
    sparse_label = has_label and not dense
    zero, nan, low = real(0), real(np.nan), real(-np.inf)
    sums_exp = not spec.saved_lse

    @hw.device
    def slot(e: Any) -> Any:
        return e + (e >> 5)

    @hw.device
    def one_row(a: Any, row: Any, tile: Any, at: Any) -> None:
        live, y = label(a, row)
        if not live:
            if stores:
                for j in range(a.n_classes):
                    tile[slot(at + j)] = zero
            finish(a, row, zero, zero)
            return
        z_y = low
        if has_label:
            z_y = transform(a, tile[slot(at + y)]) if 0 <= y < a.n_classes else nan
        m = floor
        if sums_exp:
            for j in range(a.n_classes):
                if not sparse_label or j != y:
                    m = hw.fmax(m, transform(a, tile[slot(at + j)]))
        s, d, t = zero, zero, zero
        q_base = distribution_address(a, row) if has_q else hw.i64(0)
        for j in range(a.n_classes):
            z = transform(a, tile[slot(at + j)])
            if sums_exp and (not sparse_label or j != y):
                s += term(z, m)
            if dense:
                t_j = target(a, real(q_load(q_base + j * q_size)) if has_q else zero, j, y)
                t += t_j
                if t_j != zero:
                    d += t_j * (m - z)
        loss, lse, m, k, k_y, scale = close(a, row, y, m, s, d, t, z_y)
        finish(a, row, loss, lse)
        if stores:
            for j in range(a.n_classes):
                t_j = zero
                if dense:
                    t_j = target(a, real(q_load(q_base + j * q_size)) if has_q else zero, j, y)
                x = tile[slot(at + j)]
                tile[slot(at + j)] = emit(a, x, m, k, k_y, scale, t_j, sparse_label and j == y)

    def kernel(a: Any) -> None:
        tile = hw.cuda.shared.array(0, real)
        first_row = hw.i64(hw.block()) * threads
        count = min(a.n_rows - first_row, threads) * a.n_classes
        begin = first_row * a.n_classes * size
        registers = hw.cuda.local.array(words, word)
        values = hw.cuda.local.array(lanes, stored)
        for e in range(hw.thread() * lanes, count, threads * lanes):
            if e + lanes <= count:
                load_vector(a.logits + begin + e * size, registers, 0)
                for k in range(lanes):
                    tile[slot(e + k)] = real(element(registers, 0, k))
            else:
                for k in range(e, count):
                    tile[slot(k)] = real(load(a.logits + begin + k * size))
        hw.barrier()
        row = first_row + hw.thread()
        if row < a.n_rows:
            one_row(a, row, tile, hw.thread() * a.n_classes)
        if stores:
            hw.barrier()
            for e in range(hw.thread() * lanes, count, threads * lanes):
                if e + lanes <= count:
                    for k in range(lanes):
                        values[k] = tile[slot(e + k)]
                    store_vector(a.out + begin + e * size, values)
                else:
                    for k in range(e, count):
                        store(a.out + begin + k * size, stored(tile[slot(k)]))

    return kernel
