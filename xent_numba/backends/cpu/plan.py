"""Which regime computes a call, how its rows are shared among threads, and why.

Every threshold that chooses a kernel is here, with the sizes that several modules share.  The module is at the bottom
of the backend: it only computes with numbers and imports nothing of the package, so every folder may import it.

    regime   rows                                                       kernel
    long     more than TILE_CLASSES classes side by side                one row at a time, along its classes
    split    fewer than SPLIT_ROWS rows of more than SEGMENT_CLASSES    the segments of one row, in parallel
             classes side by side
    packed   PACKED_CLASSES to TILE_CLASSES classes side by side,       a vector of rows, each along its classes
             labels, float32 arithmetic
    lanes    all others: few classes, classes that are apart in         a vector of rows, one row in each lane
             memory, or float64, distributions and softmax up to
             TILE_CLASSES

A work item is one row in `long` and `split`, and a vector of rows in `packed` and `lanes`.  The losses of the work
items are summed in groups of a fixed size, so the bits of a result do not depend on the number of threads.

TILE_CLASSES is at once the capacity of a tile, the upper bound of `packed` and the lower bound of `long`.  To move the
bound between `packed` and `long` downwards, give it a constant of its own and use that in `plan`; to move it upwards,
enlarge TILE_CLASSES, since `packed` copies whole rows into a tile.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

CACHE_LINE = 64  # bytes, and the size of a vector
TILE_CLASSES = 256  # classes that a tile holds; longer rows whose classes lie side by side are read in place
PACKED_CLASSES = 32  # fewer classes would leave most lanes of a row's last vector empty
SPLIT_ROWS = 16  # fewer very long rows than this are computed by all threads together, segment by segment
SEGMENT_CLASSES = 1 << 16  # classes of a long row whose statistics are merged with those of the next segment
SERIAL_LOGITS = 1 << 15  # below this, waking the threads costs more time than they save
GROUP_LOGITS = 1 << 15  # logits that one partial sum stands for, at least one work item
STREAM_BYTES = 1 << 24  # results from this size on are written past the caches
LABEL_GROUP = 1 << 14  # labels that are counted, and whose weights are summed, together
SERIAL_LABEL_GROUPS = 4  # up to this many such groups, waking the threads costs more time than they save
FEW_LABELS = 4  # labels that Python counts as quickly as machine code would, with nothing to compile


class Plan(NamedTuple):
    """How one call is computed."""

    regime: str  # "long", "split", "packed" or "lanes"
    why: str
    work_items: int
    group: int  # work items that one partial sum stands for
    segments: int  # of each row where the regime is "split", else 1
    parallel: bool  # whether the call is large enough for several threads


_LONG = f"more than {TILE_CLASSES} classes side by side: one row at a time"
_SPLIT = f"fewer than {SPLIT_ROWS} rows of more than {SEGMENT_CLASSES} classes: the threads share each row"
_PACKED = f"{PACKED_CLASSES} to {TILE_CLASSES} classes side by side: a vector of rows, each along its classes"
_LANES_SHORT = f"fewer than {PACKED_CLASSES} classes: a vector of rows, one row in each lane"
_LANES_APART = "the classes of a row are apart in memory: a vector of rows, one row in each lane"
_LANES_EXACT = f"{PACKED_CLASSES} to {TILE_CLASSES} classes summed without crossing lanes: one row in each lane"


@lru_cache(maxsize=256)  # a small call spends a quarter of its time here otherwise
def plan(
    shape: tuple[int, ...], contiguous: bool, float64: bool, may_pack: bool = True, may_split: bool = True
) -> Plan:
    """The plan of a call with logits of shape (A, B, C).

    `contiguous`: the classes of a row lie side by side, in the logits and in every other array of their shape.
    `float64`: the arithmetic is float64.  `may_pack`, `may_split`: whether these regimes can compute the call; packed
    does not support distributions and softmax, split does not support a saved log-sum-exp and softmax.
    """
    a, b, classes = shape
    large = a * b * classes >= SERIAL_LOGITS
    if contiguous and classes > TILE_CLASSES:
        group = GROUP_LOGITS // classes or 1
        if may_split and classes > SEGMENT_CLASSES and a * b < SPLIT_ROWS:
            return Plan("split", _SPLIT, a * b, group, -(-classes // SEGMENT_CLASSES), True)
        return Plan("long", _LONG, a * b, group, 1, large and a * b > group)
    lanes = CACHE_LINE // (8 if float64 else 4)
    work_items, group = a * -(-b // lanes), GROUP_LOGITS // (classes * lanes) or 1
    parallel = large and work_items > group
    if not contiguous:
        return Plan("lanes", _LANES_APART, work_items, group, 1, parallel)
    if classes < PACKED_CLASSES:
        return Plan("lanes", _LANES_SHORT, work_items, group, 1, parallel)
    if may_pack and not float64:
        return Plan("packed", _PACKED, work_items, group, 1, parallel)
    return Plan("lanes", _LANES_EXACT, work_items, group, 1, parallel)
