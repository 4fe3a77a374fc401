"""From the arguments of `partial_cross_entropy` to a `CheckedShard`, and from that to what a backend is given."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from xent_numba.backends.protocol import Shard
from xent_numba.prepare.aligned import aligned_blocks, is_aligned
from xent_numba.prepare.inputs import (
    PER_ROW,
    as_array,
    as_logits,
    as_weights,
)
from xent_numba.prepare.layout import canonical, row_shape
from xent_numba.prepare.misuse import raise_if_swapped
from xent_numba.prepare.one_hot import one_hot_classes
from xent_numba.prepare.options import class_range
from xent_numba.prepare.target import as_labels, as_target, check_focal_gamma, check_ignore_index

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from numpy.typing import ArrayLike, NDArray

    from xent_numba.prepare.options import Options

    Array = NDArray[Any]

LABELS, ONE_HOT, DISTRIBUTION = "class indices", "one-hot rows of integers", "a distribution"


class CheckedShard(NamedTuple):
    """The arguments after validation and conversion; N is the number of rows, in C order."""

    options: Options
    classes: tuple[int, int]  # the first class of the shard, and the one after its last
    n_classes: int  # of all shards
    logits: Array
    axis: int  # counted from the front
    kind: str  # of the target: LABELS, ONE_HOT or DISTRIBUTION
    target: Array | None  # labels as passed
    kept: NDArray[np.bool] | None  # (N,) False in ignored rows; None where no row is ignored
    labels: NDArray[np.int64] | None  # (N,) the class of the label within the shard, −1 where it is not in it
    distribution: Array | None
    weight: NDArray[np.float64] | None  # of the classes of the shard
    sample_weight: NDArray[np.float64] | None  # (N,)

    @property
    def has_dense(self) -> bool:
        """Whether the target has a part that all classes have: smoothing or a distribution."""
        return has_dense_target(self.kind, self.options)


def has_dense_target(kind: str, options: Options) -> bool:
    """Whether a target of this kind has a part that all classes have, with these options."""
    return kind == DISTRIBUTION or options.label_smoothing != 0.0


def prepare_shard(
    options: Options,
    arrays: tuple[Any, Any, Any, Any],
    class_offset: object,
    n_classes: object,
) -> CheckedShard:
    """Validate `arrays`, which are logits, target, weight and sample_weight, and the classes that they belong to."""
    logits, any_target, weight, sample_weight = arrays
    first, count = class_range(class_offset, n_classes)
    try:
        x, axis = as_logits(logits, options.axis)
        target, kind = _as_target(any_target, x, axis)
    except (TypeError, ValueError) as error:
        raise_if_swapped(error, logits, any_target)
        raise
    size, rows_shape = x.shape[axis], row_shape(x.shape, axis)
    if first + size > count:
        raise ValueError(
            f"logits_shard of shape {x.shape} has the {size} classes from class_offset = {first} on, which go beyond "
            f"n_classes = {count}"
        )
    w = None if weight is None else as_weights(weight, "weight", (size,), "one per class of the shard")
    s = None if sample_weight is None else as_weights(sample_weight, "sample_weight", rows_shape, PER_ROW).reshape(-1)
    kept, labels = None, None
    if kind == LABELS:
        kept, labels = _local_labels(target, options, first, size)
    else:
        check_ignore_index(options)
        check_focal_gamma(options)
        labels = target.reshape(-1) if kind == ONE_HOT else None
    return CheckedShard(
        options, (first, first + size), count, x, axis, kind, target if kind == LABELS else None, kept, labels,
        target if kind == DISTRIBUTION else None, w, s,
    )  # fmt: skip


def _as_target(value: ArrayLike, x: Array, axis: int) -> tuple[Array, str]:
    """The target as an array, and its kind; the classes of one-hot rows, which are all 0 where others have the 1."""
    array = as_array(value, "target")
    if array.shape == x.shape and array.dtype.kind in "biu":
        return one_hot_classes(array, axis, may_lack=True), ONE_HOT
    target, is_distribution = as_target(value, x, axis)
    return target, DISTRIBUTION if is_distribution else LABELS


def _local_labels(
    target: Array, options: Options, first: int, size: int
) -> tuple[NDArray[np.bool] | None, NDArray[np.int64]]:
    """The fields `kept` and `labels` of a `CheckedShard`."""
    y, ignore = as_labels(target, options.ignore, options.ignore_beyond)
    labels = y.reshape(-1).astype(np.int64, copy=False)
    inside = (labels >= first) & (labels < first + size)
    kept = np.ones(labels.shape, np.bool)
    for value in ignore:
        kept &= labels != value
    return None if kept.all() else kept, np.where(inside & kept, labels - first, -1)


def shards(checked: CheckedShard, grad: Array | None = None) -> Iterator[tuple[Shard, slice, Array | None]]:
    """What a backend is given: a `Shard`, which of the N rows it has, and its part of the gradient.

    There are several where one view (A, B, C) cannot describe the layout.  Misaligned arrays are copied, a block of
    rows at a time; the gradient of a block is copied back when the next one is asked for.
    """
    options, q = checked.options, checked.distribution
    if checked.logits.size == 0:
        return
    layout = canonical(checked.axis, checked.logits, q, grad)
    a, b = layout.a, layout.b
    smoothing = options.label_smoothing
    weight = checked.weight if checked.has_dense else None
    shared = (
        weight, 1.0 - smoothing, smoothing / checked.n_classes, options.logit_scale, options.softcap, options.n_threads,
    )  # fmt: skip
    for i, (x_view, q_view, grad_view) in enumerate(layout.slabs()):
        rows = slice(i * a * b, (i + 1) * a * b)
        kept = None if checked.kept is None else checked.kept[rows].reshape(a, b)
        shard = Shard(x_view, kept, q_view, *shared)
        if is_aligned(x_view, q_view, grad_view):
            yield shard, rows, grad_view
        else:
            yield from _aligned(shard, rows, grad_view)


def _aligned(shard: Shard, rows: slice, grad: Array | None) -> Iterator[tuple[Shard, slice, Array | None]]:
    """The shard in blocks of rows that are copied; those of a block follow one another."""
    b = shard.logits.shape[1]
    for (i, j), (x, q, kept), (found,) in aligned_blocks((shard.logits, shard.distribution, shard.kept), (grad,)):
        start = rows.start + i.start * b + j.start
        copied = shard._replace(logits=x, distribution=q, kept=kept)
        yield copied, slice(start, start + math.prod(x.shape[:2])), found


def at_classes(array: Array, classes: NDArray[np.int64]) -> NDArray[np.float64]:
    """array[a, b, classes[a, b]] of an (A, B, C) array as float64; that of class 0 where the class is −1."""
    rows = np.arange(array.shape[1])
    found: Array = array[np.arange(array.shape[0])[:, None], rows, np.maximum(classes, 0)]
    return found.astype(np.float64)
