"""One call as the kernels see it: addresses, strides in bytes, options; whoever owns the memory.

From it follow the spec of its kernels, their arguments, and how the rows follow each other in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from xent_numba.backends.cuda.hw.sizes import VECTOR_BYTES
from xent_numba.backends.cuda.row.spec import ITEMSIZE, Spec, arguments_type

FLOAT32_MAX = 3.4e38


class Operand(NamedTuple):
    """An array on the device; strides in bytes along (A, B, class), as far as it has these axes."""

    dtype: str
    address: int
    outer_stride: int = 0
    row_stride: int = 0
    class_stride: int = 0


@dataclass(slots=True)
class Operands:
    """A validated call on (A, B, C) logits.  Factors per class or per row are contiguous."""

    shape: tuple[int, int, int]
    logits: Operand
    output: str = ""  # what goes to `out`: "", "grad", "softmax" or "log_softmax"
    out: Operand | None = None
    labels: Operand | None = None
    distribution: Operand | None = None
    weight: Operand | None = None
    sample_weight: Operand | None = None
    grad_output: Operand | None = None  # row_stride is 0 where all rows share one number
    saved_lse: Operand | None = None
    ignore: tuple[int, ...] = ()
    ignore_list: int = 0  # address of the values to ignore, int64, where there are several
    label_smoothing: float = 0.0
    logit_scale: float = 1.0
    softcap: float | None = None
    z_coefficient: float = 0.0
    focal_gamma: float = 0.0
    grad_scale: float = 1.0
    device_scales: int = 0  # address of (1 / denominator, ratio of the denominators), float64, where the host has none
    rows: int = 0  # addresses of a contiguous result per row, of the loss dtype
    lse: int = 0

    @property
    def n_rows(self) -> int:
        """A · B."""
        return self.shape[0] * self.shape[1]

    def row_strides(self, array: Operand) -> tuple[int, int]:
        """The strides along A and from one row to the next; they are the same where B is 1."""
        return array.outer_stride, array.outer_stride if self.shape[1] == 1 else array.row_stride


def row_layout(operands: Operands, spec: Spec) -> str:
    """How rows follow each other, in the logits and in the output.

    "packed": without gaps and on 16 bytes, so that any number of rows is one run of memory; "columns": each row one
    element after the other, the classes apart; "" for anything else.
    """
    arrays = [array for array in (operands.logits, operands.out) if array is not None]
    a, b, classes = operands.shape
    steps = [operands.row_strides(array)[1] for array in arrays]
    sizes = [ITEMSIZE[array.dtype] for array in arrays]
    if not spec.unit_stride:
        return "columns" if steps == sizes else ""
    packed = a * b == 1 or steps == [classes * size for size in sizes]
    aligned = all(array.address % VECTOR_BYTES == 0 for array in arrays)
    return "packed" if packed and aligned and not spec.two_row_strides else ""


def kernel_arguments(operands: Operands, compute_capability: tuple[int, int] = (8, 0)) -> tuple[Spec, Any]:
    """What the kernels of a call are compiled for on such a device, and the arguments that they are passed."""
    spec = _spec(operands, compute_capability)
    _, b, classes = operands.shape
    cap = 1.0 if operands.softcap is None else operands.softcap
    values: dict[str, int | float] = {
        "n_rows": operands.n_rows,
        "n_classes": classes,
        "inner_rows": b,
        "confidence": 1.0 - operands.label_smoothing,
        "smoothing_share": operands.label_smoothing / classes,
        "logit_scale": operands.logit_scale,
        "softcap": cap,
        "scale_over_cap": operands.logit_scale / cap,
        "z_coefficient": operands.z_coefficient,
        "focal_gamma": operands.focal_gamma if spec.float64 else min(operands.focal_gamma, FLOAT32_MAX),
        "grad_scale": operands.grad_scale,
        "device_scales": operands.device_scales,
        "rows": operands.rows,
        "lse": operands.lse,
        "ignore": operands.ignore[0] if operands.ignore else 0,
        "ignore_list": operands.ignore_list,
        "n_ignore": len(operands.ignore),
    }
    for name in ("logits", "out", "labels", "distribution", "weight", "sample_weight", "grad_output", "saved_lse"):
        array: Operand | None = getattr(operands, name)
        if array is None:
            continue
        values[name] = array.address
        if name == "grad_output":
            values["grad_output_row"] = array.row_stride
        if name in ("logits", "out", "labels", "distribution"):
            values[f"{name}_outer"], values[f"{name}_row"] = operands.row_strides(array)
            values[f"{name}_class"] = array.class_stride
    arguments = arguments_type(spec)
    return spec, arguments(*(values[name] for name in arguments._fields))


def _spec(operands: Operands, compute_capability: tuple[int, int]) -> Spec:
    """The dtypes, options and layout of a call, and the instructions that the device has for it."""
    unit_stride, two_row_strides = _unit_stride(operands), _two_row_strides(operands)
    return Spec(
        dtype=operands.logits.dtype,
        labels=_dtype(operands.labels),
        distribution=_dtype(operands.distribution),
        weight=_dtype(operands.weight),
        sample_weight=_dtype(operands.sample_weight),
        grad_output=_dtype(operands.grad_output),
        ignore=min(len(operands.ignore), 2) if operands.labels else 0,
        smoothing=operands.label_smoothing > 0.0,
        scaled=operands.logit_scale != 1.0,
        softcap=operands.softcap is not None,
        z_loss=operands.z_coefficient != 0.0,
        focal=operands.focal_gamma != 0.0,
        output=operands.output,
        rows=bool(operands.rows),
        lse=bool(operands.lse),
        saved_lse=_dtype(operands.saved_lse),
        device_scales=bool(operands.device_scales),
        aligned=unit_stride and _aligned(operands, two_row_strides),
        unit_stride=unit_stride,
        two_row_strides=two_row_strides,
        sm_80=compute_capability >= (8, 0),
    )


def _dtype(array: Operand | None) -> str:
    """The dtype of an array, "" where there is none."""
    return "" if array is None else array.dtype


def _two_row_strides(operands: Operands) -> bool:
    """Whether some array steps from one A to the next otherwise than from the last row of B to one more."""
    a, b, _ = operands.shape
    arrays = (operands.logits, operands.out, operands.labels, operands.distribution)
    merge = all(array.outer_stride == b * array.row_stride for array in arrays if array is not None)
    return a > 1 and b > 1 and not merge


def _unit_stride(operands: Operands) -> bool:
    """Whether the kernels may read vectors: the classes of each row lie side by side in every array that has them."""
    arrays = (operands.logits, operands.out, operands.distribution)
    side_by_side = all(array.class_stride == ITEMSIZE[array.dtype] for array in arrays if array is not None)
    # Vectors of 4 or 8 logits, each computed in float64 for the sake of its target, would not stay in registers.
    mixed = _dtype(operands.distribution) == "float64" != operands.logits.dtype
    return (operands.shape[2] == 1 or side_by_side) and not mixed


def _aligned(operands: Operands, two_row_strides: bool) -> bool:
    """Whether every row of what is accessed by vectors starts on 16 bytes and is a multiple of 16 bytes long."""
    classes = operands.shape[2]
    arrays = [array for array in (operands.logits, operands.out) if array is not None]
    if operands.distribution is not None and operands.distribution.dtype == operands.logits.dtype:
        arrays.append(operands.distribution)
    return all(
        array.address % VECTOR_BYTES == 0
        and classes * ITEMSIZE[array.dtype] % VECTOR_BYTES == 0
        and operands.row_strides(array)[1] % VECTOR_BYTES == 0
        and (not two_row_strides or array.outer_stride % VECTOR_BYTES == 0)
        for array in arrays
    )
