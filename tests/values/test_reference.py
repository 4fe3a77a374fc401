"""Values: by hand, by 200 digits, by finite differences, and rows without a value, on each backend."""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import pytest

import xent_numba as xn
from tests.support.exact import exact_rows, excess
from tests.support.logits import random_logits

A = np.array([[2.0, 1.0, 0.1], [0.1, 2.0, 1.9]])
Y = np.array([1, 0])
INF, NAN = math.inf, math.nan
FLOATS = [np.float32, np.float64]


def both(logits, target, **options):
    """Loss and gradient, after a check that the loss alone and the gradient alone agree with them."""
    loss, grad = xn.cross_entropy_and_grad(logits, target, **options)
    alone = xn.cross_entropy(logits, target, **options)
    np.testing.assert_array_equal(alone, loss, strict=True)
    tolerance = 1e-6 if grad.dtype == np.float32 else 1e-13
    np.testing.assert_allclose(xn.cross_entropy_grad(logits, target, **options), grad, rtol=tolerance, atol=1e-300)
    return loss, grad


def test_the_worked_example(backend):
    loss, grad = both(A, Y)
    assert round(float(loss), 3) == 2.019
    np.testing.assert_array_equal(grad.round(3), [[0.330, -0.379, 0.049], [-0.464, 0.243, 0.220]])
    np.testing.assert_array_equal(xn.softmax(A).round(3), [[0.659, 0.242, 0.099], [0.073, 0.487, 0.440]])
    np.testing.assert_array_equal(xn.cross_entropy(A, Y, reduction="none").round(3), [1.417, 2.620])
    one_hot = [[0, 1, 0], [1, 0, 0]]
    np.testing.assert_allclose(xn.cross_entropy(A, one_hot), loss, rtol=1e-15)
    np.testing.assert_allclose(xn.cross_entropy_and_grad(A, one_hot)[1], grad, rtol=1e-14)
    xent = xn.CrossEntropyLoss()
    assert xent(A, Y) == loss
    np.testing.assert_array_equal(xent.backward(), grad)
    np.testing.assert_array_equal(xent.backward(2.0), 2 * grad)


def test_values_by_hand(backend):
    x = np.log([[1.0, 3.0], [2.0, 2.0]])  # p = 1/4, 3/4; 1/2, 1/2
    y = np.array([0, 1])
    quarter, half = math.log(4), math.log(2)

    def check(expected, rtol=1e-14, **options):
        np.testing.assert_allclose(both(x, y, **options)[0], expected, rtol=rtol)

    check((quarter + half) / 2)
    check(quarter + half, reduction="sum")
    check([quarter, half], reduction="none")
    check((3 * quarter + 5 * half) / 8, weight=[3, 5])
    check((3 * quarter + 5 * half) / 8, sample_weight=[3, 5])
    check((6 * quarter + 5 * half) / 11, weight=[3, 5], sample_weight=[2, 1])
    check(half, ignore_index=0)
    check(quarter, ignore_index=(1, 7))
    check(NAN, ignore_index=[0, 1])
    # ε = 1/2: half the loss at the target, and a quarter at each class
    rows = [0.75 * quarter + 0.25 * math.log(4 / 3), half]
    check(rows, label_smoothing=0.5, reduction="none")
    check([0.5 * quarter + 0.5 * math.log(4 / 3), half], label_smoothing=1.0, reduction="none")
    # lse = log 4 in both rows
    check([quarter + 0.1 * quarter**2, half + 0.1 * quarter**2], z_loss=0.1, reduction="none")
    check((3 * quarter + 5 * half) / 8 + 0.1 * quarter**2, weight=[3, 5], z_loss=0.1)
    # x doubled: p = 1/10, 9/10
    check([math.log(10), half], logit_scale=2.0, reduction="none")
    q = np.array([[0.5, 0.5], [2.0, 0.0]])  # need not sum to one
    rows = [0.5 * quarter + 0.5 * math.log(4 / 3), 2 * half]
    np.testing.assert_allclose(both(x, q, reduction="none")[0], rows, rtol=1e-14)
    np.testing.assert_allclose(both(x, q)[0], sum(rows) / 2, rtol=1e-14)
    np.testing.assert_allclose(both(x, q, weight=[3, 1])[0], (1.5 * quarter + 0.5 * math.log(4 / 3) + 6 * half) / 2)
    np.testing.assert_allclose(both(x, q, sample_weight=[1, 3])[0], (rows[0] + 3 * rows[1]) / 4, rtol=1e-14)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    "row",
    [[-INF, -INF], [INF, 0.0], [0.0, INF], [INF, INF], [INF, -INF], [NAN, 0.0], [0.0, NAN], [NAN, INF], [NAN, -INF]],
)
def test_rows_that_are_nan(row, dtype, backend):
    x = np.array([[1.0, 2.0], row, [1.0, 2.0]], dtype)
    for target in ([0, 0, 1], [0, 1, 1], [[1.0, 0.0]] * 3, [[0.0, 0.0]] * 3, [[0.5, 0.5]] * 3):
        for options in ({}, {"label_smoothing": 0.1}, {"z_loss": 0.1}):
            loss, grad = both(x, target, reduction="none", **options)
            np.testing.assert_array_equal(np.isnan(loss), [False, True, False])
            np.testing.assert_array_equal(np.isnan(grad), [[False] * 2, [True] * 2, [False] * 2])
            lse = xn.logsumexp(x).astype(np.float64)
            saved = xn.cross_entropy_grad(x, target, lse=lse, reduction="none", **options)
            np.testing.assert_array_equal(np.isnan(saved), np.isnan(grad))


