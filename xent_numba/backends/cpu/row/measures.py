"""Sums over the classes of a row beside that of its exponentials, for those who ask for them.

With e_j = exp(s (x_j − m)) and the class of the row's `epilogue.Top`,

    gap     Σ e_j (m − x_j)                          entropy = log S + s · gap / S
    stream  Σ e_j (f'_j v_j − f'_top v_top)          Σ p_j f'_j v_j = f'_top v_top + stream / S

where v_j is any number for each class, and f' is the derivative of `transform.chain_rule`: 1 without a softcap.  The
class of the maximum has no part in either, so nothing cancels where the others are small: an entropy of 1e-30 keeps all
its digits.

A sum is taken relative to an `Origin` that may change on the way, and is rebased then.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from numba import types

from xent_numba.backends.cpu.compile.inline import inline, optional, specialize
from xent_numba.backends.cpu.row.target import product_or_zero
from xent_numba.backends.cpu.row.transform import chain_rule
from xent_numba.backends.cpu.simd.cache_control import prefetch_ahead
from xent_numba.backends.cpu.simd.cast import promote
from xent_numba.backends.cpu.simd.load_store import load, load_n
from xent_numba.backends.cpu.simd.math import compensated_add, with_error
from xent_numba.backends.cpu.simd.reduce import extract_lane
from xent_numba.backends.cpu.simd.vector import fma, select, splat


class Measures(NamedTuple):
    """Which sums a row is asked for; None for those that it is not."""

    gap: Any  # anything but None: Σ e_j (m − x_j)
    stream: Any  # pointer to the v_j of the row, or of the tile, in any dtype: Σ e_j (f'_j v_j − f'_top v_top)


class Measured(NamedTuple):
    """The sums that `Measures` ask for, in float64, relative to the maximum and the `Top` of the row; else 0."""

    gap: Any
    stream: Any
    at_top: Any  # f'_top v_top


class Origin(NamedTuple):
    """What the terms of the sums are relative to."""

    centre: Any  # a logit, in place of m
    at_top: Any  # f'_j v_j of the class left out, or None


class MeasureSums(NamedTuple):
    """The two sums in float64, and their rounding errors."""

    gap: Any
    stream: Any
    gap_error: Any
    stream_error: Any


@inline
def no_measure_sums(vtype64: Any) -> Any:
    """The `MeasureSums` of no classes."""
    zero = splat(0.0, vtype64)
    return MeasureSums(zero, zero, zero, zero)


# ------------------------------------------------------------------------------------------------ origins
@optional
def origin_at(measures: Any, row: Any, centre: Any, y: int) -> Any:
    """The `Origin` of a row whose centre is the logit of class y, or that has no such class; None for None."""
    return Origin(centre, stream_at(measures.stream, row, y, centre))


@optional
def stream_at(stream: Any, row: Any, y: int, vtype: Any) -> Any:
    """f'_y v_y of a row in all lanes, 0 where y is −1; None for None."""
    if y < 0:
        return splat(0.0, vtype)
    zero = splat(0.0, vtype)
    v = chain_rule(load_n(stream, y, 1, zero), load_n(row.logits, y, 1, zero), row.transform)
    return splat(extract_lane(v, 0), vtype)


# ------------------------------------------------------------------------------------------------ terms
@specialize
def largest_of(vtype: Any) -> Any:
    """The largest number of the dtype of `vtype`, in all lanes."""
    largest = 3.4028234663852886e38 if vtype.dtype == types.float32 else 1.7976931348623157e308
    return lambda vtype: splat(largest, vtype)


@inline
def add_gap(total: Any, gap: Any, e: Any, x: Any, centre: Any) -> Any:
    """total + e (centre − x), with 0 for a logit of −inf."""
    if gap is None:
        return total
    distance, largest = centre - x, largest_of(x)
    return fma(e, select(distance < largest, distance, largest), total)


@inline
def add_stream(total: Any, v: Any, e: Any, at_top: Any) -> Any:
    """total + e (v − at_top), for v times f'."""
    if at_top is None:
        return total
    return fma(e, v - at_top, total)


@optional
def _stream(stream: Any, row: Any, i: int, vtype: Any) -> Any:
    """f'_j v_j for the vector of classes from i on; None for None."""
    prefetch_ahead(stream, i)
    return chain_rule(load(stream, i, vtype), load(row.logits, i, vtype), row.transform)


@optional
def _stream_n(stream: Any, row: Any, i: int, count: int, vtype: Any) -> Any:
    """f'_j v_j for the `count` classes from i on; None for None."""
    zero = splat(0.0, vtype)
    return chain_rule(load_n(stream, i, count, zero), load_n(row.logits, i, count, zero), row.transform)


@inline
def add_measure_terms(run: Any, row: Any, measures: Any, i: int, e: Any, x: Any, origin: Any) -> Any:
    """A pair of sums in the arithmetic of the logits, with the terms of the vector of classes from i on.

    e: their exponentials, with 0 for a class that is left out; x: their logits after the transform.
    """
    v = _stream(measures.stream, row, i, x)
    return add_gap(run[0], measures.gap, e, x, origin.centre), add_stream(run[1], v, e, origin.at_top)


@inline
def add_measure_terms_n(run: Any, row: Any, measures: Any, i: int, count: int, e: Any, x: Any, origin: Any) -> Any:
    """`add_measure_terms` for the `count` classes from i on; the other lanes of e are 0."""
    v = _stream_n(measures.stream, row, i, count, x)
    return add_gap(run[0], measures.gap, e, x, origin.centre), add_stream(run[1], v, e, origin.at_top)


@inline
def add_measure_sums(sums: Any, run: Any) -> Any:
    """The `MeasureSums` with a pair of sums of `add_measure_terms` added."""
    gap, gap_error = compensated_add(sums.gap, sums.gap_error, promote(run[0]))
    stream, stream_error = compensated_add(sums.stream, sums.stream_error, promote(run[1]))
    return MeasureSums(gap, stream, gap_error, stream_error)


@inline
def join_measure_sums(a: Any, b: Any) -> Any:
    """The `MeasureSums` of two parts with the same `Origin`."""
    gap, gap_error = compensated_add(a.gap, a.gap_error, b.gap)
    stream, stream_error = compensated_add(a.stream, a.stream_error, b.stream)
    return MeasureSums(gap, stream, gap_error + b.gap_error, stream_error + b.stream_error)


# ------------------------------------------------------------------------------------------------ change of the origin
@inline
def _change(a: Any, b: Any, whole: Any) -> Any:
    """whole · (a − b), which is 0 where `whole` is; 0 for None."""
    if a is None:
        return splat(0.0, whole)
    return product_or_zero(whole, promote(a) - promote(b))


@inline
def rebase_measure_sums(sums: Any, measures: Any, whole: Any, old: Any, new: Any) -> Any:
    """The `MeasureSums` relative to another `Origin`; `whole` is Σ e over the same classes and the one left out."""
    gap, gap_error = sums.gap, sums.gap_error
    if measures.gap is not None:
        gap, gap_error = compensated_add(gap, gap_error, _change(new.centre, old.centre, whole))
    stream, stream_error = compensated_add(sums.stream, sums.stream_error, _change(old.at_top, new.at_top, whole))
    return MeasureSums(gap, stream, gap_error, stream_error)


@inline
def measure_totals(sums: Any) -> Any:
    """(gap, stream) of `MeasureSums`, per lane, with their errors added."""
    return with_error(sums.gap, sums.gap_error), with_error(sums.stream, sums.stream_error)
