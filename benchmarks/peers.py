"""The others: who else computes this from a NumPy array, and how it is asked to in the fastest way that it documents.

Each peer is a generator of (operation, reusing, function): `reusing` where the result goes into an array that is there
already.  Loss functions return the mean, so that the bench can see that everybody computes the same.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import xent_numba as xn

OURS = "xent_numba"
LOSS, BOTH, SOFTMAX, LOG_SOFTMAX, LOGSUMEXP = "loss", "loss + gradient", "softmax", "log_softmax", "logsumexp"
Calls = Iterator[tuple[str, bool, Callable[[], object]]]


def installed(*modules: str) -> bool:
    """Whether all of these could be imported."""
    return all(importlib.util.find_spec(name) is not None for name in modules)


def xent_numba(x: np.ndarray, y: np.ndarray, out: np.ndarray, axis: int, threads: int) -> Calls:
    """This package."""
    row_out = np.empty(y.shape, xn.logsumexp(x[:1, :1, :1] if x.ndim == 3 else x[:1, :1], axis=axis).dtype)
    at: dict[str, Any] = {"axis": axis, "n_threads": threads}
    yield LOSS, False, lambda: xn.cross_entropy(x, y, **at)
    yield BOTH, False, lambda: xn.cross_entropy_and_grad(x, y, **at)[0]
    yield BOTH, True, lambda: xn.cross_entropy_and_grad(x, y, grad_out=out, **at)[0]
    for name, function in ((SOFTMAX, xn.softmax), (LOG_SOFTMAX, xn.log_softmax)):
        yield name, False, lambda function=function: function(x, **at)
        yield name, True, lambda function=function: function(x, out=out, **at)
    yield LOGSUMEXP, False, lambda: xn.logsumexp(x, **at)
    yield LOGSUMEXP, True, lambda: xn.logsumexp(x, out=row_out, **at)


def numpy(x: np.ndarray, y: np.ndarray, out: np.ndarray, axis: int, threads: int) -> Calls:
    """The lines that everybody writes."""
    if axis != -1 or x.itemsize < 4:
        return
    n, rows = len(x), np.arange(len(x))

    def loss() -> Any:
        z = x - x.max(axis=1, keepdims=True)
        return (np.log(np.exp(z).sum(axis=1)) - z[rows, y]).mean()

    def both(buffer: np.ndarray | None = None) -> Any:
        z = np.subtract(x, x.max(axis=1, keepdims=True), out=buffer)
        at_target = z[rows, y]
        p = np.exp(z, out=z)
        s = p.sum(axis=1)
        p /= s[:, None]
        p[rows, y] -= 1
        p /= n
        return (np.log(s) - at_target).mean()

    def softmax(buffer: np.ndarray | None = None) -> Any:
        p = np.subtract(x, x.max(axis=1, keepdims=True), out=buffer)
        np.exp(p, out=p)
        p /= p.sum(axis=1, keepdims=True)
        return p

    yield LOSS, False, loss
    yield BOTH, False, both
    yield BOTH, True, lambda: both(out)
    yield SOFTMAX, False, softmax
    yield SOFTMAX, True, lambda: softmax(out)


def scipy(x: np.ndarray, y: np.ndarray, out: np.ndarray, axis: int, threads: int) -> Calls:
    """scipy.special."""
    if axis != -1 or x.itemsize < 4 or not installed("scipy"):
        return
    from scipy import special

    yield LOSS, False, lambda: (special.logsumexp(x, axis=1) - x[np.arange(len(x)), y]).mean()
    yield SOFTMAX, False, lambda: special.softmax(x, axis=1)
    yield LOG_SOFTMAX, False, lambda: special.log_softmax(x, axis=1)
    yield LOGSUMEXP, False, lambda: special.logsumexp(x, axis=1)


def scikit_learn(x: np.ndarray, y: np.ndarray, out: np.ndarray, axis: int, threads: int) -> Calls:
    """Its Cython loss, the one under LogisticRegression and gradient boosting."""
    if axis != -1 or x.itemsize < 4 or not x.flags.c_contiguous or x.shape[1] < 3 or not installed("sklearn"):
        return
    from sklearn._loss import HalfMultinomialLoss

    function, labels = HalfMultinomialLoss(n_classes=x.shape[1]), y.astype(x.dtype)
    losses = np.empty(len(x), x.dtype)

    def both(loss_out: np.ndarray | None, gradient_out: np.ndarray | None) -> Any:
        loss, gradient = function.loss_gradient(
            labels, x, loss_out=loss_out, gradient_out=gradient_out, n_threads=threads
        )
        return loss.mean()

    yield LOSS, False, lambda: function.loss(labels, x, n_threads=threads).mean()
    yield LOSS, True, lambda: function.loss(labels, x, loss_out=losses, n_threads=threads).mean()
    yield BOTH, False, lambda: both(None, None)
    yield BOTH, True, lambda: both(losses, out)


def _as_torch(array: np.ndarray) -> Any:
    import torch

    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def torch_eager(x: np.ndarray, y: np.ndarray, out: np.ndarray, axis: int, threads: int) -> Calls:
    """PyTorch as most people use it."""
    if not installed("torch"):
        return
    import torch

    torch.set_num_threads(threads)
    t, labels, into = _as_torch(x), torch.from_numpy(y), _as_torch(out)
    leaf = _as_torch(x).requires_grad_()
    function, at = torch.nn.functional.cross_entropy, x.ndim - 1 if axis == -1 else axis

    def loss() -> float:
        with torch.no_grad():
            return float(function(t, labels))

    def both() -> float:
        leaf.grad = None
        value = function(leaf, labels)
        value.backward()
        leaf.grad = None
        return float(value.detach())

    yield LOSS, False, loss
    yield BOTH, False, both
    yield SOFTMAX, False, lambda: torch.softmax(t, at)
    yield SOFTMAX, True, lambda: torch.softmax(t, at, out=into)
    yield LOG_SOFTMAX, False, lambda: torch.log_softmax(t, at)
    yield LOG_SOFTMAX, True, lambda: torch.log_softmax(t, at, out=into)
    sums = torch.logsumexp(t[:1], at).new_empty(y.shape)
    yield LOGSUMEXP, False, lambda: torch.logsumexp(t, at)
    yield LOGSUMEXP, True, lambda: torch.logsumexp(t, at, out=sums)


def torch_compile(x: np.ndarray, y: np.ndarray, out: np.ndarray, axis: int, threads: int) -> Calls:
    """PyTorch through its compiler, for this very shape."""
    if not installed("torch"):
        return
    import torch

    torch.set_num_threads(threads)
    torch.compiler.reset()  # else it gives up on shapes after the eighth
    t, labels = _as_torch(x), torch.from_numpy(y)
    leaf = _as_torch(x).requires_grad_()
    at = x.ndim - 1 if axis == -1 else axis
    compiled = torch.compile(torch.nn.functional.cross_entropy, dynamic=False)

    def loss() -> float:
        with torch.no_grad():
            return float(compiled(t, labels))

    def both() -> float:
        leaf.grad = None
        value = compiled(leaf, labels)
        value.backward()
        leaf.grad = None
        return float(value.detach())

    yield LOSS, False, loss
    yield BOTH, False, both
    for name in (SOFTMAX, LOG_SOFTMAX, LOGSUMEXP):
        plain = getattr(torch, name)
        function = torch.compile(lambda z, plain=plain: plain(z, at), dynamic=False)
        yield name, False, lambda function=function: function(t)


def jax_jit(x: np.ndarray, y: np.ndarray, out: np.ndarray, axis: int, threads: int) -> Calls:
    """JAX; its arrays are made before the clock starts."""
    if not installed("jax") or not x.flags.c_contiguous or (x.dtype == np.float64):
        return
    import jax
    import jax.numpy as jnp

    t, labels = jnp.asarray(x), jnp.asarray(y)

    def mean(z: Any, k: Any) -> Any:
        wide = z.astype(jnp.float32)
        picked = jnp.take_along_axis(wide, jnp.expand_dims(k, axis), axis=axis)
        return (jax.nn.logsumexp(wide, axis=axis) - jnp.squeeze(picked, axis)).mean()

    loss, both = jax.jit(mean), jax.jit(jax.value_and_grad(mean))
    yield LOSS, False, lambda: float(loss(t, labels).block_until_ready())

    def value() -> float:
        result, gradient = both(t, labels)
        gradient.block_until_ready()
        return float(result)

    yield BOTH, False, value
    for name in (SOFTMAX, LOG_SOFTMAX, LOGSUMEXP):
        plain = getattr(jax.nn, name)
        function = jax.jit(lambda z, plain=plain: plain(z, axis=axis))
        yield name, False, lambda function=function: function(t).block_until_ready()


def onnx_runtime(x: np.ndarray, y: np.ndarray, out: np.ndarray, axis: int, threads: int) -> Calls:
    """ONNX Runtime, an operator at a time; it has no gradients."""
    if not installed("onnxruntime", "onnx") or axis != -1 or x.dtype != np.float32 or not x.flags.c_contiguous:
        return
    import onnxruntime
    from onnx import TensorProto, helper

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.log_severity_level = 4
    value = onnxruntime.OrtValue.ortvalue_from_numpy

    def session(name: str, inputs: list[Any], attributes: dict[str, Any]) -> Any:
        node = helper.make_node(name, [i.name for i in inputs], ["r"], **attributes)
        result = helper.make_tensor_value_info("r", TensorProto.FLOAT, None)
        graph = helper.make_graph([node], "g", inputs, [result])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        return onnxruntime.InferenceSession(model.SerializeToString(), settings, ["CPUExecutionProvider"])

    logits = helper.make_tensor_value_info("x", TensorProto.FLOAT, list(x.shape))
    labels = helper.make_tensor_value_info("y", TensorProto.INT64, list(y.shape))
    feed = {"x": value(x), "y": value(y)}
    loss = session("SoftmaxCrossEntropyLoss", [logits, labels], {"reduction": "mean"})
    yield LOSS, False, lambda: float(loss.run_with_ort_values(["r"], feed)[0].numpy())
    sums = {"axes": [1], "keepdims": 0}
    for name, operator, attributes in (
        (SOFTMAX, "Softmax", {"axis": 1}),
        (LOG_SOFTMAX, "LogSoftmax", {"axis": 1}),
        (LOGSUMEXP, "ReduceLogSumExp", sums),
    ):
        run = session(operator, [logits], attributes)
        yield name, False, lambda run=run: run.run_with_ort_values(["r"], {"x": feed["x"]})


PEERS: dict[str, Callable[..., Calls]] = {
    "PyTorch": torch_eager,
    "torch.compile": torch_compile,
    "jax.jit": jax_jit,
    "ONNX Runtime": onnx_runtime,
    "scikit-learn": scikit_learn,
    "SciPy": scipy,
    "NumPy": numpy,
}
MODULES = {
    "PyTorch": ["torch"],
    "torch.compile": ["torch"],
    "jax.jit": ["jax"],
    "ONNX Runtime": ["onnxruntime", "onnx"],
    "scikit-learn": ["sklearn"],
    "SciPy": ["scipy"],
    "NumPy": ["numpy"],
}
