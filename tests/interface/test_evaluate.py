"""What `evaluate` refuses, and in which words."""

from __future__ import annotations

import re

import numpy as np
import pytest

import xent_numba as xn

X, Y = np.zeros((2, 3)), np.array([1, 0])


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({}, ValueError, "top_k[1] = 5 is above the number of classes, 3; write top_k=(1,)"),
        ({"top_k": 0}, ValueError, "top_k = 0 is below 1"),
        ({"top_k": (3, -2, 2)}, ValueError, "top_k[1] = -2 is below 1; write top_k=(3, 2)"),
        ({"top_k": 4}, ValueError, "top_k = 4 is above the number of classes, 3"),
        ({"top_k": 1.0}, TypeError, "top_k = 1.0 must be an integer (or several integers), not float"),
        ({"top_k": (1, True)}, TypeError, "top_k = True must be an integer, not bool"),
        ({"top_k": "1"}, TypeError, "top_k = '1' must be an integer (or several integers), not str"),
        ({"top_k": None}, TypeError, "top_k = None must be an integer"),
        ({"sample_weight": [1.0]}, ValueError, "sample_weight has shape (1,); it must have shape (2,)"),
        ({"sample_weight": [1.0, -1.0]}, ValueError, "sample_weight[1] = -1.0 must be finite and not negative"),
        ({"softcap": 0.0}, ValueError, "softcap = 0.0 must be greater than 0"),
        ({"backend": "gpu"}, ValueError, "'gpu'"),
        ({"reduction": "sum"}, TypeError, "evaluate() has no argument 'reduction'"),
        ({"sample_weights": [1.0, 1.0]}, TypeError, "write sample_weight=..."),
    ],
)
def test_options(options, kind, message):
    with pytest.raises(kind, match=re.escape(message)):
        xn.evaluate(X, Y, **({"top_k": 1} | options if options else {}))


@pytest.mark.parametrize(
    ("target", "kind", "message"),
    [
        ([1, 3], IndexError, "target[1] = 3 is out of range for 3 classes (ignore_index = -100)"),
        ([1, 0, 0], ValueError, "target of shape (3,) does not fit logits of shape (2, 3)"),
        (np.eye(2, 3), ValueError, "this function needs class indices, of shape (2,)"),
        (
            [1.0, 0.5],
            TypeError,
            "class indices are integers: pass the number of the class of each row, not a probability",
        ),
        ([1.0, 0.0], TypeError, "class indices are integers: convert with target.astype(np.int64)"),
        (
            None,
            ValueError,
            "an evaluation needs a target, and none is given; pass class indices as the second argument",
        ),
    ],
)
def test_targets(target, kind, message):
    with pytest.raises(kind, match=re.escape(message)) as caught:
        xn.evaluate(X, target, top_k=1)
    assert "distribution" not in str(caught.value) or np.shape(target) == X.shape
    if target is not None:
        with pytest.raises(kind, match=f"^{re.escape(str(caught.value))}$"):
            xn.row_statistics(X, target)


def test_target_first():
    with pytest.raises((TypeError, ValueError), match="the logits come first, then the target"):
        xn.evaluate(Y, X, top_k=1)
