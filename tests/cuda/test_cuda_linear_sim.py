"""The linear head of device arrays with the kernels in Numba's simulator: a stand-in for CuPy, and PyTorch's tensors.

Runs in the process that test_cuda_sim.py starts.
"""

from __future__ import annotations

import sys

import numpy as np
import pytest

from tests.support.device_arrays import SIMULATED, CupyArray, OnDevice, fake_cupy

if not SIMULATED:
    pytest.skip("runs in the process that test_cuda_sim.py starts", allow_module_level=True)

import ml_dtypes

import xent_numba as xn
from tests.support import cudasim
from xent_numba.backends import registry
from xent_numba.backends.cuda import launch
from xent_numba.backends.cuda.arrays import adopt, inputs
from xent_numba.backends.cuda.backend import BACKEND
from xent_numba.backends.cuda.deferred import deferred_checks
from xent_numba.backends.cuda.plan import Plan
from xent_numba.backends.cuda.runtime import device as runtime
from xent_numba.backends.cuda.runtime import memory
from xent_numba.linear import device, device_libraries

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy scalars stand for registers here

ROWS, FEATURES, CLASSES = (2, 3), 4, 5
TOLERANCE = {"float64": 1e-11, "float32": 3e-6, "float16": 2e-3, "bfloat16": 2e-2}


@pytest.fixture(autouse=True)
def simulated(monkeypatch):
    monkeypatch.setitem(registry._ready, "cuda", BACKEND)
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy())
    monkeypatch.setattr(runtime, "facts", lambda: runtime.DeviceFacts("simulator", (9, 0), 132))
    monkeypatch.setattr(launch, "SCAN_THREADS", 1)
    monkeypatch.setattr(launch, "plan", lambda *args: Plan("columns", "forced: few threads", 2))
    memory._kept.clear()
    yield
    memory._kept.clear()
    cudasim.forget()


def cupy(array):
    return None if array is None else np.asarray(array).view(CupyArray)


def host(array):
    return np.asarray(array.view(np.ndarray)) if isinstance(array, CupyArray) else array


def make(rng, dtype=np.float32, bias=True):
    """input, linear_weight, target and linear_bias of a small head."""
    x, w = rng.normal(size=(*ROWS, FEATURES)).astype(dtype), rng.normal(size=(CLASSES, FEATURES)).astype(dtype)
    return x, w, rng.integers(0, CLASSES, ROWS), rng.normal(size=CLASSES).astype(dtype) if bias else None


def exact(*arrays):
    return [
        None if array is None else array.astype(np.float64) if array.dtype.kind in "fV" else array for array in arrays
    ]


def agree(found, expected, dtype):
    """Whether results on the device have the type and the values of those in float64."""
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            assert isinstance(one, CupyArray)
            error = np.abs(host(one).astype(np.float64) - other).max(initial=0)
            assert error <= TOLERANCE[dtype] * max(1, np.abs(other).max(initial=0))


CASES = {
    "plain": {},
    "one chunk": {"batch_chunk_size": 100},
    "no loss but rows": {"reduction": "none"},
    "weights": {"reduction": "none", "weights": True, "z_loss": 0.1},
    "the weights of a mean": {"weights": True, "z_loss": 0.1, "ignored": [1]},
    "ignored rows": {"ignored": [0, 3]},
    "the losses of ignored rows": {"ignored": [5], "reduction": "none", "weights": True},
    "many ignored labels": {"ignore_index": (-1, 2, -100), "ignored": [4]},
    "all rows ignored": {"ignored": range(6), "reduction": "sum"},
    "the mean of no rows": {"ignored": range(6)},
    "other logits": {"softcap": 2.0, "logit_scale": 1.5, "label_smoothing": 0.1},
    "a focal loss": {"focal_gamma": 2.0},
    "distribution": {"distribution": True, "weights": True},
}


