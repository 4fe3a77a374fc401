"""The CUDA kernels in Numba's simulator, through the public API, against the reference backend.

Without NUMBA_ENABLE_CUDASIM=1 this file is one test, which runs the file again in a process that has it.

The bound, for float32 arithmetic with ex2.approx (relative error up to 2^-22, which `cudasim` imitates) on index
targets without smoothing: a loss or gradient element v is within (12 + 2.25 |ln |v||) ulp; float64 keeps the library's
own law, (4 + |ln |v||) ulp.  Where the law is relative to the larger of T·p and t, so is this.
"""

from __future__ import annotations

import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"

for _needed in ("numba_cuda", "ml_dtypes"):
    if importlib.util.find_spec(_needed) is None:
        pytest.skip(f"needs {_needed}: pip install 'numba-cuda[cu13]' ml_dtypes", allow_module_level=True)

# More files for the same process.
IN_THE_SIMULATOR = ("test_cuda_arrays_sim", "test_cuda_linear_sim", "test_cuda_top_sim")

if not SIMULATED:

    @pytest.mark.parametrize("cases", ["not rare", pytest.param("rare", marks=pytest.mark.rare)])
    def test_kernels_in_the_simulator(cases):
        environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}
        files = [__file__.replace("test_cuda_sim", name) for name in ("test_cuda_sim", *IN_THE_SIMULATOR)]
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", cases, *files]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]

