"""Make parts of a loss.

A part is made from a shard by a backend, from two other parts, or from numbers that came from another process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from xent_numba.backends.protocol import ShardStatistics
from xent_numba.backends.reference.shards import signed
from xent_numba.prepare.layout import row_shape
from xent_numba.prepare.shards import CheckedShard, at_classes, shards
from xent_numba.sharding import coverage, merging
from xent_numba.sharding.checks import check_same
from xent_numba.sharding.coverage import Span
from xent_numba.sharding.merging import Sums
from xent_numba.sharding.state import Call, State

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    from xent_numba.backends.protocol import Backend, Shard

    Array = NDArray[Any]
    Float64s = NDArray[np.float64]

_SPAN = len(Span._fields)


# ------------------------------------------------------------------------------------------------ one shard
def state_of(backend: Backend, checked: CheckedShard) -> State:
    """Have the backend read a shard."""
    first, stop = checked.classes
    rows = row_shape(checked.logits.shape, checked.axis)
    numbers = np.zeros((len(Sums._fields), int(np.prod(rows))))
    sums = Sums(*numbers)
    for shard, part, _ in shards(checked):
        shape = shard.logits.shape[:2]
        found = ShardStatistics(
            sums.maximum[part].reshape(shape), sums.rest[part].reshape(shape), np.empty(shape, np.int64),
            sums.gap[part].reshape(shape), sums.target_sum[part].reshape(shape),
        )  # fmt: skip
        backend.shard_statistics(shard, found)
        with np.errstate(all="ignore"):
            if checked.has_dense:
                top = (found.top >= 0) & (found.maximum > -np.inf)
                sums.top[part] = np.where(top, found.top + first, -1).reshape(-1)
            if checked.labels is not None:
                labels = checked.labels[part].reshape(shape)
                sums.x_y[part] = np.where(labels >= 0, _label_logits(shard, labels, found), 0.0).reshape(-1)
    if checked.labels is not None:
        inside = checked.labels >= 0
        sums.owned[:] = inside
        sums.w_y[:] = inside if checked.weight is None else np.where(inside, checked.weight[checked.labels], 0.0)
    has_weight = checked.weight is not None
    target = None if checked.target is None else checked.target.copy()
    call = Call(
        checked.options, checked.n_classes, rows, checked.axis, checked.logits.dtype, checked.kind, has_weight, target,
        checked.kept, None if checked.sample_weight is None else checked.sample_weight.copy(),
    )  # fmt: skip
    dense_weight = checked.weight if checked.has_dense else None
    weights = () if dense_weight is None else ((first, dense_weight.copy()),)
    return State(call, sums, (Span(first, stop, stop - first),), weights)


def _label_logits(shard: Shard, labels: NDArray[np.int64], found: ShardStatistics) -> Float64s:
    """x_y of each row, which is the maximum itself where it is as large, whoever computed the softcap."""
    given = at_classes(shard.logits, labels)
    x = signed(given, shard.logit_scale, shard.softcap)
    if shard.softcap is None:
        return x
    at_top = (at_classes(shard.logits, found.top) == given) & (found.top >= 0)
    return np.where(at_top | (x > found.maximum), found.maximum, x)


# ------------------------------------------------------------------------------------------------ several shards
def add(a: State, b: State) -> State:
    """Two parts of one loss together."""
    check_same(a.call, b.call)
    spans = coverage.union(a.spans, b.spans)
    sums = merging.merge(a.sums, b.sums, a.call.scale, dense=a.call.has_dense)
    return State(a.call, sums, spans, (*a.weights, *b.weights))


# ------------------------------------------------------------------------------------------------ numbers alone
def to_array(state: State) -> Float64s:
    """The sums as (N, k) numbers, with the span of the classes in the last three columns."""
    n = state.sums.maximum.size
    span = np.broadcast_to(np.array(coverage.hull(state.spans), np.float64), (n, _SPAN))
    return np.concatenate([np.stack(state.sums, axis=1), span], axis=1)


def from_array(array: Any, like: State) -> State:
    """The part that has these numbers, of the same call as another."""
    numbers = np.asarray(array, np.float64)
    shape = (like.sums.maximum.size, len(Sums._fields) + _SPAN)
    if numbers.shape != shape:
        raise ValueError(
            f"array has shape {numbers.shape}; it must have shape {shape}: one row for each row of the logits, as "
            "to_array returns them"
        )
    spans = like.spans
    if numbers.size:
        start, stop, count = numbers[0, -_SPAN:].tolist()
        if not (0 <= start < stop <= like.call.n_classes and 1 <= count <= stop - start):
            raise ValueError(
                f"array has numbers of {count:g} classes from {start:g} to {stop - 1:g}, but n_classes = "
                f"{like.call.n_classes}; pass what to_array returned for a part of the same call"
            )
        spans = (Span(int(start), int(stop), int(count)),)
    return State(like.call, Sums(*np.ascontiguousarray(numbers[:, :-_SPAN].T)), spans, like.weights)
