"""What follows from a part that has all classes: the loss, the logsumexp, and the gradient of a shard."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from xent_numba.backends.protocol import ShardCoefficients
from xent_numba.backends.reference.shards import slope_of
from xent_numba.prepare.inputs import as_grad_output, check_out
from xent_numba.prepare.layout import row_shape
from xent_numba.prepare.shards import DISTRIBUTION, LABELS, CheckedShard, at_classes, shards
from xent_numba.reduction import loss_dtype, reduced, total
from xent_numba.results import empty_like
from xent_numba.sharding import merging
from xent_numba.sharding.checks import check_owned, check_shards, check_whole
from xent_numba.sharding.merging import Own, Sums
from xent_numba.sharding.state import Call

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    from xent_numba.backends.protocol import Backend, Shard
    from xent_numba.prepare.options import Options
    from xent_numba.sharding.state import State

    Array = NDArray[Any]
    Float64s = NDArray[np.float64]


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
    check_owned(state)
    check_whole(state, "the loss")
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
    check_whole(state, "the gradient")
    check_owned(state)
    call, x = state.call, checked.logits
    rows = row_shape(x.shape, checked.axis)
    one = Call(
        checked.options, checked.n_classes, rows, checked.axis, x.dtype, checked.kind, False, checked.target, None, None
    )
    check_shards(call, one)
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
        sums = state.sums.rows(part)
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
    if checked.n_classes == 1 and shard.has_dense:
        u = sums.target_sum + sums.target_error  # the same number, but for its rounding: p − t is exactly 0
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
