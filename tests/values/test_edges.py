"""The edges, on every backend and in every dtype: each as `edge_cases` states it, and then what they have in common.

16-bit logits differ from float32 in how they are read, not after: what has options besides, which are machine code of
their own for every dtype, is rare with them.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

import xent_numba as xn
from tests.support.edge_cases import EDGES, Edge

bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
DTYPES = [np.float32, np.float64, np.float16, bfloat16]
INF, NAN = math.inf, math.nan
WIDTHS = [5, 40, 300]  # part of a vector, several vectors, more than a tile


def rarely(dtype, *values):
    """Parameters, which are rare where the dtype is one of 16 bits."""
    return pytest.param(*(values or (dtype,)), marks=[pytest.mark.rare] if np.dtype(dtype).itemsize == 2 else [])


@pytest.fixture(params=[rarely(dtype) for dtype in DTYPES], ids=lambda dtype: np.dtype(dtype).name)
def dtype(request):
    return request.param


@pytest.fixture(params=WIDTHS)
def classes(request):
    return request.param


# For options that change the machine code.
FEWER = pytest.mark.parametrize(
    ("dtype", "classes"),
    [rarely(dtype, dtype, n) for dtype in DTYPES for n in WIDTHS if n < 300 or np.dtype(dtype).itemsize > 2],
)
OF_CODE = {"label_smoothing", "logit_scale", "softcap"}


def both(x, y, **options):
    """Loss and float64 gradient; the loss alone has the same bits, and nothing is written into the inputs."""
    before = x.copy()
    loss, grad = xn.cross_entropy_and_grad(x, y, **options)
    if x.dtype == np.float32 or not options.keys() & OF_CODE:
        np.testing.assert_array_equal(xn.cross_entropy(x, y, **options), loss, strict=True)
    np.testing.assert_array_equal(x.view(np.uint8), before.view(np.uint8))
    assert grad.dtype == x.dtype
    return loss, grad.astype(np.float64)


def zeros(rows, classes, dtype, **at):
    x = np.zeros((rows, classes), dtype)
    for name, value in at.items():
        x[:, int(name[1:])] = value
    return x


def dtypes_of(edge):
    """Those that can hold its logits, or the one that its name says."""
    named = [dtype for dtype in DTYPES if edge.name.endswith(f" in {np.dtype(dtype).name}")]
    for dtype in named or DTYPES:
        with np.errstate(over="ignore"):
            x = np.asarray(edge.logits).astype(dtype).astype(np.float64)
        if np.allclose(x, edge.logits, rtol=0.01, equal_nan=True):
            yield dtype


def is_plain(edge):
    """Whether it is a call without options, for which all widths have been compiled anyway."""
    target = np.asarray(edge.target)
    return not edge.options and target.ndim == 1 and target.dtype == np.int64


def widened(edge, classes):
    """The logits and the gradient of a plain edge with so many classes, new ones at −inf: they change nothing."""
    x, grad = np.asarray(edge.logits), np.asarray(edge.grad, np.float64)
    new = ((0, 0), (0, classes - x.shape[1]))
    spoilt = np.isnan(grad).any(axis=1, keepdims=True)
    return np.pad(x, new, constant_values=-INF), np.where(spoilt, NAN, np.pad(grad, new))


def name_of(value):
    return value.name if isinstance(value, Edge) else np.dtype(value).name


@pytest.mark.parametrize(
    ("edge", "dtype"), [rarely(dtype, edge, dtype) for edge in EDGES for dtype in dtypes_of(edge)], ids=name_of
)
def test_every_edge(edge, dtype, backend):
    if edge.error:
        for function in (xn.cross_entropy, xn.cross_entropy_and_grad, xn.cross_entropy_grad):
            with pytest.raises(edge.error):
                function(np.asarray(edge.logits).astype(dtype), edge.target, **edge.options)
        return
    size = np.dtype(dtype).itemsize
    rtol = {8: 1e-14, 4: 3e-7, 2: 5e-3}[size]
    atol = 2.0**-24 if dtype is np.float16 else float(np.finfo(np.float64 if size == 8 else np.float32).tiny)
    wider = [widened(edge, classes) for classes in WIDTHS] if is_plain(edge) else []
    for x, right in ((edge.logits, np.asarray(edge.grad, np.float64)), *wider):
        x = np.asarray(x).astype(dtype)
        loss, grad = both(x, edge.target, **edge.options)
        if edge.exact:
            assert loss == loss.dtype.type(edge.loss)
            np.testing.assert_array_equal(grad, right)
        tiny = float(np.finfo(loss.dtype).tiny)
        np.testing.assert_allclose(float(loss), edge.loss, rtol=1e-15 if size == 8 else 3e-7, atol=tiny)
        np.testing.assert_allclose(grad, right, rtol=rtol, atol=atol)
        assert not grad[np.isneginf(x.astype(np.float64)) & (right == 0)].any()
    x = np.asarray(edge.logits).astype(dtype)
    loss, grad = both(x, edge.target, **edge.options)
    np.testing.assert_array_equal(xn.cross_entropy(x, edge.target, **edge.options), loss)
    alone = xn.cross_entropy_grad(x, edge.target, **edge.options).astype(np.float64)
    np.testing.assert_allclose(alone, grad, rtol=rtol, atol=atol)


def test_masked_at_a_class_without_target(dtype, classes, backend):
    for y in (0, classes - 1):
        loss, grad = both(zeros(2, classes, dtype, _1=-INF), [y, y])
        np.testing.assert_allclose(loss, math.log(classes - 1), rtol=1e-6)
        np.testing.assert_array_equal(grad[:, 1], 0.0)
        assert np.isfinite(grad).all()


def test_masked_at_the_target(dtype, classes, backend):
    loss, grad = both(zeros(1, classes, dtype, _1=-INF), [1])
    assert loss == INF
    assert grad[0, 1] == -1.0
    np.testing.assert_allclose(np.delete(grad[0], 1), 1 / (classes - 1), rtol=0.01)


@FEWER
def test_masked_and_smoothed(dtype, classes, backend):
    x = zeros(1, classes, dtype, _1=-INF)
    loss, grad = both(x, [0], label_smoothing=0.1)
    assert loss == INF
    assert np.isfinite(grad).all()
    w = np.ones(classes)
    w[1] = 0.0  # nothing is asked of the masked class
    loss, grad = both(x, [0], label_smoothing=0.1, weight=w)
    assert np.isfinite(loss)
    assert grad[0, 1] == 0.0
    assert np.isfinite(grad).all()


@FEWER
def test_masked_in_a_distribution(dtype, classes, backend):
    x = zeros(1, classes, dtype, _1=-INF)
    q = np.zeros((1, classes), dtype)
    q[0, [0, 2]] = 0.5
    loss, grad = both(x, q)
    np.testing.assert_allclose(loss, math.log(classes - 1), rtol=1e-6)
    assert grad[0, 1] == 0.0
    q[0, 1] = 0.25
    loss, grad = both(x, q)
    assert loss == INF
    np.testing.assert_allclose(grad[0, 1], -0.25, rtol=0.01)


def test_nothing_but_masked(dtype, classes, backend):
    loss, grad = both(np.full((2, classes), -INF, dtype), [0, 1], reduction="none")
    assert np.isnan(loss).all()
    assert np.isnan(grad).all()
    assert np.isnan(xn.softmax(np.full((1, classes), -INF, dtype)).astype(float)).all()
    assert xn.logsumexp(np.full(classes, -INF, dtype)) == -INF


@pytest.mark.parametrize("poison", [INF, NAN, -NAN])
@pytest.mark.parametrize("at", [0, 3, -1])
def test_one_bad_value_spoils_its_row_alone(poison, at, dtype, classes, backend):
    x = zeros(3, classes, dtype)
    x[1, at] = poison
    for options in ({}, {"label_smoothing": 0.1}, {"z_loss": 0.1}):
        loss, grad = both(x, [0, 0, 0], reduction="none", **options)
        assert np.isnan(loss).tolist() == [False, True, False]
        assert np.isnan(grad[1]).all()
        assert np.isfinite(grad[[0, 2]]).all()
    alone = xn.cross_entropy_grad(x, [0, 0, 0], lse=xn.logsumexp(x), reduction="none").astype(np.float64)
    assert np.isnan(alone[1]).all()
    assert np.isfinite(alone[[0, 2]]).all()


def test_a_bad_value_before_nothing_but_masked(backend):
    x, q = np.zeros((2, 600), np.float32), np.zeros((2, 600), np.float32)
    x[0, 0], x[0, 1:256], q[:, 300] = NAN, -INF, 1.0
    loss, grad = xn.cross_entropy_and_grad(np.asfortranarray(x), np.asfortranarray(q), reduction="none")
    assert np.isnan(loss).tolist() == [True, False]
    assert np.isnan(grad[0]).all()
    assert np.isfinite(grad[1]).all()


def test_a_single_class(dtype, backend):
    for value in (0.0, -3.5, 6e4):
        loss, grad = both(np.full((3, 1), value, dtype), [0, 0, 0])
        assert loss == 0.0
        np.testing.assert_array_equal(grad, 0.0)
        loss, grad = both(np.full((3, 1), value, dtype), [0, 0, 0], label_smoothing=0.3)
        assert loss == 0.0
        np.testing.assert_array_equal(grad, 0.0)
    assert xn.softmax(np.zeros(1, dtype)) == 1
    assert xn.log_softmax(np.zeros(1, dtype)) == 0


@FEWER
def test_ignored_rows_are_never_read(dtype, classes, backend):
    x = zeros(4, classes, dtype)
    clean = both(x[::2], [0, 1])
    x[1], x[3] = NAN, INF
    for ignored in (-100, 2):
        y = np.array([0, ignored, 1, ignored])
        loss, grad = both(x, y, ignore_index=ignored)
        assert loss == clean[0]
        np.testing.assert_array_equal(grad[::2], clean[1])
        np.testing.assert_array_equal(grad[1::2], 0.0)
        rows, grad = both(x, y, ignore_index=(ignored, 77), reduction="none", label_smoothing=0.2, z_loss=0.1)
        np.testing.assert_array_equal(rows[1::2], 0.0)
        np.testing.assert_array_equal(grad[1::2], 0.0)
        assert np.isfinite(rows).all()
        alone = xn.cross_entropy_grad(x, y, ignore_index=ignored, lse=np.full(4, math.log(classes)))
        np.testing.assert_array_equal(alone[1::2].astype(float), 0.0)
        assert np.isfinite(alone.astype(float)).all()


def test_rows_without_weight(dtype, classes, backend):
    x = zeros(3, classes, dtype, _1=-INF)
    y = [1, 0, 0]  # the first loss is inf, and weighs nothing
    loss, grad = both(x, y, sample_weight=[0, 1, 1])
    np.testing.assert_allclose(loss, math.log(classes - 1), rtol=1e-6)
    np.testing.assert_array_equal(grad[0], 0.0)
    w = np.ones(classes)
    w[1] = 0
    loss, grad = both(x, y, weight=w)
    np.testing.assert_allclose(loss, math.log(classes - 1), rtol=1e-6)
    np.testing.assert_array_equal(grad[0], 0.0)


def test_denominators_of_zero(dtype, classes, backend):
    x = zeros(2, classes, dtype)
    w = np.zeros(classes)
    for options in ({"ignore_index": (0, 1)}, {"weight": w}, {"sample_weight": [0, 0]}):
        loss, grad = both(x, [0, 1], **options)
        assert math.isnan(loss)
        np.testing.assert_array_equal(grad, 0.0)
        assert both(x, [0, 1], reduction="sum", **options)[0] == 0.0
    loss, grad = both(x, x, sample_weight=[0, 0])
    assert math.isnan(loss)
    np.testing.assert_array_equal(grad, 0.0)


def test_no_rows(dtype, backend):
    for shape, axis in (((0, 3), 1), ((2, 3, 0), 1), ((3, 0), 0)):
        rows = shape[:axis] + shape[axis + 1 :]
        x, y = np.zeros(shape, dtype), np.zeros(rows, np.int64)
        for target in (y, np.zeros(rows).tolist(), x):
            loss, grad = both(x, target, axis=axis)
            assert math.isnan(loss)
            assert loss.dtype == (np.float64 if dtype is np.float64 else np.float32)
            assert grad.shape == shape
            assert both(x, target, axis=axis, reduction="sum")[0] == 0
            assert both(x, target, axis=axis, reduction="none")[0].shape == rows
        assert xn.softmax(x, axis=axis).shape == shape
        assert xn.logsumexp(x, axis=axis).shape == rows


def test_no_classes(dtype, backend):
    for function in (xn.cross_entropy, xn.cross_entropy_and_grad, xn.cross_entropy_grad):
        with pytest.raises(ValueError, match="have no classes"):
            function(np.zeros((2, 0), dtype), [0, 0])


@pytest.mark.parametrize("extreme", [30.0, 3e38])
def test_huge_logits_stay_finite(extreme, backend):
    for dtype in (np.float32, np.float64):
        x = np.array([[extreme, -extreme, 0.0]], dtype)
        loss, grad = both(x, [0])
        assert loss >= 0.0
        assert np.isfinite(loss)
        assert np.isfinite(grad).all()
        assert xn.softmax(x)[0, 0] == pytest.approx(1.0)


@FEWER
def test_a_scale_of_zero_makes_all_classes_equal(dtype, classes, backend):
    x = zeros(1, classes, dtype, _1=9.0)
    loss, grad = both(x, [1], logit_scale=0.0)
    np.testing.assert_allclose(loss, math.log(classes), rtol=1e-6)
    np.testing.assert_array_equal(grad, 0.0)


@FEWER
def test_a_cap_bounds_what_is_masked(dtype, classes, backend):
    x = zeros(1, classes, dtype, _1=-INF)
    loss, grad = both(x, [1], softcap=2.0)
    np.testing.assert_allclose(loss, 2 + math.log(classes - 1 + math.exp(-2)), rtol=1e-5)
    assert grad[0, 1] == 0.0
    assert np.isfinite(grad).all()


@pytest.mark.parametrize("scale", [0.0, 1e-50, -1e-50, 1e39])
def test_scales_that_float32_cannot_hold(scale, backend):
    x = np.array([[1, 2, 3], [3, 2, 1], [-INF, 1, 2]], np.float32)
    exact = xn.cross_entropy(x.astype(np.float64), [2, 1, 2], reduction="none", logit_scale=scale, backend="numpy")
    found = xn.cross_entropy(x, [2, 1, 2], reduction="none", logit_scale=scale)
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(found, exact.astype(np.float32), rtol=1e-6)
    if abs(scale) < 1:
        grad = xn.cross_entropy_grad(x[:1], [2], lse=[math.log(3)], logit_scale=scale)
        np.testing.assert_allclose(grad, 0.0, atol=1e-45)


def test_weights_that_float32_cannot_hold(backend):
    x = np.array([[1, 2, 3], [3, 2, 1]], np.float32)
    for target, options in (
        ([0, 1], {"weight": [1e39] * 3, "sample_weight": [1e-39] * 2, "label_smoothing": 0.1}),
        (x / 10, {"weight": [1e-46] * 3, "sample_weight": [1e46] * 2}),
        ([0, 1], {"weight": [1e-50, 1e-50, 1.0], "label_smoothing": 0.1}),
    ):
        loss, grad = xn.cross_entropy_and_grad(x, target, reduction="sum", **options)
        exact = xn.cross_entropy_and_grad(x.astype(float), target, reduction="sum", backend="numpy", **options)
        np.testing.assert_allclose(loss, exact[0], rtol=1e-6)
        np.testing.assert_allclose(grad, exact[1], rtol=1e-5, atol=1e-7)


def test_losses_that_float32_cannot_hold_raise_nothing(backend):
    x = np.array([[1, 2, 3], [3, 2, 1]], np.float32)
    with np.errstate(all="raise"):
        losses = xn.cross_entropy(x, [0, 1], reduction="none", sample_weight=[1e-42, 1e42])
    np.testing.assert_array_equal(losses, np.array([2.407606e-42, np.inf], np.float32))


@pytest.mark.parametrize("dtype", [rarely(dtype) for dtype in DTYPES if dtype is not np.float64])
def test_distributions_that_float32_cannot_hold(dtype, classes, backend, rng):
    """Next to a float64 distribution the arithmetic is float64, and the gradient is rounded once."""
    x = rng.normal(size=(4, classes)).astype(dtype)
    x[1, 0] = -INF
    q = rng.random((4, classes))
    q[0, 1], q[1, 0], q[2, 2] = 1e39, 1e-60, 1e-60
    sample_weight = [1e-39, 1.0, 1.0, 1.0]
    loss, grad = both(x, q, sample_weight=sample_weight, reduction="none")
    wide = x.astype(np.float64)
    exact, slope = xn.cross_entropy_and_grad(wide, q, sample_weight=sample_weight, reduction="none", backend="numpy")
    assert loss[1] == INF
    assert loss.dtype == np.float32
    np.testing.assert_allclose(loss, exact, rtol=1e-7)
    np.testing.assert_array_equal(grad, rounded_once(slope, dtype))


def rounded_once(values, dtype):
    """The nearest number of a dtype; NumPy's way from float64 to bfloat16 is over float32."""
    near = values.astype(dtype)
    candidates = np.stack([near, np.nextafter(near, near.dtype.type(-INF)), np.nextafter(near, near.dtype.type(INF))])
    distance = np.abs(candidates.astype(np.float64) - values)
    return np.take_along_axis(candidates, distance.argmin(axis=0)[None], axis=0)[0].astype(np.float64)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_saved_lse_far_beyond_its_own_digits(dtype, classes, backend):
    x = np.zeros((1, classes), dtype)
    x[0, 1] = 3.0
    grad = xn.cross_entropy_grad(x, [0], lse=[3.0 * 1e30], logit_scale=1e30)
    np.testing.assert_allclose(grad[0, :2], [-1e30, 1e30], rtol=1e-6)
    assert not grad[0, 2:].any()


