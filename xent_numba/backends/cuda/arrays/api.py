"""The public functions for arrays that are on a CUDA device; see the map of this folder."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from xent_numba.backends.cuda import launch
from xent_numba.backends.cuda.arrays.adopt import (
    Adopted,
    current_stream,
    empty,
    on_its_device,
    release,
)
from xent_numba.backends.cuda.arrays.host import to_host as to_host
from xent_numba.backends.cuda.arrays.inputs import (
    LossInputs,
    loss_dtype,
    read_logits,
    read_loss_inputs,
    read_out,
    read_pair,
    read_second,
)
from xent_numba.backends.cuda.arrays.label_scan import denominators
from xent_numba.backends.cuda.arrays.slabs import slabs
from xent_numba.backends.cuda.row.operands import Operand
from xent_numba.backends.cuda.row.spec import STATISTICS
from xent_numba.prepare.curvature import check_diag
from xent_numba.prepare.inputs import PER_ROW, check_in_place
from xent_numba.prepare.layout import row_shape

if TYPE_CHECKING:
    from xent_numba.prepare.distillation import DistillationOptions
    from xent_numba.prepare.options import Options


class Output(NamedTuple):
    """What is stored for each class, and what that takes besides the arguments of a loss; see `Operands`."""

    kind: str = ""
    out: Adopted | None = None
    second_out: Adopted | None = None
    second: Adopted | None = None
    gauss_newton: bool = False
    distillation: DistillationOptions | None = None

    def arrays(self) -> dict[str, Adopted | None]:
        """The arrays under the names of their operands."""
        return {"out": self.out, "second_out": self.second_out, "second": self.second}


def loss(
    options: Options,
    logits: Any,
    target: Any,
    weight: Any = None,
    sample_weight: Any = None,
    *,
    want_grad: bool = False,
    out: Any = None,
) -> tuple[Any, Any]:
    """(loss, gradient or None): `cross_entropy` and `cross_entropy_and_grad`."""
    with on_its_device(logits):
        inputs = read_loss_inputs(options, logits, target, weight, sample_weight)
        grad = _read_grad(inputs, out, "grad_out") if want_grad else None
        result = empty(inputs.rows_shape, loss_dtype(inputs.logits), inputs.logits)
        result = _run(inputs, result, Output() if grad is None else Output("grad", grad))
        return release(result, inputs.stream), None if grad is None else release(grad, inputs.stream)


def gradient(
    options: Options,
    logits: Any,
    target: Any,
    weight: Any = None,
    sample_weight: Any = None,
    *,
    lse: Any = None,
    grad_output: Any = None,
    out: Any = None,
) -> Any:
    """`cross_entropy_grad`."""
    with on_its_device(logits):
        inputs = read_loss_inputs(options, logits, target, weight, sample_weight)
        saved_lse = inputs.factors(lse, "lse", inputs.rows_shape, PER_ROW)
        factor, per_row = inputs.grad_output(grad_output)
        grad = _read_grad(inputs, out, "out")
        _run(inputs, None, Output("grad", grad), saved_lse, factor, per_row)
        return release(grad, inputs.stream)


def rowwise(options: Options, logits: Any, out: Any, output: str) -> Any:
    """`softmax`, `log_softmax`, or with output = "" `logsumexp`."""
    with on_its_device(logits):
        x, axis = read_logits(logits, options.axis)
        stream = current_stream(x)
        shape = x.array.shape if output else row_shape(x.array.shape, axis)
        result = read_out(out, "out", shape, x.dtype if output else loss_dtype(x), x)
        if not output and not result.array.flags.c_contiguous:
            raise ValueError("out must be contiguous")
        if result.array.size:
            for operands, first_row in slabs(axis, {"logits": x, "out": result if output else None}, {}):
                operands.output = output
                operands.lse = 0 if output else result.array.ctypes.data + first_row * result.array.itemsize
                launch.run(operands, stream)
        return release(result, stream)


def row_statistics(options: Options, logits: Any, target: Any, names: tuple[str, ...]) -> tuple[Any, ...]:
    """The fields of `row_statistics`, None for those that `names` leaves out."""
    with on_its_device(logits):
        arrays: dict[str, Adopted | None] = {}
        if target is None:
            x, axis = read_logits(logits, options.axis)
            stream = current_stream(x)
        else:
            inputs = read_loss_inputs(options, logits, target, None, None, may_be_dense=False)
            x, axis, stream, arrays["labels"] = inputs.logits, inputs.axis, inputs.stream, inputs.target
        shape = row_shape(x.array.shape, axis)
        n_rows = math.prod(shape)
        if target is not None and n_rows:
            denominators(inputs)  # for the check of the labels
        results = {name: _empty_statistic(name, shape, x) for name in names}
        for operands, first_row in slabs(axis, {"logits": x, **arrays}, {}) if names and n_rows else ():
            if target is not None:
                operands.ignore, operands.ignore_list = inputs.ignore, inputs.ignore_list
            operands.logit_scale, operands.softcap = options.logit_scale, options.softcap
            operands.by_row = {
                name: found.array.ctypes.data + first_row * found.array.itemsize for name, found in results.items()
            }
            launch.run(operands, stream)
        return tuple(release(results[name], stream) if name in results else None for name in STATISTICS)


def refuse_shards(function: str) -> NoReturn:
    """NotImplementedError: what shards know about their rows is merged on the host."""
    raise NotImplementedError(
        f"backend 'cuda' does not support {function} of arrays on a GPU yet; copy them to the host"
    )


def _empty_statistic(name: str, shape: tuple[int, ...], x: Adopted) -> Adopted:
    """A new array for a statistic of each row."""
    if name not in ("argmax", "rank"):
        return empty(shape, loss_dtype(x), x)
    result = empty(shape, "int64", x)
    if result.dtype != "int64":  # JAX
        raise RuntimeError(
            f"{name} is of dtype int64, but {x.library} made an array of {result.dtype}; "
            "set jax.config.update('jax_enable_x64', True), or leave argmax and rank out of fields"
        )
    return result


def hvp(
    options: Options,
    logits: Any,
    target: Any,
    vector: Any,
    weight: Any = None,
    sample_weight: Any = None,
    *,
    gauss_newton: bool = False,
    out: Any = None,
) -> Any:
    """`cross_entropy_hvp`."""
    with on_its_device(logits):
        inputs = read_loss_inputs(options, logits, target, weight, sample_weight)
        v = read_second(vector, "vector", inputs.logits, "that of the logits")
        product = _read_grad(inputs, out, "out")
        check_in_place(product.array, "out", v.array, "the vector", "the vector itself")
        _run(inputs, None, Output("hvp", product, second=v, gauss_newton=gauss_newton))
        return release(product, inputs.stream)


def grad_and_hessian_diag(
    options: Options,
    logits: Any,
    target: Any,
    weight: Any = None,
    sample_weight: Any = None,
    *,
    grad_out: Any = None,
    diag_out: Any = None,
) -> tuple[Any, Any]:
    """`cross_entropy_grad_and_hessian_diag`."""
    with on_its_device(logits):
        inputs = read_loss_inputs(options, logits, target, weight, sample_weight)
        grad, diag = _read_grad(inputs, grad_out, "grad_out"), _read_grad(inputs, diag_out, "diag_out")
        check_diag(diag.array, inputs.logits.array, grad.array)
        _run(inputs, None, Output("grad and diag", grad, diag))
        return release(grad, inputs.stream), release(diag, inputs.stream)


def distillation(
    options: DistillationOptions,
    student: Any,
    teacher: Any,
    sample_weight: Any = None,
    *,
    want_grad: bool = False,
    out: Any = None,
) -> tuple[Any, Any]:
    """(loss, gradient or None): `distillation_loss` and `distillation_loss_and_grad`."""
    with on_its_device(student):
        inputs = read_pair(options.shared, student, teacher, sample_weight)
        grad = _read_grad(inputs, out, "grad_out") if want_grad else None
        result = empty(inputs.rows_shape, loss_dtype(inputs.logits), inputs.logits)
        result = _run(inputs, result, Output("" if grad is None else "grad", grad, distillation=options))
        return release(result, inputs.stream), None if grad is None else release(grad, inputs.stream)


def count_classes(options: Options, logits: Any) -> int:
    """The number of classes."""
    x, axis = read_logits(logits, options.axis)
    return int(x.array.shape[axis])


def _read_grad(inputs: LossInputs, out: Any, name: str) -> Adopted:
    """Where the gradient goes."""
    x = inputs.logits
    return read_out(out, name, x.array.shape, x.dtype, x, inputs.target)


def _run(
    inputs: LossInputs,
    rows: Adopted | None,
    output: Output,
    saved_lse: Operand | None = None,
    factor: float = 1.0,
    grad_output: Operand | None = None,
) -> Any:
    """Check labels and weights, launch the kernels, and reduce the losses of the rows, where they are asked for.

    The last two arguments are the upstream gradient, as `LossInputs.grad_output` returns it.
    """
    options, stream = inputs.options, inputs.stream
    n_rows = math.prod(inputs.rows_shape)
    if n_rows == 0:  # 0 / 0 or 0 / 1
        return rows if rows is None else _reduced(inputs, rows, 0, 0.0 if options.reduction == "mean" else 1.0)
    found = denominators(inputs)
    kind = "distribution" if inputs.is_distribution else "labels"
    arrays = {**output.arrays(), "logits": inputs.logits, "second" if output.distillation else kind: inputs.target}
    per_row = {"sample_weight": inputs.sample_weight, "saved_lse": saved_lse, "grad_output": grad_output}
    for operands, first_row in slabs(inputs.axis, arrays, per_row):
        operands.output, operands.gauss_newton = output.kind, output.gauss_newton
        if output.distillation:
            _, operands.temperature, operands.temperature_squared = output.distillation
        operands.weight = inputs.weight
        operands.ignore, operands.ignore_list = inputs.ignore, inputs.ignore_list
        operands.label_smoothing, operands.logit_scale = options.label_smoothing, options.logit_scale
        operands.softcap = options.softcap
        operands.z_coefficient = options.z_loss * found.ratio
        operands.focal_gamma = options.focal_gamma
        operands.grad_scale = factor / found.loss if found.loss else 0.0
        operands.device_scales = found.scan + launch.DEVICE_SCALES if found.scan else 0
        operands.rows = 0 if rows is None else rows.array.ctypes.data + first_row * rows.array.itemsize
        launch.run(operands, stream)
    if rows is None:
        return None
    return _reduced(inputs, rows, found.scan if options.reduction == "mean" else 0, found.loss)


def _reduced(inputs: LossInputs, rows: Adopted, scan: int, denominator: float) -> Adopted:
    """The losses of the rows, or their sum over the denominator as one number, still on the device."""
    if inputs.options.reduction == "none":
        return rows
    result = empty((), rows.dtype, inputs.logits)
    source = Operand(rows.dtype, rows.array.ctypes.data)
    n_rows = math.prod(inputs.rows_shape)
    launch.reduce_rows(source, n_rows, result.array.ctypes.data, scan, denominator, inputs.stream)
    return result