@pytest.mark.parametrize("value", [-INF, INF, NAN])
def test_one_class(value, backend):
    loss, grad = both(np.array([[3.0], [-1e30]]), [0, 0])
    assert loss == 0
    np.testing.assert_array_equal(grad, [[0], [0]])
    loss, grad = both(np.array([[value]]), [0])
    assert math.isnan(loss)
    assert np.isnan(grad).all()


def test_ignored_rows_are_never_read(backend):
    x = np.array([[1.0, 2.0], [NAN, INF], [-INF, -INF], [3.0, 1.0]])
    for options in (
        {},
        {"label_smoothing": 0.1, "z_loss": 0.1, "softcap": 3.0},
        {"weight": [1, 2], "reduction": "sum"},
    ):
        loss, grad = both(x, [1, -100, -100, 0], **options)
        expected = both(x[[0, 3]], [1, 0], **options)
        np.testing.assert_allclose(loss, expected[0], rtol=1e-15)
        np.testing.assert_allclose(grad[[0, 3]], expected[1], rtol=1e-15)
        np.testing.assert_array_equal(grad[[1, 2]], 0)
    rows, _ = both(x, [1, -100, -100, 0], reduction="none")
    np.testing.assert_array_equal(rows[[1, 2]], 0)


def test_a_denominator_of_zero(backend):
    for options in (
        {"ignore_index": (0, 1)},
        {"weight": [0, 0, 1]},
        {"sample_weight": [0, 0]},
        {"target": A, "sample_weight": [0, 0]},
    ):
        target = options.pop("target", Y)
        out = np.full_like(A, 7)
        loss, grad = xn.cross_entropy_and_grad(A * [[NAN], [1]], target, grad_out=out, **options)
        assert math.isnan(loss)
        assert grad is out
        np.testing.assert_array_equal(grad, 0)
        np.testing.assert_array_equal(xn.cross_entropy_grad(A, target, **options), 0)