@pytest.mark.parametrize("mask", [-1e50, -1e100, np.finfo(np.float64).min])
@pytest.mark.parametrize("scale", [0.37, 1.5, 2.0])
def test_finite_masks_and_a_scale(mask, scale, classes, backend):
    x = np.zeros((1, classes))
    x[0, 2:] = mask
    loss, grad = both(x, [0], logit_scale=scale)
    np.testing.assert_allclose(loss, math.log(2), rtol=1e-15)
    np.testing.assert_allclose(grad[0, :2], [-scale / 2, scale / 2], rtol=1e-15)
    assert not grad[0, 2:].any()


def test_no_rows_into_an_array(dtype, backend):
    x, y, out = np.zeros((0, 3), dtype), np.zeros(0, np.int64), np.zeros((0, 3), dtype)
    assert xn.cross_entropy_and_grad(x, y, grad_out=out)[1] is out
    assert xn.cross_entropy_and_grad(x, y, grad_out=x)[1] is x
    assert xn.cross_entropy_grad(x, y, out=out) is out
    assert xn.softmax(x, out=out) is out
    assert xn.logsumexp(np.zeros((0, 4, 3)), out=np.zeros((0, 4))).shape == (0, 4)


def test_one_class_as_a_distribution(dtype, backend):
    x = np.array([[0.3], [-7.0], [100.0]], dtype)
    for q in (np.ones((3, 1), dtype), np.ones((3, 1), np.bool)):
        for options in ({}, {"softcap": 5.0}, {"logit_scale": 0.7}, {"weight": [0.3], "label_smoothing": 0.1}):
            loss, grad = both(x, q, reduction="none", **options)
            np.testing.assert_array_equal(loss, 0.0)
            np.testing.assert_array_equal(grad, 0.0)


