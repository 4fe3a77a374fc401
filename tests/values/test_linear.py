"""The linear head: the loss, the gradients and Hessian-vector products of the logits that never exist as a whole."""

from __future__ import annotations

import itertools
import os

import numpy as np
import pytest

import xent_numba as xn
from tests.support.linear import Call, assert_close, random_call, unfused, unfused_hvp
from xent_numba.linear import chunks

CASES = 100
NAMES = ("input", "linear_weight", "linear_bias")
BOTH, HVP = xn.linear_cross_entropy_and_grad, xn.linear_cross_entropy_hvp


def plain_call(rng, n=40, d=6, c=9, dtype=np.float64):
    """A call without options, with some ignored labels."""
    y = np.where(rng.random(n) < 0.2, -100, rng.integers(0, c, n))
    arrays = (rng.normal(size=shape).astype(dtype) for shape in ((n, d), (c, d), (c,)))
    x, w, b = arrays
    return Call(x, w, y, b, {})


def loss_and_gradients(call, **more):
    """What `linear_cross_entropy_and_grad` returns, as a tuple."""
    x, w, y, b, options = call
    return BOTH(x, w, y, linear_bias=b, **options, **more)


def assert_same_bits(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


@pytest.mark.parametrize("backend", ["numpy", pytest.param("cpu", marks=pytest.mark.rare)])
def test_the_unfused_result(backend):
    for case in range(CASES):
        rng = np.random.default_rng(case)
        call = random_call(rng)
        x, w, y, b, options = call
        more = {"batch_chunk_size": rng.choice([None, 1, 2, 5, 1000]), "backend": backend}
        expected = unfused(call)
        found = loss_and_gradients(call, **more)
        for name, one, other in zip(("loss", *NAMES), found, expected, strict=True):
            if name == "linear_bias" and b is None:
                assert one is None
            else:
                assert np.shape(one) == np.shape(other)
                assert_close(one, other, 1e-12, (case, name, options))
        alone = xn.linear_cross_entropy(x, w, y, linear_bias=b, **options, **more)
        assert_close(alone, expected[0], 1e-12, (case, options))
        v, v_bias = rng.normal(size=w.shape), None if b is None or case % 3 == 0 else rng.normal(size=len(w))
        for gauss_newton in (True, False):
            found = HVP(x, w, y, v, linear_bias=b, bias_vector=v_bias, gauss_newton=gauss_newton, **options, **more)
            expected_hvp = unfused_hvp(call, v, v_bias, gauss_newton)
            assert_close(found.linear_weight, expected_hvp[0], 1e-12, (case, options))
            assert (found.linear_bias is None) == (b is None)
            if b is not None:
                assert_close(found.linear_bias, expected_hvp[1], 1e-12, (case, options))


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_every_dtype(dtype, backend, rng):
    kind = np.dtype(pytest.importorskip("ml_dtypes").bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
    call = plain_call(rng, dtype=kind)
    expected = unfused(call)
    unit = {"float64": 1e-14, "float32": 1e-6, "float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype]
    for chunk in (None, 7, 1):
        found = loss_and_gradients(call, batch_chunk_size=chunk)
        assert found.loss.dtype == (np.float64 if dtype == "float64" else np.float32)
        assert_close(found.loss, expected[0], 1e-14 if dtype == "float64" else 1e-6)
        for one, other in zip(found[1:], expected[1:], strict=True):
            assert one.dtype == kind
            np.testing.assert_allclose(one.astype(float), other, rtol=1.01 * unit, atol=1e-7 if unit > 1e-9 else 1e-15)


@pytest.mark.parametrize("dtypes", [("float32", "float64", "float16"), ("float16", "float32", "float64")])
def test_mixed_dtypes(dtypes, rng):
    """The arithmetic is in the widest; each gradient has the dtype of its argument."""
    call = plain_call(rng)
    x, w, b = (array.astype(dtype) for array, dtype in zip((call[0], call[1], call[3]), dtypes, strict=True))
    call = Call(x, w, call.target, b, {"backend": "numpy"})
    found = loss_and_gradients(call, batch_chunk_size=9)
    expected = unfused(call._replace(options={}))
    assert found.loss.dtype == np.float64
    assert_close(found.loss, expected[0], 1e-13)
    for one, other, dtype in zip(found[1:], expected[1:], dtypes, strict=True):
        assert one.dtype == dtype
        assert_close(one, other, max(1e-13, float(np.finfo(dtype).eps)))
    v = np.ones(w.shape)
    for dtype in ("float32", "float64"):
        product = HVP(x, w.astype(np.float32), call.target, v.astype(dtype), backend="numpy")
        assert product.linear_weight.dtype == np.float32


def test_the_bias_of_many_rows(rng):
    """The sum of many rows in float32 keeps its digits."""
    call = plain_call(rng, n=200_000, d=1, c=2, dtype=np.float32)
    found = loss_and_gradients(call, batch_chunk_size=len(call.target), backend="numpy").linear_bias
    exact = xn.cross_entropy_grad(call.logits, call.target, backend="numpy")
    np.testing.assert_allclose(found, exact.sum(0), rtol=1e-7, atol=2e-7 * float(np.abs(exact).sum() / 2))


def test_lists():
    loss = xn.linear_cross_entropy([[1.0, 2.0], [0, 1]], [[1, 0], [0, 1], [1, 1]], [2, 0], linear_bias=[0, 0, 1])
    logits = np.array([[1.0, 2.0, 4.0], [0.0, 1.0, 2.0]])
    assert loss == pytest.approx(xn.cross_entropy(logits, [2, 0]), rel=1e-15)


def test_finite_differences(rng):
    call = plain_call(rng, n=9, d=3, c=4)
    call = call._replace(options={"softcap": 3.0, "z_loss": 0.1, "label_smoothing": 0.1, "backend": "numpy"})
    found, step = loss_and_gradients(call, batch_chunk_size=4), 1e-6
    for name in NAMES:
        array = getattr(call, name)
        difference = np.empty_like(array)
        for place in np.ndindex(array.shape):
            losses = []
            for sign in (1.0, -1.0):
                changed = array.copy()
                changed[place] += sign * step
                losses.append(loss_and_gradients(call._replace(**{name: changed}), wrt=()).loss)
            difference[place] = (losses[0] - losses[1]) / (2.0 * step)
        assert_close(getattr(found, name), difference, 1e-8)
    v, v_bias = rng.normal(size=call.linear_weight.shape), rng.normal(size=4)
    sides = [
        loss_and_gradients(
            call._replace(linear_weight=call.linear_weight + h * v, linear_bias=call.linear_bias + h * v_bias)
        )
        for h in (step, -step)
    ]
    x, w, y, b, options = call
    product = HVP(x, w, y, v, linear_bias=b, bias_vector=v_bias, gauss_newton=False, **options)
    for name in NAMES[1:]:
        difference = (getattr(sides[0], name) - getattr(sides[1], name)) / (2.0 * step)
        assert_close(getattr(product, name), difference, 1e-7)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_what_stands_in_an_ignored_row_changes_nothing(dtype, backend, rng):
    x, w, y, b, _ = plain_call(rng, dtype=dtype)
    kept = y >= 0
    y[np.flatnonzero(~kept)[::2]] = -7
    v = rng.normal(size=w.shape).astype(dtype)
    for value, order, chunk in itertools.product((np.nan, np.inf, -np.inf), "CF", (None, 8)):
        x = np.array(x, order=order)
        x[~kept, ::2] = value
        more = {"linear_bias": b, "batch_chunk_size": chunk, "ignore_index": (-100, -7)}
        found, expected = BOTH(x, w, y, **more), BOTH(np.array(x[kept], order=order), w, y[kept], **more)
        assert_same_bits((found.loss, *found[2:], found.input[kept]), (expected.loss, *expected[2:], expected.input))
        assert not found.input[~kept].any()
        assert np.isfinite(found.input).all()
        if backend == "numpy":
            assert_same_bits(HVP(x, w, y, v, **more), HVP(x[kept], w, y[kept], v, **more))
            rows = xn.linear_cross_entropy(x, w, y, reduction="none", **more)
            assert not rows[~kept].any()
            assert_same_bits([rows[kept]], [xn.linear_cross_entropy(x[kept], w, y[kept], reduction="none", **more)])


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("shape", [(5, 4), (0, 4), (4,), (2, 0, 4), (5, 0)])
def test_no_row_counts(shape, reduction):
    """All are ignored, or there are none: the loss is that of `cross_entropy`, and every gradient is 0."""
    w, b, ones = np.ones((3, shape[-1])), np.ones(3), np.ones((3, shape[-1]))
    for x in (np.full(shape, np.nan), np.full(shape, np.inf, np.float16)):
        y = np.full(shape[:-1], -1)
        options = {"ignore_index": -1, "reduction": reduction, "backend": "numpy"}
        found = BOTH(x, w, y, linear_bias=b, **options)
        np.testing.assert_array_equal(found.loss, xn.cross_entropy(np.zeros((*shape[:-1], 3)), y, **options))
        outs = {f"{name}_grad_out": np.full_like(getattr(found, name), 7.0) for name in NAMES}
        for one, like in zip(BOTH(x, w, y, linear_bias=b, **options, **outs)[1:], (x, w, b), strict=True):
            assert one.shape == like.shape
            assert not one.any()
        for one in HVP(x, w, y, ones, linear_bias=b, **options):
            assert not one.any()


def test_a_denominator_of_zero():
    """As in `cross_entropy`: nan for the loss, and 0 for the gradients."""
    options = {"sample_weight": [0, 0], "linear_bias": np.ones(4), "backend": "numpy"}
    found = BOTH(np.ones((2, 3)), np.ones((4, 3)), [1, 2], **options)
    assert np.isnan(found.loss)
    assert not any(one.any() for one in found[1:])


def test_a_class_of_bias_minus_infinity_is_left_out(backend, rng):
    call = plain_call(rng, c=5)
    y = np.where(call.target == 4, 0, call.target)
    b = np.array([*call.linear_bias[:4], -np.inf])
    found = BOTH(call.input, call.linear_weight, y, linear_bias=b, batch_chunk_size=9)
    expected = BOTH(call.input, call.linear_weight[:4], y, linear_bias=b[:4], batch_chunk_size=9)
    assert_close(found.loss, expected.loss, 1e-14)
    assert_close(found.input, expected.input, 1e-14)
    assert_close(found.linear_weight[:4], expected.linear_weight, 1e-14)
    assert not found.linear_weight[4].any()
    assert found.linear_bias[4] == 0.0


def test_infinite_and_undefined_values_of_rows_that_count(rng):
    """They give what they give for the logits, and no warning."""
    call = plain_call(rng)
    row = np.flatnonzero(call.target >= 0)[0]
    for dtype, value in ((np.float64, np.inf), (np.float32, np.nan), (np.float16, -np.inf), (np.float32, 3e38)):
        x, w, b = (array.astype(dtype) for array in (call.input, call.linear_weight, call.linear_bias))
        x[row, :2], w[:, :2] = (value, -value), 2.0
        for chunk in (None, 3):
            found = BOTH(x, w, call.target, linear_bias=b, batch_chunk_size=chunk, backend="numpy")
            assert np.isnan(found.loss)
            assert np.isnan(found.linear_weight).all()
            assert np.isnan(found.input).any(axis=1).sum() == 1


def test_what_is_too_large_for_float16_is_infinite():
    x, w = np.full((4, 2), 300.0, np.float16), np.zeros((2, 2), np.float16)
    w[0] = 60000.0
    y = np.array([1, 1, 0, 1])
    found = BOTH(x, w, y, reduction="sum", backend="numpy", sample_weight=np.full(4, 1e3))
    assert found.loss == pytest.approx(3e3 * 3.6e7, rel=1e-3)  # of products beyond float16
    np.testing.assert_array_equal(found.input, [[np.inf] * 2] * 2 + [[0] * 2] + [[np.inf] * 2])
    np.testing.assert_array_equal(found.linear_weight, [[np.inf] * 2, [-np.inf] * 2])
    assert found.linear_weight.dtype == np.float16


@pytest.mark.parametrize("form", ["csr_array", "csr_matrix"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "int8", "bool"])
def test_sparse_input(form, dtype, rng):
    sparse = pytest.importorskip("scipy.sparse")
    call = plain_call(rng)
    dense = (call.input * (rng.random(call.input.shape) < 0.4)).astype(dtype)
    x = getattr(sparse, form)(dense)
    w, b = (array.astype(np.float32 if dtype == "float32" else np.float64) for array in (call[1], call[3]))
    call = Call(dense.astype(w.dtype), w, call.target, b, {})
    v, v_bias = rng.normal(size=w.shape), rng.normal(size=len(b))
    expected, unit = unfused(call), 1e-13 if w.dtype == np.float64 else 1e-6
    for chunk in (None, 7, 1):
        more = {"linear_bias": b, "batch_chunk_size": chunk, "backend": "numpy"}
        found = BOTH(x, w, call.target, **more)
        assert found.input is None
        for one, other in zip((found.loss, *found[2:]), (expected[0], *expected[2:]), strict=True):
            assert_close(one, other, unit)
        assert_close(xn.linear_cross_entropy(x, w, call.target, **more), expected[0], unit)
        for one, other in zip(
            HVP(x, w, call.target, v, bias_vector=v_bias, **more), unfused_hvp(call, v, v_bias, True), strict=True
        ):
            assert_close(one, other, unit)
    bad = sparse.csr_array(np.where((call.target < 0)[:, None], np.nan, dense))
    assert_same_bits(BOTH(bad, w, call.target, **more), found)


def test_which_gradients_are_asked_for_changes_no_bit(backend, rng):
    call = plain_call(rng)
    everything = loss_and_gradients(call, batch_chunk_size=9)
    subsets = [(), "linear_weight", ("linear_bias", "input"), ["input"], ("linear_weight", "linear_bias")]
    for wrt in subsets:
        found = loss_and_gradients(call, batch_chunk_size=9, wrt=wrt)
        wanted = (wrt,) if isinstance(wrt, str) else wrt
        assert_same_bits(found[1:], [getattr(everything, name) if name in wanted else None for name in NAMES])
        assert_same_bits([found.loss], [everything.loss])


def test_the_number_of_threads_changes_no_bit(rng, monkeypatch):
    monkeypatch.setattr(chunks, "_cores", lambda: 8)  # on two, the loss of a chunk has one thread
    call = plain_call(rng, n=3000, dtype=np.float32)
    assert_same_bits(loss_and_gradients(call, n_threads=1), loss_and_gradients(call, n_threads=4))


@pytest.mark.parametrize(
    ("cores", "asked", "threads"),
    [(1, None, 1), (2, None, 1), (2, 4, 1), (8, None, None), (8, 2, 1), (8, 4, 4), (8, 100, 100)],
)
def test_threads_between_products(cores, asked, threads, monkeypatch):
    """The cores that count are those that this process may use, whatever the machine has and the user asks for."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(chunks, "make_slabs", lambda options, *_: found.append(options.n_threads) or ())
    found = []
    call = plain_call(np.random.default_rng(0))
    xn.linear_cross_entropy(call.input, call.linear_weight, call.target, n_threads=asked, backend="numpy")
    assert found == [threads]