@pytest.mark.parametrize("name", CASES)
def test_as_on_the_host(name, rng):
    options = {"batch_chunk_size": 2, **CASES[name]}
    x, w, y, b = make(rng)
    for row in options.pop("ignored", ()):
        y.reshape(-1)[row] = -100
        x.reshape(-1, FEATURES)[row] = np.nan
    if options.pop("distribution", False):
        y = rng.dirichlet(np.ones(CLASSES), ROWS).astype(np.float32)
    per_row, v, v_bias = {}, rng.normal(size=w.shape), rng.normal(size=CLASSES)
    if options.pop("weights", False):
        options["weight"], per_row["sample_weight"] = rng.uniform(0.5, 2, CLASSES), rng.uniform(0.5, 2, ROWS)
    there = {key: cupy(value) for key, value in per_row.items()}
    x64, w64, y64, b64 = exact(x, w, y, b)
    on_host = {"linear_bias": b64, "backend": "numpy", **options, **per_row}
    expected = xn.linear_cross_entropy_and_grad(x64, w64, y64, **on_host)
    found = xn.linear_cross_entropy_and_grad(cupy(x), cupy(w), cupy(y), linear_bias=cupy(b), **options, **there)
    if expected.loss != expected.loss if np.ndim(expected.loss) == 0 else False:
        assert np.isnan(host(found.loss))
    else:
        agree(found[:1], expected[:1], "float32")
    agree(found[1:], expected[1:], "float32")
    assert [array.dtype for array in found] == [np.float32] * 4
    alone = xn.linear_cross_entropy(cupy(x), cupy(w), cupy(y), linear_bias=cupy(b), **options, **per_row)
    assert np.allclose(host(alone), host(found.loss), rtol=1e-6, equal_nan=True)  # factors may come from the host
    product = xn.linear_cross_entropy_hvp(x64, w64, y64, v, bias_vector=v_bias, **on_host)
    vector = {"linear_bias": cupy(b), "bias_vector": cupy(v_bias.astype(np.float32))}
    got = xn.linear_cross_entropy_hvp(
        cupy(x), cupy(w), cupy(y), cupy(v.astype(np.float32)), **vector, **options, **there
    )
    agree(got, product, "float32")


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_dtypes(dtype, rng, monkeypatch):
    """float16 and bfloat16 are multiplied as float32, some classes at a time."""
    monkeypatch.setattr(device_libraries, "PANEL_BYTES", 2 * FEATURES * 4)
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    x, w, y, b = make(rng, kind)
    y[0, 1] = -100
    x64, w64, y64, b64 = exact(x, w, y, b)
    expected = xn.linear_cross_entropy_and_grad(x64, w64, y64, linear_bias=b64, backend="numpy")
    found = xn.linear_cross_entropy_and_grad(cupy(x), cupy(w), cupy(y), linear_bias=cupy(b), batch_chunk_size=2)
    assert [array.dtype for array in found[1:]] == [kind] * 3
    assert found.loss.dtype == np.dtype("float64" if dtype == "float64" else "float32")
    agree(found[:1], expected[:1], "float32" if dtype != "float64" else dtype)
    agree(found[1:], expected[1:], dtype)


def test_a_product_beyond_float16_is_not_infinite():
    x, w, y = np.full((1, 4), 300, np.float16), np.eye(3, 4, dtype=np.float16) * 300, np.array([1])
    loss = xn.linear_cross_entropy(cupy(x), cupy(w), cupy(y))
    assert host(loss) == np.float32(np.log(3))
    assert np.isinf(host(xn.linear_cross_entropy_and_grad(cupy(x), cupy(w), cupy(y), logit_scale=900).input)).any()


