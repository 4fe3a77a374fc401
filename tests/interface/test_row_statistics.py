"""The errors of `row_statistics`: its own, and those of the loss in the same words."""

from __future__ import annotations

import re

import numpy as np
import pytest

import xent_numba as xn

A = np.array([[2.0, 1.0, 0.1], [0.1, 2.0, 1.9]])
Y = np.array([1, 0])

CASES = [
    (
        {"fields": ["rank", "argmin"]},
        ValueError,
        "fields[1] = 'argmin' is unknown; choose from 'log_prob', 'entropy', 'argmax', 'rank', 'logsumexp'",
    ),
    ({"fields": [None]}, ValueError, "fields[0] = None is unknown; choose from 'log_prob', "),
    (
        {"fields": ["rank", "entropy", "rank"]},
        ValueError,
        "fields[2] = 'rank' is there already, as fields[0]; name it once",
    ),
    ({"fields": "rank"}, TypeError, "fields = 'rank' must be a sequence of names; write fields=('rank',)"),
    ({"fields": None}, TypeError, "fields = None must be a sequence of names among 'log_prob', 'entropy', "),
    (
        {"target": None},
        ValueError,
        "log_prob and rank need a target, and none is given; pass class indices as the second argument, or "
        "fields=('entropy', 'argmax', 'logsumexp')",
    ),
    (
        {"target": None, "fields": ["rank"]},
        ValueError,
        "rank needs a target, and none is given; pass class indices as the second argument",
    ),
    (
        {"target": A},
        ValueError,
        "target of shape (2, 3) has the shape of the logits, as a distribution over the classes; this function needs "
        "class indices, of shape (2,); of one-hot rows, they are target.argmax(1)",
    ),
    ({"target": np.eye(3, dtype=int)[Y]}, ValueError, "they are target.argmax(1)"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), CASES)
def test_its_own_errors(arguments, error, message):
    with pytest.raises(error) as caught:
        xn.row_statistics(A, **{"target": Y, **arguments})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("logits", "target", "options"),
    [
        (A, [0, 3], {}),
        (A, [0, -1], {}),
        (A, [0, -1], {"ignore_index": 3}),
        (A, [0, 1, 2], {}),
        (A, [0.0, 1.0], {}),
        (A, [True, False], {}),
        (A > 1, Y, {}),
        (A[:, :0], Y, {}),
        (A, Y, {"axis": 2}),
        (A, Y, {"axis": 0}),
        (A, Y, {"axis": "last"}),
        (A, Y, {"softcap": 0.0}),
        (A, Y, {"logit_scale": np.inf}),
        (A, Y, {"n_threads": 0}),
        (A, Y, {"ignore_index": 1.5}),
        (A, Y, {"backend": "gpu"}),
        (np.ma.masked_array(A), Y, {}),
        (Y, A, {}),
    ],
)
def test_the_errors_of_the_loss(logits, target, options, backend):
    with pytest.raises(Exception, match=r".") as expected:
        xn.cross_entropy(logits, target, **options)
    with pytest.raises(type(expected.value)) as caught:
        xn.row_statistics(logits, target, **options)
    dense = r", a distribution over the classes has shape \([^)]*\)|, or pass a distribution of shape \([^)]*\)"
    assert str(caught.value) == re.sub(dense, "", str(expected.value))  # what this function does not take


def test_labels_are_checked_even_where_no_field_needs_them(backend):
    with pytest.raises(IndexError, match=r"target\[1\] = 5 is out of range for 3 classes"):
        xn.row_statistics(A, [0, 5], fields=["entropy"])


def test_fields_may_be_any_iterable_and_empty():
    found = xn.row_statistics(A, fields=iter(["argmax"]))
    np.testing.assert_array_equal(found.argmax, [0, 1])
    assert xn.row_statistics(A, Y, fields=()) == xn.RowStatistics()
