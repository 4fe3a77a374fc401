"""The linear head of arrays on a GPU: products by the library of the arrays, losses by the CUDA kernels.

Nothing is copied to the host but the result of the label scan, from which the denominators are known before the first
product.  The loop over chunks is that of the host, and so are the checks, on stand-ins (see `backends.cuda.arrays`).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from xent_numba.backends.cuda import launch
from xent_numba.backends.cuda.arrays.adopt import Adopted, adopt, empty, on_its_device
from xent_numba.backends.cuda.arrays.api import reduced
from xent_numba.backends.cuda.arrays.inputs import LossInputs, loss_dtype, read_besides_logits
from xent_numba.backends.cuda.arrays.label_scan import Denominators, denominators
from xent_numba.backends.cuda.arrays.slabs import slabs
from xent_numba.backends.cuda.row.operands import Operand
from xent_numba.backends.cuda.row.spec import ITEMSIZE
from xent_numba.devices import on_device
from xent_numba.linear.chunks import Outcome, chunks
from xent_numba.linear.device_libraries import DeviceLibrary, library_for
from xent_numba.prepare.inputs import FLOAT_CHOICES, PER_ROW, as_weights, check_out_type
from xent_numba.prepare.linear import (
    GRADIENT_NAMES,
    PRODUCT_NAMES,
    WRT,
    Factors,
    Results,
    Vector,
    check_given,
    check_target,
    check_wrt,
    read_factors,
    refuse_sparse,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xent_numba.prepare.options import Options


class DeviceHead(NamedTuple):
    """One validated call.  Labels and weights on the device are not checked yet."""

    library: DeviceLibrary
    adopted: dict[str, Adopted]  # the factors of the logits by name
    stand_ins: Factors
    factors: Factors  # the arrays of the user
    inputs: LossInputs  # the arguments of the loss; its logits are an array of their shape that takes no memory
    sample_weight: Any  # an array of the library, or None


class Rows(NamedTuple):
    """Which rows of a call are computed, and what the kernels take of them besides logits."""

    kept: Any  # their numbers, or None for all
    labels: Any  # of all rows, int64 on one axis, or None
    number: int


def loss(options: Options, head: tuple[Any, Any, Any], loss: tuple[Any, Any, Any], batch_chunk_size: object) -> Any:
    """`linear_cross_entropy`."""
    with on_its_device(head[0]):
        return _loss(_read(options, head, loss, batch_chunk_size), (None, None, None))


def loss_and_gradients(
    options: Options,
    head: tuple[Any, Any, Any],
    loss: tuple[Any, Any, Any],
    batch_chunk_size: object,
    wrt: object,
    outs: Mapping[str, object],
) -> tuple[Any, ...]:
    """`linear_cross_entropy_and_grad`: the loss, and its gradients in the order of `WRT`."""
    with on_its_device(head[0]):
        call = _read(options, head, loss, batch_chunk_size)
        results = _results(call, check_wrt(wrt, call.stand_ins), outs, GRADIENT_NAMES)
        return _loss(call, results.filled), *results.returned


def hessian_vector_product(
    options: Options,
    head: tuple[Any, Any, Any],
    loss: tuple[Any, Any, Any],
    vector: tuple[Any, Any],
    batch_chunk_size: object,
    gauss_newton: bool,
    outs: Mapping[str, object],
) -> tuple[Any, ...]:
    """`linear_cross_entropy_hvp`: the parts of the product for weight and bias."""
    with on_its_device(head[0]):
        call = _read(options, head, loss, batch_chunk_size, vector)
        results = _results(call, check_wrt(WRT[1:], call.stand_ins), outs, PRODUCT_NAMES)
        found = _denominators(call.inputs)
        _fill(call, _rows(call, found), found, Outcome(None, *results.filled), gauss_newton=gauss_newton)
        return results.returned[1:]


def _read(
    options: Options,
    head: tuple[Any, Any, Any],
    loss: tuple[Any, Any, Any],
    batch_chunk_size: object,
    vector: tuple[Any, Any] | None = None,
) -> DeviceHead:
    """Validate one call, whose arguments are those of `prepare.linear.prepare_head`."""
    library = library_for(head[0], "input")
    refuse_sparse(head, loss, vector)
    adopted: dict[str, Adopted] = {}

    def read(value: Any, name: str) -> Any:
        library.check(value, name) if on_device(value) else None
        found = adopt(value, name, adopted.get("input"))
        if found.dtype not in ITEMSIZE:
            raise TypeError(f"{name} has dtype {found.dtype}; on the GPU it must be {FLOAT_CHOICES}")
        adopted[name] = replace(found, subject="input is")
        return found.array

    stand_ins = read_factors(head, vector, batch_chunk_size, read)
    direction = None if vector is None else Vector(*vector)
    factors = stand_ins._replace(input=head[0], linear_weight=head[1], linear_bias=head[2], vector=direction)
    logits = replace(adopted["input"], array=stand_ins.logits(), dtype=stand_ins.dtype.name)
    target, weight, sample_weight = loss
    check_target(adopt(target, "target", logits).array.shape, stand_ins, logits.array.shape)
    if sample_weight is not None and not on_device(sample_weight):
        sample_weight = library.from_host(as_weights(sample_weight, "sample_weight", stand_ins.rows_shape, PER_ROW))
    for name, value in (("target", target), ("sample_weight", sample_weight)):
        library.check(value, name) if value is not None else None
    inputs = read_besides_logits(options, (logits, len(stand_ins.rows_shape)), target, weight, sample_weight)
    return DeviceHead(library, adopted, stand_ins, factors, inputs, sample_weight)


def _results(call: DeviceHead, wanted: tuple[str, ...], outs: Mapping[str, object], names: dict[str, str]) -> Results:
    """The arrays that a call fills: new ones, or the user's own, once they are checked."""
    x = call.adopted["input"]
    there: dict[str, Any] = {}
    for argument, out in outs.items():
        if out is None:
            continue
        name, like = names[argument], call.adopted.get(argument)
        found = adopt(out, name, x)
        call.library.check(out, name)
        if like is not None:
            check_out_type(found.array.shape, found.dtype, name, like.array.shape, like.dtype)
        there[argument] = found.array
    others = [one.array for one in (call.inputs.target, *call.inputs.kept) if isinstance(one, Adopted)]
    given = check_given(there, wanted, call.stand_ins, others, names)
    return Results.of(
        wanted,
        {argument: outs[argument] for argument in given},
        outs,
        lambda argument: _empty_like(call.adopted[argument]),
    )


