# pyright: strict
"""A user's program that claims the type of each result, for type checkers; `test_typing.py` also runs it."""

from __future__ import annotations

from typing import Any, Literal, assert_type

import numpy as np
from numpy.typing import ArrayLike, NDArray

import xent_numba as xn

double = np.zeros((2, 3))
single = np.zeros((2, 3), np.float32)
half = np.zeros((2, 3), np.float16)
integers = np.zeros((2, 3), np.int64)
target = np.array([1, 0])


def losses() -> None:
    """A number of the logits' dtype, but float32 for float16; float64 for lists and integers."""
    assert_type(xn.cross_entropy(double, target), np.float64)
    assert_type(xn.cross_entropy(single, target, reduction="sum"), np.float32)
    assert_type(xn.cross_entropy(half, target, weight=[1.0, 2.0, 3.0], backend="numpy"), np.float32)
    assert_type(xn.cross_entropy(integers, target), np.float64)
    assert_type(xn.cross_entropy([[2.0, 1.0, 0.1], [0.1, 2.0, 1.9]], [1, 0]), np.float64)
    assert_type(xn.cross_entropy(((1, 0, 0), (0, 1, 0)), ((1, 0, 0), (0, 1, 0))), np.float64)


def options_of_numpy() -> None:
    """Its numbers are options too, though only float64 is a float."""
    tenth, last = np.float32(0.1), np.int64(1)
    assert_type(xn.cross_entropy(single, target, label_smoothing=tenth, logit_scale=np.float16(2)), np.float32)
    assert_type(xn.cross_entropy(single, target, axis=last, ignore_index=last, n_threads=last), np.float32)
    assert_type(xn.softmax(single, axis=last), NDArray[np.float32])
    assert_type(
        xn.CrossEntropyLoss(softcap=tenth, z_loss=tenth, ignore_index=[last], focal_gamma=tenth)(single, target),
        np.float32,
    )


def losses_of_rows() -> None:
    """Arrays of the same dtypes, without reduction."""
    assert_type(xn.cross_entropy(double, target, reduction="none"), NDArray[np.float64])
    assert_type(xn.cross_entropy(single, target, reduction="none"), NDArray[np.float32])
    assert_type(xn.cross_entropy(half, target, reduction="none"), NDArray[np.float32])
    assert_type(xn.cross_entropy([[2.0, 1.0, 0.1]], [1], reduction="none"), NDArray[np.float64])


def gradients() -> None:
    """Of the logits' dtype."""
    assert_type(xn.cross_entropy_and_grad(double, target), tuple[np.float64, NDArray[np.float64]])
    assert_type(xn.cross_entropy_and_grad(single, target, grad_out=single), tuple[np.float32, NDArray[np.float32]])
    assert_type(xn.cross_entropy_and_grad(half, target, grad_out=half), tuple[np.float32, NDArray[np.float16]])
    assert_type(xn.cross_entropy_and_grad([[2, 1, 0]], [1]), tuple[np.float64, NDArray[np.float64]])
    rows = xn.cross_entropy_and_grad(single, target, reduction="none")
    assert_type(rows, tuple[NDArray[np.float32], NDArray[np.float32]])
    half_rows = xn.cross_entropy_and_grad(half, target, reduction="none")
    assert_type(half_rows, tuple[NDArray[np.float32], NDArray[np.float16]])
    assert_type(xn.cross_entropy_grad(single, target, out=single), NDArray[np.float32])
    assert_type(xn.cross_entropy_grad(half, target, reduction="none", grad_output=[1, 2]), NDArray[np.float16])
    assert_type(xn.cross_entropy_grad(integers, target), NDArray[np.float64])


def second_derivatives() -> None:
    """Of the logits' dtype too, whatever that of the vector is."""
    assert_type(xn.cross_entropy_hvp(single, target, double), NDArray[np.float32])
    assert_type(xn.cross_entropy_hvp(half, target, half, out=half, gauss_newton=True), NDArray[np.float16])
    assert_type(xn.cross_entropy_hvp([[2, 1, 0]], [1], [[1, 0, 0]], reduction="sum"), NDArray[np.float64])
    both = xn.cross_entropy_grad_and_hessian_diag(single, target, grad_out=single, diag_out=np.empty_like(single))
    assert_type(both, tuple[NDArray[np.float32], NDArray[np.float32]])
    unreduced = xn.cross_entropy_grad_and_hessian_diag(integers, target, reduction="none")
    assert_type(unreduced, tuple[NDArray[np.float64], NDArray[np.float64]])


