"""The arrays of a linear head: every layout of what is read and of what is written, and the memory of a call."""

from __future__ import annotations

import re
import tracemalloc

import numpy as np
import pytest

import xent_numba as xn
from tests.support.linear import Call, assert_close, unfused, unfused_hvp
from xent_numba.linear import library, products
from xent_numba.linear.chunks import chunk_rows

BOTH, HVP = xn.linear_cross_entropy_and_grad, xn.linear_cross_entropy_hvp
OUTS = ("input_grad_out", "linear_weight_grad_out", "linear_bias_grad_out")


@pytest.fixture(autouse=True)
def _on_numpy():
    with xn.use_backend("numpy"):
        yield


@pytest.fixture
def call(rng):
    """Two leading axes, and class indices."""
    x, w, b = (rng.normal(size=shape) for shape in ((4, 5, 6), (9, 6), (9,)))
    return Call(x, w, rng.integers(0, 9, (4, 5)), b, {})


def misaligned(array):
    """The same elements, none of them at an address that is a multiple of its size."""
    records = np.zeros(array.shape, np.dtype([("tag", np.uint8), ("x", array.dtype)]))
    records["x"] = array
    assert not records["x"].flags.aligned or array.dtype.itemsize == 1
    return records["x"]


def misaligned_side_by_side(array):
    """The same with the elements side by side."""
    memory = np.zeros(array.nbytes + 1, np.uint8)[1:]
    memory[...] = np.ascontiguousarray(array).view(np.uint8).reshape(-1)
    return memory.view(array.dtype).reshape(array.shape)


def strided(array):
    """Every second element along the first and the last axis of a larger array."""
    step = tuple(2 if axis in (0, array.ndim - 1) else 1 for axis in range(array.ndim))
    larger = np.full([n * k for n, k in zip(array.shape, step, strict=True)], np.nan if array.dtype.kind == "f" else 0)
    view = larger.astype(array.dtype)[tuple(slice(None, None, k) for k in step)]
    view[...] = array
    return view


def padded(array):
    """Rows with gaps between them."""
    larger = np.zeros((*array.shape[:-1], array.shape[-1] + 3), array.dtype)
    larger[..., : array.shape[-1]] = array
    return larger[..., : array.shape[-1]]


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


LAYOUTS = {
    "Fortran": np.asfortranarray,
    "negative strides": lambda array: array[::-1].copy()[::-1],
    "reversed features": lambda array: array[..., ::-1].copy()[..., ::-1],
    "strided": strided,
    "padded": padded,
    "misaligned": misaligned,
    "misaligned side by side": misaligned_side_by_side,
    "read-only": read_only,
    "axes in another order": lambda array: np.moveaxis(np.ascontiguousarray(np.moveaxis(array, 0, -1)), -1, 0),
}


@pytest.mark.parametrize("panel_bytes", [None, 100])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_layouts_of_arguments(layout, dtype, panel_bytes, call, rng, monkeypatch):
    if panel_bytes is not None:
        monkeypatch.setattr(products, "PANEL_BYTES", panel_bytes)
    kind = pytest.importorskip("ml_dtypes").bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    x, w, b = (array.astype(kind) for array in (call.input, call.linear_weight, call.linear_bias))
    v, change = rng.normal(size=w.shape).astype(kind), LAYOUTS[layout]
    expected = BOTH(x, w, call.target, linear_bias=b, batch_chunk_size=3)
    found = BOTH(change(x), change(w), change(call.target), linear_bias=change(b), batch_chunk_size=3)
    unit = 1e-13 if dtype == "float64" else 1e-6
    assert_close(found.loss, expected.loss, unit)
    for one, other in zip(found[1:], expected[1:], strict=True):
        assert_close(one, other.astype(float), unit if dtype == "float64" else 2.0**-8)
    product = HVP(change(x), change(w), call.target, change(v), linear_bias=b, batch_chunk_size=3)
    plain = HVP(x, w, call.target, v, linear_bias=b, batch_chunk_size=3)
    assert_close(product.linear_weight, plain.linear_weight.astype(float), unit if dtype == "float64" else 2.0**-8)


