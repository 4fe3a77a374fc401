"""Row statistics, curvature, distillation and shards in Numba's simulator against the reference backend.

Runs in the process that test_cuda_sim.py starts; the bounds are those of that file.
"""

from __future__ import annotations

from itertools import pairwise, product

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
from xent_numba.backends.cuda.deferred import deferred_checks
from xent_numba.backends.cuda.plan import Plan, plan
from xent_numba.backends.cuda.row.spec import Spec
from xent_numba.backends.cuda.runtime import device, memory
from xent_numba.prepare.distillation import make_distillation_options
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


@pytest.fixture
def classes(request, monkeypatch):
    """The number of classes, with the regime forced that computes them."""
    count, forced = REGIMES[request.param]
    monkeypatch.setattr(launch, "plan", lambda *arguments: forced)
    return count


def sampled(**choices):
    """Cases of every regime with all of the choices: a few in which each choice is made, the others rare."""
    lists = [list(REGIMES), *(list(values) for values in choices.values())]
    often = [tuple(values[i % len(values)] for values in lists) for i in range(max(map(len, lists)))]
    cases = (pytest.param(*case, marks=() if case in often else pytest.mark.rare) for case in product(*lists))
    return pytest.mark.parametrize(("classes", *choices), list(cases), indirect=["classes"])


def close(got, exact, wide, floor=0.0):
    """Within (12 + 2.25 |ln |v||) ulp of float32, or (8 + 2 |ln |v||) ulp of float64, of `exact` and at least `floor`.

    In float64 the reference, `exact`, has errors of the same size.
    """
    got, exact = np.asarray(got, np.float64), np.asarray(exact, np.float64)
    assert np.array_equal(np.isnan(got), np.isnan(exact))
    assert np.array_equal(np.isinf(got), np.isinf(exact))
    use = np.isfinite(exact)
    kind = np.float64 if wide else np.float32
    size = np.maximum(np.maximum(np.abs(exact), floor), np.finfo(kind).smallest_normal)[use]
    a, b = (8.0, 2.0) if wide else (12.0, 2.25)
    limit = (a + b * np.abs(np.log(size))) * np.spacing(size.astype(kind)).astype(np.float64)
    assert np.max(np.abs(got[use] - exact[use]) / limit, initial=0.0) <= 1.0


@sampled(dtype=DTYPES)
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


@sampled(options=[{}, {"logit_scale": 0.0}, {"logit_scale": -2.0, "softcap": 3.0}])
def test_edges_of_row_statistics(classes, options, rng):
    x = np.full((len(EDGES), classes), -np.inf, np.float32)
    for row, values in enumerate(EDGES.values()):
        x[row, np.sort(rng.permutation(classes)[:3])] = values
    if options:
        x = np.where(np.isneginf(x), np.float32(-4), x)
    for y in (rng.integers(0, classes, len(x)), np.argmax(x, axis=1), np.argmax(np.isfinite(x), axis=1)):
        got = xn.row_statistics(x, y, backend="cuda", **options)
        exact = xn.row_statistics(x.astype(np.float64), y, backend="numpy", **options)
        for name in FIELDS:
            floor = 4.0 if options or name == "log_prob" else 0.0
            close(getattr(got, name), getattr(exact, name), False, floor)
        assert np.array_equal(got.rank == 1, got.argmax == y)


def test_ascending_rows(monkeypatch):
    """The top rises with every class; the errors of rescaling the sums must not add up."""
    monkeypatch.setattr(launch, "plan", lambda *arguments: Plan("columns", "forced", 32))
    x = np.linspace(0, 1, 1500, dtype=np.float32)[None]
    got, exact = (
        xn.row_statistics(x.astype(kind), [5], backend=name) for kind, name in (("f4", "cuda"), ("f8", "numpy"))
    )
    for name in ("log_prob", "entropy", "logsumexp"):
        assert abs(getattr(got, name)[0] / getattr(exact, name)[0] - 1) < 2**-21
    v = np.sin(np.arange(1500))[None].astype(np.float32)
    product = xn.cross_entropy_hvp(x.astype(float), [5], v, backend="numpy")
    assert np.abs(xn.cross_entropy_hvp(x, [5], v, backend="cuda") - product).max() < 2**-20 * np.abs(product).max()


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