def distillation() -> None:
    """Of the student's dtype, as of logits; the teacher's does not matter."""
    assert_type(xn.distillation_loss(double, half), np.float64)
    assert_type(xn.distillation_loss(single, double, temperature=2, temperature_squared=True), np.float32)
    assert_type(xn.distillation_loss(half, [[1, 0, 0], [0, 1, 0]], sample_weight=[1, 2]), np.float32)
    assert_type(xn.distillation_loss(single, single, reduction="none"), NDArray[np.float32])
    assert_type(xn.distillation_loss(half, half, reduction="none"), NDArray[np.float32])
    assert_type(xn.distillation_loss_and_grad(double, single), tuple[np.float64, NDArray[np.float64]])
    assert_type(xn.distillation_loss_and_grad(half, single, grad_out=half), tuple[np.float32, NDArray[np.float16]])
    rows = xn.distillation_loss_and_grad(single, double, reduction="none", grad_out=single)
    assert_type(rows, tuple[NDArray[np.float32], NDArray[np.float32]])


def probabilities() -> None:
    """Of the logits' dtype; the logsumexp has that of the loss."""
    assert_type(xn.softmax(half), NDArray[np.float16])
    assert_type(xn.softmax(single, out=single, axis=0), NDArray[np.float32])
    assert_type(xn.log_softmax([1000.0, 0.0]), NDArray[np.float64])
    assert_type(xn.logsumexp(double), NDArray[np.float64])
    assert_type(xn.logsumexp(half, n_threads=1), NDArray[np.float32])


def statistics() -> None:
    """A named tuple; a checker cannot know which of its fields are None."""
    found = xn.row_statistics(single, target, fields=["rank"], ignore_index=[1, 2], softcap=np.float32(30))
    assert_type(found, xn.RowStatistics)
    assert_type(xn.row_statistics(half, fields=("entropy", "argmax")).entropy, Any)


def evaluations() -> None:
    """A named tuple of Python numbers, whatever the dtype."""
    found = xn.evaluate(half, target, top_k=(1, np.int64(2)), sample_weight=[1.0, 2.0], logit_scale=np.float32(2))
    assert_type(found, xn.Evaluation)
    assert_type(found.accuracy, dict[int, float])
    assert_type((found.loss, found.perplexity, found.bits, found.entropy), tuple[float, float, float, float])
    assert_type(found.n_rows, int)
    assert_type(xn.evaluate([[2.0, 1.0, 0.1]], [1], top_k=1), xn.Evaluation)


def shards() -> None:
    """The gradient of a shard has its dtype."""
    whole = xn.partial_cross_entropy(single[:, :1], target, n_classes=3) + xn.partial_cross_entropy(
        single[:, 1:], target, class_offset=1, n_classes=3, label_smoothing=np.float32(0)
    )
    assert_type(whole.grad(single[:, 1:], target, class_offset=1), NDArray[np.float32])
    assert_type(whole.loss(), np.float32)
    assert_type(whole.loss(reduction="none"), NDArray[np.float32])
    assert_type(whole.to_array(), NDArray[np.float64])
    assert_type(xn.PartialCrossEntropy.from_array(whole.to_array(), whole).loss("sum"), np.float32)
    assert_type(xn.partial_cross_entropy(half, target, n_classes=3).loss(), np.float32)
    assert_type(xn.partial_cross_entropy([[0.0, 1.0]], [1], n_classes=2, z_loss=1).loss("none"), NDArray[np.float64])