def test_a_confident_distribution_is_no_gain(dtype, classes, backend):
    """A loss of almost nothing may be rounded to 0, but not to less."""
    for top in (9.0, 12.0, 20.0, 40.0):
        x, q = np.zeros((1, classes), dtype), np.zeros((1, classes), dtype)
        x[0, 2], q[0, 2] = top, 1.0
        loss = xn.cross_entropy(x, q)
        assert loss >= 0
        np.testing.assert_allclose(loss, math.log1p((classes - 1) * math.exp(-top)), rtol=1e-6, atol=6e-8)


def test_factors_that_would_leave_no_digits(backend):
    x = np.array([[0.5, -0.3]], np.float32)
    p = 1 / (1 + math.exp(float(x[0, 0]) - float(x[0, 1])))
    for options in ({"sample_weight": [1e-33], "reduction": "sum"}, {"logit_scale": 1e-33}):
        grad = xn.cross_entropy_and_grad(x, [0], **options)[1]
        np.testing.assert_allclose(grad[0] / (0.5 if "logit_scale" in options else p), [-1e-33, 1e-33], rtol=1e-6)
    grad = xn.cross_entropy_grad(x, [0], grad_output=[1e-33], reduction="none")
    np.testing.assert_allclose(grad[0] / p, [-1e-33, 1e-33], rtol=1e-6)


