"""Which regime computes a call, with what launch shape, and why; and the launches.

All thresholds are here.  They come from what the compiled kernels need (registers, shared memory; see
benchmarks/cuda_codegen.py), not from timings: nothing has been measured on a GPU yet.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

from xent_numba.backends.cuda.hw import intrinsics as hw
from xent_numba.backends.cuda.hw.reduce import WARP
from xent_numba.backends.cuda.regimes import block, columns, online, split, tile, warp
from xent_numba.backends.cuda.row.operands import Call, specialise
from xent_numba.backends.cuda.row.spec import ITEMSIZE, Spec
from xent_numba.backends.cuda.runtime.device import Facts

TILE_THREADS = 128
COLUMN_THREADS = 128
WARP_CLASSES = 1024
BLOCK_THREADS = (128, 256, 512, 1024)
ONLINE_THREADS = 512
SPLIT_CLASSES = 16384  # a slice must be worth a block
GRID_X, GRID_Y = 2**31 - 1, 65535


class Plan(NamedTuple):
    """One decision."""

    regime: str  # "tile", "columns", "warp", "block", "online" or "split"
    why: str
    threads: int
    vectors: int = 0  # per thread, in the regimes that hold a row in registers
    slices: int = 1  # per row, in the split regime
    length: int = 0  # classes of a slice


def plan(spec: Spec, n_rows: int, n_classes: int, layout: str, here: Facts) -> Plan:
    """Choose for `n_rows` rows on the device `here`; for `layout` see `layout_of`."""
    processors = here.processors
    lanes = 16 // ITEMSIZE[spec.dtype]
    if layout == "columns" and n_rows >= processors * COLUMN_THREADS:
        return Plan("columns", "neighbouring rows lie side by side: a thread per row", COLUMN_THREADS)
    if not spec.unit:
        return _online(n_classes, 1, "classes do not lie side by side")
    if n_classes <= tile.MAX_CLASSES and layout == "packed":
        return Plan("tile", f"{n_classes} ≤ {tile.MAX_CLASSES} packed classes: a thread per row", TILE_THREADS)
    room = n_classes if spec.whole else n_classes + lanes - 1  # a ragged row may begin late in its first vector
    per_warp = _power_of_two(-(-room // (WARP * lanes)))
    if n_classes <= WARP_CLASSES and per_warp <= most_vectors(spec, warp.WARPS * WARP, here.capability):
        return Plan("warp", f"{n_classes} ≤ {WARP_CLASSES} classes: a warp per row", warp.WARPS * WARP, per_warp)
    if n_rows < processors and n_classes >= SPLIT_CLASSES and n_rows <= GRID_Y:
        return _split(spec, n_rows, n_classes, room, lanes, processors)
    for threads in BLOCK_THREADS:
        vectors = _power_of_two(-(-room // (threads * lanes)))
        most = most_vectors(spec, threads, here.capability)
        # Below 512 threads at most 4 vectors each: more threads keep more loads in flight.
        if vectors <= (most if threads >= 512 else min(most, 4)) and n_rows <= GRID_X:
            return Plan("block", f"the row fits the registers of {threads} threads", threads, vectors)
    return _online(n_classes, lanes, f"{n_classes} classes exceed the registers of a block")


def most_vectors(spec: Spec, threads: int, capability: tuple[int, int]) -> int:
    """How many vectors per thread stay in registers (see the table of benchmarks/cuda_codegen.py)."""
    heavy = spec.dense or spec.softcap
    if threads == 1024:  # 64 registers a thread
        if heavy or spec.wide or spec.sample_weight or spec.grad_output or not spec.whole:
            return 0
        return 8 if capability >= (9, 0) else 4
    # Loops over more than this are not unrolled, which would send the registers to memory.
    return 4 if heavy and spec.dtype != "float32" else 8


def _online(n_classes: int, lanes: int, why: str) -> Plan:
    threads = WARP
    while threads < ONLINE_THREADS and threads * lanes * online.BATCH < n_classes:
        threads *= 2
    return Plan("online", f"{why}: running sums, two reads", threads)


def _split(spec: Spec, n_rows: int, n_classes: int, room: int, lanes: int, processors: int) -> Plan:
    step = ONLINE_THREADS * lanes  # a slice is a whole number of vectors for every thread
    wanted = -(-2 * processors // n_rows)
    length = step * max(1, -(-room // (wanted * step)))
    why = f"{n_rows} rows of {n_classes} classes would leave most of {processors} multiprocessors idle"
    return Plan("split", why, ONLINE_THREADS, slices=-(-room // length), length=length)


def _power_of_two(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()


@cache
def kernel(name: str, spec: Spec, threads: int, vectors: int = 0) -> Any:
    """A kernel object; it compiles when first launched."""
    builders: dict[str, Any] = {
        "tile": lambda: tile.build(spec, threads),
        "warp": lambda: warp.build(spec, vectors, threads // WARP),
        "block": lambda: block.build(spec, threads, vectors),
        "columns": lambda: columns.build(spec, threads),
        "online": lambda: online.build(spec, threads),
        "split partial": lambda: split.build_partial(spec, threads),
        "split finish": lambda: split.build_finish(spec),
        "split store": lambda: split.build_store(spec, threads),
    }
    return hw.compiled(builders[name](), threads)


def run(call: Call, stream: Any, here: Facts, scratch: Any) -> Plan:
    """Launch what a call needs; nothing here waits for the device.

    `scratch(bytes)` gives the address of memory that the stream may use until its next call.
    """
    spec, a = specialise(call)
    a_rows, b_rows, classes = call.shape
    n_rows = a_rows * b_rows
    chosen = plan(spec, n_rows, classes, layout_of(call, spec), here)
    threads, vectors = chosen.threads, chosen.vectors
    if chosen.regime == "tile":
        shared = tile.tile_bytes(spec, threads, classes)
        hw.configured(kernel("tile", spec, threads), -(-n_rows // threads), threads, stream, shared)(a)
    elif chosen.regime == "columns":
        hw.configured(kernel("columns", spec, threads), -(-n_rows // threads), threads, stream)(a)
    elif chosen.regime == "warp":
        hw.configured(kernel("warp", spec, threads, vectors), -(-n_rows // (threads // WARP)), threads, stream)(a)
    elif chosen.regime == "block":
        hw.configured(kernel("block", spec, threads, vectors), n_rows, threads, stream)(a)
    elif chosen.regime == "online":
        hw.configured(kernel("online", spec, threads), min(n_rows, GRID_X), threads, stream)(a)
    else:
        _run_split(chosen, spec, a, n_rows, stream, scratch)
    return chosen


def _run_split(chosen: Plan, spec: Spec, a: Any, n_rows: int, stream: Any, scratch: Any) -> None:
    threads, slices, length = chosen.threads, chosen.slices, chosen.length
    grid = (slices, n_rows)
    if spec.saved_lse and not spec.dense:
        hw.configured(kernel("split store", spec, threads), grid, threads, stream)(a, 0, length)
        return
    size = split.PARTS * (8 if spec.wide else 4)
    parts = scratch(n_rows * (slices + 1) * size)
    results = parts + n_rows * slices * size
    hw.configured(kernel("split partial", spec, threads), grid, threads, stream)(a, parts, length)
    hw.configured(kernel("split finish", spec, WARP), n_rows, WARP, stream)(a, parts, results, slices)
    if spec.store:
        hw.configured(kernel("split store", spec, threads), grid, threads, stream)(a, results, length)


def layout_of(call: Call, spec: Spec) -> str:
    """How rows follow each other: "packed" (tiles of rows are one run of memory), "columns" (side by side), or ""."""
    views = [view for view in (call.logits, call.out) if view is not None]
    a, b, classes = call.shape
    lead = [view.outer if b == 1 else view.row for view in views]
    sizes = [ITEMSIZE[view.dtype] for view in views]
    if not spec.unit:
        return "columns" if lead == sizes else ""
    packed = a * b == 1 or lead == [classes * size for size in sizes]
    return "packed" if packed and not spec.outer and all(view.address % 16 == 0 for view in views) else ""
