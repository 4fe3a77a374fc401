"""A prepared call of a loss, computed: the backend fills every slab, and its partial sums are reduced."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xent_numba.reduction import reduced, total

if TYPE_CHECKING:
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray

    from xent_numba.backends.protocol import Backend
    from xent_numba.prepare.distillation import PreparedDistillation
    from xent_numba.prepare.loss import Prepared

    Array = NDArray[Any]


def compute_loss(backend: Backend, call: Prepared) -> np.floating[Any] | Array:
    """Have the backend compute every slab; returns the losses of the rows, or their sum over the denominator."""
    slabs, losses, _, denominator, dtype = call
    partials = []
    for problem, rows, grad, _, _, _, _ in slabs:
        partials.append(backend.cross_entropy(problem, rows, grad))
    if losses is not None:
        return losses if losses.ndim else losses[()]
    return reduced(total(partials), denominator, dtype)  # type: ignore[arg-type]


def compute_distillation(backend: Backend, call: PreparedDistillation) -> np.floating[Any] | Array:
    """The same for a distillation loss."""
    slabs, losses, _, denominator, dtype = call
    partials = []
    for problem, rows, grad in slabs:
        partials.append(backend.distillation_loss(problem, rows, grad))
    if losses is not None:
        return losses if losses.ndim else losses[()]
    return reduced(total(partials), denominator, dtype)  # type: ignore[arg-type]