def test_distances_beyond_float32(backend):
    x, q = np.array([[3e38, -3e38]], np.float32), np.full((1, 2), 0.5, np.float32)
    np.testing.assert_allclose(xn.cross_entropy(x, q), 3e38, rtol=1e-6)
    np.testing.assert_allclose(xn.cross_entropy(x, q, logit_scale=1e-30), 3e8, rtol=1e-6)


def test_weights_far_below_the_largest(backend):
    for x, y, options in (
        ([[0.0, 1.0]], [1], {"weight": [1.0, 1e-310]}),
        ([[0.0, 1.0]] * 2, [-100, 1], {"sample_weight": [1.0, 1e-310]}),
        ([[0.0, 1.0]] * 2, [-100, 1], {"weight": [1.0, 1e-200], "sample_weight": [1.0, 1e-200]}),
    ):
        loss, grad = xn.cross_entropy_and_grad(x, y, **options)
        np.testing.assert_allclose(loss, 0.31326168751822286, rtol=1e-13)
        np.testing.assert_allclose(grad[-1], [0.2689414213699951, -0.2689414213699951], rtol=1e-13)


@pytest.mark.parametrize("options", [{"softcap": 1e-310}, {"softcap": 1e-200, "logit_scale": 1e200}])
def test_a_cap_of_almost_nothing(options, backend):
    np.testing.assert_allclose(xn.cross_entropy(np.array([[0.0, 1.0]]), [1], **options), math.log(2), rtol=1e-15)


