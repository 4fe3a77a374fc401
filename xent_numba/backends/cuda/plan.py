"""Which kernel computes a call, with what launch shape, and why.  Every threshold of the backend stands here.

    regime    rows                                                                 who shares a row
    tile      at most TILE_CLASSES packed classes                                  a thread, by way of shared memory
    columns   classes apart, neighbouring rows side by side                        a thread
    warp      at most WARP_CLASSES classes, in at most `most_vectors` vectors      a warp, in registers
    split     fewer rows than multiprocessors, of at least SPLIT_CLASSES classes   several blocks
    block     what the registers of a block hold                                   a block, in registers
    online    anything else                                                        a block, in two reads

What is read element by element (`Spec.swept`) is computed in "columns" or "online" alone.

Whether a row fits the registers depends on its vectors too: a warp of 8 vectors per lane holds 1024 aligned float32
classes but 512 of float64, and rows of more go to "block".  A larger WARP_CLASSES therefore has no effect on these
unless `most_vectors` allows more vectors.

The thresholds come from what the compiled kernels need (registers, shared memory; see benchmarks/cuda_codegen.py), not
from timings: nothing has been measured on a GPU yet.
"""

from __future__ import annotations

from typing import NamedTuple

from xent_numba.backends.cuda.hw.sizes import MAX_GRID_X, MAX_GRID_Y, VECTOR_BYTES, WARP
from xent_numba.backends.cuda.row.spec import ITEMSIZE, Spec
from xent_numba.backends.cuda.runtime.device import DeviceFacts

TILE_CLASSES = 32
TILE_THREADS = 128
COLUMN_THREADS = 128
COLUMN_BATCH = 8  # classes that a thread has in flight
WARP_CLASSES = 1024
WARP_THREADS = 128  # four rows a block
BLOCK_THREADS = (128, 256, 512, 1024)
ONLINE_THREADS = 512
ONLINE_BATCH = 4  # vectors that a thread has in flight
SWEEP_THREADS = 256  # where rows are read element by element, which takes up to 255 registers
SPLIT_CLASSES = 16384  # fewer would not make segments that are worth a block
SCAN_THREADS = 256  # of the kernels that look at labels, weights and losses
SCAN_ROWS = 4096  # rows of one of their blocks, at least
SCAN_BLOCKS = 512  # blocks of a scan, at most
SUM_ALONE = 16384  # up to so many numbers, one block sums alone


class Plan(NamedTuple):
    """How a call is computed: its regime, why that was chosen, and the shape of its launch."""

    regime: str  # "tile", "columns", "warp", "block", "online" or "split"
    why: str
    threads: int  # of a block
    vectors: int = 0  # of a thread, in the regimes that hold a row in registers
    segments: int = 1  # of a row, where the regime is "split"
    segment_classes: int = 0


