"""A prepared head, computed: its loss, its gradients, or a Hessian-vector product."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from xent_numba.compute import compute_loss
from xent_numba.linear.chunks import Outcome, slabs
from xent_numba.prepare.linear import GRADIENT_NAMES, PRODUCT_NAMES, WRT, check_outs, check_wrt
from xent_numba.prepare.loss import Prepared
from xent_numba.reduction import loss_dtype

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from numpy.typing import NDArray

    from xent_numba.backends.protocol import Backend, Slab
    from xent_numba.prepare.linear import Head

    Array = NDArray[Any]


def loss(backend: Backend, head: Head, gradients: tuple[Array | None, ...] = (None, None, None)) -> Any:
    """The loss of a head; fills the gradients that are given and not None, in the order of `WRT`."""
    dtype = loss_dtype(head.factors.dtype)
    rows = np.zeros(head.factors.rows_shape, dtype) if head.options.reduction == "none" else None
    chunks = _slabs(head, Outcome(rows, *gradients))
    return compute_loss(backend, Prepared(chunks, rows, None, head.denominators[0], dtype))


def loss_and_gradients(backend: Backend, head: Head, wrt: object, outs: Mapping[str, object]) -> tuple[Any, ...]:
    """The loss, and its gradients in the order of `WRT`, which go to `outs` where one is given."""
    results = check_outs(outs, check_wrt(wrt, head.factors), head, GRADIENT_NAMES)
    return loss(backend, head, results.filled), *results.returned


def hessian_vector_product(
    backend: Backend, head: Head, gauss_newton: bool, outs: Mapping[str, object]
) -> tuple[Any, ...]:
    """The parts of the product for weight and bias, which go to `outs` where one is given."""
    results = check_outs(outs, check_wrt(WRT[1:], head.factors), head, PRODUCT_NAMES)
    for slab in _slabs(head, Outcome(None, *results.filled)):
        backend.cross_entropy_hvp(slab.problem, slab.vector, slab.grad, gauss_newton)  # type: ignore[arg-type]
    return results.returned[1:]


def _slabs(head: Head, outcome: Outcome) -> Iterable[Slab]:
    """The slabs of a call; none where the results are final already."""
    if not head.is_final:
        return slabs(head, outcome)
    for array in outcome[1:]:
        if array is not None:
            array.fill(0)
    return ()
