"""Kernels for whole arrays: the check of labels and weights with the denominators, and the sum of the losses.

Each task is a kernel of several blocks and one of a single block that merges their results.  Sums are float64 in a
fixed order, compensated where a thread may add many numbers; counters are integers: the same inputs give the same bits.
The result of the scan stays on the device, where the loss kernels can use it, and is read back (64 bytes) only where
the call is to be checked at once.  One more kernel copies a label or a weight for the message of an error.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from xent_numba.backends.cuda.hw import intrinsics as hw
from xent_numba.backends.cuda.hw.access import LOAD_LABEL, access
from xent_numba.backends.cuda.hw.reduce import compensated_add
from xent_numba.backends.cuda.row import target as row_target
from xent_numba.backends.cuda.row.epilogue import factor_of_row
from xent_numba.backends.cuda.row.spec import ITEMSIZE, Spec

# The result of a scan, 8 bytes each: the first bad row, class weight and sample weight (int64, −1 where there is none);
# in float64 the rows that are not ignored, Σ m s w_y and Σ m s, where m is 0 in ignored rows and 1 elsewhere; and what
# the loss kernels read: 1 / denominator and the ratio of the two denominators.
FIRST_ROW, FIRST_WEIGHT, FIRST_SAMPLE, KEPT, WEIGHT_SUM, SAMPLE_SUM, INVERSE, RATIO = range(8)
FIELDS = 8
NONE = np.iinfo(np.int64).max  # "the first" of nothing, so that a minimum merges them


def _block_reductions(threads: int) -> tuple[Any, Any]:
    """Device functions (int64) -> minimum and (float64) -> sum over a block, by a tree; thread 0 has the result."""
    levels = threads.bit_length() - 1

    @hw.device
    def minimum(value: Any) -> Any:
        values = hw.cuda.shared.array(threads, hw.i64)
        thread = hw.thread_index()
        hw.barrier()  # a call before this one may still be reading
        values[thread] = value
        hw.barrier()
        for k in range(levels):
            half = threads >> (k + 1)
            if thread < half:
                values[thread] = min(values[thread], values[thread + half])
            hw.barrier()
        return values[0]

    @hw.device
    def total(value: Any) -> Any:
        values = hw.cuda.shared.array(threads, hw.f64)
        thread = hw.thread_index()
        hw.barrier()
        values[thread] = value
        hw.barrier()
        for k in range(levels):
            half = threads >> (k + 1)
            if thread < half:
                values[thread] = values[thread] + values[thread + half]
            hw.barrier()
        return values[0]

    return minimum, total


def build_scan(spec: Spec, threads: int) -> Any:
    """Kernel (args, parts) of any number of blocks: each writes FIELDS numbers for its rows and weights."""
    minimum, total = _block_reductions(threads)
    kept_label, has_label = row_target.kept_label(spec), bool(spec.labels)
    class_weight, sample_weight = _class_weight(spec), factor_of_row("sample_weight", spec.sample_weight, hw.f64)
    has_weight, has_sample = bool(spec.weight), bool(spec.sample_weight)
    inf, zero, none = hw.f64(np.inf), hw.f64(0), NONE

    def kernel(args: Any, parts: Any) -> None:
        start, step = hw.i64(hw.block_index()) * threads + hw.thread_index(), hw.grid_width() * threads
        first_row, first_weight, first_sample = none, none, none
        kept_rows, weight_sum, sample_sum = zero, zero, zero
        weight_compensation, sample_compensation = zero, zero
        if has_weight:
            for j in range(start, args.n_classes, step):
                w = class_weight(args, j)
                if not (w >= zero and w < inf):
                    first_weight = min(first_weight, j)
        for row in range(start, args.n_rows, step):
            kept, y = kept_label(args, row)
            s = sample_weight(args, row)
            if has_sample and not (s >= zero and s < inf):
                first_sample = min(first_sample, row)
            if kept:
                if has_label and (y < 0 or y >= args.n_classes):
                    first_row = min(first_row, row)
                else:
                    kept_rows += 1.0
                    s_w = s * class_weight(args, y) if has_label else s
                    sample_sum, sample_compensation = compensated_add(sample_sum, sample_compensation, s)
                    weight_sum, weight_compensation = compensated_add(weight_sum, weight_compensation, s_w)
        part = parts + hw.block_index() * (8 * FIELDS)
        first_row, first_weight, first_sample = minimum(first_row), minimum(first_weight), minimum(first_sample)
        kept_rows, weight_sum, sample_sum = total(kept_rows), total(weight_sum), total(sample_sum)
        if hw.thread_index() == 0:
            hw.store_i64(part + 8 * FIRST_ROW, first_row)
            hw.store_i64(part + 8 * FIRST_WEIGHT, first_weight)
            hw.store_i64(part + 8 * FIRST_SAMPLE, first_sample)
            hw.store_f64(part + 8 * KEPT, kept_rows)
            hw.store_f64(part + 8 * WEIGHT_SUM, weight_sum)
            hw.store_f64(part + 8 * SAMPLE_SUM, sample_sum)

    return kernel


def build_scan_merge(threads: int) -> Any:
    """Kernel (parts, blocks, result, mean) of one block: merges what `build_scan` wrote into one result.

    Where `mean` is not 0 the gradient is to be divided by the denominator that was found.
    """
    minimum, total = _block_reductions(threads)
    zero, one, none = hw.f64(0), hw.f64(1), NONE

    def kernel(parts: Any, blocks: Any, result: Any, mean: Any) -> None:
        first_row, first_weight, first_sample = none, none, none
        kept_rows, weight_sum, sample_sum = zero, zero, zero
        for i in range(hw.thread_index(), blocks, threads):
            part = parts + i * (8 * FIELDS)
            first_row = min(first_row, hw.load_i64(part + 8 * FIRST_ROW))
            first_weight = min(first_weight, hw.load_i64(part + 8 * FIRST_WEIGHT))
            first_sample = min(first_sample, hw.load_i64(part + 8 * FIRST_SAMPLE))
            kept_rows += hw.load_f64(part + 8 * KEPT)
            weight_sum += hw.load_f64(part + 8 * WEIGHT_SUM)
            sample_sum += hw.load_f64(part + 8 * SAMPLE_SUM)
        first_row, first_weight, first_sample = minimum(first_row), minimum(first_weight), minimum(first_sample)
        kept_rows, weight_sum, sample_sum = total(kept_rows), total(weight_sum), total(sample_sum)
        if hw.thread_index() == 0:
            hw.store_i64(result + 8 * FIRST_ROW, first_row if first_row < none else hw.i64(-1))
            hw.store_i64(result + 8 * FIRST_WEIGHT, first_weight if first_weight < none else hw.i64(-1))
            hw.store_i64(result + 8 * FIRST_SAMPLE, first_sample if first_sample < none else hw.i64(-1))
            hw.store_f64(result + 8 * KEPT, kept_rows)
            hw.store_f64(result + 8 * WEIGHT_SUM, weight_sum)
            hw.store_f64(result + 8 * SAMPLE_SUM, sample_sum)
            inverse, ratio = one, one
            if mean != 0:
                # Without any weight the gradient is 0, and the loss 0 · Σ / 0 is nan.
                inverse = one / weight_sum if weight_sum > zero else zero
                ratio = weight_sum / sample_sum if sample_sum > zero else zero
            hw.store_f64(result + 8 * INVERSE, inverse)
            hw.store_f64(result + 8 * RATIO, ratio)

    return kernel


def build_sum(dtype: str, threads: int) -> Any:
    """Kernel (source, n, target, group): block b sums the numbers [b · group, (b + 1) · group) in float64."""
    total = _block_reductions(threads)[1]
    load, size = access(dtype).load, ITEMSIZE[dtype]
    zero = hw.f64(0)

    def kernel(source: Any, n: Any, target: Any, group: Any) -> None:
        begin = hw.i64(hw.block_index()) * group
        value = zero
        for i in range(begin + hw.thread_index(), min(begin + group, n), threads):
            value += hw.f64(load(source + i * size))
        value = total(value)
        if hw.thread_index() == 0:
            hw.store_f64(target + 8 * hw.i64(hw.block_index()), value)

    return kernel


def build_quotient(source: str, result: str, threads: int) -> Any:
    """Kernel (parts, n, target, scan, denominator) of one block: the sum of `n` numbers over the denominator.

    The denominator is Σ m s w_y of the label scan whose result is at `scan`, where that is not 0.
    """
    total = _block_reductions(threads)[1]
    load, size, store = access(source).load, ITEMSIZE[source], access(result).store
    real = hw.f64 if result == "float64" else hw.f32
    zero = hw.f64(0)

    def kernel(parts: Any, n: Any, target: Any, scan: Any, denominator: Any) -> None:
        value = zero
        for i in range(hw.thread_index(), n, threads):
            value += hw.f64(load(parts + size * i))
        value = total(value)
        if hw.thread_index() == 0:
            if scan != 0:
                denominator = hw.load_f64(scan + 8 * WEIGHT_SUM)
            store(target, real(value / denominator))

    return kernel


def build_peek(dtype: str) -> Any:
    """Kernel (source, target): one label as int64, or one weight as float64, for the message of an error."""
    if dtype in LOAD_LABEL:
        load, store, wide = LOAD_LABEL[dtype], hw.store_i64, hw.i64
    else:
        load, store, wide = access(dtype).load, hw.store_f64, hw.f64

    def kernel(source: Any, target: Any) -> None:
        if hw.thread_index() == 0:
            store(target, wide(load(source)))

    return kernel


def _class_weight(spec: Spec) -> Any:
    """(args, class in range) -> its weight as float64, 1 where there are none."""
    one: Any = hw.f64(1)
    if not spec.weight:
        return hw.device(lambda args, j: one)
    load, size = access(spec.weight).load, ITEMSIZE[spec.weight]
    return hw.device(lambda args, j: hw.f64(load(args.weight + size * j)))
