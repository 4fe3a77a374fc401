"""Errors of shards: what was found, where, and what to write instead; in the words of the loss where it has them."""

from __future__ import annotations

import numpy as np
import pytest

import xent_numba as xn

X = np.arange(24.0).reshape(2, 12) / 7
Y = np.array([1, 7])
P = xn.partial_cross_entropy


def part(start, stop, target=Y, x=X, **options):
    return P(x[:, start:stop], target, class_offset=start, n_classes=12, **options)


MISFITS = [
    (
        lambda: P(X, Y, n_classes=11),
        ValueError,
        "logits_shard of shape (2, 12) has the 12 classes from class_offset = 0 on, which go beyond n_classes = 11",
    ),
    (
        lambda: P(X, Y, n_classes=12, class_offset=-1),
        ValueError,
        "class_offset = -1 must be one of the 12 classes, 0 to 11",
    ),
    (
        lambda: P(X, Y, n_classes=12, class_offset=12),
        ValueError,
        "class_offset = 12 must be one of the 12 classes, 0 to 11",
    ),
    (lambda: P(X, Y, n_classes=0), ValueError, "n_classes = 0 must be at least 1"),
    (lambda: P(X, Y, n_classes=12.0), TypeError, "n_classes = 12.0 must be an integer, not float"),
    (lambda: P(X, Y, n_classes=12, class_offset="0"), TypeError, "class_offset = '0' must be an integer, not str"),
    (
        lambda: P(X, Y, n_classes=12, weight=np.ones(24)),
        ValueError,
        "weight has shape (24,); it must have shape (12,): one per class of the shard",
    ),
    (
        lambda: P(X, Y, n_classes=12, sample_weight=[1, -1]),
        ValueError,
        "sample_weight[1] = -1.0 must be finite and not negative",
    ),
    (lambda: P(X, Y, n_classes=12, z_loss=-1), ValueError, "z_loss = -1 must be finite and not negative"),
    (
        lambda: P(X, np.ones((2, 12)), n_classes=12, ignore_index=3),
        ValueError,
        "ignore_index = 3 needs class indices; with a distribution as target, leave rows out with a sample_weight of 0",
    ),
    (
        lambda: P(X, Y, n_classes=12, reduction="sum"),
        TypeError,
        "partial_cross_entropy() has no argument 'reduction' (the methods loss and grad of the result take it)",
    ),
    (
        lambda: P(logits=X, target=Y, n_classes=12),
        TypeError,
        "partial_cross_entropy() has no argument 'logits' (write logits_shard=...)",
    ),
    (
        lambda: P(X, Y, 0),
        TypeError,
        "partial_cross_entropy() takes logits_shard and target by position; pass the rest by name, as in axis=0",
    ),
    (
        lambda: P(X, 2 * np.eye(12, dtype=int)[Y], n_classes=12),
        ValueError,
        "target has the shape of the logits and dtype int64, so each row must be one-hot, but target[0, :] "
        "has the entry 2 for class 1; "
        "if these are weights or probabilities of the classes, pass target.astype(float); class indices "
        "would have shape (2,)",
    ),
]

DIFFERENCES = [
    (
        {},
        {"label_smoothing": 0.1},
        "label_smoothing is 0.0 in one part and 0.1 in the other; it must be the same for all shards",
    ),
    ({}, {"softcap": 2.0}, "softcap is None in one part and 2.0 in the other; it must be the same for all shards"),
    (
        {"ignore_index": 3},
        {},
        "ignore_index is 3 in one part and -100 in the other; it must be the same for all shards",
    ),
    (
        {},
        {"weight": np.ones(6)},
        "one part has class weights and the other has none; pass each shard the weights of its classes",
    ),
    (
        {},
        {"sample_weight": [1, 2]},
        "one part has sample weights and the other has none; pass all of them to each shard",
    ),
    (
        {"sample_weight": [1, 3]},
        {"sample_weight": [1, 2]},
        "sample_weight[1] is 3.0 in one part and 2.0 in the other; it must be the same for all shards",
    ),
    (
        {},
        {"target": np.array([1, 8])},
        "target[1] is 7 in one part and 8 in the other; it must be the same for all shards, as labels count "
        "the classes of all shards",
    ),
    (
        {},
        {"target": np.ones((2, 6))},
        "the target is class indices in one part and a distribution in the other; it must be the same for all shards",
    ),
    (
        {},
        {"x": X.astype(np.float32)},
        "the dtype of the logits is float64 in one part and float32 in the other; it must be the same for all shards",
    ),
    (
        {},
        {"x": X[:1], "target": Y[:1]},
        "one part has rows of shape (2,) and the other of shape (1,); all shards have the same rows",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), MISFITS)
def test_arguments_of_one_shard(call, error, message, backend):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message


@pytest.mark.parametrize(("one", "other", "message"), DIFFERENCES)
def test_parts_of_different_losses(one, other, message):
    with pytest.raises(ValueError, match=r"in one part|one part has") as caught:
        part(0, 6, **one) + part(6, 12, **other)
    assert str(caught.value) == message


