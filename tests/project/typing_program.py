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


def probabilities() -> None:
    """Of the logits' dtype; the logsumexp has that of the loss."""
    assert_type(xn.softmax(half), NDArray[np.float16])
    assert_type(xn.softmax(single, out=single, axis=0), NDArray[np.float32])
    assert_type(xn.log_softmax([1000.0, 0.0]), NDArray[np.float64])
    assert_type(xn.logsumexp(double), NDArray[np.float64])
    assert_type(xn.logsumexp(half, n_threads=1), NDArray[np.float32])


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


def on_a_gpu(x: OnDevice, y: OnDevice) -> None:
    """The type of such arrays is that of their library."""
    assert_type(xn.cross_entropy(x, y, weight=y), Any)
    assert_type(xn.cross_entropy_and_grad(x, y), tuple[Any, Any])
    assert_type(xn.cross_entropy_grad(x, y, reduction="sum", lse=y), Any)
    assert_type(xn.softmax(x, out=x), Any)
    assert_type(xn.CrossEntropyLoss()(x, y), Any)


def selector() -> None:
    """The functions around the losses."""
    with xn.use_backend("numpy") as nothing:
        assert_type(nothing, None)
    assert_type(xn.get_backend(), str)
    assert_type(bool(xn.available_backends()["cpu"]), bool)
