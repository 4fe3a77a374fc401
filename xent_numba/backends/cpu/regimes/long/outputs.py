"""One output of a row, or two that are computed together: a pointer and a vector, or a pair of each.

What is written at a class with a value of its own is a scalar for one output, and `OwnValues` for two.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from numba import types

from xent_numba.backends.cpu.compile.inline import inline, specialize
from xent_numba.backends.cpu.regimes.staging import flush_tail
from xent_numba.backends.cpu.row.target import insert_target
from xent_numba.backends.cpu.simd.cache_control import elements_to_alignment, stream
from xent_numba.backends.cpu.simd.load_store import advance, load, stack_buffer, store, store_n
from xent_numba.backends.cpu.simd.vector import splat


class OwnValues(NamedTuple):
    """The classes whose values another formula gives, in each of two outputs; −1 for none."""

    y: Any  # in the first
    at_y: float
    top: Any  # in the second
    at_top: float
    label: Any  # in the second, another class than the one before
    at_label: float


# ------------------------------------------------------------------------------------------------ memory
def _is_pair(value: Any) -> bool:
    """Whether a Numba type is that of two outputs."""
    return isinstance(value, types.BaseTuple)


@specialize
def store_each(p: Any, i: Any, g: Any) -> Any:
    """Write all lanes to p[i], p[i + 1], … of each output."""
    if not _is_pair(p):
        return lambda p, i, g: store(p, i, g)

    def of_pair(p: Any, i: Any, g: Any) -> None:
        store(p[0], i, g[0])
        store(p[1], i, g[1])

    return of_pair


@specialize
def stream_each(p: Any, i: Any, g: Any, alike: bool) -> Any:
    """The same past the caches, where p[i] of the first output is aligned; of the second one only if they are alike."""
    if not _is_pair(p):
        return lambda p, i, g, alike: stream(p, i, g)

    def of_pair(p: Any, i: Any, g: Any, alike: bool) -> None:
        stream(p[0], i, g[0])
        if alike:
            stream(p[1], i, g[1])
        else:
            store(p[1], i, g[1])

    return of_pair


@specialize
def store_n_each(p: Any, i: Any, count: Any, g: Any) -> Any:
    """Write the first `count` lanes to p[i], p[i + 1], … of each output."""
    if not _is_pair(p):
        return lambda p, i, count, g: store_n(p, i, count, g)

    def of_pair(p: Any, i: Any, count: Any, g: Any) -> None:
        store_n(p[0], i, count, g[0])
        store_n(p[1], i, count, g[1])

    return of_pair


@specialize
def load_each(p: Any, vtype: Any) -> Any:
    """The vector at p[0] of each output."""
    if not _is_pair(p):
        return lambda p, vtype: load(p, 0, vtype)
    return lambda p, vtype: (load(p[0], 0, vtype), load(p[1], 0, vtype))


@specialize
def flush_tail_each(staging: Any, carry: int, p: Any, classes: int, vtype: Any) -> Any:
    """Write the carry of each output, whose element after the last one is p[classes]."""
    if not _is_pair(p):
        return lambda staging, carry, p, classes, vtype: flush_tail(staging, carry, advance(p, classes), vtype)

    def of_pair(staging: Any, carry: int, p: Any, classes: int, vtype: Any) -> None:
        flush_tail(staging[0], carry, advance(p[0], classes), vtype)
        flush_tail(staging[1], carry, advance(p[1], classes), vtype)

    return of_pair


@specialize
def staging_memory(p: Any, vtype: Any) -> Any:
    """Memory for two vectors of each output."""
    if not _is_pair(p):
        return lambda p, vtype: stack_buffer(vtype, 2)
    return lambda p, vtype: (stack_buffer(vtype, 2), stack_buffer(vtype, 2))


@specialize
def first_of(p: Any) -> Any:
    """The pointer to the first output."""
    if not _is_pair(p):
        return lambda p: p
    return lambda p: p[0]


@specialize
def are_alike(p: Any, vtype: Any) -> Any:
    """Whether the outputs are aligned alike, so that the same classes begin their cache lines."""
    if not _is_pair(p):
        return lambda p, vtype: True
    return lambda p, vtype: elements_to_alignment(p[0], 0, vtype) == elements_to_alignment(p[1], 0, vtype)


# ------------------------------------------------------------------------------------------------ own values
@inline
def store_element(p: Any, i: int, value: float, vtype: Any) -> None:
    """p[i] = value, rounded once to the dtype in memory."""
    store_n(p, i, 1, splat(value, vtype))


@specialize
def insert_own(g: Any, i: int, y: Any, own: Any) -> Any:
    """The outputs for the classes from i on with the values of their own; y is the class of one output that has one."""
    if not _is_pair(g):
        return lambda g, i, y, own: insert_target(g, i, y, own)
    return lambda g, i, y, own: (
        insert_target(g[0], i, own.y, own.at_y),
        insert_target(insert_target(g[1], i, own.top, own.at_top), i, own.label, own.at_label),
    )


@specialize
def next_own(own: Any, y: Any, i: int, stop: int) -> Any:
    """The first class from i on that has a value of its own; `stop`, or any number above that, where there is none."""
    if not _is_pair(own):
        return lambda own, y, i, stop: y if i <= y else stop

    def of_pair(own: Any, y: Any, i: int, stop: int) -> Any:
        first = own.y if i <= own.y < stop else stop
        first = own.top if i <= own.top < first else first
        return own.label if i <= own.label < first else first

    return of_pair


@specialize
def store_own(p: Any, start: int, stop: int, y: Any, own: Any, vtype: Any) -> Any:
    """Write the values that classes from `start` to `stop` have of their own."""
    if not _is_pair(p):
        return lambda p, start, stop, y, own, vtype: _store_between(p, start, stop, y, own, vtype)

    def of_pair(p: Any, start: int, stop: int, y: Any, own: Any, vtype: Any) -> None:
        _store_between(p[0], start, stop, own.y, own.at_y, vtype)
        _store_between(p[1], start, stop, own.top, own.at_top, vtype)
        _store_between(p[1], start, stop, own.label, own.at_label, vtype)

    return of_pair


@inline
def _store_between(p: Any, start: int, stop: int, y: Any, value: float, vtype: Any) -> None:
    """p[y] = value, if y is one of the classes from `start` to `stop`."""
    if start <= y < stop:
        store_element(p, y, value, vtype)
