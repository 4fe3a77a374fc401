"""The focal factor (1 − p)^γ: values under an accuracy law, its combinations with other options, and its edges.

The law: every loss and every element of a gradient is within (8 + |ln v|) (1 + γ) ulp of the exact value v.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

import xent_numba as xn
from tests.support.exact import exact_rows
from tests.support.palette import distinct, row_excess
from tests.values.test_accuracy import FAR, KINDS, targets

INF, NAN = math.inf, math.nan
FLOATS = [np.float32, np.float64]
GAMMAS = [0.01, 0.5, 2.0, 5.0, 50.0]
RARE = pytest.mark.rare


# Rows of each regime of the cpu backend.  Every case is machine code of its own.
@pytest.mark.parametrize(
    ("dtype", "n", "axis"),
    [
        (np.float32, 5, -1), (np.float32, 40, -1), (np.float32, 300, -1), (np.float64, 17, -1),
        *(pytest.param(*case, marks=RARE) for case in (
            (np.float32, 70_000, -1), (np.float64, 300, -1), (np.float32, 300, 0), (np.float64, 70_000, -1),
            (np.float16, 5, -1), (np.float16, 40, -1), (np.float16, 300, -1),
        )),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else np.dtype(value).name,
)  # fmt: skip
def test_the_law(dtype, n, axis, backend, rng):
    worst = {}
    for kind, make in KINDS.items():
        if kind in FAR and dtype is np.float16:
            continue  # beyond its range
        row = make(rng, n).astype(dtype)
        some = targets(row.astype(np.float64), rng)[:4]
        x = np.tile(row, (len(some), 1))
        x, known = x.T if axis == 0 else x, distinct(row)
        for gamma in GAMMAS:
            losses, _ = xn.cross_entropy_and_grad(x, some, axis=axis, reduction="none", focal_gamma=gamma)
            grad = xn.cross_entropy_and_grad(x, some, axis=axis, reduction="sum", focal_gamma=gamma)[1]
            grad = grad.T if axis == 0 else grad
            for y, loss, g in zip(some, losses, grad, strict=True):
                worst[kind, gamma, y] = row_excess(row, y, loss, g, known, gamma)
    print(f"{backend} {np.dtype(dtype).name} {n}: {max(worst.values()):.2f}")
    assert max(worst.values()) < 1, max(worst.items(), key=lambda item: item[1])


@pytest.mark.parametrize(
    ("scale", "cap"), [(1.0, None), *(pytest.param(*case, marks=RARE) for case in ((-0.7, None), (1.5, 4.0)))]
)
def test_combinations_with_other_options(scale, cap, backend, rng):
    x = rng.normal(scale=3, size=(7, 5))
    y = np.array([0, 4, 2, -100, 1, 3, 0])
    kept = y != -100
    z = scale * x if cap is None else cap * np.tanh(scale * x / cap)
    g = rng.normal(size=7)
    weights = [None, np.array([0.0, 0.5, 1.0, 3.0, 0.1])]
    samples = [None, np.array([1.0, 0.0, 2.0, 0.5, 1.0, 3.0, 0.25])]
    for w, s, z_loss, gamma in itertools.product(weights, samples, (0.0, 0.01), (0.3, 2.0)):
        options = {"weight": w, "sample_weight": s, "logit_scale": scale, "softcap": cap, "focal_gamma": gamma}
        row_weight = kept * (np.ones(7) if s is None else s)
        d1, d2 = np.sum(row_weight * (np.ones(7) if w is None else w[y * kept])), np.sum(row_weight)
        for reduction, d, coefficient in (("sum", 1.0, z_loss), ("mean", d1, z_loss * d1 / d2)):
            losses, grads = exact_rows(x, y, z_coefficient=coefficient, **options)
            found, grad = xn.cross_entropy_and_grad(x, y, reduction=reduction, z_loss=z_loss, **options)
            np.testing.assert_allclose(found, float(losses.sum()) / d, rtol=1e-12)
            np.testing.assert_allclose(grad, grads.astype(float) / d, rtol=1e-10, atol=1e-13)
        losses, grads = exact_rows(x, y, z_coefficient=z_loss, **options)
        options |= {"reduction": "none", "z_loss": z_loss}
        rows, grad = xn.cross_entropy_and_grad(x, y, **options)
        np.testing.assert_allclose(rows, losses.astype(float), rtol=1e-12)
        for lse in (None, xn.logsumexp(z)):
            grad = xn.cross_entropy_grad(x, y, lse=lse, grad_output=g, **options)
            np.testing.assert_allclose(grad, grads.astype(float) * g[:, None], rtol=1e-10, atol=1e-13)


def test_against_derivatives_of_pytorch(backend, rng):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")
    for gamma in (0.2, 1.0, 2.0, 3.7):
        x, y = rng.normal(scale=4, size=(40, 17)), rng.integers(0, 17, 40)
        w, s = rng.random(17), rng.random(40)
        logits = torch.tensor(x, requires_grad=True)
        log_p = torch.log_softmax(logits, 1)[torch.arange(40), torch.tensor(y)]
        loss = (torch.tensor(s * w[y]) * (-torch.expm1(log_p)) ** gamma * -log_p).sum() / (s * w[y]).sum()
        loss.backward()
        options = {"weight": w, "sample_weight": s, "focal_gamma": gamma}
        found, grad = xn.cross_entropy_and_grad(x, y, **options)
        np.testing.assert_allclose(found, loss.item(), rtol=1e-12)
        np.testing.assert_allclose(grad, logits.grad.numpy(), rtol=1e-9, atol=1e-9)


# ------------------------------------------------------------------------------------------------ edges
@pytest.mark.parametrize("dtype", FLOATS)
def test_tiny_and_huge_probabilities(dtype, backend):
    """1 − p = 1e-30 and less, p = 1e-30 and less: no digit is lost, nothing is nan."""
    gaps = np.array([69.0, 30.0, 1e-3, -69.0, -300.0])
    x = np.stack([gaps, np.zeros(5), np.zeros(5)], axis=1).astype(dtype)
    y = np.zeros(5, int)
    for gamma in (0.0625, 0.25, 1.0, 3.0):
        losses, grad = xn.cross_entropy_and_grad(x, y, reduction="none", focal_gamma=gamma)
        for row, loss, g in zip(x, losses, grad, strict=True):
            assert row_excess(row, 0, loss, g, gamma=gamma) < 1


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("gamma", [1e-300, 0.5, 2.0, 1e300])
def test_edges(gamma, dtype, backend):
    x = np.array([[-INF, 0.0], [0.0, -INF], [1000.0, 0.0], [-1000.0, 0.0]], dtype)
    losses, grad = xn.cross_entropy_and_grad(x, [0, 0, 0, 0], reduction="none", focal_gamma=gamma)
    np.testing.assert_array_equal(losses, [INF, 0, 0, 1000])
    np.testing.assert_array_equal(grad, [[-1, 1], [0, 0], [0, 0], [-1, 1]])
    for value in (3.0, -1e30):
        loss, grad = xn.cross_entropy_and_grad(np.array([[value]], dtype), [0], focal_gamma=gamma)
        assert (loss, grad[0, 0]) == (0, 0)
    for row in ([-INF, -INF], [INF, 0.0], [0.0, INF], [NAN, 0.0], [0.0, NAN]):
        x = np.array([[1.0, 2.0], row, [NAN, NAN], [1.0, 2.0]], dtype)
        losses, grad = xn.cross_entropy_and_grad(x, [0, 0, -100, 1], reduction="none", focal_gamma=gamma)
        np.testing.assert_array_equal(np.isnan(losses), [False, True, False, False])
        np.testing.assert_array_equal(np.isnan(grad), [[False] * 2, [True] * 2, [False] * 2, [False] * 2])
        np.testing.assert_array_equal(grad[2], 0)
        loss, grad = xn.cross_entropy_and_grad(x[:2], [0, 0], sample_weight=[1, 0], focal_gamma=gamma)
        assert math.isnan(loss)  # as without the factor: 0 · nan
    loss, grad = xn.cross_entropy_and_grad(
        np.array([[-INF, 0.0], [1.0, 1.0]], dtype), [0, 1], weight=[0, 2], focal_gamma=gamma
    )
    np.testing.assert_allclose(loss, 0.5**gamma * math.log(2), rtol=1e-6)
    np.testing.assert_array_equal(grad[0], 0)


@pytest.mark.parametrize("n", [5, 40, 300])
def test_gradients_near_the_largest_float32(n, backend):
    logits = np.zeros((1, n), np.float32)
    logits[0, [0, 3]] = 8.0, 7.9
    options = {"focal_gamma": 2.0, "z_loss": 1e29, "reduction": "sum"}
    grad = xn.cross_entropy_and_grad(logits, [1], backend=backend, **options)[1]
    want = xn.cross_entropy_and_grad(logits.astype(np.float64), [1], backend="numpy", **options)[1]
    np.testing.assert_allclose(grad, want, rtol=1e-5)


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_gamma_of_zero_changes_no_bit(dtype, backend, rng):
    x, y = rng.normal(size=(20, 7)).astype(dtype), rng.integers(0, 7, 20)
    for zero in (0, 0.0, -0.0, np.float32(0)):
        found = xn.cross_entropy_and_grad(x, y, focal_gamma=zero)
        for a, b in zip(found, xn.cross_entropy_and_grad(x, y), strict=True):
            np.testing.assert_array_equal(a, b, strict=True)
    xn.cross_entropy(x, x, focal_gamma=0.0, label_smoothing=0.5)


def test_the_layer_and_the_saved_logsumexp(backend, rng):
    x, y = rng.normal(scale=5, size=(30, 6)), rng.integers(0, 6, 30)
    options = {"focal_gamma": 2.0, "sample_weight": rng.random(30)}
    loss, grad = xn.cross_entropy_and_grad(x, y, **options)
    xent = xn.CrossEntropyLoss(**options)
    assert xent(x, y) == loss
    assert "focal_gamma=2.0" in repr(xent)
    np.testing.assert_array_equal(xent.backward(), grad)
    saved = xn.cross_entropy_grad(x, y, lse=xn.logsumexp(x), **options)
    np.testing.assert_allclose(saved, grad, rtol=1e-11, atol=1e-17)
    lse = np.where(np.arange(30) == 3, NAN, xn.logsumexp(x) - 1e-3)  # too small: p may be more than 1
    saved = xn.cross_entropy_grad(x, y, lse=lse, **options)
    np.testing.assert_array_equal(np.isnan(saved), np.isnan(lse)[:, None] | np.zeros((1, 6), bool))


def test_a_mean_is_of_the_weights_without_the_factor():
    x, y, w = np.log([[1.0, 3.0], [2.0, 2.0]]), [0, 1], [3, 5]  # p = 1/4 and 1/2
    rows = [0.75**2 * math.log(4), 0.5**2 * math.log(2)]
    np.testing.assert_allclose(xn.cross_entropy(x, y, focal_gamma=2), sum(rows) / 2, rtol=1e-14)
    np.testing.assert_allclose(
        xn.cross_entropy(x, y, focal_gamma=2, weight=w), (3 * rows[0] + 5 * rows[1]) / 8, rtol=1e-14
    )