else:
    import ml_dtypes

    import xent_numba as xn
    from tests.support import cudasim
    from xent_numba.backends import registry
    from xent_numba.backends.cuda import launch
    from xent_numba.backends.cuda.backend import BACKEND
    from xent_numba.backends.cuda.plan import Plan, plan
    from xent_numba.backends.cuda.runtime import device, memory

    pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy scalars stand for registers here

    DTYPES = {"float32": np.float32, "float64": np.float64, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
    # Small enough to simulate: one warp or two, short slices, and classes that leave ragged ends in all of them.
    REGIMES = {
        "tile": (5, Plan("tile", "forced", 32)),
        "columns": (11, Plan("columns", "forced", 32)),
        "warp": (37, Plan("warp", "forced", 64, 4)),
        "block": (37, Plan("block", "forced", 64, 1)),
        "online": (41, Plan("online", "forced", 32)),
        "split": (300, Plan("split", "forced", 32, segments=2, segment_classes=256)),
    }

    @pytest.fixture(autouse=True)
    def simulated(monkeypatch):
        monkeypatch.setitem(registry._ready, "cuda", BACKEND)
        monkeypatch.setattr(device, "facts", lambda: device.DeviceFacts("simulator", (9, 0), 132))
        memory._kept.clear()
        yield
        cudasim.forget()
        memory._kept.clear()

    @pytest.fixture(params=REGIMES)
    def regime(request, monkeypatch):
        classes, forced = REGIMES[request.param]
        monkeypatch.setattr(launch, "plan", lambda *arguments: forced)
        return request.param, classes

    def allowed(value, dtype, floor=0.0):
        """The error allowed at `value`, whose law may be relative to something larger (`floor`)."""
        value = np.maximum(np.abs(value.astype(np.float64)), floor)
        wide = dtype == np.float64
        arithmetic = np.float64 if wide else np.float32
        with np.errstate(all="ignore"):
            digits = np.where(value > 0, np.abs(np.log(value)), 0.0)
        a, b = (4.0, 1.0) if wide else (12.0, 2.25)
        tiny = np.finfo(arithmetic).smallest_normal
        return (a + b * digits) * np.spacing(np.maximum(value, tiny).astype(arithmetic)).astype(np.float64) + tiny

    def rounding(value, dtype):
        """Half a step of the storage dtype, once."""
        return np.zeros(value.shape) if np.dtype(dtype).itemsize > 2 else np.abs(value) * 2.0**-8 * 1.01 + 6e-8

    def inputs(rng, classes, dtype, rows=4):
        x = rng.normal(scale=4.0, size=(rows, classes))
        x[0] += 1e3  # far from 0
        x[1, rng.integers(classes)] += 30.0  # confident
        y = rng.integers(0, classes, rows)
        y[1] = np.argmax(x[1])
        x[3, (y[3] + 1) % classes] = -np.inf
        return x.astype(dtype), y

    def both(function, *args, **options):
        """The same call on the simulated device and on the reference, the latter in float64."""
        got = function(*args, backend="cuda", **options)
        exact = function(args[0].astype(np.float64), *args[1:], backend="numpy", **options)
        return got, exact

    def check(got, exact, dtype, floor=0.0, scale=1.0, times=1.0):
        exact = np.asarray(exact, np.float64)
        got = np.asarray(got).astype(np.float64)
        assert np.array_equal(np.isnan(got), np.isnan(exact))
        assert np.array_equal(np.isinf(got), np.isinf(exact))
        use = np.isfinite(exact)
        limit = times * allowed(exact[use] / scale, dtype, floor) * scale + rounding(exact[use], dtype)
        assert np.all(np.abs(got[use] - exact[use]) <= limit)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_dtypes(regime, dtype, rng):
        x, y = inputs(rng, regime[1], DTYPES[dtype])
        y[2] = -100
        x[2] = np.nan  # an ignored row is not looked at
        (loss, grad), (exact, slope) = both(xn.cross_entropy_and_grad, x, y, reduction="none")
        assert loss.dtype == (np.float64 if dtype == "float64" else np.float32)
        assert grad.dtype == x.dtype
        check(loss, exact, np.float64 if dtype == "float64" else np.float32)
        check(grad, slope, DTYPES[dtype])
        assert not grad[2].any()
        assert np.array_equal(xn.cross_entropy(x, y, reduction="none", backend="cuda"), loss)  # bit for bit

    OPTIONS = {
        "weights": {"weight": True, "sample_weight": True, "ignore_index": (1, -7)},
        "smoothing": {"weight": True, "label_smoothing": 0.1},
        "transforms": {"logit_scale": -0.5, "softcap": 5.0},
        "z-loss": {"z_loss": 1e-2, "logit_scale": 0.25, "sample_weight": True},
        "everything": {
            "weight": True, "sample_weight": True, "ignore_index": None, "label_smoothing": 0.2, "logit_scale": 0.5,
            "softcap": 8.0, "z_loss": 1e-2,
        },
        "distribution": {"distribution": True},
        "distribution and more": {
            "distribution": True, "weight": True, "label_smoothing": 0.1, "z_loss": 1e-2, "softcap": 9.0,
        },
    }  # fmt: skip

    @pytest.mark.parametrize("name", OPTIONS)
    def test_options(regime, name, rng):
        classes = regime[1]
        options = dict(OPTIONS[name])
        x, y = inputs(rng, classes, np.float32)
        x = np.where(np.isinf(x), np.float32(-50), x)
        weight = rng.uniform(0.5, 2.0, classes)
        weight[y[0]] = 0.0
        if options.pop("distribution", False):
            y = rng.dirichlet(np.ones(classes), len(x)).astype(np.float32)
            y[:, 0] = 0.0
            x[1, 0] = -np.inf  # 0 · (-inf) = 0
            if "weight" in options:
                weight[0] = 0.0
        if options.get("weight"):
            options["weight"] = weight
        if options.get("sample_weight"):
            options["sample_weight"] = rng.uniform(0.5, 2.0, len(x))
        for reduction in ("mean", "none"):
            (loss, grad), (exact, slope) = both(xn.cross_entropy_and_grad, x, y, reduction=reduction, **options)
            size = float(np.nanmax(np.abs(np.where(np.isfinite(exact), exact, 0.0)))) + 1.0
            check(loss, exact, np.float32, floor=size)
            check(grad, slope, np.float32, floor=float(np.abs(slope).max()))

    def test_one_hot_distributions(regime, rng):
        """They keep the digits of the class index, of which a confident row has none to spare."""
        name, classes = regime
        x, y = np.zeros((3, classes)), np.array([classes - 2, 1, 1])
        x[0, y[0]] = 20.0
        x[1] = rng.normal(scale=4.0, size=classes)
        x[1, y[1]] = 9.0 + x[1].max()
        x[2, :3] = 50.0  # several at the maximum
        weight = rng.uniform(0.5, 2.0, classes)
        for kind in (np.float32, np.float64) if name in ("tile", "online") else (np.float32,):
            x, q = x.astype(kind), np.eye(classes, dtype=kind)[y]
            loss, grad = xn.cross_entropy_and_grad(x, q, weight=weight, reduction="none", backend="cuda")
            exact, slope = xn.cross_entropy_and_grad(
                x.astype(np.float64), y, weight=weight, reduction="none", backend="numpy"
            )
            check(loss, exact, kind, scale=2.0)
            check(grad, slope, kind, scale=2.0)

    def test_sums_over_many_classes(monkeypatch):
        """A single thread adds all classes of a row in the regime "columns"."""
        monkeypatch.setattr(launch, "plan", lambda *arguments: Plan("columns", "forced", 32))
        q = np.full((1, 6000), 0.1)
        loss, grad = xn.cross_entropy_and_grad(np.zeros(q.shape), q, backend="cuda")
        exact = math.fsum(q[0])
        assert abs(loss / (exact * math.log(6000)) - 1) < 3 * 2**-52
        assert abs((grad[0, 0] + 0.1) / (exact / 6000) - 1) < 3 * 2**-52

    def test_distributions_beyond_float32(regime, rng):
        """What float32 cannot hold of a float64 distribution counts all the same: the arithmetic is float64."""
        x, _ = inputs(rng, regime[1], np.float32)
        q = rng.uniform(size=x.shape)
        q[0, 1], q[1, 0], x[1, 0], q[2, 0], x[3] = 1e39, 1e-60, -np.inf, 1e-60, np.maximum(x[3], -50)
        size = np.array([1e-39, 1.0, 1.0, 1.0])
        (loss, grad), (exact, slope) = both(xn.cross_entropy_and_grad, x, q, sample_weight=size, reduction="none")
        assert exact[1] == np.inf
        assert loss.dtype == grad.dtype == np.float32
        np.testing.assert_allclose(loss, exact, rtol=1e-6)
        np.testing.assert_allclose(grad, slope, rtol=1e-6, atol=1e-37)

    EDGES = {
        "masked": ([1.0, -np.inf, 2.0], 0),
        "masked target": ([1.0, -np.inf, 2.0], 1),
        "all masked": ([-np.inf] * 3, 0),
        "infinite": ([1.0, np.inf, 2.0], 0),
        "infinite target": ([1.0, np.inf, 2.0], 1),
        "nan": ([1.0, np.nan, 2.0], 0),
        "nan target": ([1.0, np.nan, 2.0], 1),
        "tied and huge": ([1e8, 1e8, -np.inf], 0),
        "confident": ([20.0, 0.0, 0.0], 0),
        "negative": ([-200.0, -300.0, -np.inf], 1),
        "outliers": ([1e30, -1e30, 3e38], 2),
        "lowest": ([-3.4e38, -3.4e38, -3.4e38], 2),
    }

    def test_edges(regime, rng):
        """The table of the semantics, with the other classes masked, and in any place of a row."""
        classes = regime[1]
        x = np.full((len(EDGES), classes), -np.inf, np.float32)
        y = np.zeros(len(EDGES), np.int64)
        for row, (values, target) in enumerate(EDGES.values()):
            places = rng.permutation(classes)[:3]
            x[row, places] = values
            y[row] = places[target]
        (loss, grad), (exact, slope) = both(xn.cross_entropy_and_grad, x, y, reduction="none")
        check(loss, exact, np.float32)
        check(grad, slope, np.float32)
        assert loss[list(EDGES).index("tied and huge")] == np.float32(np.log(2))
        assert not grad[0][np.isneginf(x[0])].any()

    def test_focal_losses(regime, rng):
        """The law, with a bound (1 + γ) times as large."""
        x, y = inputs(rng, regime[1], np.float32, rows=6)
        x[4, y[4]], x[5, y[5]] = -np.inf, 100.0
        weight = rng.uniform(0.5, 2.0, regime[1])
        for w, gamma in ((None, 0.5), (weight, 3.0)):
            found = both(xn.cross_entropy_and_grad, x, y, weight=w, reduction="none", focal_gamma=gamma)
            for got, exact in zip(*found, strict=True):
                check(got, exact, np.float32, scale=2.0, times=1 + gamma)

    def test_one_class():
        loss, grad = xn.cross_entropy_and_grad(np.array([[3.0], [-7.0]], np.float32), np.array([0, 0]), backend="cuda")
        assert loss == 0
        assert not grad.any()

    def test_softmax_family(regime, rng):
        x, _ = inputs(rng, regime[1], np.float32)
        x[2, 1] = np.inf
        for function in (xn.softmax, xn.log_softmax, xn.logsumexp):
            got, exact = both(function, x)
            check(got, exact, np.float32, floor=float(np.abs(exact[np.isfinite(exact)]).max()))
        x[2] = -np.inf
        assert xn.logsumexp(x, backend="cuda")[2] == -np.inf

    @pytest.mark.parametrize("option", [{}, {"label_smoothing": 0.1}, {"focal_gamma": 1.5}], ids=str)
    def test_saved_lse_and_upstream(regime, option, rng):
        x, y = inputs(rng, regime[1], np.float32)
        options = {"reduction": "none", "grad_output": rng.uniform(-1, 1, len(y)), **option}
        x[0] += np.float32(1e5)  # a float64 lse keeps its digits
        exact = xn.cross_entropy_grad(x.astype(np.float64), y, backend="numpy", **options)
        for saved in (None, xn.logsumexp(x.astype(np.float64), backend="numpy")):
            got = xn.cross_entropy_grad(x, y, lse=saved, backend="cuda", **options)
            assert np.abs(got - exact).max() < 4e-6

    def test_in_place(regime, rng):
        x, y = inputs(rng, regime[1], np.float32)
        loss, grad = xn.cross_entropy_and_grad(x, y, backend="cuda")
        there, same = xn.cross_entropy_and_grad(x, y, backend="cuda", grad_out=x)
        assert same is x
        assert there == loss
        assert np.array_equal(x, grad)

    def test_exp2_is_as_bad_as_stated():
        """The simulated ex2 uses its whole allowance, so the bounds here are tested against the worst hardware."""
        x = np.linspace(-100, 0, 4001, dtype=np.float32)
        error = np.array([float(cudasim.ex2(v)) for v in x]) / np.exp2(x.astype(np.float64)) - 1
        assert 0.9 * 2**-22 < np.abs(error).max() < 1.3 * 2**-22

    def test_accesses_are_checked():
        array = np.zeros(8, np.float32)
        place = cudasim.allow(array)
        cudasim.store_f32(place + 28, np.float32(1))
        with pytest.raises(IndexError, match="outside"):
            cudasim.load_f32x4(place + 32)
        with pytest.raises(ValueError, match="aligned"):
            cudasim.load_f32(place + 2)

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_conversions_of_older_devices(dtype, monkeypatch, rng):
        """Before compute capability 8.0 other intrinsics store 16 bits; test_cuda_codegen.py tests their rounding."""
        x, y = inputs(rng, 7, DTYPES[dtype])
        used = []
        for name in ("pack_f16", "pack_bf16", "store_bf16"):
            original = getattr(cudasim, name)
            monkeypatch.setattr(
                cudasim, f"{name}_before_sm_80", lambda *args, call=original: (used.append(1), call(*args))[1]
            )
        grads = []
        for capability in ((8, 0), (7, 5)):
            monkeypatch.setattr(device, "facts", lambda found=capability: device.DeviceFacts("simulator", found, 40))
            grads.append(xn.cross_entropy_and_grad(x, y, backend="cuda")[1])
            assert bool(used) == (capability < (8, 0))
        assert np.array_equal(*grads)

    def test_the_choice_of_regime():
        from xent_numba.backends.cuda.row.spec import Spec

        spec, ragged = Spec("bfloat16", labels="int64", output="grad"), Spec("bfloat16", labels="int64", aligned=False)
        here = device.DeviceFacts("", (9, 0), 132)

        def regime(which, rows, classes, layout="packed", on=here):
            return plan(which, rows, classes, layout, on)

        assert regime(spec, 1000, 16).regime == "tile"
        assert regime(ragged, 1000, 10, layout="").regime == "warp"
        assert regime(spec, 1000, 1024)[2:4] == (128, 4)
        assert regime(ragged, 1000, 1023)[2:4] == (128, 8)  # a ragged row may need one vector more
        assert regime(spec, 1000, 4096)[0:3:2] == ("block", 128)
        assert regime(spec, 1000, 65536)[0:3:2] == ("block", 1024)
        assert regime(spec, 1000, 65536, on=device.DeviceFacts("", (8, 0), 108)).regime == "online"
        assert regime(spec, 1000, 131072).regime == "online"
        assert regime(ragged, 1000, 20001, layout="").regime == "block"
        before_sm_80 = Spec("bfloat16", labels="int64", aligned=False, sm_80=False)  # its conversions are not unrolled
        assert regime(before_sm_80, 1000, 20001, layout="", on=device.DeviceFacts("", (7, 5), 40)).regime == "online"
        strided = Spec("float32", unit_stride=False)
        assert regime(strided, 10**6, 7, layout="").regime == "online"
        assert regime(strided, 10**6, 7, layout="columns").regime == "columns"
        assert regime(strided, 10, 7, layout="columns").regime == "online"
        few = regime(spec, 4, 131072)
        assert few.regime == "split"
        assert few.segments * few.segment_classes >= 131072 > (few.segments - 1) * few.segment_classes
        assert all(regime(spec, 1000, classes).why for classes in (1, 100, 10**4, 10**6))

    def test_a_call_is_explained():
        def explain(shape, dtype=np.float32, distribution=None, grad=True):
            x = np.empty(shape, dtype)
            q = None if distribution is None else np.empty(shape, distribution)
            return BACKEND.explain(x, q, x if grad else None)

        found = explain((1, 4096, 1000))
        assert found["regime"] == "warp"
        assert found["why"] == "1000 ≤ 1024 classes: a warp per row"
        assert (found["threads per block"], found["vectors per thread"]) == (128, 8)
        assert (found["rows per chunk"], found["device"]) == (4096, "simulator")
        assert explain((2, 3, 7))["regime"] == "tile"
        assert explain((1, 8, 300000), grad=False)["segments per row"] > 1
        assert explain((1, 300, 40), distribution=np.float64)["regime"] == "online"  # apart in dtype: scalar accesses
        large = explain((1, 10**4, 50257), np.float16)
        assert large["regime"] == "online"
        assert large["rows per chunk"] == 2**28 // (2 * 50257)
        apart = np.empty((1000, 100), np.float32).T[None]  # strides do not matter: the kernels see packed copies
        assert BACKEND.explain(apart, None, None) == BACKEND.explain(np.empty(apart.shape, np.float32), None, None)

    @pytest.mark.parametrize("here", [((9, 0), 132), ((8, 0), 108), ((8, 9), 58), ((7, 5), 40)])
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_the_benchmark_checks_every_regime(dtype, here):
        from xent_numba.backends.cuda.row.operands import Operand, Operands, kernel_arguments, row_layout
        from xent_numba.backends.cuda.row.spec import ITEMSIZE

        script = Path(__file__).parents[2] / "benchmarks" / "cuda.py"
        found = importlib.util.spec_from_file_location("cuda_benchmark", script)
        benchmark = importlib.util.module_from_spec(found)
        found.loader.exec_module(benchmark)
        facts, size, met = device.DeviceFacts("", *here), ITEMSIZE[dtype], set()
        for rows, classes, columns in benchmark.checked_shapes(facts.multiprocessors):
            x = Operand(dtype, 4096, 0, size, rows * size) if columns else Operand(dtype, 4096, 0, classes * size, size)
            operands = Operands((1, rows, classes), x, "grad", x, Operand("int64", 4096, 0, 8), rows=4096)
            spec, _ = kernel_arguments(operands, facts.compute_capability)
            met.add(plan(spec, rows, classes, row_layout(operands, spec), facts).regime)
        assert met == benchmark.REGIMES
