"""The linear head of CuPy and PyTorch arrays on a GPU, where there is one.

What needs no GPU is tested in test_cuda_linear_sim.py.
"""

from __future__ import annotations

import numpy as np
import pytest

import xent_numba as xn
from tests.support.device_arrays import SIMULATED
from xent_numba.backends.cuda.backend import BACKEND

if SIMULATED:
    pytest.skip("the simulator has no library with a matrix product", allow_module_level=True)
if BACKEND.why_not() is not None:
    pytest.skip(f"needs a GPU: {BACKEND.why_not()}", allow_module_level=True)

TOLERANCE = {"float64": 1e-11, "float32": 2e-5, "float16": 2e-3, "bfloat16": 2e-2}


class Library:
    """CuPy or PyTorch: arrays there and back."""

    def __init__(self, name):
        self.module, self.is_torch = pytest.importorskip(name), name == "torch"
        if self.is_torch and not self.module.cuda.is_available():
            pytest.skip("this PyTorch has no CUDA")

    def there(self, array, dtype=None):
        if self.is_torch:
            return self.module.tensor(array, dtype=dtype and getattr(self.module, dtype), device="cuda")
        return self.module.asarray(array, dtype)

    def back(self, array):
        return array.double().cpu().numpy() if self.is_torch else array.astype(np.float64).get()

    def stream(self):
        """A context in which the library works on a stream of its own."""
        if self.is_torch:
            return self.module.cuda.stream(self.module.cuda.Stream())
        return self.module.cuda.Stream(non_blocking=True)


@pytest.fixture(params=["cupy", "torch"])
def library(request):
    return Library(request.param)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("own_stream", [False, True])
def test_against_the_host(library, dtype, own_stream, rng):
    if dtype == "bfloat16" and not library.is_torch:
        pytest.skip("NumPy has no such dtype to make the array of")
    n, d, c = 700, 48, 1500
    x, w, b = rng.normal(size=(n, d)), rng.normal(size=(c, d)) / 4, rng.normal(size=c)
    y, s, v = rng.integers(0, c, n), rng.uniform(0.5, 2, n), rng.normal(size=(c, d))
    y[::7] = -100
    x, w, b, v = (library.there(array, dtype) for array in (x, w, b, v))
    options = {"label_smoothing": 0.1, "z_loss": 1e-3}
    on_host = {"linear_bias": library.back(b), "sample_weight": s, "backend": "numpy", **options}
    expected = xn.linear_cross_entropy_and_grad(library.back(x), library.back(w), y, **on_host)
    product = xn.linear_cross_entropy_hvp(library.back(x), library.back(w), y, library.back(v), **on_host)
    x[::7] = float("nan")
    target = library.there(y)
    more = {"linear_bias": b, "sample_weight": library.there(s), "batch_chunk_size": 256, **options}
    if own_stream:
        with library.stream() as stream:
            found = xn.linear_cross_entropy_and_grad(x, w, target, **more)
            got = xn.linear_cross_entropy_hvp(x, w, target, v, **more)
        (library.module.cuda if library.is_torch else stream).synchronize()
    else:
        found = xn.linear_cross_entropy_and_grad(x, w, target, **more)
        got = xn.linear_cross_entropy_hvp(x, w, target, v, **more)
    for one, other in zip((*found, *got), (*expected, *product), strict=True):
        bound = TOLERANCE[dtype] if np.ndim(other) or dtype == "float64" else TOLERANCE["float32"]
        assert np.abs(library.back(one) - other).max() <= bound * np.abs(other).max()


def test_the_logits_never_exist_as_a_whole():
    library = Library("torch")
    torch = library.module
    n, d, c = 16384, 64, 50000
    x, w = torch.randn(n, d, device="cuda"), torch.randn(c, d, device="cuda")
    y = torch.randint(0, c, (n,), device="cuda")
    xn.linear_cross_entropy_and_grad(x, w, y)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    xn.linear_cross_entropy_and_grad(x, w, y)
    assert torch.cuda.max_memory_allocated() - before < 400e6  # the logits would be 3.3 GB
