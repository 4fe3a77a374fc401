"""Anything thrown at the functions gives the right answer or the documented error: no crash, no warning, no wrong
number.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

import xent_numba as xn
from tests.support.backends import BACKENDS

hypothesis = pytest.importorskip("hypothesis")
ml_dtypes = pytest.importorskip("ml_dtypes")
st = pytest.importorskip("hypothesis.strategies")

given, settings = hypothesis.given, hypothesis.settings
MANY = settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=list(hypothesis.HealthCheck))
EXPECTED = (ValueError, TypeError, IndexError)

GOOD = [np.float32, np.float64]
BAD = [np.complex128, np.bool_, np.dtype(">f4"), np.dtype("U3"), np.dtype(object), np.datetime64]
VALUES = st.one_of(
    st.floats(-50, 50, width=32),
    st.sampled_from([0.0, -0.0, -math.inf, math.inf, math.nan, 1e30, -1e30, 3e38, 1e-40, 88.0, -104.0]),
)
SIZES = st.integers(1, 5)


@st.composite
def arrays(draw, shape, dtype):
    """An array of this shape with special values in it, of any strides."""
    size = math.prod(shape)
    seed = draw(st.integers(0, 2**32 - 1))
    values = np.random.default_rng(seed).normal(scale=draw(st.sampled_from([0.1, 4.0, 40.0])), size=size)
    for at, value in draw(st.lists(st.tuples(st.integers(0, max(size - 1, 0)), VALUES), max_size=4)):
        if size:
            values[at] = value
    with np.errstate(all="ignore"):
        x = values.reshape(shape).astype(dtype)
    order = draw(st.permutations(range(x.ndim)))
    x = x.transpose(order).copy().transpose(np.argsort(order))
    for axis in range(x.ndim):
        if draw(st.booleans()):
            x = np.flip(np.flip(x, axis).copy(), axis)
        elif draw(st.booleans()):
            x = np.repeat(x, 2, axis).take(range(2 * x.shape[axis]), axis)
            x = x[(slice(None),) * axis + (slice(None, None, 2),)]
    if draw(st.booleans()):
        x.flags.writeable = False
    return x


# Options that change the machine code, each kind with one dtype or two: any value, weight, row or layout goes with any.
SCALED, CAPPED = {"logit_scale": st.sampled_from([0.0, 0.5, -2.0])}, {"softcap": st.just(30.0)}
SMOOTHED, WEIGHTED = {"label_smoothing": st.sampled_from([0.1, 1.0])}, {"weight": None}
CODES = [
    ({}, False, GOOD),
    (SMOOTHED, False, GOOD[:1]),
    (SMOOTHED | WEIGHTED | CAPPED, False, GOOD[1:]),
    (WEIGHTED | SCALED, False, GOOD[:1]),
    ({}, True, GOOD[1:]),
    (SMOOTHED | WEIGHTED, True, GOOD[:1]),
    (WEIGHTED | CAPPED, True, GOOD[:1]),
    (SMOOTHED | SCALED, True, GOOD[1:]),
]


@st.composite
def good_calls(draw):
    """Arguments that are as documented."""
    code, is_distribution, dtypes = draw(st.sampled_from(CODES))
    ndim = draw(st.integers(1, 4))
    shape = [draw(SIZES) for _ in range(ndim)]
    axis = draw(st.integers(-ndim, ndim - 1))
    if draw(st.integers(0, 5)) == 0:
        shape[axis] = draw(st.sampled_from([17, 256] if code else [17, 256, 257, 300]))
    c = shape[axis]
    rows = tuple(size for i, size in enumerate(shape) if i != axis % ndim)
    x = draw(arrays(tuple(shape), draw(st.sampled_from(dtypes))))
    options = {"axis": axis, "reduction": draw(st.sampled_from(["mean", "sum", "none"]))}
    options |= {name: draw(values) for name, values in code.items() if values is not None}
    if draw(st.booleans()):
        options["z_loss"] = draw(st.sampled_from([0.0, 1e-4]))
    weights = st.sampled_from([0.0, 0.5, 1.0, 7.0])
    if "weight" in code:
        options["weight"] = np.array([draw(weights) for _ in range(min(c, 5))] + [1.0] * max(0, c - 5))
    if draw(st.booleans()):
        options["sample_weight"] = np.random.default_rng(draw(st.integers(0, 9))).integers(0, 3, rows) / 2
    if is_distribution:
        q = np.abs(np.nan_to_num(draw(arrays(tuple(shape), x.dtype)), nan=0, posinf=1, neginf=0))
        return x, np.minimum(q, 50), options
    ignored = draw(st.sampled_from([-100, 0, (-1, 7), None]))
    options["ignore_index"] = ignored
    few = [v for v in np.atleast_1d([] if ignored is None else ignored).tolist() if isinstance(v, int)]
    kind = draw(st.sampled_from([np.int64, np.int32, np.int8]))
    values = [draw(st.sampled_from([*range(min(c, 5)), c - 1, *few])) for _ in range(min(math.prod(rows), 8))]
    return x, np.resize(np.array(values or [0], np.int64), rows).astype(kind if c < 128 else np.int64), options


def agree(found, expected, dtype, scale):
    """Equal up to rounding, and nan or infinite in the same places."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    tolerance = 1e-11 if dtype == np.float64 else 3e-5
    with np.errstate(all="ignore"):
        larger = np.where(np.isfinite(expected), np.maximum(np.abs(expected), scale), 1.0)
        same = (found == expected) | np.isnan(expected) | (np.abs(found - expected) <= tolerance * larger)
    assert same.all(), (found, expected)


