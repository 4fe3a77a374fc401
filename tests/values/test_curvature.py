"""Hessian-vector products and the diagonal of the Hessian, against 200 digits and against each other."""

from __future__ import annotations

import numpy as np
import pytest

import xent_numba as xn
from tests.support.backends import BACKENDS
from tests.support.exact import exact_curvature
from tests.support.logits import random_logits

# For tests that would compile many kernels.
FEW = ["numpy", *(pytest.param(name, marks=pytest.mark.rare) for name in BACKENDS if name != "numpy")]

# Rows whose second derivatives are tiny, or are lost where 1 − p is computed as it is written.
HARD = np.array(
    [
        [20.0, 0.0, 0.0, -1.0],
        [-200.0, -300.0, -301.0, -320.0],
        [0.0, 0.0, 0.0, 0.0],
        [36.0, 36.0, 0.0, -5.0],
        [1e3, 1e3 - 30.0, 1e3 - 31.0, 1e3 - 60.0],
        [0.5, -0.5, 0.25, 60.0],
    ]
)
LABELS = np.array([0, 1, 2, 0, 3, 3])


def relative_error(values, exact):
    """The largest relative error of the elements, of those of a normal size."""
    exact = np.array([[float(e) for e in row] for row in exact])
    counts = np.abs(exact) > np.finfo(np.float32).tiny
    return float(np.max(np.abs(values[counts].astype(float) - exact[counts]) / np.abs(exact[counts])))


KINDS = [(np.float32, False), (np.float64, True)]
KINDS += [pytest.param(*kind, marks=pytest.mark.rare) for kind in [(np.float64, False), (np.float32, True)]]


@pytest.mark.parametrize(("dtype", "one_hot"), KINDS)
@pytest.mark.parametrize("classes", [4, pytest.param(40, marks=pytest.mark.rare), 400])
def test_relative_accuracy_where_a_row_is_certain(dtype, one_hot, classes, backend):
    x, eps = np.full((len(HARD), classes), -np.inf, dtype), float(np.finfo(dtype).eps)
    where = np.linspace(0, classes - 1, 4).astype(int)
    x[:, where] = HARD
    units = np.eye(classes, dtype=dtype)
    target = units[where[LABELS]] if one_hot else where[LABELS]
    size = 4 + 104  # the size of the accuracy law, (4 + |ln v|) ulp, for the least float32
    _, diag = xn.cross_entropy_grad_and_hessian_diag(x, target, reduction="sum")
    _, expected = exact_curvature(HARD.astype(dtype), LABELS, HARD)
    assert relative_error(diag[:, where], expected) < size * eps
    for j in range(4):  # where v is one class, no element is the difference of two nearly equal numbers
        v = np.tile(units[where[j]], (len(x), 1))
        expected, _ = exact_curvature(HARD.astype(dtype), LABELS, v[:, where])
        found = xn.cross_entropy_hvp(x, target, v, reduction="sum")
        assert relative_error(found[:, where], expected) < size * eps
        shifted = xn.cross_entropy_hvp(x, target, v + dtype(8.0), reduction="sum")  # H 1 = 0: nothing changes
        np.testing.assert_allclose(shifted, found, rtol=size * eps, atol=np.finfo(dtype).tiny)


@pytest.mark.parametrize("options", [{"z_loss": 10.0}, {"weight": 1e8}], ids=["z-loss", "weights"])
@pytest.mark.parametrize("classes", [9, 40, 300])
def test_tiny_factors_next_to_large_ones(classes, options, backend, rng):
    """p times the weight of the row is no normal number, but the second derivative is one."""
    x = np.r_[200.0, 200.0 - np.linspace(20.0, 86.0, classes - 1)][None].astype(np.float32)
    if "weight" in options:
        options = {"weight": np.full(classes, options["weight"])}
    options = options | {"sample_weight": [1e-20], "reduction": "sum"}
    v = rng.normal(size=x.shape).astype(np.float32)
    wide = x.astype(float)
    expected = (
        xn.cross_entropy_hvp(wide, [2], v, backend="numpy", **options),
        *xn.cross_entropy_grad_and_hessian_diag(wide, [2], backend="numpy", **options),
    )
    found = xn.cross_entropy_hvp(x, [2], v, **options), *xn.cross_entropy_grad_and_hessian_diag(x, [2], **options)
    for one, other in zip(found, expected, strict=True):
        normal = np.abs(other) > 1e-37
        assert normal.sum() > classes / 3
        np.testing.assert_allclose(one[normal], other[normal], rtol=2e-5)