def test_shards_that_overlap():
    with pytest.raises(ValueError, match="overlap") as caught:
        part(0, 6) + part(8, 9) + part(5, 8)
    assert str(caught.value) == (
        "both parts have class 5: one has the classes 0 to 5 and 8, the other 5 to 7; every shard must be "
        "added once, and "
        "shards may not overlap"
    )
    with pytest.raises(ValueError, match="both parts have class 0"):
        part(0, 6) + part(0, 6)
    far = part(0, 2) + part(10, 12)
    known = xn.PartialCrossEntropy.from_array(far.to_array(), far)  # knows that there are 4 classes from 0 to 11
    assert (known + part(2, 10)).loss() == (far + part(2, 10)).loss()
    with pytest.raises(ValueError, match="both parts have class"):
        known + part(1, 10)


def test_a_target_that_no_shard_has():
    both = part(0, 6, [1, 20]) + part(6, 12, [1, 20])
    with pytest.raises(IndexError) as caught:
        both.loss()
    assert str(caught.value) == "target[1] = 20 is out of range for 12 classes (ignore_index = -100)"
    with pytest.raises(IndexError) as words_of_the_loss:
        xn.cross_entropy(X, [1, 20])
    assert str(caught.value) == str(words_of_the_loss.value)
    with pytest.raises(IndexError, match=r"^target\[0\] = 18446744073709551615 is out of range"):
        part(0, 12, np.array([2**64 - 1, 0], np.uint64)).loss()
    with pytest.raises(IndexError) as caught:
        (part(0, 3) + part(9, 12)).loss()
    assert str(caught.value) == (
        "target[1] = 7 is in none of the shards that were added, which have the classes 0 to 2 and 9 to 11 of 12 "
        "(ignore_index = -100)"
    )
    one_hot = np.zeros((2, 12), int)
    one_hot[1, 3] = 1
    with pytest.raises(ValueError, match="one-hot") as error:
        (part(0, 6, one_hot[:, :6]) + part(6, 12, one_hot[:, 6:])).loss()
    assert str(error.value) == (
        "an integer target in the shape of the logits must be one-hot in every row over all shards, but "
        "target[0, :] has "
        "no 1 in the classes 0 to 11; if these are weights or probabilities of the classes, pass target.astype(float)"
    )


def test_classes_that_are_missing():
    some = part(0, 2) + part(6, 9)
    with pytest.raises(ValueError, match="missing") as caught:
        some.grad(X[:, :2], Y)
    assert str(caught.value) == (
        "the gradient needs the shards of all 12 classes, of which 2 to 5 and 9 to 11 are missing; add their "
        "parts first"
    )
    with pytest.raises(ValueError, match=r"^the loss needs the shards of all 12 classes, of which 2 to 5 and"):
        some.loss()
    with pytest.raises(ValueError, match="of which 4 of 0 to 8 and 9 to 11 are missing"):
        xn.PartialCrossEntropy.from_array(some.to_array(), some).loss()
    np.testing.assert_allclose(part(0, 2).logsumexp, xn.logsumexp(X[:, :2]))  # of the classes so far


def test_the_shard_of_a_gradient():
    weight = np.arange(12.0)
    whole = part(0, 6, weight=weight[:6], label_smoothing=0.1) + part(6, 12, weight=weight[6:], label_smoothing=0.1)
    with pytest.raises(ValueError, match=r"^target\[0\] is 1 in one part and 2 in the other"):
        whole.grad(X[:, :6], [2, 7])
    with pytest.raises(ValueError, match="which go beyond n_classes = 12"):
        whole.grad(X[:, :6], Y, class_offset=7)
    with pytest.raises(ValueError, match=r"^out has shape \(2, 12\) and dtype float64; it must have shape \(2, 6\)"):
        whole.grad(X[:, :6], Y, out=X)
    with pytest.raises(ValueError, match=r"^grad_output has shape \(2,\); it must have shape \(\): one number"):
        whole.grad(X[:, :6], Y, grad_output=[1, 2])
    with pytest.raises(ValueError, match="reduction = 'max' is unknown"):
        whole.grad(X[:, :6], Y, reduction="max")
    with pytest.raises(ValueError, match="reduction = 'max' is unknown"):
        whole.loss("max")
    alone = xn.PartialCrossEntropy.from_array(whole.to_array(), part(0, 6, weight=weight[:6], label_smoothing=0.1))
    alone.grad(X[:, :6], Y)
    with pytest.raises(ValueError, match=r"^the class weights of the classes 6 to 11 are not all known here"):
        alone.grad(X[:, 6:], Y, class_offset=6)


def test_arrays_that_to_array_did_not_return():
    own = part(0, 6)
    array = own.to_array()
    with pytest.raises(ValueError, match=r"^array has shape \(1, 14\); it must have shape \(2, 14\): one row for each"):
        xn.PartialCrossEntropy.from_array(array[:1], own)
    array[:, -2] = 99
    with pytest.raises(ValueError, match=r"^array has numbers of 6 classes from 0 to 98, but n_classes = 12"):
        xn.PartialCrossEntropy.from_array(array, own)
    with pytest.raises(TypeError, match=r"^like must be a PartialCrossEntropy of the same loss, not ndarray"):
        xn.PartialCrossEntropy.from_array(array, array)


def test_other_things_cannot_be_added():
    for other in (1, None, 0.0, X):
        with pytest.raises(TypeError):
            part(0, 6) + other
    assert (0 + part(0, 12)).loss() == part(0, 12).loss()