@MANY
@given(good_calls())
def test_good_arguments_give_what_the_reference_gives(call):
    x, y, options = call
    before = x.copy()
    expected = None
    for backend in ["numpy", *(name for name in BACKENDS if name != "numpy")]:
        loss, grad = xn.cross_entropy_and_grad(x, y, backend=backend, **options)
        if y.ndim < x.ndim and options.keys() <= {"axis", "reduction", "z_loss", "sample_weight", "ignore_index"}:
            np.testing.assert_array_equal(xn.cross_entropy(x, y, backend=backend, **options), loss)
        assert grad.shape == x.shape
        assert grad.dtype == x.dtype
        if expected is None:
            expected = loss, grad
        else:
            big = np.abs(x[np.isfinite(x)], dtype=np.float64).max(initial=1.0)
            scale = 1.0 if big < 1e3 else np.inf  # differences of huge logits: finite in the same places is all to ask
            agree(loss, expected[0], x.dtype, scale * 100)
            agree(grad, expected[1], x.dtype, scale * 100)
    np.testing.assert_array_equal(x, before)


BAD_OPTIONS = st.one_of(
    st.tuples(st.just("label_smoothing"), st.sampled_from([-0.1, 1.5, math.nan, "0.1", None, True, [0.1]])),
    st.tuples(st.just("reduction"), st.sampled_from(["avg", None, 1, "MEAN", ["sum"]])),
    st.tuples(st.just("axis"), st.sampled_from([5, -6, 1.0, None, "0", True])),
    st.tuples(st.just("ignore_index"), st.sampled_from([1.5, "a", [1, 2.0], True, b"x"])),
    st.tuples(st.just("weight"), st.sampled_from([[], [-1.0], [math.nan] * 3, "abc", [[1.0]], np.ones(99), 1j])),
    st.tuples(st.just("sample_weight"), st.sampled_from([[-1.0], [math.inf], np.ones((9, 9)), "a", [[[1.0]]]])),
    st.tuples(st.just("logit_scale"), st.sampled_from([math.inf, math.nan, "1", None, 1j])),
    st.tuples(st.just("softcap"), st.sampled_from([0.0, -1.0, math.nan, "1", True])),
    st.tuples(st.just("z_loss"), st.sampled_from([-1.0, math.inf, math.nan, None])),
    st.tuples(st.just("focal_gamma"), st.sampled_from([-1.0, math.inf, math.nan, None, "2", True])),
    st.tuples(st.just("n_threads"), st.sampled_from([0, -1, 1.5, "2", True])),
    st.tuples(st.just("backend"), st.sampled_from(["tpu", "", 3, ("cpu",)])),
)


