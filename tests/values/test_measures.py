"""The sums that rows of the cpu backend can be asked for beside that of their exponentials, and outputs of any formula.

Nothing public stands between: the kernels of this file ask for both sums and write p_j (v_j − ⟨p, v⟩), one by
the regime `long` and one by `lanes`.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import mpmath
import numpy as np
import pytest

from xent_numba.backends.cpu.compile.inline import inline
from xent_numba.backends.cpu.compile.kernel import kernel, signature_key
from xent_numba.backends.cpu.plan import SEGMENT_CLASSES, TILE_CLASSES
from xent_numba.backends.cpu.regimes.lanes.gradient import TILE_ELEMENTS, tile_gradient
from xent_numba.backends.cpu.regimes.lanes.load import load_tile, rows_view, store_tile
from xent_numba.backends.cpu.regimes.lanes.merge import first_tile, merge_lanes, merged_statistics
from xent_numba.backends.cpu.regimes.lanes.rows import tile_at
from xent_numba.backends.cpu.regimes.lanes.tile import Tile, TileInput, tile_exponentials, tile_statistics
from xent_numba.backends.cpu.regimes.long.epilogue import in_one_lane
from xent_numba.backends.cpu.regimes.long.gradient import ELEMENTS, scaled_shift
from xent_numba.backends.cpu.regimes.long.outputs import OwnValues
from xent_numba.backends.cpu.regimes.long.pending import complete_pending, next_pending, no_pending
from xent_numba.backends.cpu.regimes.long.statistics import statistics
from xent_numba.backends.cpu.regimes.work_items import work_item
from xent_numba.backends.cpu.row.epilogue import in_float64, sum_with_top
from xent_numba.backends.cpu.row.measures import Measures
from xent_numba.backends.cpu.row.operands import RowInput, row_pointer
from xent_numba.backends.cpu.simd.cast import demote
from xent_numba.backends.cpu.simd.load_store import load, load_part, pointer, stack_buffer
from xent_numba.backends.cpu.simd.reduce import extract_lane
from xent_numba.backends.cpu.simd.vector import lanes_of, splat, zero_vector

DIGITS = 60
ULP = {np.float32: 2.0**-23, np.float64: 2.0**-52}


# ------------------------------------------------------------------------------------------------ kernels
class Centred(NamedTuple):
    """The coefficients of p_j (v_j − v_top − mean) and of p_j (1 − p_j), with p_j = factor · e_j."""

    shift: Any
    keep_residual: bool
    at_target: Any
    factor: float
    at_top: float
    mean: float
    v: Any


def _centred(coefficients, e, x, i, count, row):
    v = load_part(coefficients.v, i, count, e) - splat(coefficients.at_top, e)
    p = e * splat(coefficients.factor, e)
    return p * (v - splat(coefficients.mean, e)), p * (splat(1.0, e) - p)


ELEMENTS[Centred] = _centred


@kernel
def long_rows(logits, vectors, out, spread, found, streaming):
    """Entropy, v_top, ⟨p, v⟩ − v_top and the class of the top of (1, N, C) rows in found (N, 4).

    Written while the next row is read: p_j (v_j − ⟨p, v⟩) in `out`, which may be the logits, and p_j (1 − p_j) in
    `spread`.
    """
    vtype, classes = zero_vector(pointer(logits)), logits.shape[2]
    measures = Measures(True, row_pointer(vectors, 0, 0))
    row = RowInput(row_pointer(logits, 0, 0), classes, -1, None, None, None, True, measures)
    shift, factor, keep = scaled_shift(0.0, 0.0, row.scale, vtype)
    own = OwnValues(-1, 0.0, -1, 0.0, -1, 0.0)
    coefficients = Centred(shift, keep, own, factor, 0.0, 0.0, measures.stream)
    outputs = row_pointer(out, 0, 0), row_pointer(spread, 0, 0)
    pending = no_pending(outputs, row, coefficients, streaming, vtype)
    for i in range(logits.shape[1]):
        measures = Measures(True, row_pointer(vectors, 0, i))
        row = RowInput(row_pointer(logits, 0, i), classes, -1, None, None, None, True, measures)
        stats = statistics(row, pending, vtype)
        one_total, one_log_s = sum_with_top(in_one_lane(stats, vtype), row.scale, vtype)
        total, log_s = extract_lane(one_total, 0), extract_lane(one_log_s, 0)
        at_top, mean = stats.measured.at_top, stats.measured.stream / total
        found[i, 0], found[i, 1], found[i, 2] = log_s + stats.measured.gap / total, at_top, mean
        found[i, 3] = stats.top.y
        complete_pending(pending, classes, False, vtype)
        centre = stats.row_max if stats.row_max > -math.inf else 0.0
        shift, factor, keep = scaled_shift(centre, 1.0 / total, row.scale, vtype)
        coefficients = Centred(shift, keep, own, factor, at_top, mean, measures.stream)
        pending = next_pending(pending, row, coefficients, (row_pointer(out, 0, i), row_pointer(spread, 0, i)))
    complete_pending(pending, classes, True, vtype)


class CentredLanes(NamedTuple):
    """The same as `Centred`, for a row in each lane."""

    factor: Any
    at_top: Any
    mean: Any
    v: Any


def _centred_lanes(factors, e, x, tile, j, y, inputs):
    v = load(factors.v, j * lanes_of(e), e) - factors.at_top
    return e * factors.factor * (v - factors.mean)


TILE_ELEMENTS[CentredLanes] = _centred_lanes


@inline
def _load(logits, vectors, item, tile, stream, vtype):
    load_tile(rows_view(logits, item, tile.first), tile.classes, tile.logits, vtype)
    load_tile(rows_view(vectors, item, tile.first), tile.classes, stream, vtype)


@kernel
def lane_rows(logits, vectors, out, found):
    """The same as `long_rows`, for arrays of any strides."""
    vtype, classes = zero_vector(pointer(logits)), logits.shape[2]
    lanes = lanes_of(vtype)
    buffers = Tile(stack_buffer(vtype, TILE_CLASSES), stack_buffer(vtype, TILE_CLASSES), None, 0, 0)
    stream = stack_buffer(vtype, TILE_CLASSES)
    inputs = TileInput(None, None, None, None, None, True, Measures(True, stream))
    for index in range(-(-logits.shape[1] // lanes)):
        item = work_item(logits.shape, index, lanes)
        tile = tile_at(buffers, 0, classes)
        _load(logits, vectors, item, tile, stream, vtype)
        stats, rescale = tile_statistics(tile, inputs, None, vtype)
        merged = first_tile(stats)
        for first in range(TILE_CLASSES, classes, TILE_CLASSES):
            tile = tile_at(buffers, first, classes)
            _load(logits, vectors, item, tile, stream, vtype)
            part, _ = tile_statistics(tile, inputs, None, vtype)
            merged = merge_lanes(merged, part, None, None)
        stats = merged_statistics(merged)
        total, log_s = sum_with_top(in_float64(stats), None, vtype)
        at_top, mean = stats.measured.at_top, stats.measured.stream / total
        entropy = log_s + stats.measured.gap / total
        for r in range(item.rows):
            i = item.first_row + r
            found[i, 0], found[i, 1], found[i, 2] = (
                extract_lane(entropy, r),
                extract_lane(at_top, r),
                extract_lane(mean, r),
            )
            found[i, 3] = extract_lane(stats.top.y, r)
        for first in range(0, classes, TILE_CLASSES):
            tile = tile_at(buffers, first, classes)
            if classes > TILE_CLASSES:
                _load(logits, vectors, item, tile, stream, vtype)
                rescale = tile_exponentials(tile, inputs, stats.row_max)
            factors = CentredLanes(demote(rescale / total, vtype), demote(at_top, vtype), demote(mean, vtype), stream)
            tile_gradient(tile, tile.exp, inputs, stats.top.y, factors, vtype)
            store_tile(tile.exp, rows_view(out, item, first), tile.classes, False, vtype)


def run(regime, x, v):
    """The results of a kernel for logits x (N, C) and vectors v (N, C)."""
    found = np.zeros((len(x), 4))
    if regime == "long":
        out, spread = np.full(x.shape, 7, x.dtype), np.full(x.shape, 7, x.dtype)
        long_rows(signature_key((x[None], v[None])), x[None], v[None], out[None], spread[None], found, False)
        return found, out
    order = "F" if regime == "apart" else "C"
    x, v, out = np.asarray(x, order=order), np.asarray(v, order=order), np.full(x.shape, 7, x.dtype, order=order)
    lane_rows(signature_key((x[None], v[None])), x[None], v[None], out[None], found)
    return found, out


# ------------------------------------------------------------------------------------------------ what they are held to
def exact(x, v):
    """Entropy, ⟨p, v⟩ and p_j (v_j − ⟨p, v⟩) of one row of finite logits; and its p."""
    with mpmath.workdps(DIGITS):
        z, u = [mpmath.mpf(float(a)) for a in x], [mpmath.mpf(float(a)) for a in v]
        top = max(z)
        e = [mpmath.exp(a - top) for a in z]
        others = mpmath.fsum(a for j, a in enumerate(e) if j != z.index(top))
        total = 1 + others
        entropy = mpmath.log1p(others) + mpmath.fsum(a * (top - b) for a, b in zip(e, z, strict=True)) / total
        mean = mpmath.fsum(a * b for a, b in zip(e, u, strict=True)) / total
        p = [a / total for a in e]
        return entropy, mean, [a * (b - mean) for a, b in zip(p, u, strict=True)], np.array(p, float)


def rows(classes):
    """Rows on which such sums go wrong, by name."""
    x = np.random.default_rng(classes).normal(size=classes)
    confident, late = x - 70.0, x - 70.0
    confident[3], late[-2] = 0.0, 0.0
    holes = x.copy()
    holes[::3], holes[: classes // 2] = -np.inf, -np.inf
    return {
        "ordinary": x,
        "wide": 30.0 * x,
        "an entropy of 1e-28": confident,
        "the same at the end": late,
        "ties at the maximum": np.minimum(3.0 * x, 1.0),
        "all equal": np.full(classes, 0.7),
        "−inf": holes,
        "−inf but for one": np.where(np.arange(classes) == classes - 5, x, -np.inf),
        "a new shift in every block": np.linspace(-500.0, 500.0, classes),
        "slightly increasing": np.linspace(0.0, 5.0, classes),
        "decreasing": np.linspace(500.0, -500.0, classes),
        "far from 0": 1e4 + 2.0 * x,
    }


def segments():
    """Rows of three segments, nearly all −inf."""
    classes, rng = 2 * SEGMENT_CLASSES + 1000, np.random.default_rng(2)
    x = np.full((4, classes), -np.inf)
    for row in x:
        row[rng.choice(classes, 300, replace=False)] = rng.normal(size=300)
    x[0, classes // 2] = 60.0
    x[1, SEGMENT_CLASSES : 2 * SEGMENT_CLASSES] = -np.inf
    x[2] += np.linspace(0.0, 20.0, classes)
    x[3] += np.linspace(20.0, 0.0, classes)
    return {f"segments {i}": row for i, row in enumerate(x)}


DTYPES = [np.float32, pytest.param(np.float64, marks=pytest.mark.rare)]
CASES = [("long", 300), ("long", 700), ("lanes", 5), ("lanes", 200), ("apart", 37), ("apart", 700), ("long", None)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("regime", "classes"), CASES)
def test_sums_and_outputs(regime, classes, dtype):
    made = segments() if classes is None else rows(classes)
    x = np.array(list(made.values())).astype(dtype)
    v = np.random.default_rng(1).normal(size=x.shape).astype(dtype)
    found, out = run(regime, x, v)
    for i, name in enumerate(made):
        kept = x[i] > -np.inf
        entropy, mean, centred, p = exact(x[i][kept], v[i][kept])
        if entropy < np.finfo(dtype).tiny:
            assert 0.0 <= found[i, 0] <= entropy * 1.001, name
        else:
            error = abs(found[i, 0] - entropy) / entropy / ULP[dtype]
            assert error < 8 + abs(math.log(entropy)), (name, "entropy", float(error))
        assert found[i, 1] == v[i, int(found[i, 3])]
        size = np.abs(v[i] - found[i, 1]).max()
        assert abs(found[i, 1] + found[i, 2] - mean) < 4 * size * ULP[dtype], name
        assert not out[i][~kept].any()
        errors = np.array([float(a - b) for a, b in zip(out[i][kept], centred, strict=True)])
        tiny = float(np.finfo(dtype).tiny)  # what is smaller may be 0
        bound = size * (p * (8 - np.log(np.maximum(p, tiny))) * ULP[dtype] + tiny)
        assert (np.abs(errors) <= bound).all(), (name, "output", (np.abs(errors) / bound).max())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("regime", "classes"), [("long", 300), ("lanes", 200), ("apart", 600)])
def test_where_there_is_no_maximum(regime, classes, dtype):
    x = np.zeros((6, classes), dtype)
    x[0] = -np.inf
    x[1, 7] = np.nan
    x[2, 7] = np.inf
    x[3] = np.nan
    x[4, 0], x[4, 1 : classes // 2] = np.nan, -np.inf
    found, out = run(regime, x, np.ones_like(x))
    assert np.isnan(found[:5, 0]).all()
    assert np.isnan(out[:5]).any(axis=1).all()
    assert abs(found[5, 0] - math.log(classes)) < 1e-6
    assert not out[5].any()


def at_offset(array, offset):
    """A copy that begins this many elements after a cache line."""
    buffer = np.full(array.size + 64, 7, array.dtype)
    start = -buffer.ctypes.data // array.itemsize % 16 + offset
    copy = buffer[start : start + array.size].reshape(array.shape)
    copy[...] = array
    return copy


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(("of_logits", "of_spread"), [(0, 0), (5, 0), (0, 3), (11, 3), (3, 11)])
def test_two_outputs_of_which_one_replaces_the_logits(of_logits, of_spread, streaming):
    given = np.random.default_rng(3).normal(size=(5, 1037)).astype(np.float32)
    v = np.random.default_rng(4).normal(size=given.shape).astype(np.float32)
    x, spread, found = at_offset(given, of_logits), at_offset(given, of_spread), np.zeros((5, 4))
    long_rows(signature_key((x[None], v[None])), x[None], v[None], x[None], spread[None], found, streaming)
    p = np.exp(given.astype(float))
    p /= p.sum(axis=1, keepdims=True)
    np.testing.assert_array_equal(x, run("long", given, v)[1])
    np.testing.assert_allclose(spread, p * (1.0 - p), rtol=1e-5)
