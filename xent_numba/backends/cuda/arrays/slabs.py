"""Arrays of any shape as calls on (A, B, C) views, the class axis last."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from xent_numba.backends.cuda.row.operands import Call, Operand
from xent_numba.backends.cuda.row.spec import ITEMSIZE
from xent_numba.backends.cuda.runtime import device, memory
from xent_numba.prepare.layout import merged_axes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    Array = np.ndarray[Any, Any]


def slabs(
    axis: int, arrays: Mapping[str, Array | None], per_row: Mapping[str, Operand | None], dtypes: dict[str, str]
) -> Iterator[tuple[Call, int]]:
    """Calls on (A, B, C) views of the arrays, and the first row of each; nearly always one."""
    views = {}
    for name, array in arrays.items():
        if array is not None:
            views[name] = array[..., None] if name == "labels" else np.moveaxis(array, axis, -1)
    *rows, classes = views["logits"].shape
    sizes = merged_axes(rows, [view.strides[:-1] for view in views.values()])
    sizes = (1,) * (2 - len(sizes)) + sizes
    flat = {name: np.reshape(view, (*sizes, view.shape[-1]), copy=False) for name, view in views.items()}
    for i, index in enumerate(np.ndindex(sizes[:-2])):
        offset = i * sizes[-2] * sizes[-1]
        call = Call((sizes[-2], sizes[-1], classes), Operand("", 0))
        for name, view in flat.items():
            part = view[index]
            setattr(call, name, Operand(dtypes[name], part.ctypes.data, *part.strides))
        for name, operand in per_row.items():
            setattr(call, name, None if operand is None else moved(operand, offset))
        yield call, offset


def size_of(operand: Operand | None) -> int:
    """Bytes of one of its numbers."""
    return 0 if operand is None else ITEMSIZE[operand.dtype]


def moved(operand: Operand, rows: int) -> Operand:
    """The same from a later row on."""
    return operand._replace(address=operand.address + rows * size_of(operand))


def launch(call: Call, stream: Any) -> None:
    """Run a call on the current device."""
    from xent_numba.backends.cuda import plan as dispatch

    dispatch.run(call, stream, device.facts(), lambda n: memory.address(memory.scratch(n, stream)))
