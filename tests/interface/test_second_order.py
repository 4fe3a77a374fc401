"""Errors of the functions of second derivatives: what is said about a vector and about the arrays to write to."""

from __future__ import annotations

import numpy as np
import pytest

import xent_numba as xn

X = np.array([[2.0, 1.0, 0.1], [0.1, 2.0, 1.9]])
Y = np.array([1, 0])
V = np.ones_like(X)


@pytest.fixture(autouse=True)
def _on_numpy():
    with xn.use_backend("numpy"):
        yield


@pytest.mark.parametrize(
    ("vector", "kind", "words"),
    [
        (V[0], ValueError, r"vector has shape \(3,\); it must have shape \(2, 3\): that of the logits"),
        (V.T, ValueError, r"vector has shape \(3, 2\); it must have shape \(2, 3\): that of the logits"),
        (V > 0, TypeError, "vector has dtype bool; it must be real numbers$"),
        (V + 0j, TypeError, "vector has dtype complex128; it must be real numbers$"),
        (V.astype(object), TypeError, r"vector has dtype object; .*: convert with vector.astype\(float\)"),
        (np.ma.masked_array(V), TypeError, "vector is a masked array"),
    ],
)
def test_vectors_that_do_not_fit(vector, kind, words):
    with pytest.raises(kind, match=words):
        xn.cross_entropy_hvp(X, Y, vector)


def test_gauss_newton_is_true_or_false():
    with pytest.raises(TypeError, match="gauss_newton = 'yes' must be True or False, not str"):
        xn.cross_entropy_hvp(X, Y, V, gauss_newton="yes")
    xn.cross_entropy_hvp(X, Y, V, gauss_newton=np.bool(True))


def test_arrays_to_write_to():
    big = np.zeros(10)
    x, v = big[:6].reshape(2, 3), big[1:7].reshape(2, 3)
    hvp, both = xn.cross_entropy_hvp, xn.cross_entropy_grad_and_hessian_diag
    with pytest.raises(ValueError, match=r"out has shape \(3, 2\) and dtype float64; it must have shape \(2, 3\)"):
        hvp(X, Y, V, out=np.empty((3, 2)))
    with pytest.raises(ValueError, match="out shares memory with the vector without being exactly the same array"):
        hvp(X, Y, v, out=x)
    with pytest.raises(ValueError, match="pass the vector itself to work in place, or an array of its own"):
        hvp(X.astype(np.float16), Y, v.view(np.float16)[:, :3], out=v.view(np.float16)[:, 1:4])
    with pytest.raises(ValueError, match="out shares memory with the logits without being exactly the same array"):
        hvp(x, Y, v, out=v)
    with pytest.raises(ValueError, match="diag_out shares memory with the logits; pass an array of its own"):
        both(x, Y, diag_out=x)
    with pytest.raises(ValueError, match="diag_out shares memory with grad_out; pass an array of its own"):
        both(X, Y, grad_out=x, diag_out=x)
    with pytest.raises(ValueError, match="grad_out is read-only"):
        both(X, Y, grad_out=np.broadcast_to(0.0, (2, 3)))
    with pytest.raises(ValueError, match=r"diag_out has shape \(2, 3\) and dtype float32"):
        both(X, Y, diag_out=X.astype(np.float32))


def test_errors_of_the_loss():
    for call in (lambda *a, **k: xn.cross_entropy_hvp(*a, V, **k), xn.cross_entropy_grad_and_hessian_diag):
        with pytest.raises(IndexError, match=r"target\[1\] = 3 is out of range for 3 classes"):
            call(X, [0, 3])
        with pytest.raises(ValueError, match="reduction = 'median' is unknown"):
            call(X, Y, reduction="median")
        with pytest.raises(ValueError, match=r"weight\[1\] = -1.0 must be finite and not negative"):
            call(X, Y, weight=[1.0, -1.0, 1.0])
        with pytest.raises(TypeError, match="no argument 'dim' \\(write axis=1\\)"):
            call(X, Y, dim=1)


def test_arguments_by_position():
    with pytest.raises(TypeError, match=r"takes logits, target and vector by position; pass the rest by name"):
        xn.cross_entropy_hvp(X, Y, V, 1)
    with pytest.raises(TypeError, match="takes logits and target by position; pass the rest by name"):
        xn.cross_entropy_grad_and_hessian_diag(X, Y, V)


def test_misaligned_arrays():
    def packed(values):
        record = np.zeros(values.shape, np.dtype([("tag", np.uint8), ("x", values.dtype)]))
        record["x"] = values
        return record["x"]

    expected = xn.cross_entropy_hvp(X, Y, V * X)
    np.testing.assert_array_equal(xn.cross_entropy_hvp(X, Y, packed(V * X)), expected)
    out = packed(V)
    assert xn.cross_entropy_hvp(packed(X), Y, V * X, out=out) is out
    np.testing.assert_array_equal(out, expected)
    grad, diag = packed(V), packed(V)
    xn.cross_entropy_grad_and_hessian_diag(X, Y, grad_out=grad, diag_out=diag)
    for one, other in zip((grad, diag), xn.cross_entropy_grad_and_hessian_diag(X, Y), strict=True):
        np.testing.assert_array_equal(one, other)
