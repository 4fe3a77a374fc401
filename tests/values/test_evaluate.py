"""The means of an evaluation: by hand, by NumPy, and where nothing counts."""

from __future__ import annotations

import math

import numpy as np
import pytest

import xent_numba as xn
from xent_numba.functions import evaluation


@pytest.fixture(autouse=True)
def _on_numpy():
    """Whatever computes the rows, their sums are the same; one test below is for every backend."""
    with xn.use_backend("numpy"):
        yield


def plain(logits, target, top_k, weight=None):
    """The definition, for 2-D logits without ties."""
    kept = target >= 0
    z, y = np.asarray(logits, np.float64)[kept], target[kept]
    s = np.ones(len(y)) if weight is None else weight[kept]
    log_p = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    place = np.argsort(np.argsort(-z, axis=1), axis=1)[np.arange(len(y)), y]
    loss = -(s * log_p[np.arange(len(y)), y]).sum() / s.sum()
    entropy = -(s[:, None] * np.exp(log_p) * log_p).sum() / s.sum()
    accuracy = {k: (s * (place < k)).sum() / s.sum() for k in top_k}
    return loss, entropy, accuracy, np.count_nonzero(s)


def close(found, expected, rtol):
    """Whether an evaluation is what `plain` says."""
    loss, entropy, accuracy, n_rows = expected
    values = [loss, math.exp(loss), loss / math.log(2), entropy, *accuracy.values()]
    result = [found.loss, found.perplexity, found.bits, found.entropy, *found.accuracy.values()]
    np.testing.assert_allclose(result, values, rtol=rtol)
    assert list(found.accuracy) == list(accuracy)
    assert (found.n_rows, type(found.n_rows)) == (n_rows, int)
    assert all(type(value) is float for value in result)


def data(rng, dtype=np.float64, shape=(50, 7)):
    """Logits, labels of which some are ignored, and weights of which some are 0."""
    logits = rng.normal(scale=2, size=shape).astype(dtype)
    target = rng.integers(0, shape[-1], shape[:-1])
    target.reshape(-1)[::11] = -100
    weight = rng.uniform(0, 3, shape[:-1])
    weight.reshape(-1)[::7] = 0
    return logits, target, weight


def test_by_hand():
    found = xn.evaluate(np.log([[0.5, 0.25, 0.25], [0.25, 0.25, 0.5]]), [0, 1], top_k=(1, 3))
    assert found.loss == pytest.approx(1.5 * math.log(2), rel=1e-15)
    assert found.perplexity == pytest.approx(2**1.5, rel=1e-15)
    assert found.bits == pytest.approx(1.5, rel=1e-15)
    assert found.entropy == pytest.approx(1.5 * math.log(2), rel=1e-15)
    assert found.accuracy == {1: 0.5, 3: 1.0}
    assert found.n_rows == 2


@pytest.mark.parametrize("weighted", [False, True])
def test_every_backend_finds_the_means(weighted, backend, rng):
    logits, target, weight = data(rng)
    s = weight if weighted else None
    found = xn.evaluate(logits, target, top_k=(5, 1, 7), sample_weight=s, backend=backend)
    close(found, plain(logits, target, (5, 1, 7), s), 1e-14)
    assert found.accuracy[7] == 1.0


def test_float32_rows_have_float64_sums(rng):
    logits, target, weight = data(rng, np.float32)
    rows = xn.row_statistics(logits, target)
    found = xn.evaluate(logits, target, sample_weight=weight)
    counted = weight[target >= 0].sum()
    assert rows.log_prob.dtype == np.float32
    assert found.loss == pytest.approx(-(rows.log_prob * weight).sum() / counted, rel=1e-15)
    assert found.entropy == pytest.approx((rows.entropy * weight).sum() / counted, rel=1e-15)