def test_memory_maps(call, tmp_path):
    expected = BOTH(*call[:3], linear_bias=call.linear_bias)
    paths = []
    for name, array in zip(("x", "w", "y"), call[:3], strict=True):
        np.save(tmp_path / f"{name}.npy", array)
        paths.append(np.load(tmp_path / f"{name}.npy", mmap_mode="r"))
    found = BOTH(*paths, linear_bias=call.linear_bias)
    for one, other in zip(found, expected, strict=True):
        assert type(one) is type(other)
        np.testing.assert_array_equal(one, other)


def test_broadcast_arguments(call):
    """Repeated rows and classes take no memory; their gradients do."""
    x, w = np.broadcast_to(call.input[0, 0], (4, 5, 6)), np.broadcast_to(call.linear_weight[0], (9, 6))
    y, b = np.broadcast_to(3, (4, 5)), np.broadcast_to(0.5, 9)
    found, expected = BOTH(x, w, y, linear_bias=b, batch_chunk_size=3), unfused(Call(x, w, y, b, {}))
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other, 1e-13)
    assert found.input.flags.c_contiguous
    assert found.linear_weight.flags.c_contiguous


@pytest.mark.parametrize("layout", ["C", *LAYOUTS])
def test_layouts_of_distributions(layout, call, rng):
    q = np.exp(rng.normal(size=(4, 5, 9)))
    q = q if layout == "C" else LAYOUTS[layout](q)
    call = call._replace(target=q)
    for sample_weight in (None, LAYOUTS["Fortran"](rng.random((4, 5)))):
        options = {"sample_weight": sample_weight}
        expected = unfused(call._replace(options=options))
        for chunk in (None, 3):
            found = BOTH(*call[:3], linear_bias=call.linear_bias, batch_chunk_size=chunk, **options)
            for one, other in zip(found, expected, strict=True):
                assert_close(one, other, 1e-13)
            rows = xn.linear_cross_entropy(*call[:3], batch_chunk_size=chunk, reduction="none", **options)
            plain = xn.cross_entropy(call.input @ call.linear_weight.T, q, reduction="none", **options)
            assert_close(rows, plain, 1e-13)
    one_hot = np.eye(9, dtype=np.int8)[rng.integers(0, 9, (4, 5))]
    y = one_hot.argmax(-1)
    assert BOTH(*call[:2], one_hot).loss == BOTH(*call[:2], y).loss
    np.testing.assert_array_equal(BOTH(*call[:2], one_hot).input, BOTH(*call[:2], y).input)


@pytest.mark.parametrize("layout", ["C", *(name for name in LAYOUTS if name != "read-only")])
@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_layouts_of_results(layout, dtype, call, rng):
    x, w, b = (array.astype(dtype) for array in (call.input, call.linear_weight, call.linear_bias))
    y = np.where(rng.random((4, 5)) < 0.3, -100, call.target)
    expected = BOTH(x, w, y, linear_bias=b, batch_chunk_size=3)
    change = LAYOUTS.get(layout, np.copy)
    outs = [change(np.full(array.shape, 7, dtype)) for array in (x, w, b)]
    found = BOTH(x, w, y, linear_bias=b, batch_chunk_size=3, **dict(zip(OUTS, outs, strict=True)))
    assert found.loss == expected.loss
    for out, one, other in zip(outs, found[1:], expected[1:], strict=True):
        assert one is out
        assert_close(one, other.astype(float), 1e-14 if dtype == "float64" else 2.0**-10)
    v, out, bias_out = np.ones_like(w), change(np.full(w.shape, 7, dtype)), change(np.full(b.shape, 7, dtype))
    product = HVP(x, w, y, v, linear_bias=b, bias_vector=b, out=out, bias_out=bias_out, batch_chunk_size=3)
    assert product.linear_weight is out
    assert product.linear_bias is bias_out
    plain = HVP(x, w, y, v, linear_bias=b, bias_vector=b, batch_chunk_size=3)
    for one, other in zip(product, plain, strict=True):
        assert_close(one, other.astype(float), 1e-14 if dtype == "float64" else 2.0**-10)


