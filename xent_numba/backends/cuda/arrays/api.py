"""The public functions for arrays that are on a CUDA device: zero-copy, on the caller's stream, in its library.

Validation is that of `problem` (the same functions on stand-ins, see `adopt`), with two differences.  What would copy
a whole array (integer logits, a target to convert) is refused with the remedy.  And labels and weights are checked
by a kernel whose 64 bytes of result are read back, the one point where a call waits for the device; within
`deferred.deferred_checks()` it does not, and `check()` raises later what would have been raised.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from xent_numba.backends.cuda.arrays.adopt import (
    Adopted,
    adopt,
    current_stream,
    empty,
    empty_like,
    on_its_device,
    release,
)
from xent_numba.backends.cuda.arrays.slabs import launch, moved, size_of, slabs
from xent_numba.backends.cuda.row.operands import Call, Operand
from xent_numba.backends.cuda.runtime import deferred, memory
from xent_numba.devices import on_device
from xent_numba.prepare.inputs import as_factors, as_logits, as_target, as_weights, check_out
from xent_numba.prepare.layout import merged_axes, place, row_shape
from xent_numba.prepare.options import DEFAULT_IGNORE_INDEX

if TYPE_CHECKING:
    from xent_numba.prepare.options import Options

    Array = np.ndarray[Any, Any]

FLOATS = ("float64", "float32", "float16", "bfloat16")
_ROWS = "that of the logits without the class axis"


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
        return _Loss(options, logits, target, weight, sample_weight).run(True, want_grad, out, "grad_out", None, None)


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
        return _Loss(options, logits, target, weight, sample_weight).run(False, True, out, "out", lse, grad_output)[1]


def rowwise(options: Options, logits: Any, out: Any, store: str) -> Any:
    """`softmax`, `log_softmax`, or with store = "" `logsumexp`."""
    with on_its_device(logits):
        return _rowwise(options, logits, out, store)


def _rowwise(options: Options, logits: Any, out: Any, store: str) -> Any:
    x, axis = _logits(logits, options.axis)
    stream = current_stream(x)
    shape = x.array.shape if store else row_shape(x.array.shape, axis)
    dtype = x.dtype if store else _loss_dtype(x)
    result = _result(out, "out", shape, dtype, x)
    if result.array.size:
        operands: dict[str, Array | None] = {"logits": x.array, **({"out": result.array} if store else {})}
        if not store and not result.array.flags.c_contiguous:
            raise ValueError("out must be contiguous")
        for call, offset in slabs(axis, operands, {}, {"logits": x.dtype, "out": dtype}):
            call.store = store
            call.lse = 0 if store else result.array.ctypes.data + offset * result.array.itemsize
            launch(call, stream)
    return release(result, stream)


class _Loss:
    """One call on device arrays: validated, checked, launched."""

    def __init__(self, options: Options, logits: Any, target: Any, weight: Any, sample_weight: Any) -> None:
        self.options = options
        self.x, self.axis = _logits(logits, options.axis)
        self.stream = current_stream(self.x)
        x = self.x.array
        self.classes, self.rows_shape = x.shape[self.axis], row_shape(x.shape, self.axis)
        self.target = adopt(target, "target", self.x)
        if self.target.array.shape == x.shape and self.target.dtype not in FLOATS:
            raise TypeError(
                f"target has dtype {self.target.dtype}; on the GPU a distribution must be {_listed(FLOATS)}"
            )
        _, self.is_distribution = as_target(self.target.array, x, self.axis)
        self.ignore = () if self.is_distribution else _fitting(options, self.target.dtype)
        if self.is_distribution and options.ignore_index != DEFAULT_IGNORE_INDEX:
            raise ValueError(
                f"ignore_index = {options.ignore_index} needs class indices; with a distribution as target, leave rows "
                "out with a sample_weight of 0"
            )
        self.kept: list[Any] = []  # memory that the kernels use
        self.weight = self._factors(weight, "weight", (self.classes,), "one per class", weights=True)
        self.sample = self._factors(sample_weight, "sample_weight", self.rows_shape, _ROWS, weights=True)

    def run(
        self, want_loss: bool, want_grad: bool, out: Any, out_name: str, lse: Any, grad_output: Any
    ) -> tuple[Any, Any]:
        """Check, launch, and hand back (loss, gradient)."""
        from xent_numba.backends.cuda import launch as launches

        x, options = self.x, self.options
        saved = self._factors(lse, "lse", self.rows_shape, _ROWS)
        scale, upstream, step = self._upstream(grad_output)
        inputs = [self.target.array]
        grad = _result(out, out_name, x.array.shape, x.dtype, x, *inputs) if want_grad else None
        n_rows = int(np.prod(self.rows_shape))
        dtype = _loss_dtype(x)
        if n_rows == 0:
            result = empty(self.rows_shape, dtype, x)
            if options.reduction != "none":  # 0 / 0 or 0 / 1
                result = _sum(result, 0, 0, 0.0 if options.reduction == "mean" else 1.0, x, self.stream)
            return release(result, self.stream), None if grad is None else release(grad, self.stream)
        scales, denominator, ratio = self._checked(n_rows)
        rows = empty(self.rows_shape, dtype, x) if want_loss else None
        kind = "distribution" if self.is_distribution else "labels"
        arrays = {"logits": x.array, kind: self.target.array, "out": None if grad is None else grad.array}
        dtypes = {"logits": x.dtype, "out": x.dtype, "labels": self.target.dtype, "distribution": self.target.dtype}
        per_row = {"sample_weight": self.sample, "saved_lse": saved}
        ignore_list = self._ignore_list()
        for call, offset in slabs(self.axis, arrays, per_row, dtypes):
            call.store = "grad" if want_grad else ""
            call.weight = self.weight
            if upstream is not None:
                call.grad_output, call.upstream_step = moved(upstream, offset * bool(step)), step
            call.ignore, call.ignore_list = self.ignore, ignore_list
            call.label_smoothing, call.logit_scale = options.label_smoothing, options.logit_scale
            call.softcap = options.softcap
            call.z_coefficient = options.z_loss * ratio
            call.grad_scale = scale if scales else (scale / denominator if denominator else 0.0)
            call.scales = scales
            call.rows = 0 if rows is None else rows.array.ctypes.data + offset * rows.array.itemsize
            launch(call, self.stream)
        loss = rows
        if rows is not None and options.reduction != "none":
            base = scales - launches.SCALES if scales and options.reduction == "mean" else 0
            loss = _sum(rows, n_rows, base, denominator, x, self.stream)
        return (
            None if loss is None else release(loss, self.stream),
            None if grad is None else release(grad, self.stream),
        )

    def _factors(
        self, value: Any, name: str, shape: tuple[int, ...], meaning: str, *, weights: bool = False
    ) -> Operand | None:
        """Numbers per class or per row, where they are; from the host they are checked there and copied over."""
        if value is None:
            return None
        if not on_device(value):
            checked = (as_weights if weights else as_factors)(value, name, shape, meaning)
            there = memory.upload(checked, self.stream)
            self.kept.append(there)
            return Operand("float64", memory.address(there))
        found = adopt(value, name, self.x)
        if found.array.shape != shape:
            raise ValueError(f"{name} has shape {found.array.shape}; it must have shape {shape}: {meaning}")
        if found.dtype not in FLOATS:
            raise TypeError(f"{name} has dtype {found.dtype}; on the GPU it must be {_listed(FLOATS)}")
        if not found.array.flags.c_contiguous:
            raise ValueError(f"{name} on the GPU must be contiguous; make a contiguous copy first")
        self.kept.append(found)
        return Operand(found.dtype, found.array.ctypes.data)

    def _upstream(self, value: Any) -> tuple[float, Operand | None, int]:
        """A factor known on the host, or one per row on the device, or one for all rows there (step 0)."""
        if value is None:
            return 1.0, None, 0
        if self.options.reduction == "none":
            operand = self._factors(value, "grad_output", self.rows_shape, f"{_ROWS}, as reduction is 'none'")
            return 1.0, operand, size_of(operand)
        meaning = f"one number, as reduction is {self.options.reduction!r}"
        if on_device(value):
            return 1.0, self._factors(value, "grad_output", (), meaning), 0
        return float(as_factors(value, "grad_output", (), meaning)), None, 0

    def _ignore_list(self) -> int:
        if len(self.ignore) < 2:
            return 0
        there = memory.upload(np.array(self.ignore, np.int64), self.stream)
        self.kept.append(there)
        return memory.address(there)

    def _checked(self, n_rows: int) -> tuple[int, float, float]:
        """(address of the scales or 0, denominator, what multiplies the z-loss)."""
        from xent_numba.backends.cuda import launch as launches

        mean = self.options.reduction == "mean"
        if self.is_distribution and self.weight is None and self.sample is None:
            return 0, float(n_rows) if mean else 1.0, 1.0
        labels = None if self.is_distribution else self._label_operand()
        call = Call((1, n_rows, self.classes) if labels is None else labels[1], Operand(self.x.dtype, 0))
        call.labels, call.weight, call.sample_weight = None if labels is None else labels[0], self.weight, self.sample
        call.ignore, call.ignore_list = self.ignore, self._ignore_list()
        later = deferred.current()
        result = launches.scan_labels(call, mean, self.stream, keep=later is not None)
        if later is not None:
            later.pending.append(lambda: self._read(result))
            return memory.address(result) + launches.SCALES, 1.0, 1.0
        found = launches.read_scan(result, self.stream)
        self._raise_for(found)
        if not mean:
            return 0, 1.0, 1.0
        return 0, found.weight_sum, found.weight_sum / found.sample_sum if found.sample_sum else 0.0

    def _label_operand(self) -> tuple[Operand, tuple[int, int, int]]:
        labels = self.target.array
        sizes = merged_axes(labels.shape, [labels.strides])
        if len(sizes) > 2:
            raise ValueError("target on the GPU has more than two separate strides; make a contiguous copy first")
        view = np.reshape(labels, (1,) * (2 - len(sizes)) + sizes, copy=False)
        operand = Operand(self.target.dtype, view.ctypes.data, view.strides[0], view.strides[1])
        return operand, (view.shape[0], view.shape[1], self.classes)

    def _read(self, result: Any) -> None:
        """A check that was put off: whichever device is the current one by now."""
        from xent_numba.backends.cuda import launch as launches

        with on_its_device(self.x.owner):
            self._raise_for(launches.read_scan(result, self.stream))

    def _raise_for(self, found: Any) -> None:
        """The errors of `problem`, from what the scan found."""
        from xent_numba.backends.cuda import launch as launches

        if found.first_bad >= 0:
            where = place(found.first_bad, self.target.array.shape)
            index = np.unravel_index(found.first_bad, self.target.array.shape)
            offset = sum(i * step for i, step in zip(index, self.target.array.strides, strict=True))
            value = launches.peek(Operand(self.target.dtype, self.target.array.ctypes.data + int(offset)), self.stream)
            if self.target.dtype == "uint64":
                value %= 2**64
            raise IndexError(
                f"target{where} = {value} is out of range for {self.classes} classes "
                f"(ignore_index = {self.options.ignore_index})"
            )
        for first, name in ((found.first_bad_weight, "weight"), (found.first_bad_sample, "sample_weight")):
            if first >= 0:
                shape = (self.classes,) if name == "weight" else self.rows_shape
                raise ValueError(f"{name}{place(first, shape)} must be finite and not negative")


def _logits(value: Any, axis: int) -> tuple[Adopted, int]:
    x = adopt(value, "logits")
    if x.dtype not in FLOATS:
        raise TypeError(f"logits have dtype {x.dtype}; on the GPU they must be {_listed(FLOATS)}")
    _, axis = as_logits(x.array, axis)
    return x, axis


def _result(out: Any, name: str, shape: tuple[int, ...], dtype: str, x: Adopted, *inputs: Array) -> Adopted:
    """The caller's array to write to, or a new one."""
    if out is None:
        return empty(shape, dtype, x) if shape != x.array.shape else empty_like(x)
    found = adopt(out, name, x)
    if found.array.shape != shape or found.dtype != dtype:
        raise ValueError(
            f"{name} has shape {found.array.shape} and dtype {found.dtype}; it must have shape {shape} and {dtype}"
        )
    check_out(found.array, name, shape, found.array.dtype, x.array, *inputs)
    return found


def _sum(rows: Adopted, n_rows: int, scales: int, denominator: float, x: Adopted, stream: Any) -> Adopted:
    """Σ rows / denominator as one number in the caller's library, still on the device."""
    from xent_numba.backends.cuda import launch as launches

    result = empty((), rows.dtype, x)
    source = Operand(rows.dtype, rows.array.ctypes.data)
    launches.reduce_rows(source, n_rows, result.array.ctypes.data, scales, denominator, stream)
    return result


def _fitting(options: Options, dtype: str) -> tuple[int, ...]:
    """The values to ignore that labels of this dtype can have, as the kernels read them."""
    limits = np.iinfo(dtype)
    beyond = (value - 2**64 for value in options.ignore_beyond if dtype == "uint64")
    return (*(value for value in options.ignore if limits.min <= value <= limits.max), *beyond)


def _loss_dtype(x: Adopted) -> str:
    return "float64" if x.dtype == "float64" else "float32"


def _listed(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
