"""Regime "split": few rows with very many classes.  Each row is cut into segments that go to different blocks.

Three kernels: the statistics of each segment; their merge, with the loss of the row; and, where there is an output, a
second read of the logits.  With a saved log Σ exp and a sparse target the last one suffices.  The segments are merged
in a fixed order.
"""

from __future__ import annotations

from typing import Any

from xent_numba.backends.cuda.hw import intrinsics as hw
from xent_numba.backends.cuda.hw.reduce import reductions
from xent_numba.backends.cuda.hw.sizes import WARP
from xent_numba.backends.cuda.regimes.online import rescaled_sum_function, row_passes
from xent_numba.backends.cuda.row.address import address_functions
from xent_numba.backends.cuda.row.epilogue import OutputFactors, RowStatistics
from xent_numba.backends.cuda.row.functions import row_functions
from xent_numba.backends.cuda.row.spec import Spec

NUMBERS = 4  # that are kept of each segment (`RowStatistics`), and of each row (`OutputFactors`)


def number_size(spec: Spec) -> int:
    """Bytes of one of these numbers: they have the type of the arithmetic."""
    return 8 if spec.float64 else 4


def build_statistics(spec: Spec, threads: int, batch: int) -> Any:
    """Kernel (args, parts, segment_classes) on a grid (segments, rows): the statistics of segment i of row r.

    `parts` has room for NUMBERS · segments · rows numbers; `segment_classes` is a whole number of vectors.
    """
    maths, memory, passes = row_functions(spec), address_functions(spec), row_passes(spec, threads, batch)
    kept_label, logits_row, segment = maths.kept_label, memory.logits_row, _segment(spec)
    statistics, merge = passes.statistics, passes.merge
    store, size = hw.store_f64 if spec.float64 else hw.store_f32, number_size(spec)

    def kernel(args: Any, parts: Any, segment_classes: Any) -> None:
        row, thread = hw.i64(hw.block_index_y()), hw.thread_index()
        kept, y = kept_label(args, row)
        if kept:
            x = logits_row(args, row)
            begin, end = segment(args, x, segment_classes)
            row_max, total, target_gap, target_sum = merge(statistics(args, row, x, y, thread, begin, end))
            if thread == 0:
                part = parts + (row * hw.grid_width() + hw.block_index()) * NUMBERS * size
                store(part, row_max)
                store(part + size, total)
                store(part + 2 * size, target_gap)
                store(part + 3 * size, target_sum)

    return kernel


def build_epilogue(spec: Spec) -> Any:
    """Kernel (args, parts, results, segments) of a warp per row: merges its segments and stores the row's loss.

    `results` has room for the NUMBERS output factors of each row, in the type of the arithmetic.
    """
    maths, memory = row_functions(spec), address_functions(spec)
    real, lowest, rescaled_sum = maths.real, maths.lowest, rescaled_sum_function(spec)
    kept_label, label_logit = maths.kept_label, maths.label_logit
    epilogue, store_row_result, logits_row = maths.epilogue, maths.store_row_result, memory.logits_row
    reduce = reductions(real, WARP, spec.dense)
    reduce_max, reduce_add = reduce.reduce_max, reduce.reduce_add
    dense, one, zero = spec.dense, real(1), real(0)
    load, store = (hw.load_f64, hw.store_f64) if spec.float64 else (hw.load_f32, hw.store_f32)
    size = number_size(spec)

    def kernel(args: Any, parts: Any, results: Any, segments: Any) -> None:
        row, lane = hw.i64(hw.block_index()), hw.thread_index()
        kept, y = kept_label(args, row)
        if kept:
            z_y = label_logit(args, logits_row(args, row), y)
            row_max = lowest
            for i in range(lane, segments, WARP):
                row_max = hw.fmax(row_max, load(parts + (row * segments + i) * NUMBERS * size))
            row_max = reduce_max(row_max)
            total, left_out, target_gap, target_sum = zero, zero, zero, zero
            for i in range(lane, segments, WARP):
                part = parts + (row * segments + i) * NUMBERS * size
                segment_max = load(part)
                segment_total, segment_left_out = rescaled_sum(load(part + size), segment_max, row_max)
                total += segment_total
                if dense:
                    left_out += segment_left_out
                    segment_target = load(part + 3 * size)
                    target_gap += load(part + 2 * size)
                    target_sum += segment_target
                    if segment_target != zero:
                        target_gap += segment_target * (row_max - segment_max)
            total, left_out, target_gap, target_sum = reduce_add(total, left_out, target_gap, target_sum)
            if dense:
                total += left_out - one
            stats = RowStatistics(row_max, total, target_gap, target_sum)
            loss, lse, factors = epilogue(args, row, y, stats, z_y)
            if lane == 0:
                store_row_result(args, row, loss, lse)
                result = results + row * NUMBERS * size
                store(result, factors.row_max)
                store(result + size, factors.p_factor)
                store(result + 2 * size, factors.at_target)
                store(result + 3 * size, factors.scale)
        elif lane == 0:
            store_row_result(args, row, zero, zero)

    return kernel


def build_output(spec: Spec, threads: int, batch: int) -> Any:
    """Kernel (args, results, segment_classes) on a grid (segments, rows): the output of each segment.

    `results` has the factors that `build_epilogue` stored; they are not read where a saved log Σ exp replaces them.
    """
    maths, memory, passes = row_functions(spec), address_functions(spec), row_passes(spec, threads, batch)
    kept_label, label_logit = maths.kept_label, maths.label_logit
    epilogue, store_output = maths.epilogue, passes.store_output
    logits_row, out_row, fill_row, segment = memory.logits_row, memory.out_row, memory.fill_row, _segment(spec)
    saved, zero, lowest = not spec.has_statistics, maths.real(0), maths.lowest
    load, size = hw.load_f64 if spec.float64 else hw.load_f32, number_size(spec)

    def kernel(args: Any, results: Any, segment_classes: Any) -> None:
        row, thread = hw.i64(hw.block_index_y()), hw.thread_index()
        kept, y = kept_label(args, row)
        if kept:
            x = logits_row(args, row)
            begin, end = segment(args, x, segment_classes)
            if saved:
                # In place, another block may have overwritten the label's logit by now.  But only the thread that has
                # the label uses `at_target`, and it has not stored yet.
                z_y = label_logit(args, x, y)
                _, _, factors = epilogue(args, row, y, RowStatistics(lowest, zero, zero, zero), z_y)
            else:
                result = results + row * NUMBERS * size
                factors = OutputFactors(
                    load(result), load(result + size), load(result + 2 * size), load(result + 3 * size)
                )
            store_output(args, row, x, y, thread, begin, end, factors)
        else:
            fill_row(args, out_row(args, row), zero, hw.block_index() * threads + thread, hw.grid_width() * threads)

    return kernel


def _segment(spec: Spec) -> Any:
    """(args, address of class 0, segment_classes) -> the classes [begin, end) of this block's segment.

    The first segment begins where the row's first vector does, which may be before class 0.
    """
    elements_before = address_functions(spec).elements_before

    @hw.device
    def segment(args: Any, x: Any, segment_classes: Any) -> Any:
        begin = hw.block_index() * segment_classes - elements_before(x)
        return begin, min(begin + segment_classes, args.n_classes)

    return segment