def plan(spec: Spec, n_rows: int, n_classes: int, layout: str, facts: DeviceFacts) -> Plan:
    """Choose for `n_rows` rows in memory as `operands.row_layout` says, on a device."""
    vector_width = VECTOR_BYTES // ITEMSIZE[spec.dtype]
    if layout == "columns" and n_rows >= facts.multiprocessors * COLUMN_THREADS:
        return Plan("columns", "neighbouring rows lie side by side: a thread per row", COLUMN_THREADS)
    if spec.swept:
        if n_classes <= TILE_CLASSES and n_rows >= facts.multiprocessors * COLUMN_THREADS:
            return Plan("columns", f"{n_classes} ≤ {TILE_CLASSES} classes: a thread per row", COLUMN_THREADS)
        threads = _online_threads(n_classes, sweep_batch(spec), SWEEP_THREADS)
        return Plan("online", "what reads a row element by element: a block per row", threads)
    if not spec.unit_stride:
        return _online(n_classes, 1, "classes do not lie side by side")
    if n_classes <= TILE_CLASSES and layout == "packed":
        return Plan("tile", f"{n_classes} ≤ {TILE_CLASSES} packed classes: a thread per row", TILE_THREADS)
    # A ragged row may begin with the last element of its first vector.
    room = n_classes if spec.aligned else n_classes + vector_width - 1
    vectors = _power_of_two(-(-room // (WARP * vector_width)))
    if n_classes <= WARP_CLASSES and vectors <= most_vectors(spec, WARP_THREADS, facts.compute_capability):
        return Plan("warp", f"{n_classes} ≤ {WARP_CLASSES} classes: a warp per row", WARP_THREADS, vectors)
    if n_rows < facts.multiprocessors and n_classes >= SPLIT_CLASSES and n_rows <= MAX_GRID_Y:
        return _split(n_rows, n_classes, room, vector_width, facts.multiprocessors)
    for threads in BLOCK_THREADS:
        vectors = _power_of_two(-(-room // (threads * vector_width)))
        most = most_vectors(spec, threads, facts.compute_capability)
        # Below 512 threads at most 4 vectors each: more threads keep more loads in flight.
        if vectors <= (most if threads >= 512 else min(most, 4)) and n_rows <= MAX_GRID_X:
            return Plan("block", f"the row fits the registers of {threads} threads", threads, vectors)
    return _online(n_classes, vector_width, f"{n_classes} classes exceed the registers of a block")


def most_vectors(spec: Spec, threads: int, compute_capability: tuple[int, int]) -> int:
    """How many vectors per thread stay in registers (see the table of benchmarks/cuda_codegen.py)."""
    heavy = spec.dense or spec.softcap
    if threads == 1024:  # 64 registers a thread
        if heavy or spec.focal or spec.float64 or spec.sample_weight or spec.grad_output or not spec.aligned:
            return 0
        return 8 if compute_capability >= (9, 0) else 4
    # Loops over more than this are not unrolled, which would send the registers to memory.
    rounds_by_bits = spec.dtype == "bfloat16" and not spec.sm_80
    return 4 if (heavy and spec.dtype != "float32") or (rounds_by_bits and not spec.aligned) else 8


def sweep_batch(spec: Spec) -> int:
    """How many elements a thread has in flight where rows are read element by element; more are not unrolled."""
    return 2 if spec.float64 or spec.output else 4


def scan_blocks(n: int) -> int:
    """How many blocks share the scan of `n` labels or weights."""
    return max(1, min(SCAN_BLOCKS, -(-n // SCAN_ROWS)))


def sum_sizes(n: int) -> list[int]:
    """How many partial sums of SCAN_ROWS numbers each there are, pass after pass, until one block can sum them."""
    sizes = []
    while n > SUM_ALONE:
        n = -(-n // SCAN_ROWS)
        sizes.append(n)
    return sizes


def _online(n_classes: int, vector_width: int, why: str) -> Plan:
    """A block per row, of no more threads than have something to read."""
    threads = _online_threads(n_classes, vector_width * ONLINE_BATCH, ONLINE_THREADS)
    return Plan("online", f"{why}: running sums, two reads", threads)


def _online_threads(n_classes: int, batch: int, most: int) -> int:
    """A power of two of them, at most `most`, which read `batch` classes each before they come to their next ones."""
    threads = WARP
    while threads < most and threads * batch < n_classes:
        threads *= 2
    return threads


def _split(n_rows: int, n_classes: int, room: int, vector_width: int, multiprocessors: int) -> Plan:
    """Segments for two blocks a multiprocessor, each a whole number of vectors for every thread."""
    step = ONLINE_THREADS * vector_width
    wanted = -(-2 * multiprocessors // n_rows)
    classes = step * max(1, -(-room // (wanted * step)))
    why = f"{n_rows} rows of {n_classes} classes would leave most of {multiprocessors} multiprocessors idle"
    return Plan("split", why, ONLINE_THREADS, segments=-(-room // classes), segment_classes=classes)


def _power_of_two(n: int) -> int:
    """The smallest power of two that is at least n."""
    return 1 << max(0, n - 1).bit_length()
