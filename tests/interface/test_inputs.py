"""What may be passed as logits, target and results: every dtype, layout and kind of memory, with no copy made of it."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

import xent_numba as xn

bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
LABELS = "bhilqBHILQ"


def close(dtype):
    """Tolerances for values of about 1 that went through this dtype."""
    return {8: {"rtol": 1e-13, "atol": 1e-15}, 4: {"rtol": 2e-6, "atol": 1e-7}, 2: {"rtol": 1e-2, "atol": 1e-3}}[
        np.dtype(dtype).itemsize
    ]


# Each dtype with itself and with one other, integers with one.  One pair with logits of 16 bits is not rare.
PAIRS = [(np.float32, np.float64), (np.float64, np.float16), (np.float16, bfloat16)]
PAIRS += [(np.float32, np.float32), (np.float64, np.float64), (np.float32, np.int8), (np.float64, bool)]
RARE_PAIRS = [(bfloat16, np.float32), (np.float16, np.float16), (bfloat16, bfloat16)]
PAIRS += [pytest.param(*pair, marks=pytest.mark.rare) for pair in RARE_PAIRS]


@pytest.mark.parametrize(("dtype", "q_dtype"), PAIRS, ids=lambda dtype: np.dtype(dtype).name)
def test_distributions_of_every_dtype_with_logits_of_every_dtype(dtype, q_dtype, backend, rng):
    x = rng.normal(size=(20, 5)).astype(dtype)
    q = rng.integers(0, 2, x.shape).astype(q_dtype)
    q[:, 0] = 1
    if np.dtype(q_dtype).kind in "bi":  # which must be one-hot
        q[:, 1:] = 0
        q = rng.permuted(q, axis=1)
    loss, grad = xn.cross_entropy_and_grad(x, q)
    expected = xn.cross_entropy_and_grad(x.astype(np.float64), q.astype(np.float64), backend="numpy")
    assert grad.dtype == x.dtype
    np.testing.assert_allclose(loss, expected[0], rtol=1e-6)
    np.testing.assert_allclose(grad.astype(float), expected[1], **close(dtype))


@pytest.mark.parametrize("given", LABELS)
def test_labels_of_every_dtype_give_the_same_bits(given, backend, rng):
    x = rng.normal(size=(20, 7)).astype(np.float32)
    y = rng.integers(0, 7, 20)
    expected = xn.cross_entropy_and_grad(x, y)
    for labels in (y.astype(given), y.astype(given)[::-1][::-1], np.repeat(y.astype(given), 3)[::3], y.tolist()):
        loss, grad = xn.cross_entropy_and_grad(x, labels)
        assert loss == expected[0]
        np.testing.assert_array_equal(grad, expected[1])


def in_records(x):
    """The same numbers as a field of packed records, 1 byte off any multiple of their size."""
    record = np.dtype([("tag", np.uint8), ("x", x.dtype)])
    packed = np.zeros(x.shape, record)
    packed["x"] = x
    field = packed["x"]
    assert not field.flags.aligned
    return field


def one_byte_off(x):
    """A contiguous array at an odd address."""
    memory = np.zeros(x.nbytes + 1, np.uint8)
    view = memory[1:].view(x.dtype).reshape(x.shape)
    view[...] = x
    assert not view.flags.aligned
    return view


@pytest.mark.parametrize("dtype", [np.float32, bfloat16], ids=lambda dtype: np.dtype(dtype).name)
@pytest.mark.parametrize("crooked", [in_records, one_byte_off])
def test_elements_at_odd_addresses(crooked, dtype, backend, rng):
    for shape, axis in (((7, 5), 1), ((2, 3, 5, 2), 2)):
        x = rng.normal(size=shape).astype(dtype)
        rows = shape[:axis] + shape[axis + 1 :]
        y, s = rng.integers(0, shape[axis], rows), rng.random(rows)
        q = rng.random(shape).astype(dtype)
        options = {"axis": axis, "sample_weight": s}
        for target, odd in ((y, y), (q, crooked(q)), (q, q)):
            expected, expected_grad = xn.cross_entropy_and_grad(x, target, **options)
            for reduction in ("mean", "none"):
                loss, grad = xn.cross_entropy_and_grad(crooked(x), odd, reduction=reduction, **options)
                if reduction == "mean":
                    np.testing.assert_allclose(loss, expected, rtol=1e-6)
                    np.testing.assert_allclose(grad.astype(float), expected_grad.astype(float), **close(dtype))
                else:
                    assert loss.shape == rows
        out = crooked(np.zeros(shape, dtype))
        loss, grad = xn.cross_entropy_and_grad(x, y, grad_out=out, **options)
        assert grad is out
        np.testing.assert_allclose(
            out.astype(float), xn.cross_entropy_grad(x, y, **options).astype(float), **close(dtype)
        )
        place = crooked(x)
        assert xn.cross_entropy_and_grad(place, y, grad_out=place, **options)[1] is place
        np.testing.assert_array_equal(place.astype(float), out.astype(float))
        p = xn.softmax(crooked(x), axis=axis, out=out)
        assert p is out
        np.testing.assert_allclose(p.astype(float), xn.softmax(x, axis=axis).astype(float), **close(dtype))
        np.testing.assert_allclose(xn.logsumexp(crooked(x), axis=axis), xn.logsumexp(x, axis=axis), **close(dtype))


def test_odd_addresses_in_several_blocks(backend, rng, monkeypatch):
    monkeypatch.setattr("xent_numba.prepare.aligned.BLOCK", 16)
    x = rng.normal(size=(2, 5, 9))
    y, g = rng.integers(0, 5, (2, 9)), rng.normal(size=(2, 9))
    crooked = in_records(x)
    for options in ({}, {"sample_weight": rng.random((2, 9))}):
        expected = xn.cross_entropy_and_grad(x, y, axis=1, **options)
        found = xn.cross_entropy_and_grad(crooked, y, axis=1, **options)
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-14)
        np.testing.assert_allclose(found[1], expected[1], rtol=1e-13)
        more = {"axis": 1, "reduction": "none", "grad_output": g, **options}
        for lse in (None, xn.logsumexp(x, axis=1)):
            np.testing.assert_allclose(
                xn.cross_entropy_grad(crooked, y, lse=lse, **more),
                xn.cross_entropy_grad(x, y, lse=lse, **more),
                rtol=1e-13,
            )
        rows = xn.cross_entropy(crooked, y, axis=1, reduction="none", **options)
        np.testing.assert_allclose(rows, xn.cross_entropy(x, y, axis=1, reduction="none", **options), rtol=1e-13)


LAYOUTS = {
    "contiguous": (lambda x: x, 1),
    "classes first": (lambda x: np.ascontiguousarray(x.T), 0),
    "Fortran": (np.asfortranarray, 1),
    "reversed": (lambda x: x[::-1, ::-1], 1),
    "every second": (lambda x: np.repeat(np.repeat(x, 2, 0), 2, 1)[::2, ::2], 1),
    "records": (in_records, 1),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_layout_is_copied(layout, backend, rng):
    """The peak of what a call allocates is far below the logits: O(N) for a loss, and O(N) more in place."""
    view, axis = LAYOUTS[layout]
    x = view(rng.normal(size=(20_000, 200)).astype(np.float32))
    n = x.shape[1 - axis]
    y = rng.integers(0, 200, n)
    options = {"axis": axis, "reduction": "none"}
    calls = [
        lambda: xn.cross_entropy(x, y, **options),
        lambda: xn.logsumexp(x, axis=axis),
        lambda: xn.cross_entropy_and_grad(x, y, axis=axis, grad_out=x),
        lambda: xn.softmax(x, axis=axis, out=x),
    ]
    for call in calls:
        if backend != "numpy":
            call()  # compiles
        tracemalloc.start()
        call()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        # 16 bytes a row, and what blocks of fixed size take
        assert peak < 16 * n + (8 << 20) < x.nbytes


def test_read_only_and_mapped(tmp_path, backend, rng):
    for dtype in (np.float32, np.float64):
        x, y = rng.normal(size=(50, 8)).astype(dtype), rng.integers(0, 8, 50)
        expected = xn.cross_entropy_and_grad(x, y)
        for name, array in (("x", x), ("y", y)):
            np.save(tmp_path / f"{name}.npy", array)
        mapped = [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in "xy"]
        frozen = [x.copy(), y.copy()]
        for array in frozen:
            array.flags.writeable = False
        for given in (mapped, frozen):
            loss, grad = xn.cross_entropy_and_grad(*given)
            assert loss == expected[0]
            np.testing.assert_array_equal(grad, expected[1])
            assert grad.flags.writeable
            with pytest.raises(ValueError, match="read-only"):
                xn.cross_entropy_and_grad(*given, grad_out=given[0])


def test_more_than_2_31_elements_in_rows(backend):
    """By strides of 0: nothing that counts or multiplies is 32 bits wide."""
    if backend == "numpy":
        pytest.skip("half a minute; the cpu backend is the one that counts elements in machine integers")
    c = 1 << 16
    row = np.zeros(c, np.float16)
    row[-1] = 8.0
    x = np.broadcast_to(row, (2**15 + 3, c))
    assert x.size > 2**31
    y = np.full(len(x), -100)
    y[[0, -2, -1]] = [0, c - 1, c - 1]
    loss = xn.cross_entropy(x, y, reduction="none")
    lse = np.log(c - 1 + np.exp(8.0))
    np.testing.assert_allclose(loss[[0, -2, -1]], [lse, lse - 8, lse - 8], rtol=1e-6)
    assert not loss[1:-2].any()
    np.testing.assert_allclose(xn.cross_entropy(x, y), (3 * lse - 16) / 3, rtol=1e-6)


def test_offsets_beyond_2_32_bytes(backend, tmp_path):
    """A sparse file: rows and classes on both sides of what 32 bits can address."""
    rows, c = 5, 1 << 29
    x = np.memmap(tmp_path / "x.bin", np.float16, "w+", shape=(rows, c))
    some = x[:, :: c // 4]  # (5, 4), each 2**28 bytes after the other
    values = np.arange(20.0).reshape(5, 4) % 7
    some[...] = values
    y = np.array([0, 1, 2, 3, 0])
    loss, grad = xn.cross_entropy_and_grad(some, y, grad_out=some)
    expected = xn.cross_entropy_and_grad(values, y)
    np.testing.assert_allclose(loss, expected[0], rtol=1e-6)
    np.testing.assert_allclose(x[:, :: c // 4].astype(float), expected[1], rtol=1e-3)
    del some, grad, x
    (tmp_path / "x.bin").unlink()


def test_results_go_into_arrays_of_any_strides(backend):
    """In one process with contiguous ones, before and after: their machine code is another."""
    x = np.arange(120.0).reshape(2, 3, 4, 5).astype(np.float32) / 7
    expected = xn.logsumexp(x)
    for make in (
        lambda: np.zeros((2, 3, 4), np.float32),
        lambda: np.zeros((2, 3, 4, 2), np.float32)[..., 1],
        lambda: np.zeros((4, 3, 2), np.float32).T,
        lambda: np.zeros((2, 3, 4), np.float32)[::-1, :, ::-1],
    ):
        out = make()
        assert xn.logsumexp(x, out=out) is out
        np.testing.assert_array_equal(out, expected)
        if out.base is not None:
            assert np.count_nonzero(out.base) == out.size
    row = np.zeros(24, np.float32)
    xn.logsumexp(x.reshape(24, 5), out=row[::-1])
    np.testing.assert_array_equal(row[::-1], expected.reshape(-1))