def test_axis_options_and_shapes(rng):
    logits, target, weight = data(rng, shape=(3, 4, 6))
    expected = plain(logits.reshape(12, 6), target.reshape(12), (1, 5), weight.reshape(12))
    close(xn.evaluate(np.moveaxis(logits, -1, 1), target, axis=1, sample_weight=weight), expected, 1e-14)
    scaled = xn.evaluate(logits, target, logit_scale=0.5, softcap=3.0)
    capped = plain(3 * np.tanh(logits / 6).reshape(12, 6), target.reshape(12), (1, 5))
    close(scaled, capped, 1e-14)
    assert xn.evaluate(logits, target, ignore_index=(-100, 2)).n_rows == np.count_nonzero((target >= 0) & (target != 2))
    one = xn.evaluate([2.0, 1.0, 0.1], 1, top_k=2)
    assert (one.accuracy, one.n_rows) == ({2: 1.0}, 1)


def test_blocks_and_weights_of_any_scale_change_nothing(rng, monkeypatch):
    logits, target, weight = data(rng, shape=(200, 6))
    plain_found, found = xn.evaluate(logits, target), xn.evaluate(logits, target, sample_weight=weight)
    for scale in (2.0**1000, 2.0**-1000):
        assert xn.evaluate(logits, target, sample_weight=weight * scale) == found
    monkeypatch.setattr(evaluation, "BLOCK", 7)
    for blocks, whole in (
        (xn.evaluate(logits, target), plain_found),
        (xn.evaluate(logits, target, sample_weight=weight), found),
    ):
        close(blocks, (whole.loss, whole.entropy, whole.accuracy, whole.n_rows), 2e-15)


def test_top_k_is_one_number_or_several():
    logits, target = np.array([[2.0, 1.0, 0.1], [0.1, 2.0, 1.9]]), np.array([1, 1])
    assert xn.evaluate(logits, target, top_k=np.array([2, 1])).accuracy == {2: 1.0, 1: 0.5}
    assert xn.evaluate(logits, target, top_k=np.int64(3)).accuracy == {3: 1.0}
    assert xn.evaluate(logits, target, top_k=()).accuracy == {}
    assert xn.evaluate(logits, target, top_k=(1, 1)).accuracy == {1: 0.5}


@pytest.mark.parametrize("case", ["ignored", "weights of 0", "no rows"])
def test_nan_where_nothing_counts(case):
    logits, target, weight = np.eye(2, 6), np.array([0, 1]), None
    if case == "ignored":
        target = np.array([-100, -100])
    elif case == "no rows":
        logits, target = np.empty((0, 6)), np.empty(0, np.int64)
    else:
        weight = np.zeros(2)
    found = xn.evaluate(logits, target, sample_weight=weight)
    values = [found.loss, found.perplexity, found.bits, found.entropy, *found.accuracy.values()]
    assert np.isnan(values).all()
    assert list(found.accuracy) == [1, 5]
    assert found.n_rows == 0


@pytest.mark.parametrize("weight", [None, [1.0, 0.0, 2.0], [0.0, 1.0, 1.0], [1.0, 1.0, 0.0]])
@pytest.mark.parametrize("odd", [[0.0, -np.inf, 1.0], [np.nan, 0.0, 1.0], [1e300, -1e300, 0.0], [0.0, np.inf, 1.0]])
def test_the_loss_is_that_of_cross_entropy_at_the_edges(odd, weight):
    logits, target = np.array([[1.0, 2.0, 3.0], odd, [0.5, 0.0, 0.0]]), np.array([2, 1, 0])
    found = xn.evaluate(logits, target, top_k=1, sample_weight=weight)
    loss = xn.cross_entropy(logits, target, sample_weight=weight)
    np.testing.assert_allclose(found.loss, loss, rtol=1e-15)
    np.testing.assert_array_equal(found.perplexity, np.exp(found.loss) if loss < 700 else loss * np.inf)
    assert found.n_rows == np.count_nonzero([1, 1, 1] if weight is None else weight)


def test_a_perfect_prediction_has_no_negative_zero():
    found = xn.evaluate([[0.0, -np.inf], [0.0, -np.inf]], [0, 0], top_k=1)
    assert found == (0.0, 1.0, 0.0, {1: 1.0}, 0.0, 2)
    assert "-0" not in str(found)
