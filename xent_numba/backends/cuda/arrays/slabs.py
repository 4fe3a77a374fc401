"""Arrays of any shape as operands of calls on (A, B, C) views, the class axis last."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from xent_numba.backends.cuda.row.operands import Operand, Operands
from xent_numba.prepare.layout import merged_axes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from xent_numba.backends.cuda.arrays.adopt import Adopted


def slabs(
    axis: int, arrays: Mapping[str, Adopted | None], per_row: Mapping[str, Operand | None]
) -> Iterator[tuple[Operands, int]]:
    """The operands of each call, and the number of its first row; nearly always there is one call.

    `arrays` are "logits" and, where there are any, the other arrays of `operands.STRIDED`; `per_row` are factors of
    the rows.
    """
    present = {name: adopted for name, adopted in arrays.items() if adopted is not None}
    views: dict[str, np.ndarray[Any, Any]] = {
        name: adopted.array[..., None] if name == "labels" else np.moveaxis(adopted.array, axis, -1)
        for name, adopted in present.items()
    }
    *rows, classes = views["logits"].shape
    sizes = merged_axes(rows, [view.strides[:-1] for view in views.values()])
    sizes = (1,) * (2 - len(sizes)) + sizes
    flat = {name: np.reshape(view, (*sizes, view.shape[-1]), copy=False) for name, view in views.items()}
    for i, index in enumerate(np.ndindex(sizes[:-2])):
        first_row = i * sizes[-2] * sizes[-1]
        operands = Operands((sizes[-2], sizes[-1], classes), Operand("", 0))
        for name, view in flat.items():
            part = view[index]
            setattr(operands, name, Operand(present[name].dtype, part.ctypes.data, *part.strides))
        for name, operand in per_row.items():
            setattr(operands, name, None if operand is None else from_row(operand, first_row))
        yield operands, first_row


def from_row(operand: Operand, row: int) -> Operand:
    """The same factors from a later row on."""
    return operand._replace(address=operand.address + row * operand.row_stride)