OPTIONS = [
    {},
    {"label_smoothing": 0.1, "weight": [0.5, 1.0, 0.0, 2.0, 3.0]},
    {"logit_scale": -0.7, "sample_weight": [1.0, 0.0, 2.0, 0.5, 3.0, 1.0, 1.0], "z_loss": 0.1},
    {"softcap": 5.0, "logit_scale": 1.3, "z_loss": 1e-3},
    {"focal_gamma": 2.0, "weight": [0.5, 1.0, 0.0, 2.0, 3.0]},
    {"focal_gamma": 0.5, "softcap": 4.0, "z_loss": 1e-3},
]


@pytest.mark.parametrize("gauss_newton", [False, True])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: " ".join(options) or "plain")
@pytest.mark.parametrize("kind", ["labels", "distribution"])
@pytest.mark.parametrize("backend", FEW, indirect=True)
def test_every_option(kind, options, gauss_newton, backend, rng):
    x = rng.normal(scale=3.0, size=(7, 5))
    v = rng.normal(size=x.shape)
    if kind == "distribution" and "focal_gamma" in options:
        with pytest.raises(ValueError, match="needs class indices"):
            xn.cross_entropy_hvp(x, np.abs(v), v, **options)
        return
    target = np.array([0, 1, -100, 3, 4, -100, 1]) if kind == "labels" else np.exp(rng.normal(size=x.shape))
    exact = {"z_coefficient" if name == "z_loss" else name: value for name, value in options.items()}
    product, _ = exact_curvature(x, target, v, gauss_newton=gauss_newton, **exact)
    found = xn.cross_entropy_hvp(x, target, v, gauss_newton=gauss_newton, reduction="none", **options)
    np.testing.assert_allclose(found, product.astype(float), rtol=1e-12, atol=1e-13)
    _, exact_diag = exact_curvature(x, target, v, **exact)
    grad, diag = xn.cross_entropy_grad_and_hessian_diag(x, target, reduction="sum", **options)
    np.testing.assert_allclose(diag, exact_diag.astype(float), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(
        grad, xn.cross_entropy_grad(x, target, reduction="sum", backend="numpy", **options), rtol=1e-12, atol=1e-14
    )


@pytest.mark.parametrize("backend", FEW, indirect=True)
def test_the_mean_divides_as_that_of_the_loss_does(backend, rng):
    x, v = rng.normal(size=(2, 7, 5))
    y = np.array([0, 1, -100, 3, 4, -100, 1])
    w, s = rng.random(5), rng.random(7)
    options = {"weight": w, "sample_weight": s}
    total = (s * w[np.maximum(y, 0)])[y >= 0].sum()
    by_sum = xn.cross_entropy_hvp(x, y, v, reduction="sum", **options)
    np.testing.assert_allclose(xn.cross_entropy_hvp(x, y, v, **options), by_sum / total, rtol=1e-12, atol=1e-16)
    by_sum = xn.cross_entropy_grad_and_hessian_diag(x, y, reduction="sum", **options)
    for found, expected in zip(xn.cross_entropy_grad_and_hessian_diag(x, y, **options), by_sum, strict=True):
        np.testing.assert_allclose(found, expected / total, rtol=1e-12, atol=1e-16)


def test_ignored_rows_are_not_read(backend, rng):
    x, v = rng.normal(size=(2, 6, 9)).astype(np.float32)
    y = np.array([1, -100, 3, -100, 8, 0])
    expected = xn.cross_entropy_hvp(x, y, v), *xn.cross_entropy_grad_and_hessian_diag(x, y)
    x[y < 0], v[y < 0] = np.nan, np.nan
    found = xn.cross_entropy_hvp(x, y, v), *xn.cross_entropy_grad_and_hessian_diag(x, y)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
        assert not one[y < 0].any()
        assert one[y >= 0].all()


def test_edges(backend):
    for dtype, one_hot in ((np.float64, True), (np.float32, False)):
        x = np.array([[-np.inf, 1.0, 0.0], [-np.inf] * 3, [np.nan, 0.0, 0.0], [np.inf, 0.0, 0.0]], dtype)
        y = np.array([0, 0, 0, 0])
        target = np.eye(3, dtype=dtype)[y] if one_hot else y
        v = np.array([[1.0, 2.0, 3.0]] * 4, dtype)
        hv = xn.cross_entropy_hvp(x, target, v, reduction="sum")
        grad, diag = xn.cross_entropy_grad_and_hessian_diag(x, target, reduction="sum")
        p = 1 / (1 + np.exp(-1.0))
        np.testing.assert_allclose(hv[0], [0.0, -p * (1 - p), p * (1 - p)], rtol=1e-6)
        np.testing.assert_allclose(diag[0], [0.0, p * (1 - p), p * (1 - p)], rtol=1e-6)
        np.testing.assert_allclose(grad[0], [-1.0, p, 1 - p], rtol=1e-6)
        for values in (hv, grad, diag):
            assert np.isnan(values[1:]).all()
        if one_hot:
            continue
        one = np.zeros((2, 1), dtype)
        assert not xn.cross_entropy_hvp(one, [0, 0], one + 3).any()
        grad, diag = xn.cross_entropy_grad_and_hessian_diag(one, [0, 0])
        assert not grad.any()
        assert not diag.any()


def test_a_denominator_of_zero_gives_zeros(backend):
    x = np.zeros((2, 3))
    out, grad, diag = np.ones((3, 2, 3))
    assert xn.cross_entropy_hvp(x, [-100, -100], x, out=out) is out
    xn.cross_entropy_grad_and_hessian_diag(x, [-100, -100], grad_out=grad, diag_out=diag)
    assert not out.any()
    assert not grad.any()
    assert not diag.any()
    assert xn.cross_entropy_hvp(x[:0], np.zeros(0, int), x[:0]).shape == (0, 3)


def layouts(rng, shape, dtype):
    """Arrays of one shape in several layouts, the classes last."""
    rows, classes = shape
    yield rng.normal(size=shape).astype(dtype)
    yield rng.normal(size=(classes, rows)).astype(dtype).T
    yield rng.normal(size=(2 * rows, 2 * classes)).astype(dtype)[::2, ::-2]


@pytest.mark.parametrize("classes", [5, 70, 600])
def test_layouts_threads_and_in_place(classes, backend, rng):
    y = rng.integers(0, classes, 37)
    for x in layouts(rng, (37, classes), np.float32):
        for v in layouts(rng, (37, classes), np.float32):
            expected = xn.cross_entropy_hvp(x.astype(float), y, v.astype(float), backend="numpy")
            found = xn.cross_entropy_hvp(x, y, v, n_threads=1)
            np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-9)
            assert xn.cross_entropy_hvp(x, y, v, n_threads=2).tobytes() == found.tobytes()
            np.testing.assert_allclose(xn.cross_entropy_hvp(x, y, v, out=np.empty_like(v)), found, rtol=1e-5, atol=1e-9)
            for place in (0, 1):
                arrays = x.copy(), v.copy()
                assert xn.cross_entropy_hvp(*arrays[:1], y, arrays[1], out=arrays[place]) is arrays[place]
                np.testing.assert_allclose(arrays[place], found, rtol=1e-5, atol=1e-9)
        expected = xn.cross_entropy_grad_and_hessian_diag(x.astype(float), y, backend="numpy")
        found = xn.cross_entropy_grad_and_hessian_diag(x, y, n_threads=1)
        in_place = x.copy()
        again = xn.cross_entropy_grad_and_hessian_diag(in_place, y, grad_out=in_place, n_threads=2)
        assert again[0] is in_place
        for one, other, third in zip(found, expected, again, strict=True):
            np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-9)
            np.testing.assert_allclose(third, one, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("backend", FEW, indirect=True)
@pytest.mark.parametrize("v_dtype", [np.float64, np.float32, np.float16, np.int8])
def test_vectors_of_every_dtype(v_dtype, backend, rng):
    x = rng.normal(size=(8, 6)).astype(np.float32)
    y = rng.integers(0, 6, 8)
    v = rng.integers(-9, 9, x.shape).astype(v_dtype)
    found = xn.cross_entropy_hvp(x, y, v)
    assert found.dtype == np.float32
    expected = xn.cross_entropy_hvp(x.astype(float), y, v.astype(float), backend="numpy")
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(xn.cross_entropy_hvp(x.tolist(), y, v.tolist()), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("backend", FEW, indirect=True)
def test_the_gauss_newton_matrix_is_semi_definite(backend, rng):
    x = random_logits(rng, (4, 6), masked=False, offsets=False)
    y = rng.integers(0, 6, 4)
    options = {"softcap": 2.0, "reduction": "sum", "gauss_newton": True}
    columns = [xn.cross_entropy_hvp(x, y, np.tile(unit, (4, 1)), **options) for unit in np.eye(6)]
    for i in range(4):
        hessian = np.array([column[i] for column in columns])
        np.testing.assert_allclose(hessian, hessian.T, atol=1e-14)
        assert np.linalg.eigvalsh(hessian)[0] > -1e-14
        assert np.linalg.eigvalsh(hessian)[-1] <= 0.5


@pytest.mark.skipif("cpu" not in BACKENDS, reason="the numpy backend has neither threads nor streams")
@pytest.mark.parametrize("backend", ["cpu"], indirect=True)
def test_large_results_in_place_and_by_any_number_of_threads(backend, rng):
    x, v = rng.normal(size=(2, 41_000, 103)).astype(np.float32)  # 17 MB, which are written past the caches
    y = rng.integers(0, 103, len(x))
    for classes in (103, 1030):
        shape = (-1, classes)
        labels = y[: x.size // classes] % classes
        expected = xn.cross_entropy_hvp(x.reshape(shape), labels, v.reshape(shape), n_threads=1)
        for place in (0, 1):
            arrays = [x.reshape(shape).copy(), v.reshape(shape).copy()]
            xn.cross_entropy_hvp(arrays[0], labels, arrays[1], out=arrays[place], n_threads=2)
            np.testing.assert_array_equal(arrays[place], expected)
        if classes > 256:
            expected = xn.cross_entropy_grad_and_hessian_diag(x.reshape(shape), labels, n_threads=1)
            grad, diag = x.reshape(shape).copy(), np.empty_like(x).reshape(shape)
            xn.cross_entropy_grad_and_hessian_diag(grad, labels, grad_out=grad, diag_out=diag, n_threads=2)
            np.testing.assert_array_equal(grad, expected[0])
            np.testing.assert_array_equal(diag, expected[1])


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_row_certain_of_its_label_has_a_finite_diagonal(order, rng):
    """With γ < 1, ψ grows beyond float32 where the probabilities that it multiplies vanish."""
    x = (1e-3 * rng.normal(size=(33, 300))).astype(np.float32)
    y = rng.integers(0, 300, 33)
    x[np.arange(33), y] = 200.0
    diag = np.zeros((33, 300), np.float32, order)
    xn.cross_entropy_grad_and_hessian_diag(x, y, focal_gamma=0.5, diag_out=diag)
    assert (diag == 0.0).all()
