"""Regime "online": any number of classes, any strides.  An online softmax in one read, a second read for the output.

Each thread takes its share of a row in batches of vectors.  It loads a whole batch before it computes, and rescales its
running sum only where a batch raises its maximum.  The sums over the batches are compensated (Kahan): a thread may add
hundreds of them, and the error stays that of one.  The second read of a long row may be served by the L2 cache.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from xent_numba.backends.cuda.hw import intrinsics as hw
from xent_numba.backends.cuda.hw.reduce import compensated_add, reductions
from xent_numba.backends.cuda.regimes.held import Share, held_vectors
from xent_numba.backends.cuda.row.address import address_functions
from xent_numba.backends.cuda.row.epilogue import RowStatistics
from xent_numba.backends.cuda.row.functions import row_functions
from xent_numba.backends.cuda.row.spec import Spec


class RowPasses(NamedTuple):
    """Device functions over the classes [begin, end) of a row, shared among `threads` threads.

    x is the address of class 0 of the logits.  `begin` is where a vector starts, so it may lie before class 0.
    """

    statistics: Any  # (args, row, x, y, thread, begin, end) -> RowStatistics of this thread's share
    merge: Any  # (RowStatistics of a thread) -> those of all threads, which all call it
    store_output: Any  # (args, row, x, y, thread, begin, end, OutputFactors) -> None; None where there is no output


def row_passes(spec: Spec, threads: int, batch: int) -> RowPasses:
    """The two passes over a row by `threads` threads of `batch` vectors in flight, and the merge between them."""
    return RowPasses(_statistics(spec, threads, batch), _merge(spec, threads), _store_output(spec, threads, batch))


def build(spec: Spec, threads: int, batch: int) -> Any:
    """Kernel (args) of any number of blocks of `threads` threads; block b takes the rows b, b + blocks, ..."""
    compute_row = row_in_two_reads(spec, threads, batch)

    def kernel(args: Any) -> None:
        thread = hw.thread_index()
        for row in range(hw.i64(hw.block_index()), args.n_rows, hw.grid_width()):
            compute_row(args, row, thread)
            hw.barrier()  # the next row uses the same shared memory

    return kernel


def row_in_two_reads(spec: Spec, threads: int, batch: int) -> Any:
    """A device function (args, row, thread of the row) for rows of any length and strides, shared by `threads` threads.

    All of them call it, and a barrier comes before they call it again.  A single thread needs neither barrier nor
    shared memory.
    """
    maths, memory, passes = row_functions(spec), address_functions(spec), row_passes(spec, threads, batch)
    kept_label, label_logit = maths.kept_label, maths.label_logit
    epilogue, store_row_result = maths.epilogue, maths.store_row_result
    logits_row, out_row = memory.logits_row, memory.out_row
    elements_before, fill_row = memory.elements_before, memory.fill_row
    statistics, merge, store_output = passes.statistics, passes.merge, passes.store_output
    has_output, zero, lowest = bool(spec.output), maths.real(0), maths.lowest
    has_statistics = spec.has_statistics

    @hw.device
    def compute_row(args: Any, row: Any, thread: Any) -> None:
        kept, y = kept_label(args, row)
        if kept:
            x = logits_row(args, row)
            z_y = label_logit(args, x, y)
            begin = -elements_before(x)
            stats = RowStatistics(lowest, zero, zero, zero)
            if has_statistics:
                stats = merge(statistics(args, row, x, y, thread, begin, args.n_classes))
            loss, lse, factors = epilogue(args, row, y, stats, z_y)
            if thread == 0:
                store_row_result(args, row, loss, lse)
            if has_output:
                store_output(args, row, x, y, thread, begin, args.n_classes, factors)
        else:
            if has_output:
                fill_row(args, out_row(args, row), zero, thread, threads)
            if thread == 0:
                store_row_result(args, row, zero, zero)

    return compute_row


def _statistics(spec: Spec, threads: int, batch: int) -> Any:
    """The first pass: an online softmax over this thread's batches."""
    maths, memory = row_functions(spec), address_functions(spec)
    access, q_access = memory.access, memory.distribution_access
    vector_width, words, word_type, element = access.vector_width, access.words, access.word_type, access.element
    q_element, q_word_type, q_words = q_access.element, q_access.word_type, memory.distribution_words
    load_distribution, distribution_row = memory.load_distribution, memory.distribution_row
    logits_stride = memory.logits_stride
    real, lowest, exp, summand = maths.real, maths.lowest, maths.exp, maths.summand
    transform, dense_target = maths.transform, maths.dense_target
    dense, has_distribution, ragged = spec.dense, bool(spec.distribution), spec.ragged
    sparse_label = bool(spec.labels) and not dense
    sums_exp = spec.sums_exp
    step, total_words, one, zero, minus_inf = threads * vector_width, batch * words, real(1), real(0), real(-np.inf)
    inf = real(np.inf)
    held = held_vectors(spec, threads, batch)
    load_held, raise_max = held.load, held.raise_max

    @hw.device
    def statistics(args: Any, row: Any, x: Any, y: Any, thread: Any, begin: Any, end: Any) -> Any:
        registers = hw.cuda.local.array(total_words, word_type)
        q_registers = hw.cuda.local.array(q_words, q_word_type)
        q = distribution_row(args, row) if has_distribution else hw.i64(0)
        row_max, total, left_out, target_gap, target_sum = lowest, zero, zero, zero, zero
        compensation, gap_compensation, target_compensation = zero, zero, zero
        for start in range(begin + thread * vector_width, end, step * batch):
            # Relative to `start`, as in `Share`.
            limit, label = hw.i32(min(end - start, step * batch)), hw.i32(min(y - start, step * batch))
            row_begin, row_end = hw.i32(min(-start, vector_width)), hw.i32(min(args.n_classes - start, step * batch))
            if sums_exp:
                first_vector = x + start * logits_stride(args)
                share = Share(start, limit, label)
                load_held(args, first_vector, share, registers)
                raised_max = raise_max(args, row_max, share, registers, row_begin, row_end)
                if raised_max > row_max:
                    rescale = exp(row_max - raised_max)
                    if dense:
                        total += left_out
                        left_out = zero
                    total *= rescale
                    compensation *= rescale
                    if dense and target_sum != zero:
                        target_gap += target_sum * (raised_max - row_max)
                    row_max = raised_max
            batch_total, batch_gap, batch_target = zero, zero, zero
            for i in range(batch):
                if i * step < limit:
                    if has_distribution:
                        load_distribution(args, q, start + i * step, q_registers)
                    for k in range(vector_width):
                        j = i * step + k
                        inside = not ragged or (j >= row_begin and j < row_end)
                        z = zero
                        if sums_exp:
                            z = transform(args, real(element(registers, i * words, k)))
                            if not inside or (sparse_label and j == label):
                                z = minus_inf
                            term, left_out = summand(z, row_max, left_out)
                            batch_total += term
                        if dense and inside:
                            t_j = dense_target(args, q_element(q_registers, 0, k), start + j, y)
                            batch_target += t_j
                            if t_j != zero:
                                batch_gap += t_j * (row_max - z)
            total, compensation = compensated_add(total, compensation, batch_total)
            if dense:
                target_gap, gap_compensation = compensated_add(target_gap, gap_compensation, batch_gap)
                if target_gap == inf:  # a class of weight at −inf
                    gap_compensation = zero
                target_sum, target_compensation = compensated_add(target_sum, target_compensation, batch_target)
        if dense:
            total += left_out - one
        return RowStatistics(row_max, total, target_gap, target_sum)

    return statistics


