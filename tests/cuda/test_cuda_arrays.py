"""Reasons, laziness and the adoption of other libraries' arrays: what needs no kernel.

The kernels on such arrays are tested in test_cuda_arrays_sim.py.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import xent_numba as xn
from tests.support.device_arrays import SIMULATED, OnDevice
from xent_numba.backends.cuda.arrays import adopt, dlpack
from xent_numba.backends.cuda.backend import BACKEND
from xent_numba.backends.cuda.runtime import device
from xent_numba.backends.registry import device_arrays
from xent_numba.devices import on_device


def test_numpy_calls_never_import_cuda():
    program = """
import sys, numpy as np, xent_numba as xn
x, y = np.ones((3, 4), np.float32), np.array([0, 1, 2])
xn.cross_entropy(x, y)
import xent_numba.backends.cuda.backend
touched = [name for name in sys.modules if name.startswith(("numba_cuda", "cuda.", "xent_numba.backends.cuda.hw.intr"))]
touched += [name for name in sys.modules if name.startswith("numba.cuda.cudadrv")]
assert not touched, touched
"""
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "0"}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment, timeout=120)


@pytest.mark.skipif(SIMULATED, reason="the simulator is always available")
def test_the_reason_is_given():
    reason = BACKEND.why_not()
    if reason is None:
        pytest.skip("a GPU is here")
    assert reason[0].islower() or reason.startswith("numba")
    assert str(xn.available_backends()["cuda"]).startswith("no: ")
    with pytest.raises(RuntimeError, match="cuda") as error:
        xn.cross_entropy([[1.0, 2.0]], [0], backend="cuda")
    assert reason in str(error.value)


def test_who_gets_device_arrays():
    with pytest.raises(TypeError, match="backend 'numpy' cannot read"):
        device_arrays("numpy")
    with pytest.raises(ValueError, match="unknown"):
        device_arrays("gpu")
    if not SIMULATED and BACKEND.why_not() is not None:
        with pytest.raises(RuntimeError, match="backend 'cuda' cannot run here"):
            device_arrays(None)


class FakeCuda:
    """As much of numba.cuda as `why_not` asks."""

    def __init__(self, error, capability=None, driver=(13, 0), compiler=(13, 0)):
        self.error, self.capability = error, capability
        versions = SimpleNamespace(get_version=lambda: driver)
        self.cudadrv = SimpleNamespace(driver=SimpleNamespace(driver=versions))
        self.runtime = SimpleNamespace(get_version=lambda: compiler)

    def is_available(self):
        return self.capability is not None

    def cuda_error(self):
        return self.error

    def get_current_device(self):
        return self

    @property
    def compute_capability(self):
        if isinstance(self.capability, Exception):
            raise self.capability
        return self.capability


@pytest.mark.parametrize(
    ("fake", "words"),
    [
        (FakeCuda("CUDA driver library cannot be found.\nEnsure ..."), "no NVIDIA driver"),
        (FakeCuda("[35] Call to cuInit: CUDA_ERROR_INSUFFICIENT_DRIVER"), "too old.*pip install"),
        (FakeCuda("CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"), "too old"),
        (FakeCuda("CUDA_ERROR_NO_DEVICE"), "no CUDA GPU"),
        (FakeCuda(None), "libNVVM.*pip install"),
        (FakeCuda(None, (9, 0), (12, 4)), r"too old.*12.4.*13.0.*cuda12"),
        (FakeCuda("CUDA_ERROR_UNKNOWN"), "CUDA_ERROR_UNKNOWN"),
        (FakeCuda(None, (7, 0)), "7.0, at least 7.5"),
        (FakeCuda(None, OSError("broken")), "broken.*update"),
        (FakeCuda(None, ImportError("no cuda.bindings")), "no cuda.bindings.*pip install"),
    ],
)
def test_every_reason(monkeypatch, fake, words):
    monkeypatch.setattr(device, "numba_cuda", lambda: fake)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert re.search(words, str(device.why_not()), re.DOTALL)


def test_not_installed(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install 'xent_numba[cuda13]'" in str(device.why_not())
    monkeypatch.undo()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    for capability in ((7, 5), (9, 0)):
        monkeypatch.setattr(device, "numba_cuda", lambda found=capability: FakeCuda(None, found))
        assert device.why_not() is None


def test_out_of_memory_says_how_much(monkeypatch):
    class Full:
        def device_array(self, *args, **kwargs):
            raise RuntimeError("[2] Call to cuMemAlloc results in CUDA_ERROR_OUT_OF_MEMORY")

        def current_context(self):
            return self

        def get_memory_info(self):
            return 2**20, 2**30

    from xent_numba.backends.cuda.runtime import memory as module

    monkeypatch.setattr(module, "numba_cuda", lambda: Full())
    with pytest.raises(MemoryError, match=r"512.0 MiB wanted, 1.0 of 1024.0 MiB free"):
        module.allocate(2**29)


def test_what_is_on_a_device():
    class Tensor:
        def __init__(self, kind):
            self.kind = kind

        def __dlpack_device__(self):
            return (self.kind, 0)

    class Torn(Tensor):
        @property
        def __cuda_array_interface__(self):
            raise RuntimeError("requires grad")

    assert on_device(Torn(2))
    assert not on_device(Torn(1))
    assert not on_device(object())
    assert on_device(Tensor(2))
    assert not on_device(Tensor(1))
    assert not on_device([1.0])
    assert not on_device(np.ones(2))
    assert on_device(OnDevice(np.ones(3)))


def test_a_stand_in_has_the_layout_and_not_the_data():
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)[:, ::-1, ::2]
    found = adopt.adopt(OnDevice(array, read_only=True), "logits")
    assert found.array.shape == array.shape
    assert found.array.strides == array.strides
    assert found.array.ctypes.data == array.ctypes.data
    assert not found.array.flags.writeable
    assert adopt.adopt(OnDevice(np.empty((0, 3))), "logits").array.shape == (0, 3)
    two_bytes = adopt.adopt(OnDevice(np.zeros(3, "V2")), "logits")
    assert two_bytes.dtype == "bfloat16"
    with pytest.raises(TypeError, match="target is not on the GPU"):
        adopt.adopt(np.ones(3), "target")
    with pytest.raises(TypeError, match="logits has dtype '>f4', which is not in this machine's byte order"):
        adopt.adopt(OnDevice(np.ones(3, ">f4")), "logits")


def test_arrays_on_different_gpus(monkeypatch):
    logits, target = OnDevice(np.ones((2, 3))), OnDevice(np.ones(2, np.int64))
    x = adopt.adopt(logits, "logits")
    monkeypatch.setattr(adopt, "device_of", lambda value: 0 if value is logits else 1)
    with pytest.raises(ValueError, match="target is on GPU 1, the logits are on GPU 0"):
        adopt.adopt(target, "target", x)
    assert adopt.adopt(logits, "grad_out", x).owner is logits


def test_jax_bfloat16_comes_by_dlpack(monkeypatch):
    """JAX has no other interface for it; results are made by the library, and are its arrays."""

    class Array:
        device, ready = SimpleNamespace(local_hardware_id=0), False

        def __init__(self, shape):
            self.bits = np.zeros(shape, np.int16)

        def __dlpack_device__(self):
            return (2, 0)

        def __dlpack__(self, stream=None):
            assert self.ready
            return self.bits.__dlpack__()

        def block_until_ready(self):
            self.ready = True
            return self

        @property
        def __cuda_array_interface__(self):
            raise AttributeError("not for bfloat16")

    Array.__module__ = "jaxlib"
    numpy = SimpleNamespace(empty=lambda shape, dtype, device: Array(shape))
    monkeypatch.setitem(sys.modules, "jax", SimpleNamespace(numpy=numpy))
    monkeypatch.setitem(dlpack.NAMES, 0, "bfloat")  # NumPy's own capsules have no bfloat16
    given = Array((2, 3))
    found = adopt.adopt(given, "logits")
    assert (found.dtype, found.library, found.array.ctypes.data) == ("bfloat16", "jax", given.bits.ctypes.data)
    result = adopt.empty(found.array.shape, found.dtype, found)
    monkeypatch.setattr(adopt, "numba_cuda", lambda: SimpleNamespace(synchronize=lambda: None))
    assert isinstance(adopt.release(result, 0), Array)


def test_dlpack_without_the_other_interface():
    array = np.arange(12, dtype=np.int32).reshape(3, 4)[:, 1:]

    class Tensor:
        def __dlpack_device__(self):
            return (2, 0)

        def __dlpack__(self, stream=None):
            assert stream == 1
            return array.__dlpack__()

    given = Tensor()
    found = adopt.adopt(given, "target")
    assert found.dtype == "int32"
    assert found.array.strides == array.strides
    assert np.array_equal(found.array, array)  # the memory is the host's here, so it can be read
    assert isinstance(found.view, dlpack.View)
    assert found.owner is given  # a result goes back as what its library made


@pytest.mark.parametrize("name", ["logits", "target", "weight", "sample_weight", "lse", "grad_output", "out"])
def test_no_gradient_is_lost_silently(name):
    """A tensor that requires a gradient, or an array that JAX traces, whichever argument it is."""
    pytest.importorskip("numba_cuda")
    from xent_numba.backends.cuda.arrays import api
    from xent_numba.prepare.options import make_options

    arguments = {"logits": OnDevice(np.ones((2, 3), np.float32)), "target": OnDevice(np.zeros(2, np.int64))}
    on_gpu = {"__dlpack_device__": lambda self: (2, 0)}
    tensor = type("Parameter", (), {"__module__": "torch.nn", "requires_grad": True, **on_gpu})()
    remedy = rf"^{name} is a tensor that requires a gradient, which would be lost here; pass {name}\.detach\(\)"
    with pytest.raises(TypeError, match=remedy):
        api.gradient(make_options(reduction="none"), **{**arguments, name: tensor})
    tracer = type("JitTracer", (type("Tracer", (), {"__module__": "jax._src.core", **on_gpu}),), {})()
    with pytest.raises(TypeError, match=f"^{name} is traced by JAX.*outside of jit"):
        api.gradient(make_options(reduction="none"), **{**arguments, name: tracer})
    if name == "logits":
        for output in ("softmax", ""):
            with pytest.raises(TypeError, match=remedy):
                api.rowwise(make_options(), tensor, None, output)


def test_a_torch_tensor_that_requires_gradients():
    torch = pytest.importorskip("torch")
    tensor = torch.ones(3, 8, dtype=torch.bfloat16, requires_grad=True)[:, ::2]
    assert not on_device(tensor)  # it is on the host
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adopt, "on_device", lambda value: True)
        with pytest.raises(
            TypeError, match=r"^logits is a tensor that requires a gradient.*pass logits\.detach\(\), and"
        ):
            adopt.adopt(tensor, "logits")
        with torch.no_grad():  # no gradient is wanted
            found = adopt.adopt(tensor, "logits")
    assert found.dtype == "bfloat16"
    assert found.library == "torch"
    assert found.array.strides == (16, 4)
    assert found.array.ctypes.data == tensor.data_ptr()


def test_no_gradient_is_lost_on_the_way_to_the_host():
    """Of sample weights, which `evaluate` copies."""
    pytest.importorskip("numba_cuda")
    from xent_numba.backends.cuda.arrays import api

    on_gpu = {"__dlpack_device__": lambda self: (2, 0)}
    parameter = type("Parameter", (), {"__module__": "torch.nn", "requires_grad": True, **on_gpu})()
    with pytest.raises(TypeError, match=r"^sample_weight is a tensor that requires a gradient, which would be lost"):
        api.to_host(parameter, "sample_weight")


def test_dlpack_alone_on_the_way_to_the_host(monkeypatch):
    """As sample weights of `evaluate`: Numba does not read DLPack, and has no bfloat16."""
    pytest.importorskip("numba_cuda")
    from xent_numba.backends.cuda.arrays import host

    class Tensor:
        def __init__(self, array):
            self.array = array

        def __dlpack_device__(self):
            return (2, 0)

        def __dlpack__(self, stream=None):
            return self.array.__dlpack__()

    class Read:
        """What Numba makes of an array that has the interface; its memory is the host's here."""

        def __init__(self, given):
            self.__array_interface__ = {**given.__cuda_array_interface__, "stream": None}

        def copy_to_host(self):
            return np.array(self)

    monkeypatch.setattr(host, "numba_cuda", lambda: SimpleNamespace(as_cuda_array=Read))
    array = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(host.to_host(Tensor(array[:, ::2]), "sample_weight"), array[:, ::2])
    np.testing.assert_array_equal(host.to_host(OnDevice(array[:, 1]), "sample_weight"), array[:, 1])
    assert host.to_host(Tensor(array[:0]), "sample_weight").shape == (0, 3)
    monkeypatch.setitem(dlpack.NAMES, 1, "bfloat")  # NumPy's own capsules have no bfloat16
    bits = np.array([0x3F00, 0x4040], np.uint16)
    np.testing.assert_array_equal(host.to_host(Tensor(bits), "sample_weight"), [0.5, 3.0])


def test_a_torch_tensor_of_bfloat16_on_the_way_to_the_host():
    torch = pytest.importorskip("torch")
    for needed in ("ml_dtypes", "numba_cuda"):
        pytest.importorskip(needed)
    from xent_numba.backends.cuda.arrays import api

    weights = api.to_host(torch.tensor([0.5, 3.0], dtype=torch.bfloat16), "sample_weight")
    assert np.array_equal(weights.astype(np.float64), [0.5, 3.0])


@pytest.mark.skipif(SIMULATED, reason="the simulator is always available")
def test_the_benchmark_says_what_is_missing():
    if BACKEND.why_not() is None:
        pytest.skip("a GPU is here")
    script = Path(__file__).parents[2] / "benchmarks" / "cuda.py"
    environment = {**os.environ, "PYTHONPATH": str(script.parents[1])}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [f"not measured: {BACKEND.why_not()}"]
