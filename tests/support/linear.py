"""Random calls of the functions of a linear head, and what they must give: the same by way of the logits."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import xent_numba as xn

Array = NDArray[Any]
LEADS = [(7,), (7,), (1,), (23,), (), (2, 3), (4, 1, 3), (2, 3, 2), (0,), (3, 0, 2)]


class Call(NamedTuple):
    """The arguments of one call."""

    input: Array
    linear_weight: Array
    target: Array
    linear_bias: Array | None
    options: dict[str, Any]

    @property
    def logits(self) -> Array:
        """As one array, of float64."""
        z = self.input.astype(np.float64) @ self.linear_weight.astype(np.float64).T
        return z if self.linear_bias is None else z + self.linear_bias.astype(np.float64)


def random_call(rng: np.random.Generator) -> Call:
    """Any number of leading axes, rows, features and classes, with any of the options."""
    lead = LEADS[rng.integers(len(LEADS))]
    n_classes, n_features = int(rng.choice([1, 2, 3, 5, 12])), int(rng.choice([0, 1, 2, 5, 9]))
    x = rng.normal(size=(*lead, n_features))
    w = rng.normal(scale=rng.choice([0.1, 1.0, 10.0]), size=(n_classes, n_features))
    b = rng.normal(size=n_classes) if rng.random() < 0.5 else None
    options: dict[str, Any] = {
        "reduction": str(rng.choice(["mean", "sum", "none"])),
        "label_smoothing": float(rng.choice([0.0, 0.0, 0.1, 1.0])),
        "logit_scale": float(rng.choice([1.0, 0.5, -0.7])),
        "softcap": rng.choice([None, None, 5.0, 30.0]),
        "z_loss": float(rng.choice([0.0, 1e-4, 0.1])),
    }
    if rng.random() < 0.5:
        options["weight"] = rng.random(n_classes) + 0.01
    if rng.random() < 0.5:
        options["sample_weight"] = rng.random(lead) * (rng.random(lead) < 0.9)
    if rng.random() < 0.3:
        return Call(x, w, np.exp(rng.normal(size=(*lead, n_classes))), b, options)
    ignored = int(rng.choice([-100, -1, 0, 255]))
    options["ignore_index"] = [(ignored,), (ignored, -7, 1)][rng.integers(2)]
    if not options["label_smoothing"]:
        options["focal_gamma"] = float(rng.choice([0.0, 0.5, 2.0]))
    y = np.where(rng.random(lead) < 0.3, ignored, rng.integers(0, n_classes, lead))
    return Call(x, w, y, b, options)


def over_rows(grad: Array, features: Array) -> tuple[Array, Array]:
    """The gradients of weight and bias, from that of the logits."""
    g, x = (array.reshape(math.prod(array.shape[:-1]), array.shape[-1]) for array in (grad, features))
    return np.einsum("nc,nd->cd", g, x), g.sum(0)


def unfused(call: Call) -> tuple[Any, Array, Array, Array]:
    """The loss and the gradients of input, weight and bias, from those of the logits."""
    x, w, y, _, options = call
    loss, grad = xn.cross_entropy_and_grad(call.logits, y, backend="numpy", **options)
    rows = x.astype(np.float64)
    return loss, grad @ w.astype(np.float64), *over_rows(grad, rows)


def unfused_hvp(call: Call, vector: Array, bias_vector: Array | None, gauss_newton: bool) -> tuple[Array, Array]:
    """The Hessian-vector product for weight and bias, from that for the logits."""
    x, w, y, _, options = call
    v = x @ vector.T + (0.0 if bias_vector is None else bias_vector)
    product = xn.cross_entropy_hvp(call.logits, y, v, gauss_newton=gauss_newton, backend="numpy", **options)
    return over_rows(product, x)


def assert_close(found: Any, expected: Any, tolerance: float, message: object = "") -> None:
    """Within a tolerance relative to the largest of all elements; nan where nan is expected."""
    size = float(np.fmax.reduce(np.abs(expected), axis=None, initial=1.0))
    np.testing.assert_allclose(
        np.asarray(found, np.float64), expected, rtol=tolerance, atol=tolerance * size, err_msg=str(message)
    )
