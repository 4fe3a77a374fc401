"""One call on device arrays, validated: the functions of `prepare.inputs` on stand-ins (see `adopt`).

The difference to NumPy arrays: what would copy a whole array (integer logits, a target to convert) is refused with the
remedy.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from xent_numba.backends.cuda.arrays.adopt import Adopted, adopt, current_stream, empty
from xent_numba.backends.cuda.row.operands import Operand
from xent_numba.backends.cuda.row.spec import ITEMSIZE
from xent_numba.backends.cuda.runtime import memory
from xent_numba.devices import on_device
from xent_numba.prepare.inputs import (
    FLOAT_CHOICES,
    PER_ROW,
    as_factors,
    as_grad_output,
    as_logits,
    as_weights,
    check_out,
    check_out_type,
    check_shape,
    grad_output_shape,
)
from xent_numba.prepare.layout import row_shape
from xent_numba.prepare.misuse import raise_if_swapped
from xent_numba.prepare.target import as_target, check_focal_gamma, check_ignore_index

if TYPE_CHECKING:
    from xent_numba.prepare.options import Options


@dataclass(slots=True)
class LossInputs:
    """The arguments of a loss: dtypes and shapes are checked, labels and weights on the device are not yet."""

    options: Options
    logits: Adopted
    axis: int  # of the classes, counted from the front
    stream: Any  # of the caller's library
    target: Adopted
    is_distribution: bool
    ignore: tuple[int, ...] = ()  # the labels to ignore, as the kernels read them
    ignore_list: int = 0  # their address on the device where there are several, else 0
    weight: Operand | None = None
    sample_weight: Operand | None = None
    kept: list[Any] = field(default_factory=list)  # owners of the memory that the kernels use

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.logits.array.shape[self.axis]

    @property
    def rows_shape(self) -> tuple[int, ...]:
        """The shape of class indices."""
        return row_shape(self.logits.array.shape, self.axis)

    def factors(
        self, value: Any, name: str, shape: tuple[int, ...], meaning: str, check: Any = as_factors
    ) -> Operand | None:
        """Numbers per class or per row; from the host they go through `check` and are copied over."""
        if value is None:
            return None
        if not on_device(value):
            return self.upload(check(value, name, shape, meaning))
        found = adopt(value, name, self.logits)
        check_shape(found.array.shape, name, shape, meaning)
        if found.dtype not in ITEMSIZE:
            raise TypeError(f"{name} has dtype {found.dtype}; on the GPU it must be {FLOAT_CHOICES}")
        if not found.array.flags.c_contiguous:
            raise ValueError(f"{name} on the GPU must be contiguous; make a contiguous copy first")
        self.kept.append(found)
        return Operand(found.dtype, found.array.ctypes.data, row_stride=ITEMSIZE[found.dtype])

    def grad_output(self, value: Any) -> tuple[float, Operand | None]:
        """The upstream gradient: (factor of all rows, factors on the device).

        One number for all rows that is on the device has its factors 0 bytes apart.
        """
        if value is None or not on_device(value):
            factor, per_row = as_grad_output(value, self.options.reduction, self.rows_shape)
            return factor, None if per_row is None else self.upload(per_row)
        ndim = len(adopt(value, "grad_output", self.logits).array.shape)
        shape, meaning = grad_output_shape(ndim, self.options.reduction, self.rows_shape)
        operand = self.factors(value, "grad_output", shape, meaning)
        return 1.0, operand if shape or operand is None else operand._replace(row_stride=0)

    def upload(self, array: np.ndarray[Any, Any]) -> Operand:
        """A host array on the device, for as long as this object lives."""
        there = memory.upload(array, self.stream)
        self.kept.append(there)
        return Operand(array.dtype.name, memory.address(there), row_stride=array.itemsize)


def read_loss_inputs(
    options: Options, logits: Any, target: Any, weight: Any, sample_weight: Any, *, may_be_dense: bool = True
) -> LossInputs:
    """Adopt and check the arguments that all losses have; `may_be_dense` is False where no distribution is taken."""
    try:
        return _read(options, logits, target, weight, sample_weight, may_be_dense)
    except (TypeError, ValueError) as error:
        raise_if_swapped(error, logits, target)
        raise


def _read(
    options: Options, logits: Any, target: Any, weight: Any, sample_weight: Any, may_be_dense: bool
) -> LossInputs:
    """`read_loss_inputs`, without the hint about arguments in the wrong order."""
    x, axis = read_logits(logits, options.axis)
    stream = current_stream(x)
    t = adopt(target, "target", x)
    if may_be_dense and t.array.shape == x.array.shape and t.dtype not in ITEMSIZE:
        raise TypeError(
            f"target has dtype {t.dtype}; on the GPU a distribution must be {FLOAT_CHOICES}: convert it, or pass the "
            "class indices of one-hot rows, target.argmax(axis)"
        )
    _, is_distribution = as_target(t.array, x.array, axis, may_be_dense=may_be_dense, may_read=False)
    inputs = LossInputs(options, x, axis, stream, t, is_distribution)
    if is_distribution:
        check_ignore_index(options)
        check_focal_gamma(options)
    else:
        inputs.ignore = _ignorable(options, t.dtype)
        if len(inputs.ignore) > 1:
            inputs.ignore_list = inputs.upload(np.array(inputs.ignore, np.int64)).address
    inputs.weight = inputs.factors(weight, "weight", (inputs.classes,), "one per class", as_weights)
    inputs.sample_weight = inputs.factors(sample_weight, "sample_weight", inputs.rows_shape, PER_ROW, as_weights)
    return inputs


def read_pair(options: Options, student: Any, teacher: Any, sample_weight: Any) -> LossInputs:
    """The arguments of a distillation, with the teacher's logits in the place of a distribution."""
    x, axis = read_logits(student, options.axis, "student_logits")
    t, _ = read_logits(teacher, options.axis, "teacher_logits", x)
    check_shape(t.array.shape, "teacher_logits", x.array.shape, "that of student_logits")
    inputs = LossInputs(options, x, axis, current_stream(x), t, True)
    inputs.sample_weight = inputs.factors(sample_weight, "sample_weight", inputs.rows_shape, PER_ROW, as_weights)
    return inputs


