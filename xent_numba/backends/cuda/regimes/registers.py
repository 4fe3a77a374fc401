"""A row in the registers of the threads that share it: read once, written once.  The body of "warp" and "block".

The registers hold the row as it was loaded.  Pass 1 finds the maximum, pass 2 the sums, pass 3 stores.  exp is computed
twice, which costs less than the registers that would keep it.  Working in place is safe: no thread stores before every
thread has read, because the reductions lie between.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from xent_numba.backends.cuda.hw import intrinsics as hw
from xent_numba.backends.cuda.hw.reduce import reductions
from xent_numba.backends.cuda.row.address import address_functions
from xent_numba.backends.cuda.row.epilogue import RowStatistics
from xent_numba.backends.cuda.row.functions import row_functions
from xent_numba.backends.cuda.row.spec import Spec


def row_in_registers(spec: Spec, threads: int, vectors: int) -> Any:
    """A device function (args, row, thread of the row) for rows of up to threads · vectors · lanes classes.

    Vector i of a thread begins i · threads · lanes classes after its first, so that the loads of a warp are coalesced.
    The classes of a row lie side by side.
    """
    math, mem = row_functions(spec), address_functions(spec)
    access, q_access = mem.access, mem.distribution_access
    lanes, words, word_type, element = access.lanes, access.words, access.word_type, access.element
    q_element, q_word_type, q_words = q_access.element, q_access.word_type, mem.distribution_words
    logits_row, out_row, distribution_row = mem.logits_row, mem.out_row, mem.distribution_row
    logits_stride, out_stride, lanes_before = mem.logits_stride, mem.out_stride, mem.lanes_before
    load_vector, store_vector, fill_row = mem.load_vector, mem.store_vector, mem.fill_row
    load_distribution = mem.load_distribution
    real, stored, lowest, exp_term, transform = math.real, math.stored, math.lowest, math.exp_term, math.transform
    label_of, label_logit, dense_target, epilogue = math.label, math.label_logit, math.dense_target, math.epilogue
    output_element, store_row_result = math.output_element, math.store_row_result
    reduce = reductions(real, threads, spec.dense)
    reduce_max, reduce_add = reduce.reduce_max, reduce.reduce_add
    dense, has_output, ragged, has_distribution = spec.dense, bool(spec.output), spec.ragged, bool(spec.distribution)
    sums_exp = not spec.saved_lse
    sparse_label = bool(spec.labels) and not dense
    total_words, step = vectors * words, threads * lanes
    zero, minus_inf = real(0), real(-np.inf)

    @hw.device
    def compute_row(args: Any, row: Any, thread: Any) -> None:
        kept, y = label_of(args, row)
        out = out_row(args, row) if has_output else hw.i64(0)
        if not kept:  # an ignored row is not read
            if has_output:
                fill_row(args, out, zero, thread, threads)
            if thread == 0:
                store_row_result(args, row, zero, zero)
            return
        x = logits_row(args, row)
        start = thread * lanes - lanes_before(x)
        # Relative to `start`, so that unrolled loops compare constants with one 32-bit register each.
        row_begin, row_end, label = hw.i32(-start), hw.i32(args.n_classes - start), hw.i32(y - start)
        registers = hw.cuda.local.array(total_words, word_type)
        first_vector = x + start * logits_stride(args)  # one address; the vectors lie at constant distances from it
        for i in range(vectors):
            if i * step < row_end:
                vector = first_vector + i * step * logits_stride(args)
                load_vector(args, vector, start + i * step, registers, i * words)
        z_y = label_logit(args, x, y)

        row_max = lowest
        for i in range(vectors if sums_exp else 0):
            if i * step < row_end:
                for lane in range(lanes):
                    j = i * step + lane
                    z = transform(args, real(element(registers, i * words, lane)))
                    if (ragged and (j < row_begin or j >= row_end)) or (sparse_label and j == label):
                        z = minus_inf
                    row_max = hw.fmax(row_max, z)
        if sums_exp:
            row_max = reduce_max(row_max)

        total, target_gap, target_sum = zero, zero, zero
        q = distribution_row(args, row) if has_distribution else hw.i64(0)
        q_registers = hw.cuda.local.array(q_words, q_word_type)
        for i in range(vectors if sums_exp or dense else 0):
            if i * step < row_end:
                if has_distribution:
                    load_distribution(args, q, start + i * step, q_registers)
                for lane in range(lanes):
                    j = i * step + lane
                    z = transform(args, real(element(registers, i * words, lane)))
                    inside = not ragged or (j >= row_begin and j < row_end)
                    if not inside or (sparse_label and j == label):
                        z = minus_inf
                    if sums_exp:
                        total += exp_term(z, row_max)
                    if dense and inside:
                        t_j = dense_target(args, q_element(q_registers, 0, lane), start + j, y)
                        target_sum += t_j
                        if t_j != zero:
                            target_gap += t_j * (row_max - z)
        if sums_exp or dense:
            total, target_gap, target_sum = reduce_add(total, target_gap, target_sum)

        stats = RowStatistics(row_max, total, target_gap, target_sum)
        loss, lse, factors = epilogue(args, row, y, stats, z_y)
        if thread == 0:
            store_row_result(args, row, loss, lse)
        if has_output:
            same_alignment = not ragged or ((out ^ x) & 15) == 0
            values = hw.cuda.local.array(lanes, stored)
            first_out = out + start * out_stride(args)
            for i in range(vectors):
                if i * step < row_end:
                    if has_distribution:
                        load_distribution(args, q, start + i * step, q_registers)
                    for lane in range(lanes):
                        j = i * step + lane
                        t_j = dense_target(args, q_element(q_registers, 0, lane), start + j, y) if dense else zero
                        logit = real(element(registers, i * words, lane))
                        values[lane] = output_element(args, logit, factors, t_j, sparse_label and j == label)
                    vector = first_out + i * step * out_stride(args)
                    store_vector(args, vector, start + i * step, values, same_alignment)

    return compute_row