CURVED = {
    "plain": {},
    "weights": {"weight": True, "sample_weight": True, "ignore_index": (1, -7)},
    "smoothing": {"weight": True, "label_smoothing": 0.1, "logit_scale": -0.5},
    "everything": {
        "weight": True, "sample_weight": True, "label_smoothing": 0.2, "logit_scale": 0.5, "softcap": 8.0,
        "z_loss": 1e-2,
    },
    "distribution": {"distribution": True, "weight": True, "z_loss": 1e-2, "softcap": 9.0},
    "focal": {"focal_gamma": 1.5},
    "focal and more": {"focal_gamma": 0.5, "weight": True, "sample_weight": True, "z_loss": 1e-2, "softcap": 9.0},
}  # fmt: skip


@sampled(name=CURVED, dtype=["float32", "float64"])
def test_curvature(classes, name, dtype, rng):
    options, kind = dict(CURVED[name]), DTYPES[dtype]
    x = rng.normal(scale=3.0, size=(4, classes)).astype(kind)
    y = rng.integers(0, classes, 4)
    x[1, y[1]] = 25  # 1 − p is tiny
    x[2, (y[2] + 1) % classes] = -np.inf if "label_smoothing" not in options and "z_loss" not in options else -30
    v = rng.normal(size=x.shape).astype(kind)
    v[3] += 100  # nearly the same for all classes
    if options.pop("distribution", False):
        y = rng.dirichlet(np.ones(classes), 4).astype(kind)
    if "weight" in options:
        options["weight"] = rng.uniform(0.5, 2.0, classes)
    if "sample_weight" in options:
        options["sample_weight"] = rng.uniform(0.5, 2.0, 4)
    exact_x = x.astype(np.float64)
    grad, diag = xn.cross_entropy_grad_and_hessian_diag(x, y, backend="cuda", **options)
    exact_grad, exact_diag = xn.cross_entropy_grad_and_hessian_diag(exact_x, y, backend="numpy", **options)
    floor = 0.0 if name == "plain" else np.abs(exact_grad).max()
    close(diag, exact_diag, dtype == "float64", floor)
    close(grad, exact_grad, dtype == "float64", floor)
    for gauss_newton in (False, True) if "softcap" in options else (False,):
        got = xn.cross_entropy_hvp(x, y, v, gauss_newton=gauss_newton, backend="cuda", **options)
        exact = xn.cross_entropy_hvp(exact_x, y, v, gauss_newton=gauss_newton, backend="numpy", **options)
        size = np.abs(exact).max(axis=-1, keepdims=True)
        if name != "plain":  # |H| |v|
            size = np.maximum(size, np.abs(exact_diag).max() * np.abs(v).max(axis=-1, keepdims=True))
        close(got, exact, dtype == "float64", size)


def test_curvature_of_half_precision_in_place(rng):
    x = rng.normal(size=(3, 9)).astype(ml_dtypes.bfloat16)
    v, y = rng.normal(size=x.shape), np.array([0, -100, 8])
    exact = xn.cross_entropy_hvp(x.astype(np.float64), y, v, backend="numpy")
    assert np.allclose(xn.cross_entropy_hvp(x, y, v, backend="cuda").astype(float), exact, rtol=2**-8)
    assert xn.cross_entropy_hvp(x, y, v, backend="cuda", out=x) is x
    assert np.allclose(x.astype(float), exact, rtol=2**-8)


def test_curvature_on_the_device(rng):
    x = np.moveaxis(rng.normal(size=(2, 5, 3)).astype(np.float32), 1, -1)
    y, v = rng.integers(0, 5, (2, 3)), rng.normal(size=x.shape)
    exact = xn.cross_entropy_hvp(x.astype(np.float64), y, v, softcap=3.0, backend="numpy")
    product, same = arrays.hvp(make_options(softcap=3.0), OnDevice(x), OnDevice(y), OnDevice(v)), OnDevice(v)
    assert product.dtype == np.float32
    assert np.allclose(product.copy_to_host(), exact, atol=1e-6)
    double = OnDevice(x.astype(np.float64))
    assert arrays.hvp(make_options(softcap=3.0), double, OnDevice(y), same, out=same) is same
    assert np.allclose(v, exact, atol=1e-15)
    options = make_options(label_smoothing=0.1, reduction="sum")
    grad, diag = arrays.grad_and_hessian_diag(options, OnDevice(x), OnDevice(y))
    slope, curvature = xn.cross_entropy_grad_and_hessian_diag(
        x.astype(np.float64), y, label_smoothing=0.1, reduction="sum", backend="numpy"
    )
    assert np.allclose(grad.copy_to_host(), slope, atol=1e-6)
    assert np.allclose(diag.copy_to_host(), curvature, atol=1e-6)
    with pytest.raises(ValueError, match="diag_out shares memory with the logits"):
        arrays.grad_and_hessian_diag(options, OnDevice(x), OnDevice(y), diag_out=OnDevice(x))
    with pytest.raises(ValueError, match="vector has shape"):
        arrays.hvp(options, OnDevice(x), OnDevice(y), OnDevice(v[:1]))