def test_results_with_one_class_or_one_feature(rng):
    """BLAS sees strides of axes of length 1, whatever they are."""
    for c, d in ((1, 1), (1, 4), (4, 1)):
        x, w, y = rng.normal(size=(7, d)), rng.normal(size=(c, d)), rng.integers(0, c, 7)
        out = np.lib.stride_tricks.as_strided(np.zeros(64), (c, d), (8 if c > 1 else 24, 8 if d > 1 else 88))
        found = BOTH(x, w, y, batch_chunk_size=2, linear_weight_grad_out=out, z_loss=0.1)
        assert found.linear_weight is out
        assert_close(out, unfused(Call(x, w, y, None, {"z_loss": 0.1}))[2], 1e-14)


def test_a_direction_of_another_dtype(call, rng):
    v, v_bias = rng.normal(size=(9, 6)).astype(np.float16), rng.normal(size=9).astype(np.float32)
    found = HVP(*call[:3], v, linear_bias=call.linear_bias, bias_vector=v_bias)
    expected = unfused_hvp(call, v.astype(float), v_bias.astype(float), True)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == np.float64
        assert_close(one, other, 1e-13)


def peak(function, *arguments, **options):
    """The most bytes that a call holds at a time, besides what there was before."""
    function(*arguments, **options)  # compiles
    tracemalloc.start()
    function(*arguments, **options)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("d", "c"), [(8, 3000), (3000, 5)])
def test_memory(d, c, dtype, rng):
    """One chunk of logits, or of features, and the sum of the weight's gradient in float32, besides the results."""
    n, chunk = 2000, 50
    x, w = rng.normal(size=(n, d)).astype(dtype), rng.normal(size=(c, d)).astype(dtype)
    y = np.where(rng.random(n) < 0.1, -100, rng.integers(0, c, n))
    outs = {"input_grad_out": np.empty_like(x), "linear_weight_grad_out": np.empty_like(w)}
    one = 4 * chunk * max(c, d)
    besides = 2 * 4 * c * d + 30 * n + (1 << 20)  # the weight and its gradient in float32, and numbers of rows
    more = {"batch_chunk_size": chunk, "backend": "auto"}
    assert 4 * one + besides < 4 * n * max(c, d) / 4
    assert peak(xn.linear_cross_entropy, x, w, y, **more) < 2 * one + besides
    assert peak(BOTH, x, w, y, **more, **outs) < 4 * one + besides
    x, y = x.reshape(40, 50, d).swapaxes(0, 1), y.reshape(40, 50).T  # no single axis of rows
    outs["input_grad_out"] = outs["input_grad_out"].reshape(40, 50, d).swapaxes(0, 1)
    assert peak(BOTH, x, w, y, **more, **outs) < 4 * one + besides


@pytest.mark.parametrize(("d", "c"), [(1, 1000), (1000, 2)])
def test_the_chunk_chosen(d, c, monkeypatch):
    """Neither many classes nor many features make it large."""
    monkeypatch.setattr(library.NumPy, "chunk_bytes", 1 << 20)
    n = 4000
    x, w, y = np.zeros((n, d), np.float16), np.zeros((c, d), np.float16), np.zeros(n, int)
    assert peak(BOTH, x, w, y, input_grad_out=np.empty_like(x), backend="auto") < 4 << 20 < 2 * n * max(c, d)


@pytest.mark.parametrize(
    ("columns", "rows"), [(8, 1 << 20), (8192, 1024), (16384, 512), (50_257, 512), (131_072, 256), (1 << 20, 64)]
)
def test_the_rows_of_a_chunk(columns, rows):
    """32 MB of float32, or up to four times that for 512 rows, but 64 rows at least, as the docstrings say."""
    mb = 4 * columns * rows / (1 << 20)
    assert chunk_rows(rows << 10, columns, 4, None) == rows
    assert mb == 32 if rows > 512 else mb <= 128 or rows == 64
    assert chunk_rows(rows << 10, columns, 4, 10) == 10
    chunk = r"32 MB of logits, or of features if these are more, .* 512, up to 512 in at most four times .* least 64\. "
    for function in (xn.linear_cross_entropy, BOTH, HVP):
        assert re.search(chunk, " ".join(function.__doc__.split()))
