"""Tensors of PyTorch and JAX on the host: read and written in place, or refused where a gradient would be lost."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest

import xent_numba as xn

A = np.array([[2.0, 1.0, 0.1], [0.1, 2.0, 1.9]], np.float32)
Y = np.array([1, 0])
REFUSED = {
    "logits": "logits is a tensor that requires a gradient, which would be lost here; pass logits.detach(), and take "
    "the gradient from cross_entropy_and_grad, in a torch.autograd.Function whose backward returns it"
}
for _name in ("target", "weight", "sample_weight", "lse", "grad_output", "out"):
    REFUSED[_name] = (
        f"{_name} is a tensor that requires a gradient, which would be lost here; pass {_name}.detach(); gradients are "
        "those of the logits alone"
    )
TRACED = (
    "{} is traced by JAX and has no values yet; call this function outside of jit, grad and vmap, or through "
    "jax.pure_callback"
)
SHAPES = {
    "logits": (2, 3), "target": (2, 3), "weight": (3,), "sample_weight": (2,), "lse": (2,), "grad_output": (),
    "out": (2, 3),
}  # fmt: skip


def class_of(library, name, **attributes):
    """A stand-in for a class of a library that need not be installed."""
    return type(name, (), {"__module__": library, **attributes})


def raising(error):
    """An `__array__` that fails."""

    def fail(self, dtype=None, copy=None):
        raise error

    return fail


def call_with(name, value):
    """A call whose argument of this name is `value`."""
    return xn.cross_entropy_grad(**{"logits": A, "target": Y, "backend": "numpy", name: value})


@pytest.mark.parametrize("name", SHAPES)
def test_a_tensor_that_requires_a_gradient_is_refused(name):
    error = RuntimeError("Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead.")
    kind = class_of("torch", "Tensor", requires_grad=True, shape=SHAPES[name], ndim=len(SHAPES[name]), dtype="float32")
    kind.__array__ = raising(error)
    for value in (kind(), [kind()])[: 1 if name in ("out", "grad_output") else 2]:
        with pytest.raises(TypeError) as caught:
            call_with(name, value)
        assert str(caught.value) == REFUSED[name]


def test_an_option_that_requires_a_gradient_is_refused():
    """As a learnable temperature does, from which `float` would read the number."""
    kind = class_of("torch", "Tensor", requires_grad=True, ndim=0)
    kind.__float__ = lambda self: 1.0
    with pytest.raises(TypeError, match=r"^logit_scale is a tensor that requires a gradient.* logit_scale.detach\(\);"):
        xn.cross_entropy(A, Y, logit_scale=kind(), backend="numpy")


@pytest.mark.parametrize("name", SHAPES)
def test_a_tracer_is_refused(name):
    tracer = class_of("jax._src.core", "Tracer", shape=SHAPES[name], ndim=len(SHAPES[name]), dtype="float32")
    kind = type("JitTracer", (tracer,), {"__array__": raising(TypeError("The __array__ method was called on ..."))})
    with pytest.raises(TypeError) as caught:
        call_with(name, kind())
    assert str(caught.value) == TRACED.format(name)


def bfloat16_tensor(array):
    """A stand-in for a bfloat16 tensor on the memory of an array of ml_dtypes.bfloat16."""
    bits = types.SimpleNamespace(numpy=lambda: array.view(np.int16))
    kind = class_of("torch", "Tensor", dtype="torch.bfloat16", requires_grad=False, shape=array.shape, ndim=array.ndim)
    kind.__array__ = raising(TypeError("Got unsupported ScalarType BFloat16"))
    kind.detach = lambda self: self
    kind.view = lambda self, dtype: bits if dtype == "int16" else None
    return kind()


@pytest.fixture
def fake_torch(monkeypatch):
    """A module "torch" with no more than is needed."""
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(int16="int16", is_grad_enabled=lambda: True))


@pytest.mark.usefixtures("fake_torch")
def test_bfloat16_tensors_are_read_and_written_in_place():
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    x, out = A.astype(bfloat16), np.zeros(A.shape, bfloat16)
    expected = xn.cross_entropy_and_grad(x, Y, backend="numpy")
    tensor = bfloat16_tensor(out)
    loss, grad = xn.cross_entropy_and_grad(bfloat16_tensor(x), Y, grad_out=tensor, backend="numpy")
    assert grad is tensor
    assert loss == expected[0]
    np.testing.assert_array_equal(out, expected[1])


@pytest.mark.usefixtures("fake_torch")
def test_bfloat16_tensors_without_ml_dtypes(monkeypatch):
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    tensor = bfloat16_tensor(A.astype(bfloat16))
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(TypeError) as caught:
        xn.cross_entropy(tensor, Y, backend="numpy")
    assert str(caught.value) == "logits is a bfloat16 tensor; to read it, pip install ml_dtypes"


def test_other_things_to_write_to_are_refused():
    immutable = class_of("jaxlib._jax", "ArrayImpl", __array__=lambda self, dtype=None, copy=None: np.zeros((2, 3)))
    with pytest.raises(TypeError) as caught:
        xn.cross_entropy_and_grad(A, Y, grad_out=immutable())
    message = "grad_out must be a NumPy array to write to, not ArrayImpl (or a CPU tensor of PyTorch)"
    assert str(caught.value) == message


@pytest.mark.parametrize("name", SHAPES)
def test_torch_tensors_that_require_a_gradient(name):
    torch = pytest.importorskip("torch")
    value = torch.ones(SHAPES[name], requires_grad=True)
    with pytest.raises(TypeError) as caught:
        call_with(name, value)
    assert str(caught.value) == REFUSED[name]
    if name != "out":
        with torch.no_grad():  # PyTorch lets NumPy read it here, because no gradient is wanted
            np.testing.assert_array_equal(call_with(name, value), call_with(name, np.ones(SHAPES[name], np.float32)))
            call_with(name, value.to(torch.bfloat16).requires_grad_())


def test_torch_bfloat16_tensors_of_any_strides():
    torch = pytest.importorskip("torch")
    pytest.importorskip("ml_dtypes")
    x = torch.tensor(A).bfloat16()
    expected = xn.cross_entropy_and_grad(x.float(), Y, backend="numpy")
    for tensor, axis in ((x, 1), (x.t(), 0), (x.repeat(2, 2)[:2, :3], 1)):
        loss, grad = xn.cross_entropy_and_grad(tensor, torch.tensor(Y), axis=axis, backend="numpy")
        assert loss == expected[0]
        assert grad.dtype.name == "bfloat16"
        np.testing.assert_allclose(grad.astype(float), np.moveaxis(expected[1], 1, axis), rtol=2**-8)
    assert np.isfinite(xn.cross_entropy(A, x.softmax(1), weight=torch.ones(3).bfloat16(), backend="numpy"))


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_torch_tensors_receive_results(dtype):
    torch = pytest.importorskip("torch")
    pytest.importorskip("ml_dtypes")
    x = torch.tensor(A).to(getattr(torch, dtype))
    expected = xn.cross_entropy_grad(x, Y, backend="numpy").astype(float)
    wide = torch.zeros((3, 4), dtype=x.dtype)
    for out in (torch.zeros_like(x), wide.t()[1:3, :3], x):
        loss, grad = xn.cross_entropy_and_grad(x.clone() if out is not x else x, Y, grad_out=out, backend="numpy")
        assert grad is out
        np.testing.assert_array_equal(out.double().numpy(), expected)
    assert wide.count_nonzero() == 6
    with pytest.raises(ValueError, match=r"out has shape \(3, 2\) and dtype .*; it must have shape \(2, 3\)"):
        xn.softmax(x, out=torch.zeros((3, 2), dtype=x.dtype))
    assert xn.softmax(x, out=out, backend="numpy") is out


def test_jax_tracers():
    jax = pytest.importorskip("jax")
    for transformed in (jax.jit, jax.grad, jax.vmap):
        with pytest.raises(TypeError) as caught:
            transformed(lambda z: xn.cross_entropy(z, Y))(A)
        assert str(caught.value) == TRACED.format("logits")


def test_an_array_that_offers_nothing_but_dlpack_is_read_in_place():
    class Capsule:
        def __init__(self, array):
            self.array = array

        def __dlpack_device__(self):
            return self.array.__dlpack_device__()

        def __dlpack__(self, **options):
            return self.array.__dlpack__(**options)

    x, y, s = np.array([[0.0, 1.0], [2.0, 0.0]]), np.array([0, 1]), np.array([1.0, 3.0])
    for logits, target, weights in ((Capsule(x), y, s), (x, Capsule(y), s), (x, y, Capsule(s))):
        assert xn.cross_entropy(logits, target, sample_weight=weights) == xn.cross_entropy(x, y, sample_weight=s)
        found = xn.evaluate(logits, target, top_k=1, sample_weight=weights)
        assert found == xn.evaluate(x, y, top_k=1, sample_weight=s)
    broken = class_of(
        "anywhere", "Array", __dlpack_device__=lambda self: (1, 0), __dlpack__=raising(BufferError("lost"))
    )
    with pytest.raises(ValueError, match="logits cannot be read as an array: lost"):
        xn.cross_entropy(broken(), y)
