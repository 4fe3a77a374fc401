"""Building, caching and launching kernels: those of a plan, of the label scan, and of the sum of the losses.

Nothing here waits for the device, except `read_scan` and `peek`, which copy a few bytes to the host.  Memory that a
launch needs for its intermediate results is the stream's scratch memory, valid until its next use on that stream.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from xent_numba.backends.cuda.hw import intrinsics as hw
from xent_numba.backends.cuda.hw.access import LOAD_LABEL
from xent_numba.backends.cuda.hw.sizes import MAX_GRID_X, WARP
from xent_numba.backends.cuda.plan import (
    COLUMN_BATCH,
    ONLINE_BATCH,
    SCAN_ROWS,
    SCAN_THREADS,
    Plan,
    plan,
    scan_blocks,
    sum_sizes,
    sweep_batch,
)
from xent_numba.backends.cuda.regimes import (
    block,
    columns,
    distilled,
    from_top,
    labels,
    online,
    sharded,
    split,
    tile,
    warp,
)
from xent_numba.backends.cuda.regimes.sweep import block_per_row, thread_per_row
from xent_numba.backends.cuda.row.operands import Operand, Operands, kernel_arguments, row_layout
from xent_numba.backends.cuda.row.spec import Spec
from xent_numba.backends.cuda.runtime import device, memory

SCAN_BYTES = 8 * labels.FIELDS  # of a result
DEVICE_SCALES = 8 * labels.INVERSE  # where in a result the loss kernels read


class ScanResult(NamedTuple):
    """The result of a label scan on the host; −1 where nothing bad was found."""

    first_bad: int
    first_bad_weight: int
    first_bad_sample: int
    weight_sum: float
    sample_sum: float


def build(name: str, spec: Spec, threads: int, vectors: int = 0) -> Any:
    """The Python function of one of the kernels of a plan: `name` is a regime, or a part of "split"."""
    if spec.swept:
        row: Any = from_top.row_from_top
        if spec.distillation or spec.shard:
            row = distilled.row_from_teacher if spec.distillation else sharded.row_of_shard
        if name == "columns":
            return thread_per_row(row(spec, 1, sweep_batch(spec)), threads)
        return block_per_row(row(spec, threads, sweep_batch(spec)))
    builders: dict[str, Any] = {
        "tile": lambda: tile.build(spec, threads),
        "columns": lambda: columns.build(spec, threads, COLUMN_BATCH),
        "warp": lambda: warp.build(spec, threads, vectors),
        "block": lambda: block.build(spec, threads, vectors),
        "online": lambda: online.build(spec, threads, ONLINE_BATCH),
        "split statistics": lambda: split.build_statistics(spec, threads, ONLINE_BATCH),
        "split epilogue": lambda: split.build_epilogue(spec),
        "split output": lambda: split.build_output(spec, threads, ONLINE_BATCH),
    }
    return builders[name]()


@cache
def kernel(name: str, spec: Spec, threads: int, vectors: int = 0) -> Any:
    """The kernel object of `build`; it compiles when first launched."""
    return hw.jit_kernel(build(name, spec, threads, vectors), threads)


def run(operands: Operands, stream: Any = 0) -> Plan:
    """Launch what a call needs on the current device; the plan comes back."""
    facts = device.facts()
    spec, args = kernel_arguments(operands, facts.compute_capability)
    n_rows, classes = operands.n_rows, operands.shape[2]
    chosen = plan(spec, n_rows, classes, row_layout(operands, spec), facts)
    regime, threads = chosen.regime, chosen.threads
    if regime == "split":
        _run_split(chosen, spec, args, n_rows, stream)
        return chosen
    grid, shared = n_rows, 0
    if regime in ("tile", "columns"):
        grid = -(-n_rows // threads)
    elif regime == "warp":
        grid = -(-n_rows // (threads // WARP))
    elif regime == "online":
        grid = min(n_rows, MAX_GRID_X)
    if regime == "tile":
        shared = tile.tile_bytes(spec, threads, classes)
    hw.configure(kernel(regime, spec, threads, chosen.vectors), grid, threads, stream, shared)(args)
    return chosen


def _run_split(chosen: Plan, spec: Spec, args: Any, n_rows: int, stream: Any) -> None:
    """The kernels of the regime "split": statistics of the segments, epilogue of the rows, output."""
    threads, segments, segment_classes = chosen.threads, chosen.segments, chosen.segment_classes
    grid = (segments, n_rows)
    if not spec.has_statistics:
        hw.configure(kernel("split output", spec, threads), grid, threads, stream)(args, 0, segment_classes)
        return
    size = split.NUMBERS * split.number_size(spec)
    parts = memory.address(memory.scratch(n_rows * (segments + 1) * size, stream))
    results = parts + n_rows * segments * size
    hw.configure(kernel("split statistics", spec, threads), grid, threads, stream)(args, parts, segment_classes)
    hw.configure(kernel("split epilogue", spec, WARP), n_rows, WARP, stream)(args, parts, results, segments)
    if spec.output:
        hw.configure(kernel("split output", spec, threads), grid, threads, stream)(args, results, segment_classes)


def scan_labels(operands: Operands, mean: bool, stream: Any, *, keep: bool) -> Any:
    """Check labels and weights, and find the denominators; the result stays on the device.

    Without `keep` it is in scratch memory.
    """
    spec, args = kernel_arguments(operands)
    blocks = scan_blocks(max(args.n_rows, args.n_classes if spec.weight else 0))
    found = memory.scratch((blocks + 1) * SCAN_BYTES, stream)
    result = memory.lend(SCAN_BYTES, stream) if keep else found[:SCAN_BYTES]
    parts = memory.address(found) + SCAN_BYTES
    scan = _array_kernel(SCAN_THREADS, labels.build_scan, spec, SCAN_THREADS)
    merge = _array_kernel(SCAN_THREADS, labels.build_scan_merge, SCAN_THREADS)
    hw.configure(scan, blocks, SCAN_THREADS, stream)(args, parts)
    hw.configure(merge, 1, SCAN_THREADS, stream)(parts, blocks, memory.address(result), int(mean))
    return result


def read_scan(result: Any, stream: Any) -> ScanResult:
    """Copy the result of a scan to the host, which waits for the stream."""
    host = np.empty(labels.FIELDS, np.int64)
    memory.download(result, host, stream)
    numbers = host.view(np.float64)
    firsts = [int(value) for value in host[: labels.KEPT]]
    return ScanResult(*firsts, *(float(value) for value in numbers[labels.WEIGHT_SUM : labels.INVERSE]))


def peek(number: Operand, stream: Any) -> int | float:
    """One label or weight, copied from the device to the host."""
    target = memory.scratch(8, stream)
    copy = _array_kernel(WARP, labels.build_peek, number.dtype)
    hw.configure(copy, 1, WARP, stream)(number.address, memory.address(target))
    host = np.empty(1, np.int64 if number.dtype in LOAD_LABEL else np.float64)
    memory.download(target, host, stream)
    value: int | float = host[0].item()
    return value


def reduce_rows(rows: Operand, n: int, target: int, scan: int, denominator: float, stream: Any) -> None:
    """Store Σ rows / denominator at `target`, in the dtype of the rows; for `scan` see `labels.build_quotient`."""
    source, dtype, count = rows.address, rows.dtype, n
    sizes = sum_sizes(n)
    if sizes:
        sums = memory.address(memory.scratch(8 * sum(sizes), stream))
        for blocks in sizes:
            add = _array_kernel(SCAN_THREADS, labels.build_sum, dtype, SCAN_THREADS)
            hw.configure(add, blocks, SCAN_THREADS, stream)(source, count, sums, SCAN_ROWS)
            source, dtype, count, sums = sums, "float64", blocks, sums + 8 * blocks
    divide = _array_kernel(SCAN_THREADS, labels.build_quotient, dtype, rows.dtype, SCAN_THREADS)
    hw.configure(divide, 1, SCAN_THREADS, stream)(source, count, target, scan, float(denominator))


@cache
def _array_kernel(threads: int, build: Callable[..., Any], *arguments: Any) -> Any:
    """The kernel object of `build(*arguments)`, one of the builders of `labels`; it compiles when first launched."""
    return hw.jit_kernel(build(*arguments), threads)
