"""From the arguments of the functions of second derivatives to slabs: the counterpart of `loss`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from xent_numba.prepare.checked import besides_logits, check_inputs
from xent_numba.prepare.denominators import denominators
from xent_numba.prepare.inputs import as_vector, check_in_place, check_out
from xent_numba.prepare.layout import overlaps, row_shape
from xent_numba.prepare.loss import make_slabs
from xent_numba.results import empty_like

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from numpy.typing import NDArray

    from xent_numba.backends.protocol import Backend, Slab
    from xent_numba.prepare.checked import Checked, Inputs
    from xent_numba.prepare.options import Options

    Array = NDArray[Any]


class PreparedCurvature(NamedTuple):
    """A call ready to run: its slabs, and the arrays that they fill, the user's own where any were passed."""

    slabs: Iterable[Slab]  # empty where there are no rows or the denominator is 0: the results are then final already
    result: Array  # the Hessian-vector product, or the gradient
    diag: Array  # the diagonal of the Hessian; for a product, the product again


def prepare_hvp(backend: Backend, options: Options, inputs: Inputs, vector: Any, out: Any) -> PreparedCurvature:
    """Validate a call of `cross_entropy_hvp` and bring it into canonical form; the product goes to `out`, or is new."""
    checked = check_inputs(options, inputs)
    x = checked.logits
    v = as_vector(vector, x)
    if out is None:
        product = empty_like(x)
    else:
        product = check_out(out, "out", x.shape, x.dtype, x, *besides_logits(checked))
        check_in_place(product, "out", v, "the vector", "the vector itself")
    slabs = _slabs(backend, options, checked, product, v, None)
    result: Array = product if out is None else out
    return PreparedCurvature(slabs, result, result)


def prepare_grad_and_hessian_diag(
    backend: Backend, options: Options, inputs: Inputs, grad_out: Any, diag_out: Any
) -> PreparedCurvature:
    """Validate a call of `cross_entropy_grad_and_hessian_diag` and bring it into canonical form."""
    checked = check_inputs(options, inputs)
    x, others = checked.logits, besides_logits(checked)
    grad = None if grad_out is None else check_out(grad_out, "grad_out", x.shape, x.dtype, x, *others)
    diag = None if diag_out is None else check_out(diag_out, "diag_out", x.shape, x.dtype, x, *others)
    if grad is None:
        grad = empty_like(x, diag)
    if diag is None:
        diag = empty_like(x, grad)
    check_diag(diag, x, grad)
    slabs = _slabs(backend, options, checked, grad, None, diag)
    return PreparedCurvature(slabs, grad if grad_out is None else grad_out, diag if diag_out is None else diag_out)


def check_diag(diag: Array, logits: Array, grad: Array) -> None:
    """ValueError where the diagonal would go to memory that is read, or that the gradient goes to."""
    for other, what in ((logits, "the logits"), (grad, "grad_out")):
        if overlaps(diag, other):
            raise ValueError(f"diag_out shares memory with {what}; pass an array of its own")


def _slabs(
    backend: Backend, options: Options, checked: Checked, result: Array, vector: Array | None, diag: Array | None
) -> Iterable[Slab]:
    """The slabs of a call; none where the results are final already, 0 where the denominator is."""
    n_rows = math.prod(row_shape(checked.logits.shape, checked.axis))
    checked, d1, d2 = denominators(backend, options, checked, n_rows)
    if d1 != 0.0 and n_rows:
        return make_slabs(options, checked, (result, None), (d1, d2), (vector, diag))
    result.fill(0)
    if diag is not None:
        diag.fill(0)
    return ()