LAYOUTS = {
    "transposed rows": lambda a: np.ascontiguousarray(a.swapaxes(0, 1)).swapaxes(0, 1),
    "every other feature": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "reversed rows": lambda a: np.ascontiguousarray(a[::-1])[::-1],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("ignored", [False, True])
def test_layouts(layout, ignored, rng):
    x, w, y, _ = make(rng)
    if ignored:
        y[1, 1] = -100
    x, out = (LAYOUTS[layout](array) for array in (x, np.zeros_like(x)))
    q = LAYOUTS[layout](rng.dirichlet(np.ones(CLASSES), ROWS).astype(np.float32))
    for target in (LAYOUTS[layout](y[..., None])[..., 0], q):
        expected = xn.linear_cross_entropy_and_grad(x, w, target, backend="numpy")
        found = xn.linear_cross_entropy_and_grad(
            cupy(x), cupy(w), cupy(target), input_grad_out=cupy(out), batch_chunk_size=2
        )
        agree(found, expected, "float32")
        assert np.shares_memory(host(found.input), out)


def test_only_what_is_asked_for(rng):
    x, w, y, b = make(rng)
    expected = xn.linear_cross_entropy_and_grad(x, w, y, linear_bias=b, backend="numpy")
    out = cupy(np.full_like(b, 9))
    found = xn.linear_cross_entropy_and_grad(
        cupy(x), cupy(w), cupy(y), linear_bias=cupy(b), wrt="linear_bias", linear_bias_grad_out=out
    )
    assert found.linear_bias is out
    agree(found, (expected.loss, None, None, expected.linear_bias), "float32")
    without = xn.linear_cross_entropy_and_grad(cupy(x), cupy(w), cupy(y))
    assert without.linear_bias is None


def test_one_row_and_none(rng):
    w = rng.normal(size=(3, 2)).astype(np.float32)
    x, y = rng.normal(size=2).astype(np.float32), np.array(1)
    agree(
        xn.linear_cross_entropy_and_grad(cupy(x), cupy(w), cupy(y)),
        xn.linear_cross_entropy_and_grad(x, w, y, backend="numpy"),
        "float32",
    )
    x, y = np.empty((0, 2), np.float32), np.empty(0, np.int64)
    found = xn.linear_cross_entropy_and_grad(cupy(x), cupy(w), cupy(y))
    assert np.isnan(host(found.loss))
    assert not host(found.linear_weight).any()
    assert xn.linear_cross_entropy(cupy(x), cupy(w), cupy(y), reduction="none").shape == (0,)


def test_no_weight(rng):
    """Where the denominator of a mean is 0, all gradients are, whatever the rows are."""
    x, w, y, _ = make(rng)
    x[0, 0] = np.nan
    found = xn.linear_cross_entropy_and_grad(cupy(x), cupy(w), cupy(y), sample_weight=np.zeros(ROWS))
    assert np.isnan(host(found.loss))
    assert not host(found.input).any()
    assert not host(found.linear_weight).any()


def test_on_the_stream_of_the_library(rng, monkeypatch):
    streams = []
    original = launch.run
    monkeypatch.setattr(launch, "run", lambda operands, stream=0: (streams.append(stream), original(operands, stream)))
    monkeypatch.setattr(inputs, "current_stream", lambda adopted: 7)
    monkeypatch.setattr(memory, "download", lambda there, array, stream=0: there.copy_to_host(array.view(np.uint8)))
    x, w, y, _ = (cupy(array) for array in make(rng))
    xn.linear_cross_entropy_and_grad(x, w, y, batch_chunk_size=4)
    assert streams == [7, 7]


def test_numpy_arrays_on_the_cuda_backend(rng):
    x, w, y, b = make(rng)
    expected = xn.linear_cross_entropy_and_grad(x, w, y, linear_bias=b, backend="numpy")
    found = xn.linear_cross_entropy_and_grad(x, w, y, linear_bias=b, backend="cuda", batch_chunk_size=4)
    for one, other in zip(found, expected, strict=True):
        assert np.abs(one - other).max() <= TOLERANCE["float32"]


def test_deferred_checks(rng):
    x, w, y, _ = make(rng)
    y[0, 2] = -100
    expected = xn.linear_cross_entropy_and_grad(x, w, y, z_loss=0.1, backend="numpy")
    with deferred_checks():
        found = xn.linear_cross_entropy_and_grad(cupy(x), cupy(w), cupy(y), z_loss=0.1, batch_chunk_size=2)
    agree(found, expected, "float32")
    y[1, 0] = 9
    with deferred_checks() as checks:
        xn.linear_cross_entropy(cupy(x), cupy(w), cupy(y))
        with pytest.raises(IndexError, match=r"target\[1, 0\] = 9 is out of range for 5 classes"):
            checks.check()


WRONG = {
    "features": {"linear_weight": np.ones((5, 6), np.float32)},
    "a transposed weight": {"linear_weight": np.ones((4, 5), np.float32)},
    "no matrix": {"linear_weight": np.ones(4, np.float32)},
    "no classes": {"linear_weight": np.ones((0, 4), np.float32)},
    "a target of another shape": {"target": np.zeros(6, np.int64)},
    "a label out of range": {"target": np.array([[0, 1, 2], [3, 4, 5]])},
    "a real target": {"target": np.zeros((2, 3))},
    "a bias of another shape": {"linear_bias": np.ones(4, np.float32)},
    "a bad weight": {"weight": np.array([1, 1, -1, 1, 1.0])},
    "a bad sample weight": {"sample_weight": np.full((2, 3), np.inf)},
    "sample weights of another shape": {"sample_weight": np.ones(3)},
    "a chunk of nothing": {"batch_chunk_size": 0},
    "unknown names": {"wrt": ("input", "weight")},
    "an out that is not wanted": {"wrt": "input", "linear_weight_grad_out": np.ones((5, 4), np.float32)},
    "an out without a bias": {"linear_bias_grad_out": np.ones(5, np.float32)},
    "an out of another shape": {"input_grad_out": np.ones((2, 3, 5), np.float32)},
    "an out of another dtype": {"linear_weight_grad_out": np.ones((5, 4))},
}


@pytest.mark.parametrize("name", WRONG)
def test_the_words_of_the_host(name):
    right = {"input": np.ones((2, 3, 4), np.float32), "linear_weight": np.ones((5, 4), np.float32)}
    call = {**right, "target": np.zeros((2, 3), np.int64), **WRONG[name]}
    with pytest.raises((ValueError, TypeError, IndexError)) as expected:
        xn.linear_cross_entropy_and_grad(**call, backend="numpy")
    there = {key: cupy(value) if isinstance(value, np.ndarray) else value for key, value in call.items()}
    with pytest.raises(expected.type) as found:
        xn.linear_cross_entropy_and_grad(**there)
    assert str(found.value) == str(expected.value)


def test_results_apart_from_inputs(rng):
    x, w, y, _ = make(rng)
    there = [cupy(array) for array in (x, w, y)]
    with pytest.raises(ValueError, match="linear_weight_grad_out shares memory with an input"):
        xn.linear_cross_entropy_and_grad(*there, linear_weight_grad_out=there[1])
    s = rng.uniform(size=ROWS).astype(np.float32)
    with pytest.raises(ValueError, match="input_grad_out shares memory with an input"):
        xn.linear_cross_entropy_and_grad(
            cupy(x[..., :1]), cupy(w[:, :1]), there[2], sample_weight=cupy(s), input_grad_out=cupy(s[..., None])
        )
    for arguments in ((x, w, y, np.ones_like(w)), (*there, cupy(np.ones_like(w)))):
        with pytest.raises(ValueError, match="out shares memory with an input"):
            xn.linear_cross_entropy_hvp(*arguments, out=arguments[-1], backend="auto" if arguments[0] is x else None)


def test_who_can_multiply(rng):
    x, w, y, _ = make(rng)
    with pytest.raises(RuntimeError) as caught:
        xn.linear_cross_entropy(OnDevice(x), OnDevice(w), OnDevice(y))
    assert str(caught.value) == (
        "input is on a GPU, as an array of tests (OnDevice), but the matrix products of a linear head take CuPy or "
        "PyTorch there; pass all arrays as those of one of them, which cupy.asarray(array) or "
        "torch.as_tensor(array, device='cuda') makes without a copy, or copy them to the host"
    )
    array = type("ArrayImpl", (OnDevice,), {"__module__": "jaxlib._jax", "__dlpack__": None})(x)
    with pytest.raises(RuntimeError, match=r"an array of JAX \(ArrayImpl\).*torch\.from_dlpack\(array\) or cupy\.from"):
        xn.linear_cross_entropy(array, cupy(w), cupy(y))
    with pytest.raises(TypeError) as caught:
        xn.linear_cross_entropy(cupy(x), cupy(w), OnDevice(y))
    assert str(caught.value) == (
        "target is an array of tests, and input one of CuPy; pass cupy.asarray(target), which does not copy it"
    )
    with pytest.raises(TypeError, match=r"^linear_weight is not on the GPU as input is; move it there first$"):
        xn.linear_cross_entropy(cupy(x), w, cupy(y))
    with pytest.raises(TypeError, match=r"^target is not on the GPU as input is; move it there first$"):
        xn.linear_cross_entropy(cupy(x), cupy(w), y)
    with pytest.raises(TypeError, match=r"^linear_weight is on a GPU, which this backend cannot read"):
        xn.linear_cross_entropy(x, OnDevice(w), y, backend="numpy")
    with pytest.raises(
        TypeError, match=r"^input is on a GPU, which backend 'numpy' cannot read; use 'cuda', or copy it"
    ):
        xn.linear_cross_entropy(cupy(x), cupy(w), cupy(y), backend="numpy")
    with pytest.raises(TypeError, match=r"^linear_weight has dtype int64; on the GPU it must be float64, float32"):
        xn.linear_cross_entropy(cupy(x), cupy(w.astype(np.int64)), cupy(y))
    with pytest.raises(TypeError, match=r"^linear_weight_grad_out is not on the GPU as input is"):
        xn.linear_cross_entropy_and_grad(cupy(x), cupy(w), cupy(y), linear_weight_grad_out=np.empty_like(w))


def test_another_gpu(rng, monkeypatch):
    x, w, y = (cupy(array) for array in make(rng)[:3])
    monkeypatch.setattr(adopt, "device_of", lambda value: 1 if value is w else 0)
    with pytest.raises(ValueError, match=r"^linear_weight is on GPU 1, input is on GPU 0; move it there first$"):
        xn.linear_cross_entropy(x, w, y)


def test_sparse_matrices_of_cupy(rng):
    x, w, y, _ = make(rng)
    matrix = type("csr_matrix", (), {"__module__": "cupyx.scipy.sparse._csr", "shape": (6, 4)})()
    with pytest.raises(TypeError) as caught:
        xn.linear_cross_entropy(matrix, cupy(w), cupy(y.reshape(-1)))
    assert str(caught.value) == (
        "input is a sparse matrix on a GPU, where only dense arrays can be multiplied; pass input.toarray(), or "
        "input.get() with all other arrays on the host"
    )
    for input in (x, cupy(x)):
        with pytest.raises(TypeError, match=r"^linear_weight is a sparse matrix on a GPU.*linear_weight\.toarray\(\)$"):
            xn.linear_cross_entropy(input, matrix, cupy(y))


@pytest.fixture
def torch(monkeypatch):
    """PyTorch, whose tensors count as those on a GPU."""
    module = pytest.importorskip("torch")
    original = adopt.adopt

    def allowed(value, name, logits=None):
        found = original(value, name, logits)
        if found.array.size:
            cudasim.allow(found.array)
        return found

    for user in (adopt, inputs, device, device_libraries):
        monkeypatch.setattr(user, "adopt", allowed)
    for user in (adopt, inputs, device):
        monkeypatch.setattr(user, "on_device", lambda value: isinstance(value, module.Tensor))
    monkeypatch.setattr(inputs, "current_stream", lambda adopted: 0)
    return module


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_torch(torch, dtype, reduction, rng, monkeypatch):
    monkeypatch.setattr(device_libraries, "PANEL_BYTES", 2 * FEATURES * 4)
    kind = getattr(torch, dtype)
    x, w, y, b = (torch.tensor(array) for array in make(rng, np.float64))
    x, w, b = (array.to(kind) for array in (x, w, b))
    y[0, 1] = -100
    x[0, 1] = torch.nan
    s = rng.uniform(0.5, 2, ROWS)
    s.setflags(write=False)
    options = {"reduction": reduction}
    leaves = [array.double().nan_to_num().requires_grad_() for array in (x, w, b)]
    logits = torch.nn.functional.linear(*leaves)
    rows = torch.tensor(s) * torch.nn.functional.cross_entropy(
        logits.reshape(-1, CLASSES), y.reshape(-1), reduction="none"
    ).reshape(ROWS)
    expected = rows if reduction == "none" else rows.sum() / (torch.tensor(s) * (y >= 0)).sum()
    slopes = torch.autograd.grad(expected.sum(), leaves)
    out = torch.full_like(w.T, 7).T  # not contiguous
    outs = {"input": None, "linear_weight": out, "linear_bias": None}
    with torch.autocast("cpu", torch.bfloat16):
        found = device.loss_and_gradients(
            xn.prepare.options.make_options(**options), (x, w, b), (y, None, s), 2, xn.prepare.linear.WRT, outs
        )
    assert found[2] is out
    assert found[0].dtype == (torch.float64 if dtype == "float64" else torch.float32)
    assert (found[0] - expected).abs().max() <= TOLERANCE["float64" if dtype == "float64" else "float32"] * 4
    for one, slope in zip(found[1:], slopes, strict=True):
        assert one.dtype == kind
        assert (one.double() - slope).abs().max() <= TOLERANCE[dtype] * max(1, slope.abs().max())


def test_torch_layouts_and_refusals(torch, rng):
    x, w, y, _ = make(rng)
    turned = torch.tensor(x.swapaxes(0, 1).copy()).swapaxes(0, 1)
    target = torch.tensor(y.astype(np.uint8))
    target[1, 2] = 255
    v = rng.normal(size=w.shape).astype(np.float32)
    options = xn.prepare.options.make_options(ignore_index=255, softcap=2.0)
    found = device.hessian_vector_product(
        options, (turned, torch.tensor(w), None), (target, None, None), (torch.tensor(v), None), 2, False, {}
    )
    expected = xn.linear_cross_entropy_hvp(
        x, w, target.numpy(), v, ignore_index=255, softcap=2.0, gauss_newton=False, backend="numpy"
    )
    assert np.abs(found[0].numpy() - expected.linear_weight).max() < 3e-6
    with pytest.raises(TypeError, match=r"^linear_weight is a sparse tensor.*pass linear_weight\.to_dense\(\)$"):
        device.loss(options, (turned, torch.tensor(w).to_sparse(), None), (target, None, None), None)
    with pytest.raises(TypeError, match=r"^input is a tensor that requires a gradient.*linear_cross_entropy_and_grad"):
        device.loss(options, (turned.requires_grad_(), torch.tensor(w), None), (target, None, None), None)