def read_logits(value: Any, axis: int, name: str = "logits", others: Adopted | None = None) -> tuple[Adopted, int]:
    """The logits, and the class axis counted from the front; on the GPU of the other logits, where there are any."""
    x = adopt(value, name, others)
    if x.dtype not in ITEMSIZE:
        raise TypeError(f"{name} have dtype {x.dtype}; on the GPU they must be {FLOAT_CHOICES}")
    _, axis = as_logits(x.array, axis, name)
    return x, axis


def read_second(value: Any, name: str, logits: Adopted, whose: str) -> Adopted:
    """A second array of real numbers in the shape of the logits; `whose` says so in the error."""
    found = adopt(value, name, logits)
    check_shape(found.array.shape, name, logits.array.shape, whose)
    if found.dtype not in ITEMSIZE:
        raise TypeError(f"{name} has dtype {found.dtype}; on the GPU it must be {FLOAT_CHOICES}")
    return found


def read_out(out: Any, name: str, shape: tuple[int, ...], dtype: str, x: Adopted, *inputs: Adopted) -> Adopted:
    """The caller's array to write to, or a new one."""
    if out is None:
        return empty(shape, dtype, x)
    found = adopt(out, name, x)
    check_out_type(found.array.shape, found.dtype, name, shape, dtype)
    check_out(found.array, name, shape, found.array.dtype, x.array, *(one.array for one in inputs))
    return found


def loss_dtype(x: Adopted) -> str:
    """float64 for float64 logits, else float32."""
    return "float64" if x.dtype == "float64" else "float32"


def _ignorable(options: Options, dtype: str) -> tuple[int, ...]:
    """The values to ignore that labels of this dtype can have, as the kernels read them."""
    limits = np.iinfo(dtype)
    beyond = (value - 2**64 for value in options.ignore_beyond if dtype == "uint64")
    return (*(value for value in options.ignore if limits.min <= value <= limits.max), *beyond)
