"""Calls on device arrays with the kernels in Numba's simulator, where device memory is host memory.

Runs in the process that test_cuda_sim.py starts.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided

from tests.support.device_arrays import SIMULATED, OnDevice

if not SIMULATED:
    pytest.skip("runs in the process that test_cuda_sim.py starts", allow_module_level=True)

import ml_dtypes
from numba import cuda

import xent_numba as xn
from tests.support import cudasim
from xent_numba.backends import registry
from xent_numba.backends.cuda import launch, plan
from xent_numba.backends.cuda.arrays import adopt, host, inputs, label_scan
from xent_numba.backends.cuda.arrays import api as arrays
from xent_numba.backends.cuda.backend import BACKEND
from xent_numba.backends.cuda.deferred import deferred_checks
from xent_numba.backends.cuda.row.operands import Operand, Operands
from xent_numba.backends.cuda.runtime import device, memory
from xent_numba.prepare.options import make_options

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy scalars stand for registers here


@pytest.fixture
def on_gpu(monkeypatch):
    """Kernels run in the simulator; `on_gpu` makes a device array."""
    monkeypatch.setattr(device, "facts", lambda: device.DeviceFacts("simulator", (9, 0), 132))
    monkeypatch.setattr(launch, "SCAN_THREADS", 64)  # a block of 256 simulated threads takes seconds
    memory._kept.clear()
    yield OnDevice
    memory._kept.clear()
    cudasim.forget()


def value(result):
    return np.asarray(result.copy_to_host())


LAYOUTS = {
    "contiguous": lambda x: np.ascontiguousarray(x),
    "class axis first": lambda x: np.moveaxis(np.ascontiguousarray(np.moveaxis(x, -1, 0)), 0, -1),
    "channels in the middle": lambda x: np.moveaxis(np.ascontiguousarray(np.moveaxis(x, -1, 1)), 1, -1),
    "every other class": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
    "reversed rows": lambda x: np.ascontiguousarray(x[::-1])[::-1],
    "padded rows": lambda x: np.concatenate([x, x], axis=-1)[..., : x.shape[-1]],
    "reversed": lambda x: np.ascontiguousarray(x[:, ::-1, ::-1])[:, ::-1, ::-1],
    "broadcast": lambda x: np.broadcast_to(x[:1], x.shape),
}


@pytest.mark.parametrize("classes", [3, 40])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("columns", [True, False])
def test_layouts(layout, classes, columns, on_gpu, monkeypatch, rng):
    if columns:
        if layout not in ("class axis first", "channels in the middle"):
            pytest.skip("rows do not lie side by side")
        monkeypatch.setattr(device, "facts", lambda: device.DeviceFacts("simulator", (9, 0), 0))
        monkeypatch.setattr(plan, "COLUMN_THREADS", 32)
    x = LAYOUTS[layout](rng.normal(size=(2, 2, classes)).astype(np.float32) * 3)
    y = rng.integers(0, classes, (2, 2)).astype(np.uint8)
    y[0, 1] = 255
    options = make_options(ignore_index=255)
    loss, grad = arrays.loss(options, on_gpu(x), on_gpu(y), want_grad=True)
    exact, slope = xn.cross_entropy_and_grad(x.astype(np.float64), y, ignore_index=255, backend="numpy")
    assert abs(float(value(loss)) - exact) < 1e-5 * max(1, exact)
    assert value(loss).shape == ()
    assert np.abs(value(grad) - slope).max() < 1e-6


def test_options_on_the_device(on_gpu, rng):
    x, y = rng.normal(size=(5, 9)).astype(np.float32), rng.integers(0, 9, 5)
    weight, sample = rng.uniform(0.5, 2, 9).astype(np.float32), rng.uniform(0.5, 2, 5)
    for options in (
        {"reduction": "none"},
        {"z_loss": 0.1, "focal_gamma": 2},
        {"reduction": "sum", "label_smoothing": 0.1},
    ):
        checked = make_options(**options)
        loss, grad = arrays.loss(checked, on_gpu(x), on_gpu(y), on_gpu(weight), on_gpu(sample), want_grad=True)
        exact, slope = xn.cross_entropy_and_grad(
            x.astype(np.float64), y, weight=weight, sample_weight=sample, backend="numpy", **options
        )
        assert np.allclose(value(loss), exact, rtol=2e-6)
        assert np.allclose(value(grad), slope, atol=1e-6)
    q = rng.dirichlet(np.ones(9), 5).astype(np.float32)
    loss, _ = arrays.loss(make_options(), on_gpu(x), on_gpu(q), weight, sample)  # weights from the host
    exact = xn.cross_entropy(x.astype(np.float64), q, weight=weight, sample_weight=sample, backend="numpy")
    assert np.allclose(value(loss), exact, rtol=2e-6)


def test_upstream_gradients_and_in_place(on_gpu, rng):
    x, y = rng.normal(size=(5, 9)).astype(np.float32), rng.integers(0, 9, 5)
    exact = xn.cross_entropy_grad(x.astype(np.float64), y, backend="numpy")
    twice = arrays.gradient(make_options(), on_gpu(x), on_gpu(y), grad_output=on_gpu(np.array(2.0, np.float32)))
    assert np.allclose(value(twice), 2 * exact, atol=1e-6)
    half = arrays.gradient(make_options(), on_gpu(x), on_gpu(y), grad_output=0.5)
    assert np.allclose(value(half), exact / 2, atol=1e-6)
    upstream = rng.normal(size=5)
    rows = arrays.gradient(make_options(reduction="none"), on_gpu(x), on_gpu(y), grad_output=on_gpu(upstream))
    assert np.allclose(value(rows), 5 * exact * upstream[:, None], atol=1e-5)
    given = on_gpu(x)
    _, grad = arrays.loss(make_options(), given, on_gpu(y), want_grad=True, out=given)
    assert grad is given
    assert np.allclose(x, exact, atol=1e-6)


def test_softmax_family_on_the_device(on_gpu, rng):
    x = rng.normal(size=(2, 3, 5)).astype(ml_dtypes.bfloat16)
    exact = xn.softmax(x.astype(np.float64), axis=1, backend="numpy")
    out = on_gpu(np.empty(x.shape, ml_dtypes.bfloat16))
    assert arrays.rowwise(make_options(axis=1), on_gpu(x), out, "softmax") is out
    assert np.allclose(out.array.astype(np.float64), exact, rtol=2**-8)
    lse = arrays.rowwise(make_options(axis=1), on_gpu(x), None, "")
    assert np.allclose(value(lse), xn.logsumexp(x.astype(np.float64), axis=1, backend="numpy"), rtol=1e-6)


def test_errors_are_those_of_every_backend(on_gpu):
    x, y = np.zeros((2, 2, 3), np.float32), np.array([[0, 1], [7, 2]])
    with pytest.raises(IndexError) as expected:
        xn.cross_entropy(x, y, backend="numpy")
    with pytest.raises(IndexError) as found:
        arrays.loss(make_options(), on_gpu(x), on_gpu(y))
    assert str(found.value) == str(expected.value)
    good, weight = on_gpu(np.zeros((2, 2), np.int64)), np.array([1.0, np.nan, 1.0])
    with pytest.raises(ValueError, match=r"weight\[1\] = nan must be finite and not negative"):
        arrays.loss(make_options(), on_gpu(x), good, on_gpu(weight))
    with pytest.raises(ValueError, match=r"sample_weight\[1, 0\] = -1.0 must be finite and not negative"):
        arrays.loss(make_options(), on_gpu(x), good, None, on_gpu(np.array([[1.0, 1], [-1, 1]])))
    for bad, error, words in (
        (x.astype(np.int32), TypeError, "logits have dtype int32"),
        (np.empty((0, 0), np.float32), ValueError, "no classes"),
    ):
        with pytest.raises(error, match=words):
            arrays.loss(make_options(), on_gpu(bad), good)
    with pytest.raises(TypeError, match="target is not on the GPU"):
        arrays.loss(make_options(), on_gpu(x), np.zeros((2, 2), np.int64))
    with pytest.raises(ValueError, match=r"\(4,\)"):
        arrays.loss(make_options(), on_gpu(x), on_gpu(np.zeros(4, np.int64)))
    with pytest.raises(ValueError, match="read-only"):
        arrays.loss(make_options(), on_gpu(x), good, want_grad=True, out=OnDevice(np.zeros_like(x), read_only=True))
    with pytest.raises(ValueError, match="shares memory"):
        arrays.loss(make_options(), on_gpu(x), good, want_grad=True, out=on_gpu(x[:, ::-1]))


def test_remedies_for_targets_on_a_gpu(on_gpu):
    """Elements on a GPU are not read for the sake of a message, and arrays there are not converted."""
    x = np.zeros((2, 3), np.float32)
    with pytest.raises(TypeError) as caught:
        arrays.loss(make_options(), on_gpu(x), on_gpu(np.array([0.0, np.nan])))
    assert str(caught.value) == (
        "target has the shape of class indices but dtype float64; class indices are integers: convert with "
        "target.astype(np.int64), or pass a distribution of shape (2, 3)"
    )
    for one_hot in (np.eye(2, 3, dtype=np.int64), np.eye(2, 3, dtype=bool)):
        with pytest.raises(TypeError) as caught:
            arrays.loss(make_options(), on_gpu(x), on_gpu(one_hot))
        assert str(caught.value) == (
            f"target has dtype {one_hot.dtype}; on the GPU a distribution must be float64, float32, float16 or "
            "bfloat16: convert it, or pass the class indices of one-hot rows, target.argmax(axis)"
        )
    first, second = on_gpu(np.array([0, 1])), on_gpu(x)
    first.shape, first.dtype, second.shape, second.dtype = (2,), "int64", (2, 3), "float32"
    with pytest.raises(TypeError, match=r"dtype int64; .*; the arguments may be swapped: the logits come first"):
        arrays.loss(make_options(), first, second)


GOOD = np.zeros((2, 2), np.int64)
WRONG = {  # arguments of cross_entropy_grad beside logits of shape (2, 2, 3)
    "a label out of range": {"target": np.array([[0, 1], [7, 2]])},
    "a target of another shape": {"target": np.zeros(4, np.int64)},
    "a target for another axis": {"target": np.zeros((2, 3), np.int64)},
    "a real target": {"target": np.zeros((2, 2))},
    "an ignored distribution": {"target": np.ones((2, 2, 3), np.float32), "ignore_index": 1},
    "an infinite weight": {"target": GOOD, "weight": np.array([1.0, 1.0, np.inf])},
    "a negative weight": {"target": GOOD, "weight": np.array([-0.1, 1.0, 1.0], np.float32)},
    "a negative sample weight": {"target": GOOD, "sample_weight": np.array([[1.0, 1], [-1, 1]], ml_dtypes.bfloat16)},
    "weights of another shape": {"target": GOOD, "weight": np.ones(2)},
    "sample weights of another shape": {"target": GOOD, "sample_weight": np.ones(2)},
    "a saved lse of another shape": {"target": GOOD, "lse": np.ones((2, 3))},
    "a grad_output that is not one": {"target": GOOD, "grad_output": np.ones((2, 2))},
    "a grad_output of another shape": {"target": GOOD, "grad_output": np.ones(2), "reduction": "none"},
    "an out of another shape": {"target": GOOD, "out": np.ones((2, 2, 4), np.float32)},
    "an out of another dtype": {"target": GOOD, "out": np.ones((2, 2, 3))},
    "an out that overlaps itself": {"target": GOOD, "out": as_strided(np.zeros(3, np.float32), (2, 2, 3), (0, 0, 4))},
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("where", ["device", "host"])
def test_device_arrays_raise_the_same_words(name, where, on_gpu):
    """Factors may also come from the host; target and out may not."""
    x, wrong = np.zeros((2, 2, 3), np.float32), WRONG[name]
    with pytest.raises((ValueError, TypeError, IndexError)) as expected:
        xn.cross_entropy_grad(x, backend="numpy", **wrong)
    options = make_options(**{key: wrong[key] for key in ("ignore_index", "reduction") if key in wrong})
    moved = {
        key: on_gpu(array) if where == "device" or key in ("target", "out") else array
        for key, array in wrong.items()
        if isinstance(array, np.ndarray)
    }
    with pytest.raises(expected.type) as found:
        arrays.gradient(options, on_gpu(x), **moved)
    assert str(found.value) == str(expected.value)


def test_one_upstream_gradient_for_all_rows(on_gpu, rng):
    """As for NumPy arrays: next to reduction="none" it may be one number, on the host or on the device."""
    x, y = rng.normal(size=(5, 9)).astype(np.float32), rng.integers(0, 9, 5)
    exact = xn.cross_entropy_grad(x.astype(np.float64), y, reduction="none", grad_output=0.5, backend="numpy")
    for half in (0.5, on_gpu(np.array(0.5, np.float32))):
        got = arrays.gradient(make_options(reduction="none"), on_gpu(x), on_gpu(y), grad_output=half)
        assert np.allclose(value(got), exact, atol=1e-6)


def test_deferred_checks(on_gpu, monkeypatch, rng):
    x, y = rng.normal(size=(4, 6)).astype(np.float32), np.array([0, 1, 9, 3])
    with deferred_checks() as checks:
        _, grad = arrays.loss(make_options(reduction="none"), on_gpu(x), on_gpu(y), want_grad=True)
        assert np.isnan(value(grad)[2]).all()  # loud, until checked
        assert np.isfinite(value(grad)[[0, 1, 3]]).all()
        entered = []
        on_its_device = label_scan.on_its_device
        monkeypatch.setattr(label_scan, "on_its_device", lambda x: (entered.append(x), on_its_device(x))[1])
        with pytest.raises(IndexError, match=r"target\[2\] = 9"):
            checks.check()
        assert len(entered) == 1  # the device may have been changed in between
        lse = xn.logsumexp(x, backend="numpy")
        with deferred_checks() as unread:
            slope = arrays.gradient(make_options(reduction="none"), on_gpu(x), on_gpu(y), lse=on_gpu(lse))
            unread.pending.clear()
        assert np.isnan(value(slope)[2]).all()
        assert np.isfinite(value(slope)[[0, 1, 3]]).all()
    y[2] = -100
    options = {"z_loss": 0.1, "weight": np.arange(1.0, 7.0)}
    with deferred_checks():
        loss, grad = arrays.loss(make_options(z_loss=0.1), on_gpu(x), on_gpu(y), options["weight"], want_grad=True)
    exact, slope = xn.cross_entropy_and_grad(x.astype(np.float64), y, backend="numpy", **options)
    assert np.allclose(value(loss), exact, rtol=2e-6)
    assert np.allclose(value(grad), slope, atol=1e-6)
    for reduction in ("mean", "none"):
        with deferred_checks():
            chosen = make_options(z_loss=0.1, reduction=reduction)
            loss, _ = arrays.loss(chosen, on_gpu(x), on_gpu(y), options["weight"])  # without the gradient
        exact = xn.cross_entropy(x.astype(np.float64), y, backend="numpy", reduction=reduction, **options)
        assert np.allclose(value(loss), exact, rtol=2e-6)


def test_long_denominators(on_gpu, monkeypatch):
    """Each thread adds the weights of many rows."""
    monkeypatch.setattr(launch, "SCAN_THREADS", 1)
    weights, labels = np.full(3000, 0.1), np.zeros(3000, np.int64)
    operands = Operands(
        (1, 3000, 3),
        Operand("float32", 0),
        labels=Operand("int64", cudasim.allow(labels), 0, 8, 8),
        sample_weight=Operand("float64", cudasim.allow(weights)),
    )
    found = launch.read_scan(launch.scan_labels(operands, True, 0, keep=False), 0)
    assert found.weight_sum == found.sample_sum == math.fsum(weights)


def test_unsigned_labels_beyond_int64(on_gpu, rng):
    x, y = rng.normal(size=(3, 6)).astype(np.float32), np.array([0, 2**64 - 1, 5], np.uint64)
    for ignore in (2**64 - 1, (2**64 - 1, 7)):
        loss, _ = arrays.loss(make_options(ignore_index=ignore), on_gpu(x), on_gpu(y))
        exact = xn.cross_entropy(x.astype(np.float64), y, ignore_index=ignore, backend="numpy")
        assert np.allclose(value(loss), exact, rtol=2e-6)
    with pytest.raises(IndexError, match=rf"target\[1\] = {2**64 - 1} is out of range"):
        arrays.loss(make_options(), on_gpu(x), on_gpu(y))


def test_memory_of_calls_is_kept():
    """Nothing is freed between calls, and nobody gets what another thread or an unread check still uses."""
    memory._kept.clear()
    first = memory.scratch(64)
    assert memory.address(memory.scratch(64)) == memory.address(first)
    with ThreadPoolExecutor(1) as pool:
        elsewhere = pool.submit(memory.scratch, 64).result()
    assert memory.address(elsewhere) != memory.address(first)
    count = memory.LENT_AT_ONCE + 1
    lent = [memory.lend(64) for _ in range(count)]
    places = {memory.address(one) for one in lent}
    assert len(places) == count
    assert all(place % 8 == 0 for place in places)
    lent.clear()
    assert memory.address(memory.lend(64)) in places
    memory._kept.clear()


def test_host_factors_are_copied_on_the_stream(on_gpu, monkeypatch, rng):
    streams = []
    original = memory.upload
    monkeypatch.setattr(memory, "upload", lambda array, stream=0: (streams.append(stream), original(array, stream))[1])
    monkeypatch.setattr(inputs, "current_stream", lambda adopted: 7)
    monkeypatch.setattr(memory, "download", lambda there, array, stream=0: there.copy_to_host(array.view(np.uint8)))
    x, y = rng.normal(size=(4, 6)).astype(np.float32), np.array([0, 1, 2, 3])
    arrays.loss(make_options(ignore_index=(4, 5)), on_gpu(x), on_gpu(y), np.ones(6))
    assert set(streams) == {7}


def test_an_evaluation_adds_up_rows_on_the_host(on_gpu, monkeypatch, rng):
    x, y, s = rng.normal(size=(5, 4)).astype(np.float32), np.array([0, 1, -100, 3, 2]), rng.uniform(0, 2, 5)
    monkeypatch.setitem(registry._ready, "cuda", BACKEND)
    monkeypatch.setattr(host, "numba_cuda", lambda: SimpleNamespace(as_cuda_array=lambda x: cuda.to_device(x.array)))
    found = xn.evaluate(on_gpu(x), on_gpu(y), top_k=(1, 4), sample_weight=on_gpu(s))
    expected = xn.evaluate(x.astype(np.float64), y, top_k=(1, 4), sample_weight=s, backend="numpy")
    assert (found.accuracy, found.n_rows) == (expected.accuracy, 4)
    for name in ("loss", "perplexity", "bits", "entropy"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-6)
    assert xn.evaluate(on_gpu(x), on_gpu(y), top_k=1).n_rows == 4
    with pytest.raises(ValueError, match="above the number of classes, 4"):
        xn.evaluate(on_gpu(x), on_gpu(y))


def test_no_rows_and_no_weight(on_gpu):
    x, y = np.empty((0, 3), np.float32), np.empty(0, np.int64)
    assert np.isnan(value(arrays.loss(make_options(), on_gpu(x), on_gpu(y))[0]))
    assert value(arrays.loss(make_options(reduction="sum"), on_gpu(x), on_gpu(y))[0]) == 0
    x, y = np.ones((2, 3), np.float32), np.array([-100, -100])
    loss, grad = arrays.loss(make_options(), on_gpu(x), on_gpu(y), want_grad=True)
    assert np.isnan(value(loss))
    assert not value(grad).any()


def test_long_sums_take_more_than_one_level(on_gpu, monkeypatch, rng):
    monkeypatch.setattr(plan, "SUM_ALONE", 40)
    for module in (plan, launch):
        monkeypatch.setattr(module, "SCAN_ROWS", 30)
    rows, target = rng.normal(size=1300).astype(np.float32), np.zeros(1, np.float32)
    launch.reduce_rows(Operand("float32", cudasim.allow(rows)), 1300, cudasim.allow(target), 0, 2.0, 0)
    assert abs(target[0] - rows.astype(np.float64).sum() / 2) < 1e-5


def test_torch_results_are_tensors(monkeypatch, rng):
    torch = pytest.importorskip("torch")

    def allowed(made):
        cudasim.allow(made.owner.detach().view(torch.uint8).numpy() if made.owner.ndim else made.owner.numpy())
        return made

    original = adopt.empty
    monkeypatch.setattr(adopt, "on_device", lambda value: True)
    monkeypatch.setattr(inputs, "on_device", lambda value: isinstance(value, torch.Tensor))
    monkeypatch.setattr(inputs, "current_stream", lambda adopted: 0)
    for module in (adopt, arrays, inputs):
        monkeypatch.setattr(module, "empty", lambda *args: allowed(original(*args)))
    monkeypatch.setattr(device, "facts", lambda: device.DeviceFacts("simulator", (9, 0), 132))
    monkeypatch.setattr(launch, "SCAN_THREADS", 64)
    x = torch.tensor(rng.normal(size=(3, 8)), dtype=torch.bfloat16, requires_grad=True)
    y = torch.tensor([1, 7, 0])
    cudasim.allow(x.detach().view(torch.uint8).numpy())
    cudasim.allow(y.numpy())
    loss, grad = arrays.loss(make_options(), x.detach(), y, want_grad=True)
    expected = torch.nn.functional.cross_entropy(x.double(), y)
    (slope,) = torch.autograd.grad(expected, x)
    assert loss.dtype == torch.float32
    assert loss.shape == ()
    assert grad.dtype == torch.bfloat16
    assert not grad.requires_grad
    assert abs(loss.item() - expected.item()) < 1e-6
    assert (grad.float() - slope.float()).abs().max() < 2e-3
    cudasim.forget()
    memory._kept.clear()


def test_numba_device_arrays_are_results(on_gpu):
    loss, grad = arrays.loss(make_options(), on_gpu(np.eye(3, dtype=np.float16)), on_gpu(np.arange(3)), want_grad=True)
    assert isinstance(grad, type(cuda.device_array(1)))
    assert grad.dtype == np.float16
    assert loss.dtype == np.float32