def test_softmax_family_edges(backend):
    x = np.array([[0.0, -INF], [-INF, -INF], [INF, 0.0], [INF, -INF], [NAN, 0.0], [1000.0, 1000.0]])
    np.testing.assert_allclose(xn.logsumexp(x), [0, -INF, INF, INF, NAN, 1000 + math.log(2)], rtol=1e-15)
    np.testing.assert_array_equal(xn.softmax(x)[:2], [[1, 0], [NAN, NAN]])
    np.testing.assert_array_equal(xn.log_softmax(x)[:2], [[0, -INF], [NAN, NAN]])
    assert np.isnan(xn.softmax(x)[2:5]).all()
    assert np.isnan(xn.log_softmax(x)[4]).all()
    assert type(xn.logsumexp([1.0, 2.0])) is np.float64
    assert type(xn.cross_entropy([1.0, 2.0], 1, reduction="none")) is np.float64
    np.testing.assert_allclose(xn.log_softmax([40.0, 0.0])[0], -4.248354255291589e-18, rtol=1e-14)


ADVERSARIAL = {
    "confident": [[20, 0, 0, 1], [60, 0, -3, 2], [300, 0, 1, 2], [5, 5, -50, 30]],
    "nearly tied": [[1, 1 + 2**-20, 1, 1], [0, 0, 0, 1e-7], [3, 3, 3, 3]],
    "offset": [[1e5, 1e5 + 1, 1e5 - 20, 1e5], [-1e5, -1e5 - 1, -1e5 - 3, -1e5], [1e30, 1e30, 1e30, 0]],
    "masked": [[1, -INF, 2, 3], [-INF, 2, -INF, 60], [9, -INF, -INF, -INF]],
}


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("rows", ADVERSARIAL)
def test_the_accuracy_law(rows, dtype, backend):
    x = np.array(ADVERSARIAL[rows], dtype)
    worst = 0.0
    for y in range(x.shape[1]):
        finite = np.isfinite(x[:, y])
        target = np.full(finite.sum(), y)
        losses, grads = exact_rows(x[finite], target)
        worst = max(worst, excess(xn.cross_entropy(x[finite], target, reduction="none"), losses, dtype))
        worst = max(worst, excess(xn.cross_entropy_and_grad(x[finite], target, reduction="sum")[1], grads, dtype))
    assert worst < 1


@functools.cache
def many_classes(dtype):
    """A row of them, its target, some classes, and the exact loss and gradient there."""
    rng = np.random.default_rng(3)
    x = random_logits(rng, (1, 100_000), dtype, outliers=False, masked=True, offsets=False)
    y = np.array([0])
    some = np.r_[0, np.argmax(x), rng.integers(0, x.shape[1], 300)]
    return x, y, some, *exact_rows(x, y, columns=some)


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_accuracy_law_for_many_classes(dtype, backend):
    x, y, some, losses, grads = many_classes(dtype)
    assert excess(xn.cross_entropy(x, y, reduction="none"), losses, dtype) < 1
    assert excess(xn.cross_entropy_and_grad(x, y, reduction="sum")[1][:, some], grads[:, some], dtype) < 1


OPTIONS = {
    "weight": [None, [0.0, 0.5, 1.0, 3.0, 0.1]],
    "sample_weight": [None, [1.0, 0.0, 2.0, 0.5, 1.0, 3.0, 0.25]],
    "label_smoothing": [0.0, 0.1, 1.0],
    "z_loss": [0.0, 0.01],
}
# Each is machine code of its own beside every combination of the others; a scale alone, test_accuracy and others have.
RARE = pytest.mark.rare
TRANSFORMS = [(1.0, None), (1.5, 4.0), pytest.param((0.5, None), marks=RARE), pytest.param((-2.0, None), marks=RARE)]


