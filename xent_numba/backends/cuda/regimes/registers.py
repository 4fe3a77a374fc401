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
from xent_numba.backends.cuda.regimes.held import Share, held_vectors
from xent_numba.backends.cuda.row.address import address_functions
from xent_numba.backends.cuda.row.epilogue import RowStatistics
from xent_numba.backends.cuda.row.functions import row_functions
from xent_numba.backends.cuda.row.spec import Spec


def row_in_registers(spec: Spec, threads: int, vectors: int) -> Any:
    """A device function (args, row, thread of the row) for rows of up to threads · vectors · vector_width classes.

    Vector i of a thread begins i · threads · vector_width classes after its first, so that the loads of a warp are
    coalesced.  The classes of a row lie side by side.
    """
    maths, memory = row_functions(spec), address_functions(spec)
    access, q_access = memory.access, memory.distribution_access
    vector_width, words, word_type, element = access.vector_width, access.words, access.word_type, access.element
    q_element, q_word_type, q_words = q_access.element, q_access.word_type, memory.distribution_words
    logits_row, out_row, distribution_row = memory.logits_row, memory.out_row, memory.distribution_row
    logits_stride, out_stride, elements_before = memory.logits_stride, memory.out_stride, memory.elements_before
    load_distribution, fill_row = memory.load_distribution, memory.fill_row
    real, lowest, summand, transform = maths.real, maths.lowest, maths.summand, maths.transform
    kept_label, label_logit, dense_target = maths.kept_label, maths.label_logit, maths.dense_target
    epilogue, store_row_result = maths.epilogue, maths.store_row_result
    reduce = reductions(real, threads, spec.dense)
    reduce_max, reduce_add = reduce.reduce_max, reduce.reduce_add
    dense, has_output, ragged, has_distribution = spec.dense, bool(spec.output), spec.ragged, bool(spec.distribution)
    sums_exp, has_statistics = spec.sums_exp, spec.has_statistics
    sparse_label = bool(spec.labels) and not dense
    total_words, step = vectors * words, threads * vector_width
    one, zero, minus_inf = real(1), real(0), real(-np.inf)
    held = held_vectors(spec, threads, vectors)
    load_held, raise_max, store_output = held.load, held.raise_max, held.store_output

    @hw.device
    def compute_row(args: Any, row: Any, thread: Any) -> None:
        kept, y = kept_label(args, row)
        out = out_row(args, row) if has_output else hw.i64(0)
        if not kept:  # an ignored row is not read
            if has_output:
                fill_row(args, out, zero, thread, threads)
            if thread == 0:
                store_row_result(args, row, zero, zero)
            return
        x = logits_row(args, row)
        start = thread * vector_width - elements_before(x)
        # Relative to `start`, as in `Share`.
        row_begin, row_end, label = hw.i32(-start), hw.i32(args.n_classes - start), hw.i32(y - start)
        registers = hw.cuda.local.array(total_words, word_type)
        share = Share(start, row_end, label)
        first_vector = x + start * logits_stride(args)
        load_held(args, first_vector, share, registers)
        z_y = label_logit(args, x, y)

        row_max = lowest
        if sums_exp:
            row_max = raise_max(args, row_max, share, registers, row_begin, row_end)
            row_max = reduce_max(row_max)

        total, left_out, target_gap, target_sum = zero, zero, zero, zero
        q = distribution_row(args, row) if has_distribution else hw.i64(0)
        q_registers = hw.cuda.local.array(q_words, q_word_type)
        for i in range(vectors if has_statistics else 0):
            if i * step < row_end:
                if has_distribution:
                    load_distribution(args, q, start + i * step, q_registers)
                for k in range(vector_width):
                    j = i * step + k
                    z = transform(args, real(element(registers, i * words, k)))
                    inside = not ragged or (j >= row_begin and j < row_end)
                    if not inside or (sparse_label and j == label):
                        z = minus_inf
                    if sums_exp:
                        term, left_out = summand(z, row_max, left_out)
                        total += term
                    if dense and inside:
                        t_j = dense_target(args, q_element(q_registers, 0, k), start + j, y)
                        target_sum += t_j
                        if t_j != zero:
                            target_gap += t_j * (row_max - z)
        if has_statistics:
            total, left_out, target_gap, target_sum = reduce_add(total, left_out, target_gap, target_sum)
        if dense:
            total += left_out - one  # one class is left out, not one of each thread

        stats = RowStatistics(row_max, total, target_gap, target_sum)
        loss, lse, factors = epilogue(args, row, y, stats, z_y)
        if thread == 0:
            store_row_result(args, row, loss, lse)
        if has_output:
            same_alignment = not ragged or ((out ^ x) & 15) == 0
            first_out = out + start * out_stride(args)
            store_output(args, q, y, share, registers, factors, first_out, same_alignment)

    return compute_row
