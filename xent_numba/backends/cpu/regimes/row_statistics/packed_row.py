"""One row of the regime `packed`, along its classes: what its statistics and its order are made of.

A row that leaves out its `Top` leaves out all classes that have the maximum, and counts them: each of their terms is 1.
So the class of the maximum need not be known before the exponentials are summed.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import types

from xent_numba.backends.cpu.compile.inline import inline, optional, specialize
from xent_numba.backends.cpu.regimes.lanes.tile import exp_of_tile
from xent_numba.backends.cpu.regimes.packed.load import ROWS
from xent_numba.backends.cpu.simd.cache_control import prefetch_l1, prefetch_l2
from xent_numba.backends.cpu.simd.load_store import load, load_scalar
from xent_numba.backends.cpu.simd.vector import fma, iota, lanes_of, maximum, select, splat


class RowWanted(NamedTuple):
    """What is wanted of each row beside its sum; None for what is not."""

    top: Any  # to leave out the classes of the maximum
    gap: Any
    argmax: Any
    rank: Any


class RowTerms(NamedTuple):
    """What a row is made of, per lane; None for what is not wanted."""

    sum_exp: Any
    gap: Any  # Σ e (m − x)
    ties: Any  # how many classes have the maximum
    first: Any  # −i, for the first vector that has the maximum in this lane, where i is its first class; else −inf
    ahead: Any  # how many classes are before the label's in the order of the row


@inline
def no_terms(wanted: Any, vtype: Any) -> Any:
    """The `RowTerms` of no classes."""
    return RowTerms(
        splat(0.0, vtype),
        _start(wanted.gap, 0.0, vtype),
        _start(wanted.top, 0.0, vtype),
        _start(wanted.argmax, -math.inf, vtype),
        _start(wanted.rank, 0.0, vtype),
    )


@optional
def _start(wanted: Any, value: float, vtype: Any) -> Any:
    """A value in all lanes; None for None."""
    return splat(value, vtype)


@specialize
def _add_exp(ties: Any, total: Any, e: Any, is_max: Any) -> Any:
    """The sum with more exponentials, without those of the maximum if these are counted."""
    if isinstance(ties, types.NoneType):
        return lambda ties, total, e, is_max: total + e
    return lambda ties, total, e, is_max: select(is_max, total, total + e)


@optional
def _add_one(count: Any, mask: Any) -> Any:
    """The counts with 1 added where the mask is set; None for None."""
    return select(mask, count + splat(1.0, count), count)


@optional
def _add_gap(gap: Any, e: Any, x: Any, centre: Any) -> Any:
    """The gap with more terms, 0 for a logit of −inf; None for None."""
    distance, largest = centre - x, splat(3.4028234663852886e38, x)
    return fma(e, select(distance < largest, distance, largest), gap)


@optional
def _add_first(first: Any, is_max: Any, minus_i: Any) -> Any:
    """The `RowTerms.first` with the vector of classes from i on; None for None."""
    return select(is_max, maximum(minus_i, first), first)


@optional
def _add_ahead(ahead: Any, x: Any, keys: Any, r: int, i: int, y: int) -> Any:
    """The count with the vector of classes from i on; None for None.  Ties in the label's own vector are left out."""
    threshold = load_scalar(keys, r + np.int64(i + lanes_of(x) <= y) * ROWS)
    return _add_one(ahead, x > splat(threshold, x))


@optional
def _add_ties(ahead: Any, p: Any, keys: Any, r: int, y: int) -> Any:
    """The count with the classes in the label's vector, before it, that have the same key; None for None."""
    start = y - y % lanes_of(ahead)
    x = load(p, start, ahead)
    before = iota(x) < splat(y - start, iota(x))
    return _add_one(ahead, (x == splat(load_scalar(keys, r), x)) & before)


class TileRow(NamedTuple):
    """One row of a tile, and what its terms are computed from."""

    p: Any  # its logits, after the transform; the last vector is filled up with −inf
    classes: int
    shift: Any  # `TileShift`, the same in all lanes
    scale: Any
    keys: Any  # pointer to the keys of the labels of all rows, and then to the next smaller numbers
    r: int  # its place among them
    y: int  # the class of its label
    prefetch: Any  # `PrefetchRows`


@inline
def row_terms(wanted: Any, row: Any) -> Any:
    """The `RowTerms` of a `TileRow`."""
    p, classes, shift, scale, keys, r, y, prefetch = row
    row_max = shift.centre
    terms = no_terms(wanted, row_max)
    minus_i, step = splat(0.0, row_max), splat(lanes_of(row_max), row_max)
    for i in range(0, classes, lanes_of(row_max)):
        prefetch_l2(prefetch.l2, i)
        prefetch_l1(prefetch.l1, i)
        x = load(p, i, row_max)
        e = exp_of_tile(x, shift, None, scale)
        is_max = x == row_max
        terms = RowTerms(
            _add_exp(terms.ties, terms.sum_exp, e, is_max),
            _add_gap(terms.gap, e, x, shift.centre),
            _add_one(terms.ties, is_max),
            _add_first(terms.first, is_max, minus_i),
            _add_ahead(terms.ahead, x, keys, r, i, y),
        )
        minus_i = minus_i - step
    return RowTerms(terms.sum_exp, terms.gap, terms.ties, terms.first, _add_ties(terms.ahead, p, keys, r, y))
