"""What a row can tell: exact to the last digits, ordered as np.argmax orders, and the same in every layout."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest

import xent_numba as xn
from tests.support.palette import DIGITS, distinct, exact_row, pair
from tests.support.palette import excess as law
from tests.values.test_accuracy import KINDS, targets

bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
# Every dtype has kernels of its own, which take seconds to compile: what is not rare uses few of them.
DTYPES = [np.float32, *(pytest.param(dtype, marks=pytest.mark.rare) for dtype in (np.float64, np.float16, bfloat16))]
FIELDS = ("log_prob", "entropy", "argmax", "rank", "logsumexp")
INF, NAN = math.inf, math.nan
SHAPES = [(5, 3), (40, 100), (9, 257), (5, 1000), (2, 2, 5, 40)]


def exact_entropy(row):
    """(entropy, logsumexp) of a row of few distinct values, as mpmath numbers."""
    values, _, counts = distinct(row)
    with mpmath.workdps(DIGITS):
        top = mpmath.mpf(float(values.max()))
        finite = [(int(n), mpmath.mpf(v) - top) for v, n in zip(values.tolist(), counts, strict=True) if v > -INF]
        terms = [n * mpmath.exp(d) for n, d in finite]
        others = mpmath.fsum(terms[:-1]) + (finite[-1][0] - 1)  # without one class of the maximum, which is the last
        gap = mpmath.fsum(-e * d for e, (_, d) in zip(terms, finite, strict=True)) / (1 + others)
        return mpmath.log1p(others) + gap, top + mpmath.log1p(others)


def entropy_excess(found, truth, dtype):
    """The worst error over (8 + |ln H|) units in the last place; not normal may be 0."""
    high, low = truth
    precision = np.finfo(np.float64 if np.dtype(dtype).char == "d" else np.float32)
    error = np.abs((np.asarray(found, np.float64) - high) - low)
    normal = high >= precision.tiny
    size = np.where(normal, high, 1.0)
    unit = np.ldexp(float(precision.eps), np.frexp(size)[1] - 1)
    return float(np.max(error / np.where(normal, unit * (8 + np.abs(np.log(size))), float(precision.tiny))))


def order(logits, y, scale=1.0):
    """(argmax, rank) of one row by a stable sort, with NaN above all."""
    key = np.sign(scale) * np.asarray(logits, np.float64)
    descending = sorted(range(key.size), key=lambda j: (not math.isnan(key[j]), -key[j] if key[j] == key[j] else 0, j))
    return descending[0], descending.index(y) + 1


def check_order(found, logits, y, scale=1.0):
    expected = [order(row, label, scale) for row, label in zip(logits, y, strict=True)]
    np.testing.assert_array_equal(np.stack([found.argmax, found.rank], axis=1), expected)
    np.testing.assert_array_equal(found.rank == 1, found.argmax == y)


def same(one, other):
    """The same bits in every field."""
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), strict=True, err_msg=name)


# ------------------------------------------------------------------------------------------------ digits
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=lambda dtype: np.dtype(dtype).name)
@pytest.mark.parametrize("kind", KINDS)
def test_the_accuracy_law(kind, dtype, backend, rng):
    """log_prob is held to the law of the loss, a tiny entropy too but for a constant; argmax and rank are exact."""
    for n in (17, 100, 1000) if backend == "cpu" else (17, 257):
        rows = [KINDS[kind](rng, n).astype(dtype) for _ in range(2)]
        given = [(row, y) for row in rows for y in targets(row, rng)]
        x, y = np.array([row for row, _ in given]), np.array([label for _, label in given])
        for axis in (-1, 0) if n == 17 else (-1,):
            found = xn.row_statistics(x if axis else np.ascontiguousarray(x.T), y, axis=axis)
            losses = pair([exact_row(row, label)[0] for row, label in given])
            entropies, sums = zip(*(exact_entropy(row) for row, _ in given), strict=True)
            assert law(-found.log_prob, losses, dtype) < 1, n
            assert entropy_excess(found.entropy, pair(entropies), dtype) < 1, n
            np.testing.assert_allclose(found.logsumexp, pair(sums)[0], rtol=4 * np.finfo(dtype).eps, atol=1e-30)
            check_order(found, x, y)


@pytest.mark.parametrize(
    ("n", "options"),
    [
        (300, {"logit_scale": -2.5}),
        (40, {"softcap": 4.0}),
        *(
            pytest.param(n, options, marks=pytest.mark.rare)
            for n in (9, 40, 300)
            for options in ({"logit_scale": 0.3}, {"softcap": 4.0}, {"softcap": 4.0, "logit_scale": -3.0})
        ),
    ],
)
def test_with_a_transform(n, options, backend, rng):
    x, y = rng.normal(scale=4, size=(20, n)).astype(np.float32), rng.integers(0, n, 20)
    found = xn.row_statistics(x, y, **options)
    z = np.longdouble(1) * x * options.get("logit_scale", 1.0)
    z = options["softcap"] * np.tanh(z / options["softcap"]) if "softcap" in options else z
    lse = np.log(np.sum(np.exp(z - z.max(1, keepdims=True)), axis=1)) + z.max(1)
    p = np.exp(z - lse[:, None])
    np.testing.assert_allclose(found.log_prob, z[np.arange(20), y] - lse, rtol=3e-6)
    np.testing.assert_allclose(found.entropy, -np.sum(p * (z - lse[:, None]), axis=1), rtol=3e-6)
    np.testing.assert_allclose(found.logsumexp, lse, rtol=1e-6)
    check_order(found, x, y, options.get("logit_scale", 1.0))


def test_a_scale_of_zero_makes_all_equal(backend):
    found = xn.row_statistics([[3.0, 1.0, 5.0]], [2], logit_scale=0.0)
    np.testing.assert_allclose([found.log_prob[0], found.entropy[0]], [-math.log(3), math.log(3)], rtol=1e-15)
    assert (found.argmax[0], found.rank[0]) == (0, 3)


# ------------------------------------------------------------------------------------------------ order
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
@pytest.mark.parametrize("n", [3, 40, 100, 300, 1100])
def test_ties(n, dtype, backend, rng):
    """Few distinct values, several of them the largest, anywhere; 0 and −0 are equal."""
    x = rng.choice([-1.0, -0.0, 0.0, 1.0], size=(40, n)).astype(dtype)
    x[:10] = 1.0
    y = rng.integers(0, n, 40)
    check_order(xn.row_statistics(x, y), x, y)


@pytest.mark.rare
@pytest.mark.parametrize("n", [3, 40, 300])
@pytest.mark.parametrize("fields", [["argmax"], ["rank"], ["argmax", "rank"], ["log_prob", "argmax", "rank"]])
def test_ties_of_the_order_alone(n, fields, backend, rng):
    x = rng.choice([-1.0, 0.0, 1.0, -INF, NAN], size=(60, n), p=[0.3, 0.3, 0.3, 0.09, 0.01]).astype(np.float32)
    y = rng.integers(0, n, 60)
    for options in ({}, {"logit_scale": -0.5}, {"softcap": 2.0}):
        whole = xn.row_statistics(x, y, backend="numpy", **options)
        found = xn.row_statistics(x, y, fields=fields, **options)
        for name in {"argmax", "rank"} & set(fields):
            np.testing.assert_array_equal(getattr(found, name), getattr(whole, name), err_msg=name)


def test_ties_are_those_of_the_logits_as_given(backend):
    """Times 1/3 in float32, two neighbouring logits are equal, and capped they are, but the logits are not."""
    one = np.float32(1.9)
    x = np.array([[one, np.nextafter(one, np.float32(2)), 0.0], [50.0, 60.0, 70.0]], np.float32)
    for options in ({"logit_scale": 1 / 3}, {"softcap": 1.0}):
        found = xn.row_statistics(np.pad(x, ((0, 0), (0, 37)), constant_values=-99.0), [0, 0], **options)
        np.testing.assert_array_equal(found.argmax, [1, 2])
        np.testing.assert_array_equal(found.rank, [2, 3])


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
@pytest.mark.parametrize("n", [4, 40, 100, 300, 1100])
def test_rows_with_infinities_and_nan(n, dtype, backend, rng):
    x = rng.normal(size=(60, n)).astype(dtype)
    for row, special in zip(x, 15 * [[NAN, NAN], [INF, INF], [INF, NAN], [-INF, -INF]], strict=True):
        row[rng.choice(n, 2, replace=False)] = special
    x[-1], x[-2, 0] = -INF, NAN
    y = rng.integers(0, n, 60)
    y[::7] = np.argmax(x[::7], axis=1)
    found = xn.row_statistics(x, y)
    check_order(found, x, y)
    np.testing.assert_allclose(found.logsumexp, xn.logsumexp(x), rtol=1e-6)
    loss = xn.cross_entropy(x, y, reduction="none")
    np.testing.assert_allclose(found.log_prob, -loss, rtol=1e-5)
    np.testing.assert_array_equal(np.isnan(found.entropy), np.isnan(loss))


def test_a_negative_scale_turns_the_row_around(backend):
    x = np.array([[-INF, 0.0, 1.0], [INF, 0.0, 1.0], [NAN, -INF, 1.0]])
    found = xn.row_statistics(x, [0, 0, 1], logit_scale=-1.0)
    check_order(found, x, [0, 0, 1], -1.0)
    np.testing.assert_array_equal(found.logsumexp, [INF, np.logaddexp(0.0, -1.0), NAN])


# ------------------------------------------------------------------------------------------------ rows, fields, layouts
def test_ignored_rows_are_not_read(backend, rng):
    for n in (5, 100, 300):
        x, y = rng.normal(size=(30, n)).astype(np.float32), rng.integers(2, n, 30)
        y[::3], y[1] = -100, 1
        x[y < 2] = NAN
        found = xn.row_statistics(x, y, ignore_index=(-100, 1))
        ignored = y < 2
        for name, value in zip(FIELDS, (0, 0, -1, 0, 0), strict=True):
            np.testing.assert_array_equal(getattr(found, name)[ignored], value, err_msg=name)
        alone = xn.row_statistics(x[~ignored], y[~ignored])
        same(xn.RowStatistics(*(field[~ignored] for field in found)), alone)


SUBSETS = [[name] for name in FIELDS] + [["argmax", "log_prob"], ["rank", "entropy"], ["argmax", "rank", "logsumexp"]]


@pytest.mark.parametrize(
    ("dtype", "n", "fields"),
    [
        (np.float32, 300, ["argmax", "log_prob"]),
        (np.float32, 100, ["rank", "entropy"]),
        *(
            pytest.param(dtype, n, fields, marks=pytest.mark.rare)
            for dtype in (np.float32, np.float64, np.float16, bfloat16)
            for n in (10, 100, 300)
            for fields in SUBSETS
        ),
    ],
)
def test_any_fields(dtype, n, fields, backend, rng):
    """What else is asked for changes no integer, and no digit of the others that is promised."""
    x, y = rng.normal(scale=3, size=(20, n)).astype(dtype), rng.integers(0, n, 20)
    whole = xn.row_statistics(x, y)
    found = xn.row_statistics(x, y, fields=fields)
    for name in FIELDS:
        one, other = getattr(found, name), getattr(whole, name)
        if name not in fields:
            assert one is None
        else:
            tolerance = 0 if one.dtype.kind == "i" else 8 * np.finfo(one.dtype).eps
            np.testing.assert_allclose(one, other, rtol=tolerance, atol=0, err_msg=name)
            assert one.dtype == (np.intp if name in ("argmax", "rank") else xn.logsumexp(x).dtype)
    if "log_prob" in fields:
        np.testing.assert_allclose(found.log_prob, -xn.cross_entropy(x, y, reduction="none"), rtol=1e-6)


def test_without_a_target(backend, rng):
    for n in (10, 100, 300):
        x = rng.normal(scale=3, size=(20, n)).astype(np.float32)
        found = xn.row_statistics(x, fields=["argmax"])
        assert (found.log_prob, found.entropy, found.rank, found.logsumexp) == (None,) * 4
        np.testing.assert_array_equal(found.argmax, np.argmax(x, axis=1))


@pytest.mark.parametrize("shape", SHAPES)
def test_every_layout(shape, backend, rng):
    """Any axis and any strides, without a difference but in the last digits."""
    n = shape[-1]
    x, y = rng.normal(scale=3, size=shape).astype(np.float32), rng.integers(0, n, shape[:-1])
    expected = xn.row_statistics(x.reshape(-1, n), y.reshape(-1), backend="numpy")
    views = {
        "as it is": (x, -1),
        "Fortran": (np.asfortranarray(x), -1),
        "classes first": (np.ascontiguousarray(np.moveaxis(x, -1, 0)), 0),
        "every other": (np.repeat(x, 2, axis=-1)[..., ::2], -1),
        "backwards": (np.ascontiguousarray(x[..., ::-1])[..., ::-1], -1),
        "misaligned": (np.frombuffer(b"a" + x.tobytes(), np.float32, x.size, 1).reshape(shape), -1),
        "broadcast": (np.broadcast_to(x[:1], shape), -1),
    }
    for name, (view, axis) in views.items():
        found = xn.row_statistics(view, y, axis=axis)
        if name == "broadcast":
            expected = xn.row_statistics(np.ascontiguousarray(view).reshape(-1, n), y.reshape(-1), backend="numpy")
        for field, one, other in zip(FIELDS, found, expected, strict=True):
            tolerance, where = 0 if field in ("argmax", "rank") else 2e-6, f"{name}, {field}"
            np.testing.assert_allclose(one.reshape(-1), other, rtol=tolerance, atol=tolerance, err_msg=where)
            assert one.shape == shape[:-1]


def test_a_single_row_gives_scalars(backend):
    found = xn.row_statistics([2.0, 1.0, 0.1], 1)
    assert [type(field) for field in found] == [np.float64, np.float64, np.intp, np.intp, np.float64]


def test_no_rows(backend):
    found = xn.row_statistics(np.zeros((0, 3), np.float32), np.zeros(0, int), fields=["rank", "entropy"])
    assert (found.rank.shape, found.entropy.shape, found.log_prob) == ((0,), (0,), None)


@pytest.mark.parametrize("shape", [(3000, 20), (900, 100), (300, 1000), (3, 200_000)])
def test_the_same_bits_for_any_number_of_threads(shape, backend, rng):
    x, y = rng.normal(scale=3, size=shape).astype(np.float32), rng.integers(0, shape[1], shape[0])
    one = xn.row_statistics(x, y, n_threads=1)
    same(one, xn.row_statistics(x, y, n_threads=2))
    part = slice(shape[0] // 3, shape[0] // 3 * 2)
    same(xn.RowStatistics(*(field[part] for field in one)), xn.row_statistics(x[part], y[part]))
