"""What must hold to the bit, on one machine, and the identities that a loss must satisfy."""

from __future__ import annotations

import math

import numpy as np
import pytest

import xent_numba as xn
from tests.support.logits import random_logits

DTYPES = [np.float32, np.float64]
# Short rows, long rows, enough rows for several groups, few rows of several segments
SHAPES = [(5000, 10), (1503, 100), (300, 257), (2, 140_000)]
OPTIONS = [
    {},
    {"label_smoothing": 0.1, "z_loss": 0.01, "sample_weight": True, "weight": True, "ignore_index": 0},
]


@pytest.fixture(params=DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def dtype(request):
    return request.param


@pytest.fixture(params=SHAPES, ids=str)
def case(request, dtype, rng):
    x = random_logits(rng, request.param, dtype)
    y = rng.integers(0, x.shape[1], len(x))
    finite = np.isfinite(x[np.arange(len(x)), y])
    return x, np.where(finite, y, 0)


def with_weights(options, x, rng):
    return {
        **options,
        **({"sample_weight": rng.random(len(x))} if options.get("sample_weight") else {}),
        **({"weight": rng.random(x.shape[1])} if options.get("weight") else {}),
    }


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_same_bits_for_any_number_of_threads_and_calls(options, case, backend, rng):
    x, y = case
    if options and x.dtype == np.float64:
        pytest.skip("the options act on what float32 and float64 have in common")
    options = with_weights(options, x, rng)
    loss, grad = xn.cross_entropy_and_grad(x, y, **options)
    rows = xn.cross_entropy(x, y, reduction="none", **options)
    for n_threads in (1, 2, 3, 4, None):
        again, grad_again = xn.cross_entropy_and_grad(x, y, n_threads=n_threads, **options)
        assert again == loss
        np.testing.assert_array_equal(grad_again, grad)
        assert xn.cross_entropy(x, y, n_threads=n_threads, **options) == loss  # forward alone: the same bits
        found = xn.cross_entropy(x, y, reduction="none", n_threads=n_threads, **options)
        np.testing.assert_array_equal(found, rows)
        np.testing.assert_array_equal(xn.cross_entropy_grad(x, y, n_threads=n_threads, **options), grad)


@pytest.mark.parametrize("function", [xn.softmax, xn.log_softmax, xn.logsumexp], ids=lambda f: f.__name__)
def test_softmax_has_the_same_bits_for_any_number_of_threads_and_calls(function, case, backend):
    x, _ = case
    found = function(x)
    for n_threads in (1, 2, 3, None):
        np.testing.assert_array_equal(function(x, n_threads=n_threads), found)


def test_a_row_has_the_same_bits_in_any_batch(case, backend):
    x, y = case
    rows, _ = xn.cross_entropy_and_grad(x, y, reduction="none")
    grad = xn.cross_entropy_and_grad(x, y, reduction="sum")[1]
    p, log_p, lse = xn.softmax(x), xn.log_softmax(x), xn.logsumexp(x)
    for i in sorted({0, 1, 7, 8, 15, 16, 17, len(x) // 2, len(x) - 1}):
        if i < len(x):
            for part in (slice(i, i + 1), slice(max(0, i - 3), i + 2)):
                at = i - part.start
                assert xn.cross_entropy(x[part], y[part], reduction="none")[at] == rows[i]
                np.testing.assert_array_equal(
                    xn.cross_entropy_and_grad(x[part], y[part], reduction="sum")[1][at], grad[i]
                )
                np.testing.assert_array_equal(xn.softmax(x[part])[at], p[i])
                np.testing.assert_array_equal(xn.log_softmax(x[part])[at], log_p[i])
                assert xn.logsumexp(x[part])[at] == lse[i]


def test_a_row_that_threads_share_has_the_same_bits(dtype, backend, rng):
    """A few rows of very many classes are each shared by all threads; of more rows, each thread computes whole ones."""
    x, y = random_logits(rng, (16, 70_000), dtype), np.zeros(16, int)
    rows, _ = xn.cross_entropy_and_grad(x, y, reduction="none")
    grad = xn.cross_entropy_and_grad(x, y, reduction="sum")[1]
    for part in (slice(3, 4), slice(9, 16)):
        np.testing.assert_array_equal(xn.cross_entropy(x[part], y[part], reduction="none"), rows[part])
        found = xn.cross_entropy_and_grad(x[part], y[part], reduction="sum")[1]
        np.testing.assert_array_equal(found, grad[part])


def test_in_place_gives_the_same_bits(case, backend):
    x, y = case
    loss, grad = xn.cross_entropy_and_grad(x, y)
    place = x.copy()
    again, result = xn.cross_entropy_and_grad(place, y, grad_out=place)
    assert result is place
    assert again == loss
    np.testing.assert_array_equal(place, grad)
    place = x.copy()
    xn.cross_entropy_grad(place, y, lse=xn.logsumexp(x), out=place)
    np.testing.assert_array_equal(place, xn.cross_entropy_grad(x, y, lse=xn.logsumexp(x)))
    for function in (xn.softmax, xn.log_softmax):
        place = x.copy()
        np.testing.assert_array_equal(function(place, out=place), function(x))


def test_results_do_not_depend_on_the_address(dtype, backend, rng):
    for shape in ((50, 10), (9, 300)):
        x = rng.normal(size=shape).astype(dtype)
        y = rng.integers(0, shape[1], shape[0])
        loss, grad = xn.cross_entropy_and_grad(x, y)
        for offset in range(1, 16, 3):
            memory = np.zeros(2 * x.size + 32, dtype)
            there = memory[offset : offset + x.size].reshape(shape)
            there[...] = x
            out = memory[x.size + 2 * offset : 2 * x.size + 2 * offset].reshape(shape)
            again, _ = xn.cross_entropy_and_grad(there, y, grad_out=out)
            assert again == loss
            np.testing.assert_array_equal(out, grad)


def test_streamed_gradients_have_the_same_bits(backend, rng):
    """From 16 MiB on, the gradient goes past the caches."""
    for shape in ((440_000, 10), (43_000, 100), (66_000, 64), (5000, 1000)):
        x = rng.normal(size=shape).astype(np.float32)
        y = rng.integers(0, shape[1], shape[0])
        grad = xn.cross_entropy_and_grad(x, y, reduction="sum")[1]
        assert grad.nbytes > 1 << 24
        for part in (slice(0, 1000), slice(1001, 2000), slice(-1000, None)):
            np.testing.assert_array_equal(xn.cross_entropy_and_grad(x[part], y[part], reduction="sum")[1], grad[part])


@pytest.mark.parametrize("layout", ["together", "padded", "in threes", "in place"])
def test_streamed_batches_are_right_in_every_layout(layout, backend, rng):
    """Rows of middling length that are ignored, or that hold NaN, beside others; lines of memory shared by rows."""
    if layout == "in threes":  # slabs of 19 rows: a work item of 16 and one of 3
        x, out = (rng.normal(size=(2400, 24, 100)).astype(np.float32)[:, :19] for _ in range(2))
    elif layout == "padded":
        x, out = (rng.normal(size=(45_000, 113)).astype(np.float32)[:, 5:105] for _ in range(2))
    else:
        x = rng.normal(size=(45_000, 100)).astype(np.float32)
        out = x.copy() if layout == "in place" else np.empty_like(x)
    y = rng.integers(0, 100, x.shape[:-1])
    y[rng.random(y.shape) < 0.1] = -100
    y.reshape(-1)[[0, 1, 15, 16, -1]] = -100
    if layout == "in place":
        x = out
    x[y == -100, 3] = np.nan
    expected = xn.cross_entropy_grad(x.astype(np.float64), y, reduction="sum", backend="numpy")
    assert out.nbytes > 1 << 24
    loss, grad = xn.cross_entropy_and_grad(x.copy(), y, reduction="sum", grad_out=None)
    again, found = xn.cross_entropy_and_grad(x, y, reduction="sum", grad_out=out)
    assert found is out
    np.testing.assert_allclose(out, expected, rtol=3e-6, atol=1e-12)
    np.testing.assert_array_equal(out, grad)
    if layout != "in threes":  # elsewhere the copy has its rows in other work items, and adds them in another order
        assert loss == again


def test_weights_multiply(case, backend, rng):
    x, y = case
    tolerance = 1e-6 if x.dtype == np.float32 else 1e-13
    s, w = rng.random(len(x)), rng.random(x.shape[1])
    rows, _ = xn.cross_entropy_and_grad(x, y, reduction="none")
    grad = xn.cross_entropy_and_grad(x, y, reduction="sum")[1]
    for options, factor in (
        ({"sample_weight": s}, s),
        ({"weight": w}, w[y]),
        ({"sample_weight": s, "weight": w}, s * w[y]),
    ):
        options["reduction"] = "none"
        tiny = np.finfo(x.dtype).tiny  # below, digits are lost
        np.testing.assert_allclose(xn.cross_entropy(x, y, **options), factor * rows, rtol=tolerance, atol=tiny)
        found = xn.cross_entropy_grad(x, y, **options)
        np.testing.assert_allclose(found, factor[:, None] * grad, rtol=4 * tolerance, atol=tiny)
        mean = xn.cross_entropy(x, y, **{**options, "reduction": "mean"})
        np.testing.assert_allclose(mean, (factor * rows.astype(float)).sum() / factor.sum(), rtol=tolerance)
    whole = np.round(4 * s)  # an integer weight is as good as so many copies of the row
    few = slice(0, 50)
    np.testing.assert_allclose(
        xn.cross_entropy(x[few], y[few], sample_weight=whole[few]),
        xn.cross_entropy(np.repeat(x[few], whole[few].astype(int), 0), np.repeat(y[few], whole[few].astype(int))),
        rtol=tolerance,
    )


def test_reductions_agree(case, backend):
    x, y = case
    y = y.copy()
    y[::3] = -100
    rows = xn.cross_entropy(x, y, reduction="none").astype(np.float64)
    tolerance = 2e-7 if x.dtype == np.float32 else 1e-14
    np.testing.assert_allclose(xn.cross_entropy(x, y, reduction="sum"), rows.sum(), rtol=tolerance)
    np.testing.assert_allclose(xn.cross_entropy(x, y), rows.sum() / (y >= 0).sum(), rtol=tolerance)


def test_a_shift_of_a_row_changes_nothing(dtype, backend, rng):
    """Where the shifted logits are exact: float64 subtracts the maximum, float32 takes it off the exponent."""
    tolerance = 5e-7 if dtype is np.float32 else 0
    for shape in ((20, 10), (3, 500)):
        x = rng.integers(-20, 20, shape).astype(dtype)
        y = rng.integers(0, shape[1], shape[0])
        loss, grad = xn.cross_entropy_and_grad(x, y, reduction="none")
        for shift in (-1000.0, 64.0, 1e5):
            shifted, shifted_grad = xn.cross_entropy_and_grad(x + dtype(shift), y, reduction="none")
            np.testing.assert_allclose(shifted, loss, rtol=tolerance)
            np.testing.assert_allclose(shifted_grad, grad, rtol=tolerance)


def test_the_order_of_classes_changes_little(dtype, backend, rng):
    tolerance = 2e-6 if dtype is np.float32 else 1e-14
    for shape in ((20, 10), (3, 500)):
        x, y = random_logits(rng, shape, dtype), np.zeros(shape[0], int)
        order = rng.permutation(shape[1])
        loss, grad = xn.cross_entropy_and_grad(x, y, reduction="none")
        there = np.full(shape[0], int(np.flatnonzero(order == 0)[0]))
        moved, moved_grad = xn.cross_entropy_and_grad(x[:, order], there, reduction="none")
        np.testing.assert_allclose(moved, loss, rtol=tolerance)
        np.testing.assert_allclose(moved_grad, grad[:, order], rtol=100 * tolerance, atol=np.finfo(dtype).tiny)


def test_gradients_of_a_row_sum_to_zero(case, backend):
    x, y = case
    grad = xn.cross_entropy_and_grad(x, y, reduction="sum")[1].astype(np.float64)
    np.testing.assert_allclose(grad.sum(axis=1), 0, atol=3e-6 if x.dtype == np.float32 else 1e-14)


def test_the_minimum_of_the_loss(backend, rng):
    """At the logarithms of the class frequencies the gradient vanishes, and the loss is their entropy."""
    y = rng.integers(0, 4, 200)
    frequency = np.bincount(y, minlength=4) / y.size
    x = np.tile(np.log(frequency), (200, 1))
    loss, grad = xn.cross_entropy_and_grad(x, y)
    np.testing.assert_allclose(loss, -np.sum(frequency * np.log(frequency)), rtol=1e-14)
    np.testing.assert_allclose(grad.sum(axis=0), 0, atol=1e-15)
    for _ in range(20):
        assert xn.cross_entropy(x + rng.normal(size=4) * 1e-3, y) > loss
    q = rng.dirichlet(np.ones(6), 10)
    loss, grad = xn.cross_entropy_and_grad(np.log(q), q)
    np.testing.assert_allclose(loss, -np.sum(q * np.log(q)) / 10, rtol=1e-13)
    np.testing.assert_allclose(grad, 0, atol=1e-16)


def test_perfect_predictions_cost_nothing(dtype, backend):
    for classes in (4, 300):
        x = np.full((classes, classes), -1e4, dtype)
        np.fill_diagonal(x, 1e4)
        loss, grad = xn.cross_entropy_and_grad(x, np.arange(classes))
        assert loss == 0.0
        np.testing.assert_array_equal(grad, 0.0)


def test_known_values_in_every_reduction(dtype, backend):
    """ln 2 at a tie of two; ln C at a tie of C; exactly representable gaps."""
    for classes in (2, 16, 256, 1024):
        x = np.zeros((3, classes), dtype)
        np.testing.assert_allclose(xn.cross_entropy(x, [0, 1, classes - 1]), math.log(classes), rtol=1e-7)
        grad = xn.cross_entropy_and_grad(x, [0, 1, classes - 1], reduction="sum")[1]
        assert grad[0, 0] == 1 / classes - 1
        assert grad[0, -1] == 1 / classes