def test_factors_beyond_float32(backend):
    f = np.float32
    masked, low = np.zeros((1, 300), f), np.full((1, 300), -40, f)
    masked[0, 2:], low[0, 0] = -INF, 0.0
    assert not xn.cross_entropy_and_grad(masked[:, 1:], [0], sample_weight=[1e50], reduction="sum")[1].any()
    assert not xn.cross_entropy_grad(masked, [0], grad_output=1e39, reduction="sum")[0, 2:].any()
    exact = 1e39 * math.exp(-40)
    for options in (
        {"sample_weight": [1e39]},
        {"grad_output": 1e39},
        {"weight": np.full(300, 1e20), "grad_output": 1e19},
    ):
        grad = xn.cross_entropy_grad(low, [0], reduction="sum", **options)
        np.testing.assert_allclose(grad[0, 1:], exact, rtol=1e-5)
    nothing = np.array([[0, 0], [1, 0]], f)
    grad = xn.cross_entropy_and_grad(np.zeros((2, 2), f), nothing, sample_weight=[1e39, 1], reduction="sum")[1]
    np.testing.assert_array_equal(grad, [[0, 0], [-0.5, 0.5]])
    tiny = {"sample_weight": [1e-34, 1e-200], "grad_output": [1.0, 1e-200], "reduction": "none"}
    grad = xn.cross_entropy_grad(np.array([[0, 1]] * 2, f), [0, 0], **tiny)
    np.testing.assert_allclose(grad, [[-7.310586e-35, 7.310586e-35], [0, 0]], rtol=1e-6)


