"""Suites of others, in their spirit: the ONNX operator SoftmaxCrossEntropyLoss, and SciPy's log-sum-exp cases."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

import xent_numba as xn

INF, NAN = math.inf, math.nan


def onnx_cases():
    """Shape, target, weights, ignore_index and reduction, as the operator's specification combines them."""
    shapes = [(3, 5), (3, 5, 2), (3, 5, 6, 6), (3, 5, 2, 4), (3, 5, 1, 2, 3, 4)]
    return itertools.product(shapes, (False, True), (None, 0, -1, 10), ("mean", "sum", "none"))


def test_the_onnx_operator(backend, rng):
    onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install onnx")
    reference = pytest.importorskip("onnx.reference")
    for shape, weighted, ignored, reduction in onnx_cases():
        x = rng.random(shape).astype(np.float32)
        rows = shape[:1] + shape[2:]
        y = rng.integers(0, 5, rows)
        if ignored is not None:
            y.flat[0] = ignored
        w = np.array([0.9, 0.7, 0.8, 0.9, 0.3], np.float32) if weighted else None
        attributes = {"reduction": reduction} | ({} if ignored is None else {"ignore_index": ignored})
        inputs = {"x": x, "y": y} | ({"w": w} if weighted else {})
        node = onnx.helper.make_node("SoftmaxCrossEntropyLoss", list(inputs), ["loss", "log_p"], **attributes)
        expected, log_p = reference.ReferenceEvaluator(node).run(None, inputs)
        loss = xn.cross_entropy(
            x, y, axis=1, weight=w, reduction=reduction, ignore_index=-100 if ignored is None else ignored
        )
        assert loss.dtype == expected.dtype
        np.testing.assert_allclose(loss, expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(xn.log_softmax(x, axis=1), log_p, rtol=1e-5, atol=1e-6)


def test_softmax_as_onnx_has_it(backend):
    far = np.array([[0, 1, 2, 3], [10000, 10001, 10002, 10003]], np.float32)
    expected = np.array([[0.032058604, 0.08714432, 0.23688284, 0.6439143]] * 2, np.float32)
    np.testing.assert_allclose(xn.softmax(far), expected, rtol=1e-6)
    np.testing.assert_allclose(xn.log_softmax(far), np.log(expected), rtol=1e-6)
    x = np.abs(np.random.default_rng(0).normal(size=(3, 4, 5))).astype(np.float32)
    for axis in (0, 1, 2, -1):
        e = np.exp(x - x.max(axis, keepdims=True))
        np.testing.assert_allclose(xn.softmax(x, axis=axis), e / e.sum(axis, keepdims=True), rtol=1e-6)


LOGSUMEXP = [
    (np.arange(200.0), math.log(math.fsum(math.exp(v) for v in range(200)))),
    ([1000.0, 1000.0], 1000 + math.log(2)),
    (np.full(1000, 10_000), 10_000 + math.log(1000)),
    ([1e-40] * 3, math.log(3)),
    ([1e10, 1e-10], 1e10),
    ([-1e10, -INF], -1e10),
    ([0.0, -40.0], math.log1p(math.exp(-40))),
    ([-40.0, 0.0, -80.0], math.log1p(math.exp(-40) + math.exp(-80))),
    ([INF], INF),
    ([-INF], -INF),
    ([NAN], NAN),
    ([-INF, -INF], -INF),
    ([INF, INF], INF),
    ([INF, -INF], INF),
    ([-INF, INF, 0.0], INF),
    ([NAN, INF], NAN),
    ([-INF, NAN], NAN),
    ([-INF, 0.0], 0.0),
    ([5.0], 5.0),
]


@pytest.mark.parametrize("case", range(len(LOGSUMEXP)))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_logsumexp_cases(case, dtype, backend):
    values, expected = LOGSUMEXP[case]
    x = np.asarray(values, dtype)
    before = x.copy()
    rtol = 1e-15 if dtype is np.float64 else 2e-7
    np.testing.assert_allclose(xn.logsumexp(x), dtype(expected), rtol=rtol)
    np.testing.assert_allclose(xn.logsumexp(np.stack([x, x]), axis=1), [dtype(expected)] * 2, rtol=rtol)
    np.testing.assert_allclose(xn.logsumexp(np.stack([x, x], 1), axis=0), [dtype(expected)] * 2, rtol=rtol)
    long = np.concatenate([x, np.full(600, -INF, dtype)])  # the same in a row that takes the other kernel
    np.testing.assert_allclose(xn.logsumexp(long), dtype(expected), rtol=rtol)
    np.testing.assert_array_equal(x, before)


def test_a_million_tiny_terms(backend):
    logs = np.full((2, 1_000_000), math.log(1e-40))
    np.testing.assert_allclose(np.exp(xn.logsumexp(logs, axis=1)), 1e-34, rtol=1e-12)


def test_against_scipy(backend, rng):
    special = pytest.importorskip("scipy.special")
    for shape, axis in (((4, 6), 1), ((4, 6), 0), ((2, 3, 4), 1), ((3, 500), 1), ((500, 3), 0)):
        x = rng.normal(scale=20, size=shape)
        x[rng.random(shape) < 0.2] = -INF
        x[tuple([0] * len(shape))] = 1.0
        np.testing.assert_allclose(xn.logsumexp(x, axis=axis), special.logsumexp(x, axis=axis), rtol=1e-13)
        some = np.isfinite(special.logsumexp(x, axis=axis, keepdims=True)) & np.ones(shape, bool)
        with np.errstate(all="ignore"):
            p, log_p = special.softmax(x, axis=axis), special.log_softmax(x, axis=axis)
        np.testing.assert_allclose(xn.softmax(x, axis=axis)[some], p[some], rtol=1e-12)
        np.testing.assert_allclose(xn.log_softmax(x, axis=axis)[some], log_p[some], rtol=1e-12, atol=1e-15)


def test_softmax_cases(backend):
    np.testing.assert_array_equal(xn.softmax([1000.0, 0.0, 0.0, 0.0]), [1, 0, 0, 0])
    np.testing.assert_array_equal(xn.softmax([1.0, 1.0]), [0.5, 0.5])
    np.testing.assert_allclose(xn.softmax([0, 1]), np.array([1, math.e]) / (1 + math.e), rtol=1e-15)
    np.testing.assert_allclose(xn.softmax(np.arange(4) + 1e6), xn.softmax(np.arange(4)), rtol=1e-15)
    np.testing.assert_array_equal(xn.log_softmax([1000.0, 1.0]), [0, -999])
    np.testing.assert_array_equal(xn.log_softmax([0.0, -INF]), [0, -INF])
