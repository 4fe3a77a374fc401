"""What is asked of whole arrays on the device: the check of the labels with the denominators, and the sum of the rows.

Both are a kernel of some blocks and one of a single block, with sums in float64 in a fixed order: same inputs, same
bits.  Counters are integers.  The result of the label scan stays on the device, where the loss kernels can use it,
and is read back (48 bytes) only where the call is to be checked at once.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from xent_numba.backends.cuda.hw import intrinsics as hw
from xent_numba.backends.cuda.hw.access import LOAD_LABEL, access
from xent_numba.backends.cuda.row.spec import Spec
from xent_numba.backends.cuda.row.transform_target import rowmath

THREADS = 256
ROWS_PER_BLOCK = 4096
ONE_BLOCK = 16384  # up to so many numbers one block sums alone
MAX_BLOCKS = 512
# A result of the label scan, 8 bytes each: first bad row, first bad class weight, first bad sample weight (-1 where
# there is none), rows that count, Σ m s w_y, Σ m s; then what the loss kernels read: 1 / denominator, ratio.
FIRST_ROW, FIRST_WEIGHT, FIRST_SAMPLE, KEPT, WEIGHT_SUM, SAMPLE_SUM, INVERSE, RATIO = range(8)
FIELDS = 8
NONE = np.iinfo(np.int64).max


def blocks_for(n: int) -> int:
    """How many blocks share `n` rows."""
    return max(1, min(MAX_BLOCKS, -(-n // ROWS_PER_BLOCK)))


def _block_reduce(threads: int) -> tuple[Any, Any]:
    """Minimum of integers and sum of float64 over a block, by a tree; thread 0 has the result."""
    halvings = threads.bit_length() - 1

    @hw.device
    def minimum(value: Any) -> Any:
        values = hw.cuda.shared.array(threads, hw.i64)
        thread = hw.thread()
        hw.barrier()  # a call before this one may still be reading
        values[thread] = value
        hw.barrier()
        for k in range(halvings):
            half = threads >> (k + 1)
            if thread < half:
                values[thread] = min(values[thread], values[thread + half])
            hw.barrier()
        return values[0]

    @hw.device
    def total(value: Any) -> Any:
        values = hw.cuda.shared.array(threads, hw.f64)
        thread = hw.thread()
        hw.barrier()
        values[thread] = value
        hw.barrier()
        for k in range(halvings):
            half = threads >> (k + 1)
            if thread < half:
                values[thread] = values[thread] + values[thread + half]
            hw.barrier()
        return values[0]

    return minimum, total


def build_labels(spec: Spec, threads: int = THREADS) -> Any:
    """Kernel (a, parts): each block writes FIELDS numbers for the rows, weights and factors it looked at."""
    minimum, total = _block_reduce(threads)
    label, has_label = rowmath(spec).label, bool(spec.labels)
    weight = _number("weight", spec.weight)
    sample = _number("sample_weight", spec.sample_weight)
    has_weight, has_sample = bool(spec.weight), bool(spec.sample_weight)
    high, zero, nothing = hw.f64(np.inf), hw.f64(0), NONE

    def kernel(a: Any, parts: Any) -> None:
        start, step = hw.i64(hw.block()) * threads + hw.thread(), hw.blocks() * threads
        first_row, first_weight, first_sample = nothing, nothing, nothing
        kept, weight_sum, sample_sum = zero, zero, zero
        if has_weight:
            for j in range(start, a.n_classes, step):
                value = weight(a, j)
                if not (value >= zero and value < high):
                    first_weight = min(first_weight, j)
        for row in range(start, a.n_rows, step):
            live, y = label(a, row)
            s = sample(a, row)
            if has_sample and not (s >= zero and s < high):
                first_sample = min(first_sample, row)
            if live:
                if has_label and (y < 0 or y >= a.n_classes):
                    first_row = min(first_row, row)
                else:
                    kept += 1.0
                    sample_sum += s
                    weight_sum += s * weight(a, y) if has_label else s
        at = parts + hw.block() * (8 * FIELDS)
        first_row, first_weight, first_sample = minimum(first_row), minimum(first_weight), minimum(first_sample)
        kept, weight_sum, sample_sum = total(kept), total(weight_sum), total(sample_sum)
        if hw.thread() == 0:
            hw.store_i64(at, first_row)
            hw.store_i64(at + 8, first_weight)
            hw.store_i64(at + 16, first_sample)
            hw.store_f64(at + 24, kept)
            hw.store_f64(at + 32, weight_sum)
            hw.store_f64(at + 40, sample_sum)

    return kernel


def build_labels_finish(threads: int = THREADS) -> Any:
    """Kernel (parts, blocks, result, mean): one block merges the parts of `build_labels`."""
    minimum, total = _block_reduce(threads)
    zero, one, nothing = hw.f64(0), hw.f64(1), NONE

    def kernel(parts: Any, blocks: Any, result: Any, mean: Any) -> None:
        first_row, first_weight, first_sample = nothing, nothing, nothing
        kept, weight_sum, sample_sum = zero, zero, zero
        for i in range(hw.thread(), blocks, threads):
            at = parts + i * (8 * FIELDS)
            first_row = min(first_row, hw.load_i64(at))
            first_weight = min(first_weight, hw.load_i64(at + 8))
            first_sample = min(first_sample, hw.load_i64(at + 16))
            kept += hw.load_f64(at + 24)
            weight_sum += hw.load_f64(at + 32)
            sample_sum += hw.load_f64(at + 40)
        first_row, first_weight, first_sample = minimum(first_row), minimum(first_weight), minimum(first_sample)
        kept, weight_sum, sample_sum = total(kept), total(weight_sum), total(sample_sum)
        if hw.thread() == 0:
            hw.store_i64(result, first_row if first_row < nothing else hw.i64(-1))
            hw.store_i64(result + 8, first_weight if first_weight < nothing else hw.i64(-1))
            hw.store_i64(result + 16, first_sample if first_sample < nothing else hw.i64(-1))
            hw.store_f64(result + 24, kept)
            hw.store_f64(result + 32, weight_sum)
            hw.store_f64(result + 40, sample_sum)
            inverse, ratio = one, one
            if mean != 0:
                # No weight at all: the gradient is 0, and the loss 0 · Σ / 0 is nan.
                inverse = one / weight_sum if weight_sum > zero else zero
                ratio = weight_sum / sample_sum if sample_sum > zero else zero
            hw.store_f64(result + 48, inverse)
            hw.store_f64(result + 56, ratio)

    return kernel


def build_sum(dtype: str, threads: int = THREADS) -> Any:
    """Kernel (source, n, target, group): block b sums the numbers [b · group, (b + 1) · group) in float64."""
    total = _block_reduce(threads)[1]
    load, size = access(dtype).load, access(dtype).size
    zero = hw.f64(0)

    def kernel(source: Any, n: Any, target: Any, group: Any) -> None:
        begin = hw.i64(hw.block()) * group
        value = zero
        for i in range(begin + hw.thread(), min(begin + group, n), threads):
            value += hw.f64(load(source + i * size))
        value = total(value)
        if hw.thread() == 0:
            hw.store_f64(target + 8 * hw.i64(hw.block()), value)

    return kernel


def build_scalar(source: str, result: str, threads: int = THREADS) -> Any:
    """Kernel (parts, n, target, scales, denominator): the sum of `n` numbers, divided, as one number, by one block.

    The denominator is Σ m s w_y of the label scan at `scales` where that is not 0.
    """
    total = _block_reduce(threads)[1]
    load, size, store = access(source).load, access(source).size, access(result).store
    real = hw.f64 if result == "float64" else hw.f32
    zero = hw.f64(0)

    def kernel(parts: Any, n: Any, target: Any, scales: Any, denominator: Any) -> None:
        value = zero
        for i in range(hw.thread(), n, threads):
            value += hw.f64(load(parts + size * i))
        value = total(value)
        if hw.thread() == 0:
            if scales != 0:
                denominator = hw.load_f64(scales + 8 * WEIGHT_SUM)
            store(target, real(value / denominator))

    return kernel


def build_peek(labels: str) -> Any:
    """Kernel (source, target): one label as int64, for the message of an error."""
    load = getattr(hw, LOAD_LABEL[labels])

    def kernel(source: Any, target: Any) -> None:
        if hw.thread() == 0:
            hw.store_i64(target, hw.i64(load(source)))

    return kernel


def _number(name: str, dtype: str) -> Any:
    """(a, index) -> a class or sample weight as float64, 1 where there are none."""
    one: Any = hw.f64(1)
    if not dtype:
        return hw.device(lambda a, i: one)
    load, size = access(dtype).load, access(dtype).size
    if name == "weight":
        return hw.device(lambda a, i: hw.f64(load(a.weight + size * i)))
    return hw.device(lambda a, i: hw.f64(load(a.sample_weight + size * i)))