@MANY
@given(good_calls(), BAD_OPTIONS, st.sampled_from(BACKENDS))
def test_bad_options_are_refused_before_anything_is_written(call, bad, backend):
    x, y, options = call
    name, value = bad
    options = {"backend": backend, **options, name: value}
    out = np.full(x.shape, 7.0, x.dtype)
    for function in (xn.cross_entropy, xn.cross_entropy_grad, xn.cross_entropy_and_grad):
        more = {} if function is xn.cross_entropy else {"grad_out": out}
        if function is xn.cross_entropy_grad:
            more = {"out": out}
        with pytest.raises(EXPECTED) as caught:
            function(x, y, **options, **more)
        assert str(caught.value)
    assert (out == 7.0).all()


@MANY
@given(good_calls(), st.data(), st.sampled_from(BACKENDS))
def test_bad_arrays_are_refused_before_anything_is_written(call, data, backend):
    x, y, options = call
    c = x.shape[options["axis"]]
    out = np.full(x.shape, 7.0, x.dtype)
    fault = data.draw(
        st.sampled_from(["logits", "no classes", "shape", "label", "label dtype", "out shape", "out dtype"])
    )
    if fault == "logits":
        kind = data.draw(st.sampled_from(BAD))
        with np.errstate(all="ignore"):
            x = np.zeros(x.shape, "M8[s]") if kind is np.datetime64 else np.zeros(x.shape).astype(kind)
        if kind is np.bool_:
            x = x.astype(bool)
    elif fault == "no classes":
        x = x.take([], axis=options["axis"])
        out = np.empty(x.shape, out.dtype)
    elif fault == "shape":
        y = np.zeros((*y.shape, 2), y.dtype) if y.shape != (*x.shape[:-1],) else np.zeros((9, 9, 9, 9, 9), int)
    elif fault.startswith("label"):
        if y.shape == x.shape or y.size == 0:
            return
        y = np.array(y, np.int64)
        where = data.draw(st.integers(0, y.size - 1))
        ignored = np.atleast_1d(options["ignore_index"] or ())
        bad = [label for label in (c, c + 5, -2, 2**31, 2**62, -(2**63)) if label not in ignored]
        y.reshape(-1)[where] = data.draw(st.sampled_from(bad))
        if fault == "label dtype":
            y = y.astype(data.draw(st.sampled_from([np.float64, bool, "M8[s]", object])))
    elif fault == "out shape":
        out = np.full((*x.shape, 2), 7.0, x.dtype)
    else:
        out = np.full(x.shape, 7.0, data.draw(st.sampled_from([np.int64, np.float16, np.complex64])))
    before = out.copy()
    with pytest.raises(EXPECTED) as caught:
        xn.cross_entropy_and_grad(x, y, backend=backend, grad_out=out, **options)
    assert str(caught.value)
    np.testing.assert_array_equal(out, before)
    if fault == "label":
        first = np.argmax(~(((y >= 0) & (y < c)) | np.isin(y, options["ignore_index"] or ())))
        assert f"= {y.reshape(-1)[first]} is out of range for {c} classes" in str(caught.value)


@MANY
@given(st.data(), st.sampled_from(BACKENDS), st.sampled_from(["softmax", "log_softmax", "logsumexp"]))
def test_softmax_and_its_kin(data, backend, name):
    shape = tuple(data.draw(SIZES) for _ in range(data.draw(st.integers(1, 3))))
    x = data.draw(arrays(shape, data.draw(st.sampled_from(GOOD))))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    found = getattr(xn, name)(x, axis=axis, backend=backend)
    expected = getattr(xn, name)(x.astype(np.float64), axis=axis, backend="numpy")
    if name == "logsumexp":
        with np.errstate(all="ignore"):
            expected = np.asarray(expected).astype(x.dtype)
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    rtol, atol = (1e-5, 1e-30) if x.dtype == np.float32 else (1e-12, 1e-300)
    np.testing.assert_allclose(np.asarray(found)[finite], expected[finite], rtol=rtol, atol=atol)
