"""Launches that are not a row's: the scan of labels and weights, and the sum of the losses of the rows."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from xent_numba.backends.cuda.hw import intrinsics as hw
from xent_numba.backends.cuda.regimes import labels as scan
from xent_numba.backends.cuda.row.operands import Call, Operand, specialise
from xent_numba.backends.cuda.row.spec import Spec
from xent_numba.backends.cuda.runtime import memory

RESULT_BYTES = 8 * scan.FIELDS
THREADS = scan.THREADS
SCALES = 8 * scan.INVERSE  # where in a result the loss kernels read


class Found(NamedTuple):
    """The result of a scan; -1 where nothing bad was found."""

    first_bad: int
    first_bad_weight: int
    first_bad_sample: int
    kept: float
    weight_sum: float
    sample_sum: float


@cache
def _labels_kernel(spec: Spec) -> Any:
    return hw.compiled(scan.build_labels(spec, THREADS), THREADS)


@cache
def _labels_finish() -> Any:
    return hw.compiled(scan.build_labels_finish(THREADS), THREADS)


@cache
def _sum_kernel(dtype: str) -> Any:
    return hw.compiled(scan.build_sum(dtype, THREADS), THREADS)


@cache
def _scalar_kernel(source: str, result: str) -> Any:
    return hw.compiled(scan.build_scalar(source, result, THREADS), THREADS)


@cache
def _peek_kernel(labels: str) -> Any:
    return hw.compiled(scan.build_peek(labels), 32)


def scan_labels(call: Call, mean: bool, stream: Any, *, keep: bool) -> Any:
    """Check labels and weights, and find the denominators; the result stays on the device.

    Without `keep` it is valid until the stream's next use of scratch memory.
    """
    spec, a = specialise(call)
    blocks = scan.blocks_for(max(a.n_rows, a.n_classes if spec.weight else 0))
    parts = memory.scratch((blocks + 1) * RESULT_BYTES, stream)
    result = memory.lend(RESULT_BYTES, stream) if keep else parts[:RESULT_BYTES]
    first = memory.address(parts) + RESULT_BYTES
    hw.configured(_labels_kernel(spec), blocks, THREADS, stream)(a, first)
    hw.configured(_labels_finish(), 1, THREADS, stream)(first, blocks, memory.address(result), int(mean))
    return result


def read_scan(result: Any, stream: Any) -> Found:
    """Copy the result of a scan to the host, which waits for the stream."""
    host = np.empty(scan.FIELDS, np.int64)
    memory.download(result, host, stream)
    numbers = host.view(np.float64)
    whole = [int(value) for value in host[: scan.KEPT]]
    return Found(*whole, *(float(value) for value in numbers[scan.KEPT : scan.INVERSE]))


def peek(label: Operand, stream: Any) -> int:
    """One label, read from the device."""
    target = memory.scratch(8, stream)
    hw.configured(_peek_kernel(label.dtype), 1, 32, stream)(label.address, memory.address(target))
    host = np.empty(1, np.int64)
    memory.download(target, host, stream)
    return int(host[0])


def reduce_rows(rows: Operand, n: int, target: int, scales: int, denominator: float, stream: Any) -> None:
    """Store Σ rows / denominator at `target`, in the dtype of the rows; see `scan.build_scalar` for `scales`."""
    source, dtype, count = rows.address, rows.dtype, n
    sizes = []
    while count > scan.ONE_BLOCK:
        count = -(-count // scan.ROWS_PER_BLOCK)
        sizes.append(count)
    if sizes:
        at = memory.address(memory.scratch(8 * sum(sizes), stream))
        count = n
        for blocks in sizes:
            hw.configured(_sum_kernel(dtype), blocks, THREADS, stream)(source, count, at, scan.ROWS_PER_BLOCK)
            source, dtype, count, at = at, "float64", blocks, at + 8 * blocks
    last = hw.configured(_scalar_kernel(dtype, rows.dtype), 1, THREADS, stream)
    last(source, count, target, scales, float(denominator))
