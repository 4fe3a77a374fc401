"""What must be right about parts: that they belong to one loss, and that they have all classes and labels of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from xent_numba.prepare.layout import place
from xent_numba.prepare.shards import DISTRIBUTION, LABELS, ONE_HOT
from xent_numba.prepare.target import raise_bad_label
from xent_numba.sharding import coverage

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    from xent_numba.sharding.state import Call, State

    Array = NDArray[Any]


def check_same(a: Call, b: Call) -> None:
    """ValueError where two parts do not belong to one loss."""
    check_shards(a, b)
    for name in ("ignore_index", "label_smoothing", "logit_scale", "softcap", "z_loss", "focal_gamma"):
        _check_one(name, getattr(a.options, name), getattr(b.options, name))
    if a.has_weight != b.has_weight:
        raise ValueError(
            "one part has class weights and the other has none; pass each shard the weights of its classes"
        )
    if (a.sample_weight is None) != (b.sample_weight is None):
        raise ValueError("one part has sample weights and the other has none; pass all of them to each shard")
    if a.sample_weight is not None and b.sample_weight is not None:
        _check_arrays("sample_weight", a.sample_weight.reshape(a.rows), b.sample_weight.reshape(b.rows))


def check_shards(a: Call, b: Call) -> None:
    """ValueError where the logits or the targets of two shards do not belong together."""
    _check_one("n_classes", a.n_classes, b.n_classes)
    if a.rows != b.rows:
        raise ValueError(
            f"one part has rows of shape {a.rows} and the other of shape {b.rows}; all shards have the same rows"
        )
    _check_one("axis", a.axis, b.axis)
    _check_one("the dtype of the logits", a.dtype, b.dtype)
    _check_one("the target", a.kind, b.kind)
    if a.target is not None and b.target is not None:
        _check_arrays("target", a.target, b.target)


def _check_one(name: str, a: object, b: object) -> None:
    """ValueError where a value differs."""
    if a != b:
        raise ValueError(f"{name} is {a} in one part and {b} in the other; it must be the same for all shards")


def _check_arrays(name: str, a: Array, b: Array) -> None:
    """ValueError where a value per row differs."""
    if a is not b and not np.array_equal(a, b):
        index = int(np.argmax((a != b).reshape(-1)))
        one, other = a.reshape(-1)[index], b.reshape(-1)[index]
        raise ValueError(
            f"{name}{place(index, a.shape)} is {one} in one part and {other} in the other; it must be the same for all "
            "shards" + (", as labels count the classes of all shards" if name == "target" else "")
        )


def check_owned(state: State) -> None:
    """IndexError for the first label that no shard has; ValueError for integer rows that are not one-hot."""
    call, owned = state.call, state.sums.owned
    if call.kind == DISTRIBUTION:
        return
    wrong = owned != 1.0
    if call.kind == LABELS and call.kept is not None:
        wrong &= call.kept
    if not wrong.any():
        return
    index = int(np.argmax(wrong))
    if call.kind == ONE_HOT:
        where = place(index, call.rows)[1:-1].split(", ") if call.rows else []
        where.insert(call.axis, ":")
        found = f"{int(owned[index])} ones" if owned[index] else "no 1"
        raise ValueError(
            "an integer target in the shape of the logits must be one-hot in every row over all shards, but "
            f"target[{', '.join(where)}] has {found} in the classes {coverage.written(state.spans)}; if these are "
            "weights or probabilities of the classes, pass target.astype(float)"
        )
    assert call.target is not None
    value = int(call.target.reshape(-1)[index])
    if not 0 <= value < call.n_classes:
        raise_bad_label(index, value, call.rows, call.n_classes, call.options)
    raise IndexError(
        f"target{place(index, call.rows)} = {value} is in none of the shards that were added, which have the classes "
        f"{coverage.written(state.spans)} of {call.n_classes} (ignore_index = {call.options.ignore_index})"
    )


def check_whole(state: State, what: str) -> None:
    """ValueError where classes are missing."""
    n_classes = state.call.n_classes
    if state.sums.maximum.size and coverage.count(state.spans) < n_classes:
        raise ValueError(
            f"{what} needs the shards of all {n_classes} classes, of which "
            f"{coverage.missing(state.spans, n_classes)} are missing; add their parts first"
        )
