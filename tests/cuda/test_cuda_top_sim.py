"""Row statistics in Numba's simulator against the reference backend.

Runs in the process that test_cuda_sim.py starts; the bounds are those of that file.
"""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.device_arrays import SIMULATED, OnDevice

if not SIMULATED:
    pytest.skip("runs in the process that test_cuda_sim.py starts", allow_module_level=True)

import ml_dtypes

import xent_numba as xn
from tests.support import cudasim
from xent_numba.backends import registry
from xent_numba.backends.cuda import launch
from xent_numba.backends.cuda.arrays import api as arrays
from xent_numba.backends.cuda.backend import BACKEND
from xent_numba.backends.cuda.plan import Plan
from xent_numba.backends.cuda.runtime import device, memory
from xent_numba.prepare.options import make_options

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy scalars stand for registers here

DTYPES = {"float32": np.float32, "float64": np.float64, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
REGIMES = {
    "a thread": (11, Plan("columns", "forced", 32)),
    "a warp": (139, Plan("online", "forced", 32)),
    "a block": (70, Plan("online", "forced", 64)),
}
FIELDS = ("log_prob", "entropy", "argmax", "rank", "logsumexp")


@pytest.fixture(autouse=True)
def simulated(monkeypatch):
    monkeypatch.setitem(registry._ready, "cuda", BACKEND)
    monkeypatch.setattr(device, "facts", lambda: device.DeviceFacts("simulator", (9, 0), 132))
    monkeypatch.setattr(launch, "SCAN_THREADS", 64)
    memory._kept.clear()
    yield
    cudasim.forget()
    memory._kept.clear()


@pytest.fixture(params=REGIMES)
def classes(request, monkeypatch):
    """The number of classes, with the regime forced that computes them."""
    count, forced = REGIMES[request.param]
    monkeypatch.setattr(launch, "plan", lambda *arguments: forced)
    return count


def close(got, exact, wide, floor=0.0):
    """Within (12 + 2.25 |ln |v||) ulp of float32, or (4 + |ln |v||) ulp of float64, of `exact` and at least `floor`."""
    got, exact = np.asarray(got, np.float64), np.asarray(exact, np.float64)
    assert np.array_equal(np.isnan(got), np.isnan(exact))
    assert np.array_equal(np.isinf(got), np.isinf(exact))
    use = np.isfinite(exact)
    kind = np.float64 if wide else np.float32
    size = np.maximum(np.maximum(np.abs(exact[use]), floor), np.finfo(kind).smallest_normal)
    a, b = (4.0, 1.0) if wide else (12.0, 2.25)
    limit = (a + b * np.abs(np.log(size))) * np.spacing(size.astype(kind)).astype(np.float64)
    assert np.all(np.abs(got[use] - exact[use]) <= limit)


@pytest.mark.parametrize("dtype", DTYPES)
def test_row_statistics(classes, dtype, rng):
    kind = DTYPES[dtype]
    x = rng.normal(scale=4.0, size=(6, classes)).astype(kind)
    y = rng.integers(0, classes, 6)
    x[0] = np.round(x[0])  # ties
    x[1, y[1]] = 20  # confident: a tiny entropy, a tiny loss
    x[2] = np.nan
    y[2] = -100
    x[3, ::2] = -np.inf
    options = {"logit_scale": -0.75} if dtype == "float64" else {}
    got = xn.row_statistics(x, y, backend="cuda", **options)
    exact = xn.row_statistics(x.astype(np.float64), y, backend="numpy", **options)
    for name in FIELDS:
        found, expected = getattr(got, name), getattr(exact, name)
        if name in ("argmax", "rank"):
            assert found.dtype == np.intp
            assert np.array_equal(found, expected), name
        else:
            assert found.dtype == (np.float64 if dtype == "float64" else np.float32)
            close(found, expected, dtype == "float64", floor=2.0 if dtype == "float64" and name != "entropy" else 0.0)
    assert (got.argmax[2], got.rank[2], got.log_prob[2], got.entropy[2], got.logsumexp[2]) == (-1, 0, 0, 0, 0)
    alone = xn.row_statistics(x, fields=("argmax",), backend="cuda")
    assert alone.entropy is None
    assert np.array_equal(alone.argmax, np.argmax(x.astype(np.float64), axis=1))


EDGES = {
    "masked": [1.0, -np.inf, 2.0],
    "all masked": [-np.inf, -np.inf, -np.inf],
    "infinite": [1.0, np.inf, np.inf],
    "nan": [1.0, np.nan, np.inf],
    "only nan": [np.nan, np.nan, np.nan],
    "tied and huge": [1e8, 1e8, -np.inf],
    "outliers": [1e30, -1e30, -3e38],
    "lowest": [-3.4e38, -3.4e38, -3.4e38],
    "zeros": [0.0, -0.0, 0.0],
}


@pytest.mark.parametrize("options", [{}, {"logit_scale": 0.0}, {"logit_scale": -2.0, "softcap": 3.0}])
def test_edges_of_row_statistics(classes, options, rng):
    x = np.full((len(EDGES), classes), -np.inf, np.float32)
    for row, values in enumerate(EDGES.values()):
        x[row, np.sort(rng.permutation(classes)[:3])] = values
    if options:
        x = np.where(np.isneginf(x), np.float32(-4), x)
    y = rng.integers(0, classes, len(x))
    for y in (y, np.argmax(x, axis=1), np.argmax(np.isfinite(x), axis=1)):
        got = xn.row_statistics(x, y, backend="cuda", **options)
        exact = xn.row_statistics(x.astype(np.float64), y, backend="numpy", **options)
        for name in FIELDS:
            floor = 4.0 if options or name == "log_prob" else 0.0
            close(getattr(got, name), getattr(exact, name), False, floor)
        assert np.array_equal(got.rank == 1, got.argmax == y)


def test_row_statistics_on_the_device(rng):
    x = np.moveaxis(rng.normal(size=(2, 5, 3)).astype(np.float16), 1, -1)[:, ::-1]
    y = rng.integers(0, 5, (2, 3)).astype(np.uint8)
    y[1, 1] = 255
    options = make_options(ignore_index=255, softcap=2.0)
    got = arrays.row_statistics(options, OnDevice(x), OnDevice(y), ("rank", "entropy", "logsumexp"))
    exact = xn.row_statistics(x.astype(np.float64), y, ignore_index=255, softcap=2.0, backend="numpy")
    assert got[0] is got[2] is None
    for name, found in zip(FIELDS, got, strict=True):
        if found is not None:
            close(found.copy_to_host(), getattr(exact, name), False, 1.0)
    assert got[3].dtype == np.int64
    with pytest.raises(IndexError, match=r"target\[1, 1\] = 255 is out of range"):
        arrays.row_statistics(make_options(), OnDevice(x), OnDevice(y), ("rank",))
    with pytest.raises(ValueError, match="this function needs class indices"):
        arrays.row_statistics(make_options(), OnDevice(x), OnDevice(x), ("rank",))
    (argmax,) = arrays.row_statistics(make_options(), OnDevice(x), None, ("argmax",))[2:3]
    assert np.array_equal(argmax.copy_to_host(), np.argmax(x, axis=-1))
    empty = OnDevice(np.empty((0, 3), np.float32))
    assert arrays.row_statistics(make_options(), empty, None, ("entropy",))[1].shape == (0,)