def _empty_like(prototype: Adopted) -> Any:
    """A new array of the same shape and dtype, in C order."""
    return empty(prototype.array.shape, prototype.dtype, prototype).owner


def _denominators(inputs: LossInputs) -> Denominators:
    """Labels and weights checked, and the denominators found."""
    if math.prod(inputs.rows_shape) == 0:
        return Denominators(0, 0.0 if inputs.options.reduction == "mean" else 1.0, 1.0)
    return denominators(inputs)


def _rows(call: DeviceHead, found: Denominators) -> Rows:
    """The rows to compute: none where the results are final without them, and never those that are ignored."""
    inputs, n_rows = call.inputs, math.prod(call.inputs.rows_shape)
    if n_rows == 0 or (found.loss == 0.0 and not found.scan):
        return Rows((), None, 0)
    if inputs.is_distribution:
        return Rows(None, None, n_rows)
    labels = call.library.as_labels(inputs.target.owner)
    kept = call.library.kept_rows(labels, inputs.ignore) if inputs.ignore else None
    return Rows(kept, labels, n_rows if kept is None else len(kept))


def _loss(call: DeviceHead, gradients: tuple[Any, ...]) -> Any:
    """The loss of a call; fills the gradients that are not None."""
    inputs, options = call.inputs, call.inputs.options
    found = _denominators(inputs)
    rows = _rows(call, found)
    per_row = empty((rows.number,), loss_dtype(inputs.logits), inputs.logits)
    _fill(call, rows, found, Outcome(None, *gradients), per_row)
    if options.reduction != "none":
        return reduced(inputs, per_row, found.scan if options.reduction == "mean" else 0, found.loss).owner
    if rows.kept is None:
        return per_row.owner.reshape(inputs.rows_shape)
    result = empty(inputs.rows_shape, per_row.dtype, inputs.logits).owner
    call.library.zero(result)
    if rows.number:
        call.library.rows(result, len(inputs.rows_shape)).put(rows.kept, per_row.owner)
    return result


def _fill(
    call: DeviceHead,
    rows: Rows,
    found: Denominators,
    outcome: Outcome,
    per_row: Adopted | None = None,
    gauss_newton: bool = False,
) -> None:
    """Launch the kernels for every chunk; fills the gradients, and the losses of the rows that are computed."""
    inputs, library, n_axes = call.inputs, call.library, len(call.inputs.rows_shape)
    q = library.rows(inputs.target.owner, n_axes) if inputs.is_distribution else None
    s = None if call.sample_weight is None else library.rows(call.sample_weight, n_axes)
    first = 0
    for chunk in chunks(library, call.factors, outcome, rows.kept):
        target = rows.labels[chunk.rows] if q is None else q.take(chunk.rows)
        arrays = {
            "logits": adopt(chunk.logits, "logits"),
            "out": None if chunk.grad is None else adopt(chunk.grad, "out"),
            "second": None if chunk.vector is None else adopt(chunk.vector, "vector"),
            "labels" if q is None else "distribution": adopt(target, "target"),
        }
        sample = None if s is None else adopt(s.take(chunk.rows), "sample_weight")
        weights = None if sample is None else Operand(sample.dtype, sample.array.ctypes.data, 0, sample.array.itemsize)
        for operands, row in slabs(1, arrays, {"sample_weight": weights}):
            inputs.set_options(operands)
            found.set_scales(operands, inputs.options.z_loss)
            operands.output = "hvp" if chunk.vector is not None else "" if chunk.grad is None else "grad"
            operands.gauss_newton = gauss_newton
            if per_row is not None:
                operands.rows = per_row.array.ctypes.data + (first + row) * per_row.array.itemsize
            launch.run(operands, inputs.stream)
        first += len(chunk.logits)
