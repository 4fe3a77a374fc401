"""Shards of the classes: computed by a backend, compared, merged, and turned into the loss and the gradient.

Only `shards` imports this module, when it is needed: it imports more than a user of the other functions waits for.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from xent_numba import coverage, merging
from xent_numba.backends.protocol import ShardCoefficients, ShardStatistics
from xent_numba.backends.reference.shards import scale_of, signed, slope_of
from xent_numba.coverage import Span, Spans
from xent_numba.merging import Own, Sums
from xent_numba.prepare.inputs import as_grad_output, check_out, raise_bad_label
from xent_numba.prepare.layout import place, row_shape
from xent_numba.prepare.shards import DISTRIBUTION, LABELS, ONE_HOT, CheckedShard, at_classes, shards
from xent_numba.reduction import loss_dtype, reduced, total
from xent_numba.results import empty_like

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    from xent_numba.backends.protocol import Backend, Shard
    from xent_numba.prepare.options import Options

    Array = NDArray[Any]
    Float64s = NDArray[np.float64]

_SPAN = len(Span._fields)


class Call(NamedTuple):
    """What all parts of one loss have in common; N is the number of rows, in C order."""

    options: Options
    n_classes: int
    rows: tuple[int, ...]  # the shape of class indices
    axis: int
    dtype: np.dtype[Any]  # of the logits
    kind: str  # of the target, one of those in `prepare.shards`
    has_weight: bool
    target: Array | None  # labels as passed, for messages
    kept: NDArray[np.bool] | None  # (N,)
    sample_weight: Float64s | None  # (N,)

    @property
    def scale(self) -> float:
        """The factor s of the logits in the sums."""
        return scale_of(self.options.logit_scale, self.options.softcap)

    @property
    def has_dense(self) -> bool:
        """As of a `CheckedShard`."""
        return self.kind == DISTRIBUTION or self.options.label_smoothing != 0.0


class State(NamedTuple):
    """One part: the classes it has, and what it knows about their rows."""

    call: Call
    sums: Sums
    spans: Spans
    weights: tuple[tuple[int, Float64s], ...]  # the class weights that a gradient needs, each with its first class


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
    _check_same(a.call, b.call)
    spans = coverage.union(a.spans, b.spans)
    sums = merging.merge(a.sums, b.sums, a.call.scale, dense=a.call.has_dense)
    return State(a.call, sums, spans, (*a.weights, *b.weights))


def _check_same(a: Call, b: Call) -> None:
    """ValueError where two parts do not belong to one loss."""
    _check_values(a, b)
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


def _check_values(a: Call, b: Call) -> None:
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


# ------------------------------------------------------------------------------------------------ what must be there
def _check_owned(state: State) -> None:
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


def _check_whole(state: State, what: str) -> None:
    """ValueError where classes are missing."""
    n_classes = state.call.n_classes
    if state.sums.maximum.size and coverage.count(state.spans) < n_classes:
        raise ValueError(
            f"{what} needs the shards of all {n_classes} classes, of which "
            f"{coverage.missing(state.spans, n_classes)} are missing; add their parts first"
        )


# ------------------------------------------------------------------------------------------------ results
def _weights(state: State, reduction: str) -> tuple[Options, merging.Weights]:
    """The options with this reduction, and what multiplies the rows."""
    call = state.call
    options = replace(call.options, reduction=reduction)
    sample = np.ones(state.sums.maximum.shape) if call.sample_weight is None else call.sample_weight
    if call.kept is not None:
        sample = np.where(call.kept, sample, 0.0)
    return options, merging.weights_of(state.sums, sample, (call.kind == LABELS, call.kind != DISTRIBUTION), options)


def loss(state: State, reduction: str) -> Any:
    """The loss of all rows."""
    _check_owned(state)
    _check_whole(state, "the loss")
    call = state.call
    _, weights = _weights(state, reduction)
    rows = merging.row_losses(state.sums, weights, call.scale)
    if call.kept is not None:
        rows = np.where(call.kept, rows, 0.0)
    dtype = loss_dtype(call.dtype)
    if reduction != "none":
        return reduced(total([rows]), weights.denominator, dtype)
    return _in_rows(rows, call)


def logsumexp(state: State) -> Any:
    """The logsumexp of each row; 0 in ignored ones."""
    call = state.call
    found = merging.logsumexp(state.sums, call.scale)
    return _in_rows(found if call.kept is None else np.where(call.kept, found, 0.0), call)


def _in_rows(values: Float64s, call: Call) -> Any:
    """(N,) numbers in the shape of class indices and the dtype of a loss; a NumPy scalar for 1-D logits."""
    with np.errstate(all="ignore"):
        found = values.astype(loss_dtype(call.dtype)).reshape(call.rows)
    return found if found.ndim else found[()]


def gradient(
    backend: Backend, state: State, checked: CheckedShard, reduction: str, grad_output: Any, out: object
) -> Any:
    """The gradient of a shard, which is `checked` without weights."""
    _check_whole(state, "the gradient")
    _check_owned(state)
    call, x = state.call, checked.logits
    rows = row_shape(x.shape, checked.axis)
    one = Call(
        checked.options, checked.n_classes, rows, checked.axis, x.dtype, checked.kind, False, checked.target, None, None
    )
    _check_values(call, one)
    scale, upstream = as_grad_output(grad_output, reduction, rows)
    checked = checked._replace(weight=_weights_of(state, *checked.classes))
    others = (checked.target, checked.labels, checked.distribution, upstream)
    grad = empty_like(x) if out is None else check_out(out, "out", x.shape, x.dtype, x, *others)
    options, weights = _weights(state, reduction)
    if weights.denominator == 0.0:
        grad.fill(0)
        return grad if out is None else out
    scale /= weights.denominator
    if options.softcap is None:
        scale *= options.logit_scale
    with np.errstate(all="ignore"):
        factor = weights.sample * scale
        if upstream is not None:
            factor = factor * upstream.reshape(-1)
    for shard, part, grad_view in shards(checked, grad):
        assert grad_view is not None
        sums = Sums(*(column[part] for column in state.sums))
        found = merging.coefficients(
            sums,
            weights._replace(sample=weights.sample[part]),
            _own(shard, sums, checked, part),
            factor[part],
            call.scale,
        )
        columns: list[Array] = [np.ascontiguousarray(column).reshape(shard.logits.shape[:2]) for column in found]
        backend.shard_gradient(shard, ShardCoefficients(*columns), grad_view)
    return grad if out is None else out


def _own(shard: Shard, sums: Sums, checked: CheckedShard, part: slice) -> Own:
    """The class of each row that has a gradient by itself: that of its label, or of its maximum for a distribution."""
    shape = shard.logits.shape[:2]
    first, stop = checked.classes
    u = np.zeros(1)
    if checked.labels is not None:
        j, x = checked.labels[part], sums.x_y
        if shard.has_dense:
            u = sums.w_y * shard.beta
    else:
        assert shard.distribution is not None
        top, x = sums.top.astype(np.int64), sums.maximum
        j = np.where((top >= first) & (top < stop), top - first, -1)
        u = shard.alpha * at_classes(shard.distribution, j.reshape(shape)).reshape(-1) + shard.beta
        u = u if shard.weight is None else u * shard.weight[j]
    slope = np.ones(1)
    if shard.softcap is not None:
        with np.errstate(all="ignore"):
            own = at_classes(shard.logits, j.reshape(shape)).reshape(-1)
            slope = slope_of(own, shard.logit_scale, shard.softcap)
    return Own(j, x, u, slope)


def _weights_of(state: State, start: int, stop: int) -> Float64s | None:
    """The class weights of some classes, from those of the parts; None where a gradient does not need them."""
    if not (state.call.has_weight and state.call.has_dense):
        return None
    found = np.full(stop - start, np.nan)
    for first, weight in state.weights:
        low, high = max(start, first), min(stop, first + weight.size)
        if low < high:
            found[low - start : high - start] = weight[low - first : high - first]
    if np.isnan(found).any():
        raise ValueError(
            f"the class weights of the classes {start} to {stop - 1} are not all known here: they come with the parts "
            "that partial_cross_entropy made, and from_array takes them from the part that it is given"
        )
    return found


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
