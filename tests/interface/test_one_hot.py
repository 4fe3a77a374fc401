"""Integer and bool targets in the shape of the logits: one-hot rows mean what the same floats mean, others raise."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

import xent_numba as xn
from xent_numba.prepare.one_hot import one_hot_classes

A = np.array([[2.0, 1.0, 0.1], [0.1, 2.0, 1.9], [0.3, -1.0, 0.7]])
FLOATS = "if these are weights or probabilities of the classes, pass target.astype(float)"
TWO_LOGITS = "np.stack([np.zeros_like(scores), scores], axis=-1)"
BINARY = f"if they are binary labels next to one score each, the logits are {TWO_LOGITS}"


def one_hot(rng, shape, axis, dtype):
    """Random one-hot rows."""
    q = np.zeros(shape, dtype)
    rows = shape[:axis] + shape[axis + 1 :]
    np.put_along_axis(q, np.expand_dims(rng.integers(0, shape[axis], rows), axis), 1, axis)
    return q


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint64, ">i4"])
def test_one_hot_rows_are_the_distribution_that_the_same_floats_are(dtype, rng):
    """With every option, and whatever the denominators: class weights do not enter the mean of a distribution."""
    w, s = np.array([0.5, 2.0, 3.0]), np.array([1.0, 4.0, 0.5])
    q = one_hot(rng, A.shape, 1, dtype)
    for options in ({}, {"weight": w}, {"sample_weight": s}, {"weight": w, "sample_weight": s, "z_loss": 0.1},
                    {"label_smoothing": 0.2, "weight": w}, {"softcap": 2.0, "z_loss": 0.3}):  # fmt: skip
        for reduction in ("mean", "sum", "none"):
            found = xn.cross_entropy_and_grad(A, q, reduction=reduction, backend="numpy", **options)
            expected = xn.cross_entropy_and_grad(A, q.astype(float), reduction=reduction, backend="numpy", **options)
            np.testing.assert_allclose(found[0], expected[0], rtol=1e-14)
            np.testing.assert_allclose(found[1], expected[1], rtol=1e-13, atol=1e-16)


@pytest.mark.parametrize(
    ("shape", "axis", "view"),
    [
        ((4, 5, 3), 1, lambda q: q),
        ((4, 5, 3), 0, np.asfortranarray),
        ((6, 4), 1, lambda q: np.repeat(q, 2, axis=0)[::-2]),
        ((4, 6, 4, 6, 5), 4, lambda q: q[::2, ::3, 1:3, ::2]),
        ((3,), 0, lambda q: q),
        ((0, 3), 1, lambda q: q),
        ((2, 0, 3), 2, lambda q: q),
        ((4, 1), 1, lambda q: q),
    ],
)
def test_every_layout_in_blocks_of_any_size(shape, axis, view, rng, monkeypatch):
    q = view(one_hot(rng, shape, axis, np.int16))
    x = rng.normal(size=q.shape)
    expected = xn.cross_entropy(x, q.argmax(axis), axis=axis, reduction="none", backend="numpy")
    for block in (1, 7, 1 << 16):
        monkeypatch.setattr("xent_numba.prepare.one_hot.BLOCK", block)
        np.testing.assert_array_equal(xn.cross_entropy(x, q, axis=axis, reduction="none", backend="numpy"), expected)


def test_the_digits_are_those_of_the_class_index(backend):
    x = np.array([[20, 0, 0], [0, 20, 0]], np.float32)
    for target in (np.eye(2, 3, dtype=np.int32), np.eye(2, 3, dtype=bool)):
        loss, grad = xn.cross_entropy_and_grad(x, target)
        expected = xn.cross_entropy_and_grad(x, [0, 1])
        assert loss == expected[0] > 0
        np.testing.assert_array_equal(grad, expected[1])


@pytest.mark.parametrize(
    ("target", "what"),
    [
        ([[1, 0, 0], [5, 0, 0], [2, 0, 0]], "target[1, :] has the entry 5 for class 0"),
        ([[1, 0, 0], [0, 0, 1], [1, 2, 3]], "target[2, :] has the entry 2 for class 1"),
        ([[1, 0, 0], [1, -1, 1], [0, 0, 1]], "target[1, :] has the entry -1 for class 1"),
        ([[1, 0, 0], [0, 1, 0], [0, 1, 1]], "target[2, :] has 2 ones"),
        ([[0, 0, 0], [0, 1, 0], [0, 1, 1]], "target[0, :] has no 1"),
    ],
)
def test_other_integers_are_refused(target, what, backend):
    message = (
        f"target has the shape of the logits and dtype int64, so each row must be one-hot, but {what}; {FLOATS}; "
        "class indices would have shape (3,)"
    )
    out = np.full(A.shape, 7.0)
    for dtype in (np.float32, np.float64):
        with pytest.raises(ValueError, match="one-hot") as caught:
            xn.cross_entropy_and_grad(A.astype(dtype), target, grad_out=out.astype(dtype))
        assert str(caught.value) == message
    assert (out == 7.0).all()
    assert np.isfinite(xn.cross_entropy(A, np.array(target).astype(float), backend="numpy"))


@pytest.mark.parametrize(
    ("scores", "labels", "what"),
    [
        ([0.2, -1.0, 3.0], [0, 1, 1], "dtype int64, so each row must be one-hot, but target[:] has 2 ones"),
        ([0.2, -1.0], [False, False], "dtype bool, so each row must be one-hot, but target[:] has no 1"),
        ([[0.2], [3.0]], [[1], [0]], "dtype int64, so each row must be one-hot, but target[1, :] has no 1"),
    ],
)
def test_binary_labels_next_to_scores(scores, labels, what):
    with pytest.raises(ValueError, match="one-hot") as caught:
        xn.cross_entropy(scores, labels)
    assert str(caught.value) == f"target has the shape of the logits and {what}; {FLOATS}; {BINARY}"
    # What the message says to write is the logistic loss.
    scores, labels = np.array(scores), np.array(labels)
    found = xn.cross_entropy(np.stack([np.zeros_like(scores), scores], axis=-1), labels.astype(int), backend="numpy")
    np.testing.assert_allclose(found, np.mean(np.logaddexp(0, scores) - labels * scores), rtol=1e-14)


def test_the_first_bad_row_in_c_order_of_any_axis(rng, monkeypatch):
    monkeypatch.setattr("xent_numba.prepare.one_hot.BLOCK", 12)
    q = one_hot(rng, (4, 3, 5), 1, np.int64)
    q[3, 1, 0] = q[2, 0, 3] = 9
    for view in (q, np.asfortranarray(q)):
        with pytest.raises(ValueError, match=r"target\[2, :, 3\] has the entry 9 for class 0"):
            xn.cross_entropy(np.zeros(q.shape), view, axis=1)


def test_options_are_checked_as_for_any_distribution():
    with pytest.raises(ValueError, match="ignore_index = 1 needs class indices"):
        xn.cross_entropy(A, np.eye(3, dtype=int), ignore_index=1)
    with pytest.raises(ValueError, match=r"focal_gamma = 1.0 needs class indices: .* target.argmax\(axis=-1\)"):
        xn.cross_entropy(A, np.eye(3, dtype=int), focal_gamma=1)


def test_no_copy_of_the_target_is_made():
    target = np.zeros((4000, 500), np.int8)
    target[:, 3] = 1
    for view, axis in ((target, 1), (target.T, 0)):
        tracemalloc.start()
        assert (one_hot_classes(view, axis) == 3).all()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < target.nbytes / 4
