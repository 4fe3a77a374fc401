"""Real images: softmax regression trained on this loss ends where scikit-learn's LogisticRegression does."""

from __future__ import annotations

import numpy as np
import pytest

import xent_numba as xn

datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn has the images: pip install '.[test]'")
optimize = pytest.importorskip("scipy.optimize", reason="SciPy has L-BFGS: pip install '.[test]'")
linear_model = pytest.importorskip("sklearn.linear_model")


@pytest.fixture(scope="module")
def theirs(digits):
    """scikit-learn's model, trained to the last digit by Newton's method."""
    return linear_model.LogisticRegression(solver="newton-cholesky", tol=1e-12, max_iter=1000).fit(*digits)


@pytest.fixture(scope="module")
def digits():
    """1797 handwritten digits of 8 × 8 pixels, from 0 to 1, and what they show."""
    images, target = datasets.load_digits(return_X_y=True)
    assert images.shape == (1797, 64)
    return images / 16.0, target


def objective(parameters, images, target):
    """Σ H + ‖W‖²/2 and its gradient, for parameters [W | b] (10, 65): scikit-learn's objective, where b is free."""
    theta = parameters.reshape(10, 65)
    w, b = theta[:, :64], theta[:, 64]
    loss, grad = xn.cross_entropy_and_grad(images @ w.T + b, target, reduction="sum")
    slope = np.column_stack([grad.T @ images, grad.sum(axis=0)])
    slope[:, :64] += w
    return loss + 0.5 * np.sum(w * w), slope.ravel()


def test_the_optimum_is_scikit_learns(backend, digits, theirs):
    images, target = digits
    ours = optimize.minimize(
        objective, np.zeros(650), args=digits, jac=True, method="L-BFGS-B",
        options={"maxiter": 10_000, "maxfun": 10_000, "maxcor": 50, "ftol": 0.0, "gtol": 1e-9},
    )  # fmt: skip
    there = np.column_stack([theirs.coef_, theirs.intercept_]).ravel()
    at_theirs, slope_at_theirs = objective(there, images, target)
    np.testing.assert_allclose(ours.fun, at_theirs, rtol=1e-8)
    assert np.abs(slope_at_theirs).max() < 1e-6  # our gradient is 0 where scikit-learn stands
    np.testing.assert_allclose(ours.x, there, atol=1e-4)

    theta = ours.x.reshape(10, 65)
    logits = images @ theta[:, :64].T + theta[:, 64]
    np.testing.assert_array_equal(logits.argmax(axis=1), theirs.predict(images))
    np.testing.assert_allclose(xn.softmax(logits), theirs.predict_proba(images), atol=1e-5)
    assert np.mean(logits.argmax(axis=1) == target) > 0.98


def test_the_score_is_scikit_learns(backend, digits, theirs):
    """log_loss of its own probabilities, weighted by sample or not."""
    images, target = digits
    log_loss = pytest.importorskip("sklearn.metrics").log_loss
    logits, p = theirs.decision_function(images), theirs.predict_proba(images)
    s = np.random.default_rng(0).random(len(target))
    np.testing.assert_allclose(xn.softmax(logits), p, rtol=1e-12)
    np.testing.assert_allclose(xn.cross_entropy(logits, target), log_loss(target, p), rtol=1e-12)
    weighted = log_loss(target, p, sample_weight=s)
    np.testing.assert_allclose(xn.cross_entropy(logits, target, sample_weight=s), weighted, rtol=1e-12)
