"""Digits that are easily lost: of the smallest numbers, of long sums of equal terms, of confident one-hot rows."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest

import xent_numba as xn
from tests.support.exact import equal_others, exact_rows, ulps
from tests.support.exact import excess as law
from tests.support.palette import row_excess

FLOATS = [np.float32, np.float64]
BROADCASTS = [((5, 3), -1), ((5, 300), -1), ((4, 5, 300), 2), ((3, 20, 4), 1)]


# ------------------------------------------------------------------------------------------------ tiny gradients
@pytest.mark.parametrize("n", [40, 300, 1000])
@pytest.mark.parametrize("dtype", FLOATS)
def test_gradients_down_to_the_smallest_normal_number(dtype, n, backend):
    """Only what is below it may be 0.  Rows with different maxima, as the kernels round these to multiples of ln 2."""
    below = -math.log(float(np.finfo(dtype).tiny))
    rows = [np.r_[top, top - np.linspace(below - 1.0, below + 0.2, n - 1)] for top in np.linspace(0.0, 1.2, 7)]
    x = np.array(rows).astype(dtype)
    grad = xn.cross_entropy_grad(x, [0] * len(x), reduction="sum")
    assert max(row_excess(row, 0, None, g) for row, g in zip(x, grad, strict=True)) < 1


@pytest.mark.parametrize("n", [40, 300])
def test_a_z_loss_makes_normal_numbers_of_those_below(n, backend):
    """p below the smallest normal number, times 1 + 2 λ lse above it: with and without a saved lse."""
    x = np.r_[300.0, 300.0 - np.linspace(700.0, 713.5, n - 1)][None]
    expected = exact_rows(x, [0], z_coefficient=0.5)[1]
    lse = xn.logsumexp(x)
    for saved in (None, lse):
        grad = xn.cross_entropy_grad(x, [0], lse=saved, reduction="sum", z_loss=0.5)
        zero = np.abs(expected) < np.finfo(np.float64).tiny
        np.testing.assert_array_less(0.0, np.abs(grad[~zero]))
        np.testing.assert_allclose(grad[~zero], expected[~zero].astype(np.float64), rtol=1e-12)


# ------------------------------------------------------------------------------------------------ equal terms
@pytest.mark.parametrize("apart", [False, True], ids=["side by side", "apart"])
def test_the_sum_of_a_distribution_of_equal_terms(apart, backend):
    """50 000 classes of q = 0.1 and one of 0, where the gradient is T p."""
    n, there = 50_000, 12_345
    x, q = np.zeros((2, n)), np.full((2, n), 0.1)
    x[:, 7], q[:, there] = 1.0, 0.0
    if apart:
        x, q = np.asfortranarray(x), np.asfortranarray(q)
    loss, _ = xn.cross_entropy_and_grad(x, q, reduction="none")
    grad = xn.cross_entropy_grad(x, q, reduction="sum")
    with mpmath.workdps(60):
        t, total = mpmath.mpf(0.1), n - 1 + mpmath.e
        mass = (n - 1) * t
        assert law([loss[0]], [mass * mpmath.log(total) - t], np.float64) < 1
        assert ulps(grad[0, there], mass / total) < 4
        assert abs(grad[0, 3] - (mass / total - t)) < 4 * np.spacing(0.1)


def test_smoothing_with_equal_weights(backend):
    n = 50_000
    x, w = np.zeros((2, n)), np.full(n, 0.1)
    x[:, 7] = 1.0
    loss = xn.cross_entropy_and_grad(np.asfortranarray(x), [3, 3], reduction="none", weight=w, label_smoothing=1.0)[0]
    with mpmath.workdps(60):
        exact = mpmath.mpf(0.1) * mpmath.log(n - 1 + mpmath.e) - mpmath.mpf(0.1) / n
        assert law([loss[0]], [exact], np.float64) < 1


@pytest.mark.parametrize("apart", [False, True], ids=["side by side", "apart"])
@pytest.mark.parametrize("value", [0.0, -0.7])
def test_the_target_of_a_saved_lse(value, apart, backend):
    """−Σ exp(x_j − lse) over the others, of 128 256 equal logits, within 4 ulp for the lse as given."""
    n = 128_256
    x = np.full((2, n), value)
    lse = float(mpmath.log(n)) + value
    x = np.asfortranarray(x) if apart else x
    grad = xn.cross_entropy_grad(x, [3, 4], lse=[lse, lse], reduction="sum")
    with mpmath.workdps(60):
        exact = -(n - 1) * mpmath.exp(mpmath.mpf(value) - mpmath.mpf(lse))
        assert ulps(grad[0, 3], exact) < 4
        assert ulps(grad[1, 4], exact) < 4


def test_many_equal_classes_that_are_apart(backend):
    """The parts of a row are added up over thousands of tiles."""
    n, value = 1_000_000 if backend == "cpu" else 10_000, -0.7
    x = np.full((2, n), value)
    x[:, 7] = 0.0
    x = np.asfortranarray(x)
    exact, own = equal_others(value, n)
    loss, _ = xn.cross_entropy_and_grad(x, [7, 7], reduction="none")
    grad = xn.cross_entropy_grad(x, [7, 7], reduction="sum")
    assert law([loss[0]], [exact], np.float64) < 1
    assert law([grad[0, 7]], [own], np.float64) < 1
    assert law([xn.softmax(x)[0, 7]], [1 + own], np.float64) < 1


@pytest.mark.parametrize("options", [{"sample_weight": True}, {"weight": [0.1, 0.1]}], ids=str)
def test_the_denominator_of_equal_weights(options, backend):
    n = 100_000
    options = {"sample_weight": np.full(n, 0.1)} if "sample_weight" in options else options
    grad = xn.cross_entropy_grad(np.zeros((n, 2)), np.zeros(n, np.int64), **options)
    np.testing.assert_allclose(grad[:, 1] * n, 0.5, rtol=1e-15)


# ------------------------------------------------------------------------------------------------ one-hot rows
def one_hot(x, y):
    q = np.zeros_like(x)
    q[np.arange(len(x)), y] = 1
    return q


def confident_rows(n, dtype):
    """A lead from hardly any to 80, of the first class, the last, and those at the edges of vectors and blocks."""
    rng = np.random.default_rng(n)
    places = sorted({y for y in (0, 1, 15, 16, 255, 256, 300, n - 1) if y < n})
    x, targets = [], []
    for lead in (0.3, 1.5, 4.0, 9.0, 20.0, 40.0, 80.0):
        for y in places:
            row = rng.choice(rng.normal(size=9), n).astype(dtype)
            row[y] = row.max() + lead
            x.append(row)
            targets.append(y)
    return np.array(x), np.array(targets)


@pytest.mark.parametrize("apart", [False, True], ids=["side by side", "apart"])
@pytest.mark.parametrize("n", [3, 40, 300, 1000])
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_one_hot_distribution_keeps_the_digits_of_its_class(dtype, n, apart, backend):
    x, y = confident_rows(n, dtype)
    q = one_hot(x, y)
    given = (np.asfortranarray(x), np.asfortranarray(q)) if apart else (x, q)
    loss, _ = xn.cross_entropy_and_grad(*given, reduction="none")
    grad = xn.cross_entropy_grad(*given, reduction="sum")
    assert max(row_excess(*row) for row in zip(x, y, loss, grad, strict=True)) < 1
    np.testing.assert_array_equal(xn.cross_entropy(*given, reduction="none"), loss)
    lse = xn.logsumexp(x.astype(np.float64))
    saved = xn.cross_entropy_grad(*given, lse=lse, reduction="sum")
    # the rounding of a saved lse, 80 at most, is in every p
    rtol = 1e-5 if dtype is np.float32 else 1e-13
    np.testing.assert_allclose(saved[np.arange(len(x)), y], grad[np.arange(len(x)), y], rtol=rtol, atol=1e-300)


@pytest.mark.rare
@pytest.mark.parametrize("n", [65_600, 70_000])
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_one_hot_distribution_of_several_segments(dtype, n, backend, rng):
    x = rng.normal(size=(17, n)).astype(dtype)
    y = rng.integers(0, n, 17)
    y[:3] = 65_535, 65_536, n - 1
    x[np.arange(17), y] = rng.uniform(5, 40, 17)
    for part in (slice(None), slice(0, 3)):  # one row at a time, and split
        q = one_hot(x, y)[part]
        loss, _ = xn.cross_entropy_and_grad(x[part], q, reduction="none")
        grad = xn.cross_entropy_grad(x[part], q, reduction="sum")
        expected, slope = xn.cross_entropy_and_grad(x[part], y[part], reduction="none")
        rows = np.arange(len(q))
        rtol = 2e-6 if dtype is np.float32 else 1e-14
        np.testing.assert_allclose(loss, expected, rtol=rtol)
        np.testing.assert_allclose(grad[rows, y[part]], slope[rows, y[part]], rtol=rtol)


OPTIONS = [
    {"z_loss": 1e-12},
    {"weight": True, "sample_weight": [0.7]},
    {"softcap": 30.0, "weight": True, "z_loss": 1e-12},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_one_hot_distribution_keeps_its_digits_with_every_option(options, backend):
    for n in (3, 5):
        x = np.zeros((1, n))
        x[0, 1] = 20.0
        options = dict(options, **({"weight": np.linspace(0.3, 1.7, n)} if "weight" in options else {}))
        found = xn.cross_entropy_and_grad(x, one_hot(x, [1]), reduction="sum", **options)
        expected = xn.cross_entropy_and_grad(x, [1], reduction="sum", **options)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-13)


def test_a_one_hot_distribution_of_another_class_than_the_largest(backend):
    """Where p is small at the maximum too, T p − t is no difference of numbers near 1."""
    x = np.linspace(0.1, 0.0, 300)[None]
    grad = xn.cross_entropy_grad(x, one_hot(x, [7]), reduction="sum")
    assert row_excess(x[0], 7, None, grad[0]) < 1


def test_the_loss_of_a_confident_one_hot_row(backend):
    x = np.array([[20, 0, 0]], np.float32)
    assert xn.cross_entropy(x, [[1, 0, 0]]) == xn.cross_entropy(x, [0])
    np.testing.assert_allclose(xn.cross_entropy(x, [[1, 0, 0]]), 2 * math.exp(-20), rtol=2e-7)


# ------------------------------------------------------------------------------------------------ broadcast logits
@pytest.mark.parametrize(("shape", "axis"), BROADCASTS, ids=str)
def test_gradients_of_broadcast_logits_are_in_c_order(shape, axis, backend, rng):
    """And a row has the bits that it has alone."""
    x = np.broadcast_to(rng.normal(size=shape[axis:]).astype(np.float32), shape)
    y = np.zeros(np.delete(shape, axis), np.int64)
    grad = xn.cross_entropy_grad(x, y, axis=axis, reduction="sum")
    p = xn.softmax(x, axis=axis)
    assert grad.flags.c_contiguous
    assert p.flags.c_contiguous
    np.testing.assert_array_equal(grad, xn.cross_entropy_grad(x.copy(), y, axis=axis, reduction="sum"))
    np.testing.assert_array_equal(p, xn.softmax(x.copy(), axis=axis))