@pytest.mark.parametrize("factor", [1e-30, 1e35, 0.0])
def test_a_neighbour_with_an_extreme_factor_changes_nothing(factor, classes, backend, rng):
    x = rng.normal(size=(2, classes)).astype(np.float32)
    for name, dense in (("sample_weight", False), ("grad_output", True)):
        y = rng.random((2, classes)).astype(np.float32) if dense else rng.integers(0, classes, 2)
        both_rows = xn.cross_entropy_grad(x, y, reduction="none", **{name: [1.0, factor]})
        alone = xn.cross_entropy_grad(x[:1], y[:1], reduction="none", **{name: [1.0]})
        np.testing.assert_array_equal(both_rows[:1], alone)
        in_place = x.copy()
        xn.cross_entropy_grad(in_place, y, reduction="none", out=in_place, **{name: [1.0, factor]})
        np.testing.assert_array_equal(in_place, both_rows)


def test_distances_beyond_float64(backend):
    for classes in (2, 300):
        x = np.zeros((1, classes))
        x[0, :2] = 1.7e308, -1.7e308
        np.testing.assert_allclose(xn.cross_entropy(x, [1], logit_scale=1e-3), 3.4e305, rtol=1e-14)
        q = np.zeros((1, classes))
        q[0, :2] = 0.25
        np.testing.assert_allclose(xn.cross_entropy(x, q), 8.5e307, rtol=1e-14)


