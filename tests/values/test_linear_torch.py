"""The linear head against PyTorch in float64: hundreds of random shapes and options, differentiated automatically."""

from __future__ import annotations

import numpy as np
import pytest

import xent_numba as xn
from tests.support.linear import assert_close, random_call

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")
from tests.values.test_torch_parity import formula  # noqa: E402  # it needs torch as well

torch.set_num_threads(1)

CASES = 600
CHUNKS = [None, 1, 2, 5]


def tensors(call):
    """Input, weight and bias as tensors that require gradients; a bias of 0 where there is none."""
    b = np.zeros(len(call.linear_weight)) if call.linear_bias is None else call.linear_bias
    return [torch.tensor(array, requires_grad=True) for array in (call.input, call.linear_weight, b)]


@pytest.mark.parametrize("part", range(2))
def test_random_calls_against_torch(part):
    compared = 0
    for case in range(part * CASES // 2, (part + 1) * CASES // 2):
        rng = np.random.default_rng(30_000 + case)
        call = random_call(rng)
        x, w, y, b, options = call
        leaves = tensors(call)
        loss, _ = formula(torch.nn.functional.linear(*leaves), y, x.ndim - 1, options)
        grads = torch.autograd.grad(loss.sum(), leaves, create_graph=True)
        if not all(torch.isfinite(tensor).all() for tensor in (loss, *grads)):
            continue  # 0 / 0, and the focal factor of a single class: test_linear has the rules
        more = {"linear_bias": b, "backend": "numpy", "batch_chunk_size": CHUNKS[case % 4], **options}
        found, message = xn.linear_cross_entropy_and_grad(x, w, y, **more), (case, options)
        assert_close(found.loss, loss.detach().numpy(), 1e-10, message)
        for one, other in zip(found[1:], grads, strict=True):
            if one is not None:
                assert_close(one, other.detach().numpy(), 1e-10, message)
        v, v_bias = rng.normal(size=w.shape), np.zeros(len(w)) if b is None else rng.normal(size=len(w))
        slope = (grads[1] * torch.tensor(v)).sum() + (grads[2] * torch.tensor(v_bias)).sum()
        if slope.requires_grad:
            products = torch.autograd.grad(slope, leaves[1:], allow_unused=True, materialize_grads=True)
            more |= {"bias_vector": None if b is None else v_bias, "gauss_newton": False}
            found = xn.linear_cross_entropy_hvp(x, w, y, v, **more)
            for one, other in zip(found, products, strict=True):
                if one is not None:
                    assert_close(one, other.numpy(), 1e-9, message)
        compared += 1
    assert compared > CASES // 3


@pytest.mark.parametrize("target", ["labels", "distribution"])
def test_the_function_of_the_same_name_in_torch(target, rng):
    theirs = getattr(torch.nn.functional, "linear_cross_entropy", None)
    if theirs is None:
        pytest.skip("PyTorch has it from 2.13 on")
    x, w, b = rng.normal(size=(20, 6)), rng.normal(size=(9, 6)), rng.normal(size=9)
    y = np.where(rng.random(20) < 0.2, -100, rng.integers(0, 9, 20))
    y = y if target == "labels" else rng.random((20, 9))
    for reduction in ("mean", "sum", "none"):
        options = {"reduction": reduction, "label_smoothing": 0.1}
        leaves = [torch.tensor(array, requires_grad=True) for array in (x, w, b)]
        loss = theirs(*leaves[:2], torch.tensor(y), linear_bias=leaves[2], weight=torch.tensor(b**2), **options)
        loss.sum().backward()
        more = {"linear_bias": b, "weight": b**2, "batch_chunk_size": 7, "backend": "numpy"}
        found = xn.linear_cross_entropy_and_grad(x, w, y, **more, **options)
        assert_close(found.loss, loss.detach().numpy(), 1e-12)
        for one, leaf in zip(found[1:], leaves, strict=True):
            assert_close(one, leaf.grad.numpy(), 1e-12)


def test_torch_tensors_are_read_and_written_in_place(rng):
    pytest.importorskip("ml_dtypes")
    y = torch.tensor(rng.integers(0, 9, 20))
    for dtype in (torch.float64, torch.bfloat16):
        x, w = (torch.tensor(rng.normal(size=shape)).to(dtype) for shape in ((20, 6), (9, 6)))
        out = torch.zeros_like(w)
        found = xn.linear_cross_entropy_and_grad(x, w, y, backend="numpy", linear_weight_grad_out=out)
        assert found.linear_weight is out
        plain = xn.linear_cross_entropy_and_grad(x.double(), w.double(), y, backend="numpy")
        assert_close(out.double().numpy(), plain.linear_weight, 1e-14 if dtype == torch.float64 else 2.0**-8)
