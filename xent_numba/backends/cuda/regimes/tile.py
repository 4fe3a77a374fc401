"""Regime "tile": at most 32 classes.  A block moves a tile of rows through shared memory, a thread computes a row.

Rows this short lie several to a vector, so the tile is copied as one run of elements, and each thread then reads its
own row from shared memory.  One unused word after every 32 avoids bank conflicts: threads that read the same class of
neighbouring rows are on different banks, whatever the number of classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from xent_numba.backends.cuda.hw import intrinsics as hw
from xent_numba.backends.cuda.row.address import address_functions
from xent_numba.backends.cuda.row.epilogue import RowStatistics
from xent_numba.backends.cuda.row.functions import row_functions
from xent_numba.backends.cuda.row.spec import Spec


def tile_bytes(spec: Spec, threads: int, classes: int) -> int:
    """Dynamic shared memory of a launch."""
    last = threads * classes - 1
    return (last + (last >> 5) + 1) * (8 if spec.float64 else 4)


@hw.device
def _slot(e: Any) -> Any:
    """Where element e of the tile lies in shared memory."""
    return e + (e >> 5)


def build(spec: Spec, threads: int) -> Any:
    """Kernel (args) of ceil(rows / threads) blocks with `tile_bytes` of dynamic shared memory.

    Rows are packed (row stride = classes) and arrays start on 16 bytes; `threads` is a multiple of 32.
    """
    maths, access = row_functions(spec), address_functions(spec).access
    vector_width, words, word_type, element = access.vector_width, access.words, access.word_type, access.element
    size = access.itemsize
    load, load_vector, store, store_vector = access.load, access.load_vector, access.store, access.store_vector
    real, stored, has_output = maths.real, maths.stored, bool(spec.output)
    compute_row = _row_in_tile(spec)

    def kernel(args: Any) -> None:
        tile = hw.cuda.shared.array(0, real)
        first_row = hw.i64(hw.block_index()) * threads
        count = min(args.n_rows - first_row, threads) * args.n_classes
        begin = first_row * args.n_classes * size
        registers = hw.cuda.local.array(words, word_type)
        values = hw.cuda.local.array(vector_width, stored)
        for e in range(hw.thread_index() * vector_width, count, threads * vector_width):
            if e + vector_width <= count:
                load_vector(args.logits + begin + e * size, registers, 0)
                for k in range(vector_width):
                    tile[_slot(e + k)] = real(element(registers, 0, k))
            else:
                for k in range(e, count):
                    tile[_slot(k)] = real(load(args.logits + begin + k * size))
        hw.barrier()
        row = first_row + hw.thread_index()
        if row < args.n_rows:
            compute_row(args, row, tile, hw.thread_index() * args.n_classes)
        if has_output:
            hw.barrier()
            for e in range(hw.thread_index() * vector_width, count, threads * vector_width):
                if e + vector_width <= count:
                    for k in range(vector_width):
                        values[k] = tile[_slot(e + k)]
                    store_vector(args.out + begin + e * size, values)
                else:
                    for k in range(e, count):
                        store(args.out + begin + k * size, stored(tile[_slot(k)]))

    return kernel


def _row_in_tile(spec: Spec) -> Any:
    """A device function (args, row, tile, element of the tile where the row begins): the row's output replaces it."""
    maths, memory = row_functions(spec), address_functions(spec)
    distribution_row, q_load = memory.distribution_row, memory.distribution_access.load
    q_size = memory.distribution_access.itemsize
    real, lowest, summand, transform = maths.real, maths.lowest, maths.summand, maths.transform
    kept_label, dense_target, epilogue = maths.kept_label, maths.dense_target, maths.epilogue
    output_element, store_row_result = maths.output_element, maths.store_row_result
    dense, has_output, has_label = spec.dense, bool(spec.output), bool(spec.labels)
    has_distribution = bool(spec.distribution)
    sparse_label = has_label and not dense
    one, zero, nan, minus_inf = real(1), real(0), real(np.nan), real(-np.inf)
    sums_exp = spec.sums_exp

    @hw.device
    def compute_row(args: Any, row: Any, tile: Any, first: Any) -> None:
        kept, y = kept_label(args, row)
        if not kept:
            if has_output:
                for j in range(args.n_classes):
                    tile[_slot(first + j)] = zero
            store_row_result(args, row, zero, zero)
            return
        z_y = minus_inf
        if has_label:
            z_y = transform(args, tile[_slot(first + y)]) if 0 <= y < args.n_classes else nan
        row_max = lowest
        if sums_exp:
            for j in range(args.n_classes):
                if not sparse_label or j != y:
                    row_max = hw.fmax(row_max, transform(args, tile[_slot(first + j)]))
        total, left_out, target_gap, target_sum = zero, zero, zero, zero
        q = distribution_row(args, row) if has_distribution else hw.i64(0)
        for j in range(args.n_classes):
            z = transform(args, tile[_slot(first + j)])
            if sums_exp and (not sparse_label or j != y):
                term, left_out = summand(z, row_max, left_out)
                total += term
            if dense:
                t_j = dense_target(args, real(q_load(q + j * q_size)) if has_distribution else zero, j, y)
                target_sum += t_j
                if t_j != zero:
                    target_gap += t_j * (row_max - z)
        if dense:
            total += left_out - one
        stats = RowStatistics(row_max, total, target_gap, target_sum)
        loss, lse, factors = epilogue(args, row, y, stats, z_y)
        store_row_result(args, row, loss, lse)
        if has_output:
            for j in range(args.n_classes):
                t_j = zero
                if dense:
                    t_j = dense_target(args, real(q_load(q + j * q_size)) if has_distribution else zero, j, y)
                logit = tile[_slot(first + j)]
                tile[_slot(first + j)] = output_element(args, logit, factors, t_j, sparse_label and j == y)

    return compute_row