def test_checks_may_be_deferred(rng):
    """A row with a bad label is nan until the check."""
    x, v, y = rng.normal(size=(3, 5)), rng.normal(size=(3, 5)), np.array([0, 7, 4])
    with deferred_checks() as checks:
        product = arrays.hvp(make_options(), OnDevice(x), OnDevice(y), OnDevice(v)).copy_to_host()
        log_prob, *_ = arrays.row_statistics(make_options(), OnDevice(x), OnDevice(y), ("log_prob",))
        with pytest.raises(IndexError, match=r"target\[1\] = 7 is out of range"):
            checks.check()
        grad = arrays.hvp(make_options(z_loss=0.1), OnDevice(x), OnDevice(y % 5), OnDevice(v)).copy_to_host()
        loss, _ = arrays.distillation(
            make_distillation_options(-1, 1.0, False, "mean", None),
            *(OnDevice(array) for array in (x, v, np.array([1.0, 0.0, 3.0]))),
        )
    assert np.isnan(product[1]).all()
    assert np.array_equal(np.isnan(log_prob.copy_to_host()), [False, True, False])
    exact = xn.cross_entropy_hvp(x, y % 5, v, z_loss=0.1, backend="numpy")
    assert np.allclose(grad, exact, atol=1e-15)
    expected = xn.distillation_loss(x, v, sample_weight=[1, 0, 3], backend="numpy")
    assert np.allclose(loss.copy_to_host(), expected, rtol=1e-14)


def test_the_choice_of_regime():
    here, swept = device.DeviceFacts("", (9, 0), 132), Spec("float32", statistics=("argmax",), unit_stride=False)
    assert plan(swept, 10**6, 10, "", here)[0:3:2] == ("columns", 128)
    assert plan(swept, 10, 10, "", here)[0:3:2] == ("online", 32)
    assert plan(swept, 10**6, 10**5, "", here)[0:3:2] == ("online", 256)
    assert plan(swept, 10**6, 10**5, "columns", here).regime == "columns"