def test_a_z_loss_beyond_float32(backend):
    x = np.array([[3e38, 0.59, -0.53]], np.float32)
    grad = xn.cross_entropy_grad(x, [1], lse=[np.float64(x[0, 0])], z_loss=1.0, reduction="sum")
    np.testing.assert_array_equal(grad, [[INF, -1.0, 0.0]])


@pytest.mark.parametrize("classes", [20, 33, 100, 256])
def test_a_row_does_not_mind_its_neighbours(classes, backend, rng):
    """Whatever is in one row of a vector of rows, the bits of the others are as without it."""
    x = rng.normal(scale=3, size=(35, classes)).astype(np.float32)
    y = rng.integers(1, classes, 35)
    losses, _ = xn.cross_entropy_and_grad(x, y, reduction="none")
    grad = xn.cross_entropy_and_grad(x, y, reduction="sum")[1]
    odd = {
        "target -inf": lambda row, t: row.__setitem__(t, -np.inf),
        "all -inf": lambda row, t: row.fill(-np.inf),
        "nan at the target": lambda row, t: row.__setitem__(t, np.nan),
        "nan elsewhere": lambda row, t: row.__setitem__(t - 1, np.nan),
        "inf at the target": lambda row, t: row.__setitem__(t, np.inf),
        "inf elsewhere": lambda row, t: row.__setitem__(t - 1, np.inf),
        "far": lambda row, t: row.__setitem__(t - 1, 1e5),
    }
    for i, (name, change) in enumerate(odd.items()):
        for r in (i, 15, 16, 31, 34):
            changed = x.copy()
            change(changed[r], y[r])
            others = np.arange(35) != r
            found, _ = xn.cross_entropy_and_grad(changed, y, reduction="none")
            found_grad = xn.cross_entropy_and_grad(changed, y, reduction="sum")[1]
            np.testing.assert_array_equal(found[others], losses[others], name)
            np.testing.assert_array_equal(found_grad[others], grad[others], name)
            right, _ = xn.cross_entropy_and_grad(changed[r : r + 1], y[r : r + 1], reduction="none", backend="numpy")
            np.testing.assert_allclose(found[r], right[0], rtol=1e-6, err_msg=name)