def _merge(spec: Spec, threads: int) -> Any:
    """Merge the statistics of all threads: the maximum first, each sum rescaled to it, then the sums."""
    if threads == 1:  # nothing to merge
        return hw.device(lambda stats: stats)
    maths = row_functions(spec)
    reduce = reductions(maths.real, threads, spec.dense)
    reduce_max, reduce_add, rescaled_sum = reduce.reduce_max, reduce.reduce_add, rescaled_sum_function(spec)
    dense, one, zero = spec.dense, maths.real(1), maths.real(0)

    @hw.device
    def merge(stats: Any) -> Any:
        thread_max, total, target_gap, target_sum = stats
        row_max = reduce_max(thread_max)
        total, left_out = rescaled_sum(total, thread_max, row_max)
        if dense and target_sum != zero:
            target_gap += target_sum * (row_max - thread_max)
        total, left_out, target_gap, target_sum = reduce_add(total, left_out, target_gap, target_sum)
        if dense:
            total += left_out - one  # one class is left out, not one of each thread
        return RowStatistics(row_max, total, target_gap, target_sum)

    return merge


def rescaled_sum_function(spec: Spec) -> Any:
    """(sum_exp_others and row_max of a part of a row, row_max of the row) -> (the sum for that maximum, left out).

    With a dense target each part has left out a class at its own maximum.  Where that is less than the row's, the class
    is added here; where it is the row's, it is counted, and the merged sum will include all but one of these.
    """
    maths = row_functions(spec)
    exp_term, dense, one, zero = maths.exp_term, spec.dense, maths.real(1), maths.real(0)

    @hw.device
    def rescaled_sum(sum_exp_others: Any, part_max: Any, row_max: Any) -> Any:
        if dense:
            if part_max == row_max:
                return sum_exp_others, one
            sum_exp_others += one
        return sum_exp_others * exp_term(part_max, row_max), zero

    return rescaled_sum


def _store_output(spec: Spec, threads: int, batch: int) -> Any:
    """The second pass: read the logits again and store the output."""
    if not spec.output:
        return None
    memory = address_functions(spec)
    access, out_row, distribution_row = memory.access, memory.out_row, memory.distribution_row
    logits_stride, out_stride = memory.logits_stride, memory.out_stride
    vector_width, word_type, total_words = access.vector_width, access.word_type, batch * access.words
    has_distribution, ragged, step = bool(spec.distribution), spec.ragged, threads * vector_width
    held = held_vectors(spec, threads, batch)
    load_held, store_held = held.load, held.store_output

    @hw.device
    def store_output(args: Any, row: Any, x: Any, y: Any, thread: Any, begin: Any, end: Any, factors: Any) -> None:
        out = out_row(args, row)
        same_alignment = not ragged or ((out ^ x) & 15) == 0
        registers = hw.cuda.local.array(total_words, word_type)
        q = distribution_row(args, row) if has_distribution else hw.i64(0)
        for start in range(begin + thread * vector_width, end, step * batch):
            first_vector, first_out = x + start * logits_stride(args), out + start * out_stride(args)
            limit, label = hw.i32(min(end - start, step * batch)), hw.i32(min(y - start, step * batch))
            share = Share(start, limit, label)
            load_held(args, first_vector, share, registers)
            store_held(args, q, y, share, registers, factors, first_out, same_alignment)

    return store_output