@sampled(
    dtype=["float32", "float64", "bfloat16"],
    options=[{}, {"temperature": 4.0, "temperature_squared": True}, {"temperature": 0.25}],
)
def test_distillation(classes, dtype, options, rng):
    kind, wide = DTYPES[dtype], dtype == "float64"
    teacher = rng.normal(scale=3.0, size=(7, classes)).astype(np.float64 if wide else np.float32)
    student = rng.normal(scale=3.0, size=teacher.shape).astype(kind)
    student[1] = teacher[1]
    teacher[1] = student[1]  # equal
    teacher[2] = student[2].astype(teacher.dtype) * teacher.dtype.type(1 + 2**-12)  # nearly equal
    teacher[3, classes // 2] = 60  # certain
    teacher[4, :2], student[4, 0] = -np.inf, -np.inf
    student[5, 3] = -np.inf  # an infinite divergence
    student[6, 0] = np.nan
    sample_weight = rng.uniform(0.5, 2.0, 7)
    call = {"sample_weight": sample_weight, "reduction": "none", **options}
    loss, grad = xn.distillation_loss_and_grad(student, teacher, backend="cuda", **call)
    exact, slope = xn.distillation_loss_and_grad(student.astype(float), teacher.astype(float), backend="numpy", **call)
    assert loss.dtype == (np.float64 if wide else np.float32)
    assert grad.dtype == kind
    assert loss[1] == 0
    assert not grad[1].any()
    assert exact[5] == np.inf
    close(loss, exact, wide)
    size = np.abs(np.where(np.isfinite(slope), slope, 0)).max(axis=-1, keepdims=True)
    if dtype == "bfloat16":
        assert np.allclose(grad.astype(float), slope, rtol=2**-8, atol=2**-120, equal_nan=True)
    else:
        close(grad, slope, wide, size)
    assert np.array_equal(xn.distillation_loss(student, teacher, backend="cuda", **call), loss, equal_nan=True)


def test_distillation_on_the_device(rng):
    student = np.moveaxis(rng.normal(size=(2, 5, 3)).astype(np.float16), 1, -1)
    teacher = student + rng.normal(scale=1e-2, size=student.shape)
    sample_weight = rng.uniform(0.5, 2.0, (2, 3))
    options = make_distillation_options(-1, 2.0, True, "mean", None)
    inputs = [OnDevice(array) for array in (student, teacher, sample_weight)]
    loss, grad = arrays.distillation(options, *inputs, want_grad=True)
    exact, slope = xn.distillation_loss_and_grad(
        student.astype(float), teacher, temperature=2.0, temperature_squared=True, sample_weight=sample_weight,
        backend="numpy",
    )  # fmt: skip
    assert (loss.dtype, loss.shape, grad.dtype) == (np.float32, (), np.float16)
    assert np.allclose(loss.copy_to_host(), exact, rtol=1e-6)
    assert np.allclose(grad.copy_to_host().astype(float), slope, rtol=2**-10, atol=2**-24)
    assert np.allclose(arrays.distillation(options, *inputs)[0].copy_to_host(), exact, rtol=1e-6)
    with pytest.raises(ValueError, match="teacher_logits has shape"):
        arrays.distillation(options, inputs[0], OnDevice(teacher[:1]))
    with pytest.raises(TypeError, match="teacher_logits is not on the GPU"):
        arrays.distillation(options, inputs[0], teacher)
    with pytest.raises(ValueError, match=r"sample_weight\[0, 0\] = -1.0"):
        arrays.distillation(options, *inputs[:2], OnDevice(np.full((2, 3), -1.0)))


SHARDED = {
    "plain": {},
    "ignored": {"ignore_index": 2, "logit_scale": -0.5},
    "everything": {"weight": True, "sample_weight": True, "label_smoothing": 0.1, "softcap": 8.0, "z_loss": 1e-2},
    "distribution": {"distribution": True, "weight": True, "label_smoothing": 0.1},
}


@sampled(name=SHARDED)
def test_shards(classes, name, rng):
    options, kind = dict(SHARDED[name]), np.float32 if name == "plain" else np.float64
    x = rng.normal(scale=4.0, size=(4, classes)).astype(kind)
    y = rng.integers(0, classes, 4)
    x[1, y[1]] = 30
    y[2] = 2
    x[3, : classes // 2] = -np.inf if name in ("plain", "ignored") else -40
    if options.pop("distribution", False):
        y = rng.dirichlet(np.ones(classes), 4)
    weight = {"weight": rng.uniform(0.5, 2.0, classes)} if options.pop("weight", False) else {}
    if options.pop("sample_weight", False):
        options["sample_weight"] = rng.uniform(0.5, 2.0, 4)
    cuts = [0, classes // 2, classes - 1, classes]
    parts, shards = [], []
    for first, stop in pairwise(cuts):
        shard = x[:, first:stop], y if y.ndim == 1 else y[:, first:stop]
        own = {"weight": weight["weight"][first:stop]} if weight else {}
        parts.append(
            xn.partial_cross_entropy(*shard, class_offset=first, n_classes=classes, backend="cuda", **own, **options)
        )
        shards.append(shard)
    whole = parts[2] + parts[0] + parts[1]
    loss, grad = xn.cross_entropy_and_grad(x.astype(float), y, reduction="none", backend="numpy", **weight, **options)
    close(whole.loss(reduction="none"), loss, kind is np.float64, 4.0 if weight else 0.0)
    for (first, stop), shard in zip(pairwise(cuts), shards, strict=True):
        found = whole.grad(*shard, class_offset=first, reduction="none", backend="cuda")
        close(found, grad[:, first:stop], kind is np.float64, np.abs(grad).max() if weight else 0.0)


def test_shards_on_the_device_are_refused():
    x, y = OnDevice(np.zeros((2, 3), np.float32)), OnDevice(np.zeros(2, np.int64))
    with pytest.raises(NotImplementedError, match="does not support partial_cross_entropy of arrays on a GPU yet"):
        xn.partial_cross_entropy(x, y, n_classes=3)
    part = xn.partial_cross_entropy(x.array, y.array, n_classes=3)
    with pytest.raises(NotImplementedError, match=r"does not support PartialCrossEntropy\.grad of arrays on a GPU yet"):
        part.grad(x, y)
