"""Thousands of random combinations of the options against PyTorch in float64.

Where torch.nn.functional.cross_entropy defines a case, it is the judge; the other options are written out in torch
operations, for autograd to differentiate.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

import xent_numba as xn
from tests.support.backends import BACKENDS

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")
torch.set_num_threads(1)  # for tiny tensors; more would only get in the way of the threads under test

CASES = 1500
SECOND_ORDER_CASES = 400
SHAPES = [(1, 2), (4, 3), (7, 10), (33, 5), (2, 300), (3, 4, 5), (2, 3, 4, 2), (2, 5, 1, 3, 2), (6,)]
REDUCTIONS = ["mean", "sum", "none"]


def random_case(rng):
    """Logits with the classes on axis 1 (0 for 1-D), a target, and the options that PyTorch has."""
    shape = SHAPES[rng.integers(len(SHAPES))]
    axis = 0 if len(shape) == 1 else 1
    c, rows = shape[axis], shape[:axis] + shape[axis + 1 :]
    x = rng.normal(scale=rng.choice([0.1, 3.0, 30.0]), size=shape) + rng.choice([0.0, 0.0, 1e3, -1e3])
    options = {"reduction": REDUCTIONS[rng.integers(3)], "label_smoothing": rng.choice([0.0, 0.0, 0.1, 0.9, 1.0])}
    options["label_smoothing"] = float(options["label_smoothing"])
    if rng.random() < 0.5:
        options["weight"] = rng.random(c) * rng.choice([1.0, 10.0]) * (rng.random(c) < 0.9)
    if rng.random() < 0.5:
        y = np.exp(rng.normal(size=shape))
        y = y / y.sum(axis, keepdims=True) if rng.random() < 0.7 else y
    else:
        y = rng.integers(0, c, rows)
        ignored = int(rng.choice([-100, -1, 0, 255]))
        options["ignore_index"] = ignored
        y = np.where(rng.random(rows) < 0.3, ignored, y)
    return x, y, axis, options


def torch_results(x, y, options):
    options = dict(options)
    if "weight" in options:
        options["weight"] = torch.tensor(options["weight"])
    logits = torch.tensor(x, requires_grad=True)
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(y), **options)
    loss.sum().backward()
    return loss.detach().numpy(), logits.grad.numpy()


@pytest.mark.parametrize("part", range(4))
def test_what_pytorch_defines(part):
    for case in range(part * CASES // 4, (part + 1) * CASES // 4):
        x, y, axis, options = random_case(np.random.default_rng(case))
        loss, grad = torch_results(x, y, options)
        if np.isnan(loss).all():  # 0 / 0: the gradient is nan there, and 0 here
            grad = np.zeros_like(grad)
        for backend in BACKENDS:
            found, found_grad = xn.cross_entropy_and_grad(x, y, axis=axis, backend=backend, **options)
            np.testing.assert_allclose(found, loss, rtol=1e-10, atol=1e-10, err_msg=str((case, options)))
            np.testing.assert_allclose(found_grad, grad, rtol=1e-9, atol=1e-9, err_msg=str((case, options)))


def formula(logits, y, axis, options):
    """The losses as the docstring of `xent_numba.cross_entropy` states them, in torch operations; and their lse."""
    z = options["logit_scale"] * logits
    if options["softcap"] is not None:
        z = options["softcap"] * torch.tanh(z / options["softcap"])
    c = logits.shape[axis]
    shape = [1] * logits.ndim
    shape[axis] = c
    w = torch.tensor(options.get("weight", np.ones(c))).reshape(shape)
    epsilon = options["label_smoothing"]
    lse = torch.logsumexp(z, axis)
    if y.ndim == logits.ndim:
        kept = torch.ones(lse.shape, dtype=torch.float64)
        t = w * ((1 - epsilon) * torch.tensor(y) + epsilon / c)
        denominator_weight = kept
    else:
        ignored = np.isin(y, options["ignore_index"])
        kept = torch.tensor((~ignored).astype(float))
        labels = torch.tensor(np.where(ignored, 0, y).astype(np.int64)).unsqueeze(axis)
        one_hot = torch.zeros_like(z).scatter_(axis, labels, 1.0)
        t = w * ((1 - epsilon) * one_hot) + epsilon / c * w
        denominator_weight = (w * one_hot).sum(axis)
    s = torch.tensor(options.get("sample_weight", np.ones(lse.shape))) * kept
    rows = s * (t.sum(axis) * lse - (t * z).sum(axis))
    gamma = options.get("focal_gamma", 0.0)
    if gamma:  # the row is w (lse − z_y); 1 − p is the sum of the other probabilities
        rows = rows * (torch.softmax(z, axis) * (1.0 - one_hot)).sum(axis) ** gamma
    z_rows = s * options["z_loss"] * lse**2
    if options["reduction"] == "none":
        loss = rows + z_rows
    elif options["reduction"] == "sum":
        loss = (rows + z_rows).sum()
    else:
        loss = rows.sum() / (s * denominator_weight).sum() + z_rows.sum() / s.sum()
    return loss, lse


def formula_results(x, y, axis, rng, options):
    """The losses by `formula`, their gradient for a random upstream gradient, that, and the lse."""
    logits = torch.tensor(x, requires_grad=True)
    loss, lse = formula(logits, y, axis, options)
    g = rng.normal(size=tuple(loss.shape)) if options["reduction"] == "none" else rng.normal()
    (loss * torch.as_tensor(g, dtype=torch.float64)).sum().backward()
    return loss.detach().numpy(), logits.grad.numpy(), g, lse.detach().numpy()


def random_case_of_all(rng, case):
    """A `random_case` with the options that PyTorch lacks."""
    x, y, axis, options = random_case(rng)
    if np.abs(x).max() > 500:
        x = x - np.median(x)
    rows = x.shape[:axis] + x.shape[axis + 1 :]
    options["logit_scale"] = float(rng.choice([1.0, 0.5, 1.3, -0.7]))
    options["softcap"] = rng.choice([None, None, 5.0, 30.0])
    options["z_loss"] = float(rng.choice([0.0, 1e-4, 0.1]))
    if rng.random() < 0.6:
        options["sample_weight"] = rng.random(rows) * (rng.random(rows) < 0.9)
    if y.ndim < x.ndim:
        options["ignore_index"] = [(options["ignore_index"],), (options["ignore_index"], -7, 1)][case % 2]
    return x, y, axis, options


@pytest.mark.parametrize("part", range(4))
def test_what_pytorch_leaves_open(part):
    for case in range(part * CASES // 4, (part + 1) * CASES // 4):
        rng = np.random.default_rng(10_000 + case)
        x, y, axis, options = random_case_of_all(rng, case)
        if x.shape[axis] > 256:
            continue  # the code for long rows differs in nothing that is new here
        loss, grad, g, lse = formula_results(x, y, axis, rng, options)
        if np.isnan(loss).any() or np.isinf(loss).any():
            continue  # 0 / 0; test_edges has it
        loss_size, grad_size = (max(1.0, float(np.abs(values).max())) for values in (loss, grad))
        message = str((case, options))
        for backend in BACKENDS:
            found, _ = xn.cross_entropy_and_grad(x, y, axis=axis, backend=backend, **options)
            np.testing.assert_allclose(found, loss, rtol=1e-10, atol=1e-10 * loss_size, err_msg=message)
            for saved in (None, lse):
                more = {"grad_output": g, "lse": saved, "backend": backend}
                found = xn.cross_entropy_grad(x, y, axis=axis, **more, **options)
                np.testing.assert_allclose(found, grad, rtol=1e-9, atol=1e-9 * grad_size, err_msg=message)


def second_derivatives(x, y, axis, v, options):
    """H v, the gradient and the diagonal of H by automatic differentiation; None for the diagonal of many classes."""
    logits = torch.tensor(x, requires_grad=True)
    loss, _ = formula(logits, y, axis, options)
    (grad,) = torch.autograd.grad(loss.sum(), logits, create_graph=True)

    def times(vector):
        return torch.autograd.grad(grad, logits, torch.tensor(vector), retain_graph=True)[0].numpy()

    diag = np.zeros_like(x)
    for j in range(x.shape[axis]):  # of all rows at once, because no row depends on another
        unit = np.zeros_like(x)
        where = (slice(None),) * axis + (j,)
        unit[where] = 1.0
        diag[where] = times(unit)[where]
    return times(v), grad.detach().numpy(), diag


SECOND_ORDER = ["numpy", *(pytest.param(name, marks=pytest.mark.rare) for name in BACKENDS if name != "numpy")]


@pytest.mark.parametrize("backend", SECOND_ORDER, indirect=True)
def test_automatic_second_derivatives(backend):
    compared = 0
    for case in range(SECOND_ORDER_CASES):
        rng = np.random.default_rng(20_000 + case)
        x, y, axis, options = random_case_of_all(rng, case)
        if x.shape[axis] > 256 and case % 8:
            continue  # a diagonal of 300 classes takes PyTorch a while
        v = rng.normal(size=x.shape)
        if y.ndim < x.ndim and not options["label_smoothing"]:
            options["focal_gamma"] = float(rng.choice([0.0, 0.5, 1.0, 2.0, 3.5]))
        hv, grad, diag = second_derivatives(x, y, axis, v, options)
        if np.isnan(grad).any() or np.isinf(grad).any():
            continue  # 0 / 0; test_curvature has it
        size = max(1.0, float(np.abs(hv).max()), float(np.abs(diag).max()))
        message = str((case, options))
        found = xn.cross_entropy_hvp(x, y, v, axis=axis, **options)
        np.testing.assert_allclose(found, hv, rtol=1e-10, atol=1e-10 * size, err_msg=message)
        found_grad, found = xn.cross_entropy_grad_and_hessian_diag(x, y, axis=axis, **options)
        np.testing.assert_allclose(found_grad, grad, rtol=1e-9, atol=1e-9 * size, err_msg=message)
        np.testing.assert_allclose(found, diag, rtol=1e-10, atol=1e-10 * size, err_msg=message)
        compared += 1
    assert compared > SECOND_ORDER_CASES // 2


def test_the_pairs_of_options_are_all_there():
    """That the random cases above leave no pair of PyTorch's options untried."""
    seen = set()
    for case in range(CASES):
        x, y, _, options = random_case(np.random.default_rng(case))
        facts = (
            options["reduction"], options["label_smoothing"] > 0, "weight" in options, y.ndim == x.ndim, x.ndim,
            options.get("ignore_index"),
        )  # fmt: skip
        seen.update(itertools.combinations(enumerate(facts), 2))
    names = [REDUCTIONS, [False, True], [False, True], [False, True], [1, 2, 3, 4, 5], [None, -100, -1, 0, 255]]
    for (i, one), (j, other) in itertools.combinations(enumerate(names), 2):
        for a, b in itertools.product(one, other):
            contradiction = j == 5 and i == 3 and (a == (b is not None))
            assert contradiction or ((i, a), (j, b)) in seen, (i, a, j, b)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_other_dtypes(dtype, backend, rng):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    kind = np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
    for shape in ((20, 10), (4, 1000)):
        x = rng.normal(scale=3, size=shape).astype(kind)
        y = rng.integers(0, shape[1], shape[0])
        loss, grad = torch_results(x.astype(np.float64), y, {})
        found, found_grad = xn.cross_entropy_and_grad(x, y)
        assert found.dtype == np.float32
        assert found_grad.dtype == kind
        np.testing.assert_allclose(found, loss, rtol=1e-6)
        half_unit = {"float32": 1e-6, "float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype]
        np.testing.assert_allclose(found_grad.astype(float), grad, rtol=1.01 * half_unit, atol=2.0**-25)


def test_the_mean_of_nothing_is_nan_in_both():
    x = np.zeros((2, 3))
    theirs = torch.nn.functional.cross_entropy(torch.tensor(x), torch.tensor([-100, -100]))
    assert math.isnan(theirs)
    assert math.isnan(xn.cross_entropy(x, [-100, -100]))
