"""The counterpart of `loss` for softmax, log_softmax and logsumexp, which have no target and no reduction."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from xent_numba.prepare.inputs import as_logits, check_out
from xent_numba.prepare.layout import canonical, row_shape
from xent_numba.reduction import loss_dtype
from xent_numba.results import empty_like

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import ArrayLike, NDArray

    from xent_numba.prepare.options import Options

    Array = NDArray[Any]


class Rowwise(NamedTuple):
    """A call ready to run."""

    slabs: tuple[tuple[Array, Array], ...]  # logits (A, B, C), and their result (A, B, C) or, for logsumexp, (A, B)
    result: Array  # what the slabs fill; the user's own array where one was passed


def prepare_rowwise(options: Options, logits: ArrayLike, out: object, *, reduces: bool) -> Rowwise:
    """Validate a call and bring it into canonical form.

    The result has the shape and dtype of the logits, or, with `reduces`, the shape of class indices and the dtype of a
    loss.
    """
    x, axis = as_logits(logits, options.axis)
    rows_shape = row_shape(x.shape, axis)
    shape = rows_shape if reduces else x.shape
    dtype = np.dtype(loss_dtype(x.dtype)) if reduces else x.dtype
    if out is not None:
        array = check_out(out, "out", shape, dtype, x)
    else:
        array = np.empty(shape, dtype) if reduces else empty_like(x)
    result: Array = array if out is None else out  # type: ignore[assignment]
    if array.size == 0:
        return Rowwise((), result)
    layout = canonical(axis, x, np.expand_dims(array, axis) if reduces else array)
    slabs = []
    for x_view, view in layout.slabs():
        slabs.append((x_view, view[..., 0] if reduces else view))
    return Rowwise(tuple(slabs), result)