@pytest.mark.parametrize("transform", TRANSFORMS, ids=str)
@pytest.mark.parametrize("kind", ["index", "distribution"])
def test_every_combination_of_options(kind, transform, backend, rng):
    scale, cap = transform
    x = rng.normal(scale=3, size=(7, 5))
    y = rng.integers(0, 5, 7) if kind == "index" else rng.random((7, 5)) * (rng.random((7, 5)) < 0.7)
    if kind == "index":
        y[3] = -100
    kept = np.ones(7) if kind == "distribution" else y != -100
    for values in itertools.product(*OPTIONS.values()):
        w, s, epsilon, z_loss = values
        options = {
            "weight": w, "sample_weight": s, "label_smoothing": epsilon, "logit_scale": scale, "softcap": cap,
        }  # fmt: skip
        row_weight = np.ones(7) if s is None else np.array(s)
        class_weight = np.ones(5) if w is None or kind == "distribution" else np.array(w)
        d1 = np.sum(kept * row_weight * (class_weight[y * kept] if kind == "index" else 1.0))
        d2 = np.sum(kept * row_weight)
        for reduction, d, coefficient in (("sum", 1.0, z_loss), ("mean", d1, z_loss * d1 / d2)):
            losses, grads = exact_rows(x, y, z_coefficient=coefficient, **options)
            found, grad = both(x, y, reduction=reduction, z_loss=z_loss, **options)
            np.testing.assert_allclose(found, float(losses.sum()) / d, rtol=1e-12)
            np.testing.assert_allclose(grad, grads.astype(float) / d, rtol=1e-10, atol=1e-13)
        losses, grads = exact_rows(x, y, z_coefficient=z_loss, **options)
        found, grad = both(x, y, reduction="none", z_loss=z_loss, **options)
        np.testing.assert_allclose(found, losses.astype(float), rtol=1e-12, atol=1e-300)
        g = rng.normal(size=7)
        expected = grads.astype(float) * g[:, None]
        z = x * scale if cap is None else cap * np.tanh(x * scale / cap)
        for lse in (None, xn.logsumexp(z)):
            result = xn.cross_entropy_grad(
                x, y, lse=lse, grad_output=g, reduction="none", z_loss=z_loss, **options
            )  # fmt: skip
            np.testing.assert_allclose(result, expected, rtol=1e-10, atol=1e-13)


def test_finite_differences(backend, rng):
    x = rng.normal(scale=2, size=(4, 3))
    options = {"weight": [1, 2, 0.5], "label_smoothing": 0.1, "z_loss": 0.1, "logit_scale": 1.2, "softcap": 5.0}
    for target in (rng.integers(0, 3, 4), rng.random((4, 3))):
        grad = xn.cross_entropy_and_grad(x, target, **options)[1]
        h = 1e-3
        for i, j in np.ndindex(x.shape):
            step = np.zeros_like(x)
            step[i, j] = h

            def at(k, step=step, target=target):
                return float(xn.cross_entropy(x + k * step, target, **options))

            slope = (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * h)  # fourth order
            np.testing.assert_allclose(grad[i, j], slope, rtol=1e-8, atol=1e-10)


def test_sixteen_bit_gradients_are_rounded_once(backend, rng):
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    for dtype in (np.float16, bfloat16):
        x = random_logits(rng, (50, 7), dtype, masked=True)
        y = np.zeros(50, int)
        wide = x.astype(np.float32)
        loss, grad = xn.cross_entropy_and_grad(x, y, reduction="none")
        np.testing.assert_array_equal(loss, xn.cross_entropy(wide, y, reduction="none"))
        expected = xn.cross_entropy_and_grad(wide, y, reduction="none")[1]
        step = np.float32(2.0**-11 if dtype is np.float16 else 2.0**-8)  # half an ulp, relative
        error = np.abs(grad.astype(np.float32) - expected)
        assert (error <= step * np.abs(expected) * 1.001 + 2.0**-25).all()


def test_the_mean_is_the_rows_over_their_number(backend):
    rows = xn.cross_entropy(np.tile(A[:1], (3, 1)), [1, 1, 1], reduction="none")
    assert xn.cross_entropy(np.tile(A[:1], (3, 1)), [1, 1, 1]) == (rows[0] + rows[1] + rows[2]) / 3


def test_a_float32_loss_too_large_is_infinite_without_a_warning(backend):
    x = np.array([[3e38, -3e38]], np.float32)
    assert xn.cross_entropy(x, [1]) == INF
    assert xn.cross_entropy(x, [1], weight=[1e-30, 1e-30]) == INF
    assert xn.cross_entropy(x, [1], reduction="none")[0] == INF