def linear_heads() -> None:
    """Named tuples; their dtypes depend on several arrays."""
    weight, bias = np.zeros((4, 3), np.float32), np.zeros(4, np.float32)
    assert_type(xn.linear_cross_entropy(single, weight, target, linear_bias=bias, softcap=np.float32(30)), Any)
    found = xn.linear_cross_entropy_and_grad(
        half, weight, target, wrt=["linear_weight"], linear_weight_grad_out=weight.copy(), batch_chunk_size=np.int64(1)
    )
    assert_type(found, xn.LinearCrossEntropyGrad)
    assert_type(found.linear_weight, Any)
    assert_type(xn.linear_cross_entropy_and_grad([[1.0, 2.0]], [[0, 1], [1, 0]], [1], wrt="input").input, Any)
    product = xn.linear_cross_entropy_hvp(single, weight, target, weight, linear_bias=bias, bias_vector=bias)
    assert_type(product, xn.LinearCrossEntropyHvp)
    assert_type(product.linear_bias, Any)


def layers() -> None:
    """An object knows whether it reduces."""
    mean = xn.CrossEntropyLoss(label_smoothing=0.1)
    assert_type(mean(single, target), np.float32)
    assert_type(mean(half, target, sample_weight=[1, 2]), np.float32)
    assert_type(mean([[2.0, 1.0, 0.1]], [1]), np.float64)
    assert_type(mean.backward(), NDArray[Any])
    rows = xn.CrossEntropyLoss(reduction="none")
    assert_type(rows(double, target), NDArray[np.float64])
    assert_type(rows(half, target), NDArray[np.float32])
    objects: list[xn.CrossEntropyLoss] = [mean, rows]
    assert_type([one.reduction for one in objects], list[str])


def what_a_checker_cannot_know(
    unknown: NDArray[Any], real: NDArray[np.float32] | NDArray[np.float64], like: ArrayLike, reduction: str
) -> None:
    """It is `Any`, or as many types as there are, and never a wrong one."""
    assert_type(xn.cross_entropy(unknown, target), Any)
    assert_type(xn.cross_entropy(single, target, reduction=reduction), Any)
    assert_type(xn.cross_entropy(real, target), np.float32 | np.float64)
    either: Literal["mean", "sum"] = "mean" if like else "sum"
    assert_type(xn.cross_entropy(single, target, reduction=either), np.float32)


class OnDevice:
    """An array on a GPU."""

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Where it is."""
        return {}


class Sparse:
    """A sparse matrix, in the format of its name."""

    @property
    def format(self) -> Literal["csr"]:
        """That of SciPy's type stubs."""
        return "csr"

    @property
    def indptr(self) -> NDArray[np.int32]:
        """Where its rows begin."""
        return np.zeros(1, np.int32)


def sparse_features(x: Sparse) -> None:
    """Only the input of a linear head may be sparse."""
    assert_type(xn.linear_cross_entropy_and_grad(x, double, target), xn.LinearCrossEntropyGrad)
    assert_type(xn.linear_cross_entropy_hvp(x, double, target, double), xn.LinearCrossEntropyHvp)


def on_a_gpu(x: OnDevice, y: OnDevice) -> None:
    """The type of such arrays is that of their library."""
    assert_type(xn.cross_entropy(x, y, weight=y), Any)
    assert_type(xn.cross_entropy_and_grad(x, y), tuple[Any, Any])
    assert_type(xn.cross_entropy_grad(x, y, reduction="sum", lse=y), Any)
    assert_type(xn.cross_entropy_hvp(x, y, x, gauss_newton=True), Any)
    assert_type(xn.cross_entropy_grad_and_hessian_diag(x, y), tuple[Any, Any])
    assert_type(xn.softmax(x, out=x), Any)
    assert_type(xn.linear_cross_entropy_and_grad(x, x, y), xn.LinearCrossEntropyGrad)
    assert_type(xn.row_statistics(x, y), xn.RowStatistics)
    assert_type(xn.evaluate(x, y, sample_weight=y), xn.Evaluation)
    assert_type(xn.CrossEntropyLoss()(x, y), Any)


def selector() -> None:
    """The functions around the losses."""
    with xn.use_backend("numpy") as nothing:
        assert_type(nothing, None)
    assert_type(xn.get_backend(), str)
    assert_type(bool(xn.available_backends()["cpu"]), bool)
