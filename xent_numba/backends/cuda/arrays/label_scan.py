"""Labels and weights checked by a kernel, which also finds the denominators.

Reading its 64 bytes of result back is the one point where a call waits for the kernels, except for JAX (see
`adopt.release`).  Within `deferred_checks()` a call does not wait for them here: the loss kernels read the denominators
where they are, and `check()` raises later what would have been raised.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from xent_numba.backends.cuda import deferred, launch
from xent_numba.backends.cuda.arrays.adopt import on_its_device
from xent_numba.backends.cuda.arrays.inputs import LossInputs
from xent_numba.backends.cuda.arrays.slabs import from_row
from xent_numba.backends.cuda.row.operands import Operand, Operands
from xent_numba.backends.cuda.runtime import memory
from xent_numba.prepare.inputs import raise_bad_weight
from xent_numba.prepare.layout import merged_axes
from xent_numba.prepare.target import raise_bad_label


class Denominators(NamedTuple):
    """What the losses are divided by, on the host or on the device."""

    scan: int  # address of the result of a scan that has not been read; 0 where the numbers are known
    loss: float  # denominator of the loss
    ratio: float  # that of the loss over that of the z-loss


def denominators(inputs: LossInputs) -> Denominators:
    """Check labels and weights, and find the denominators of a call that has rows."""
    mean, n_rows = inputs.options.reduction == "mean", math.prod(inputs.rows_shape)
    if inputs.is_distribution and inputs.weight is None and inputs.sample_weight is None:
        return Denominators(0, float(n_rows) if mean else 1.0, 1.0)
    labels, shape = (None, (1, n_rows)) if inputs.is_distribution else _label_rows(inputs)
    operands = Operands(
        (*shape, inputs.classes),
        Operand(inputs.logits.dtype, 0),
        labels=labels,
        weight=inputs.weight,
        sample_weight=inputs.sample_weight,
        ignore=inputs.ignore,
        ignore_list=inputs.ignore_list,
    )
    later = deferred.current()
    result = launch.scan_labels(operands, mean, inputs.stream, keep=later is not None)
    if later is not None:
        later.pending.append(lambda: _read_later(inputs, result))
        return Denominators(memory.address(result), 1.0, 1.0)
    found = launch.read_scan(result, inputs.stream)
    _raise_for(inputs, found)
    if not mean:
        return Denominators(0, 1.0, 1.0)
    ratio = found.weight_sum / found.sample_sum if found.sample_sum else 0.0
    return Denominators(0, found.weight_sum, ratio)


def _label_rows(inputs: LossInputs) -> tuple[Operand, tuple[int, int]]:
    """The labels as (A, B), whatever their shape."""
    labels = inputs.target.array
    sizes = merged_axes(labels.shape, [labels.strides])
    if len(sizes) > 2:
        raise ValueError("target on the GPU has more than two separate strides; make a contiguous copy first")
    view = np.reshape(labels, (1,) * (2 - len(sizes)) + sizes, copy=False)
    return Operand(inputs.target.dtype, view.ctypes.data, *view.strides), (view.shape[0], view.shape[1])


def _read_later(inputs: LossInputs, result: object) -> None:
    """Read a deferred check, whichever device is the current one by now."""
    with on_its_device(inputs.logits.owner):
        _raise_for(inputs, launch.read_scan(result, inputs.stream))


def _raise_for(inputs: LossInputs, found: launch.ScanResult) -> None:
    """The errors of a NumPy call, from what the scan found."""
    if found.first_bad >= 0:
        labels = inputs.target.array
        index = np.unravel_index(found.first_bad, labels.shape)
        offset = sum(int(i) * step for i, step in zip(index, labels.strides, strict=True))
        value = int(launch.peek(Operand(inputs.target.dtype, labels.ctypes.data + offset), inputs.stream))
        if inputs.target.dtype == "uint64":
            value %= 2**64
        raise_bad_label(found.first_bad, value, labels.shape, inputs.classes, inputs.options)
    for name, first, weights, shape in (
        ("weight", found.first_bad_weight, inputs.weight, (inputs.classes,)),
        ("sample_weight", found.first_bad_sample, inputs.sample_weight, inputs.rows_shape),
    ):
        if first >= 0 and weights is not None:
            raise_bad_weight(name, first, float(launch.peek(from_row(weights, first), inputs.stream)), shape)
