"""Second derivatives by kernels: from a `Problem` to their arguments, and the rows that the reference computes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from xent_numba.backends.cpu.arguments import kernel_arguments, native, side_by_side
from xent_numba.backends.cpu.compile.kernel import signature_key
from xent_numba.backends.cpu.fallback import (
    computes_in_float64,
    options_in_range,
    rows_out_of_range,
    select_rows,
    weight_range,
)
from xent_numba.backends.cpu.plan import plan
from xent_numba.backends.cpu.regimes.curvature import kernels
from xent_numba.backends.cpu.runtime import threads
from xent_numba.backends.reference import BACKEND as REFERENCE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xent_numba.backends.protocol import Problem

    Array = NDArray[Any]

_PRODUCTS = {"long": kernels.product_long, "packed": kernels.product_packed, "lanes": kernels.product_lanes}
_DIAGONALS = {"long": kernels.diagonal_long, "lanes": kernels.diagonal_lanes}


def hessian_vector_product(problem: Problem, vector: Array, product: Array, gauss_newton: bool) -> None:
    """See `protocol.Backend.cross_entropy_hvp`."""
    weights = weight_range(problem.weight)
    if not options_in_range(problem, weights):
        REFERENCE.cross_entropy_hvp(problem, vector, product, gauss_newton)
        return
    rows = _rows_of_reference(problem, weights)
    values = None
    if rows is not None:  # first, as `product` may overwrite the logits
        part = select_rows(problem, rows)
        values = np.empty_like(part.logits)
        REFERENCE.cross_entropy_hvp(part, vector[rows][None], values, gauss_newton)
    _run(_PRODUCTS, problem, (vector, None), product, 0.0 if gauss_newton else _bend(problem))
    if rows is not None and values is not None:
        product[rows] = values[0]


def grad_and_hessian_diag(problem: Problem, grad: Array, diag: Array) -> None:
    """See `protocol.Backend.cross_entropy_grad_and_hessian_diag`."""
    weights = weight_range(problem.weight)
    if not options_in_range(problem, weights):
        REFERENCE.cross_entropy_grad_and_hessian_diag(problem, grad, diag)
        return
    rows = _rows_of_reference(problem, weights)
    values = None
    if rows is not None:
        part = select_rows(problem, rows)
        values = np.empty((2, *part.logits.shape), part.logits.dtype)
        REFERENCE.cross_entropy_grad_and_hessian_diag(part, values[0], values[1])
    _run(_DIAGONALS, problem, (None, diag), grad, _bend(problem))
    if rows is not None and values is not None:
        grad[rows], diag[rows] = values[0, 0], values[1, 0]


def _rows_of_reference(problem: Problem, weights: tuple[float, float]) -> tuple[Array, ...] | None:
    """The indices of the rows whose gradient or second derivatives have a factor out of range; None for none."""
    first = rows_out_of_range(problem, weights, None, None)
    twice = problem._replace(grad_scale=problem.grad_scale * problem.logit_scale)  # the scale counts twice
    second = rows_out_of_range(twice, weights, None, None)
    if first is None or second is None:
        return second if first is None else first
    chosen = np.zeros(problem.logits.shape[:2], bool)
    chosen[first], chosen[second] = True, True
    return np.nonzero(chosen)


def _bend(problem: Problem) -> float:
    """`SecondOrder.bend`, for which f'' = bend · f · f'."""
    cap = problem.softcap
    return 0.0 if cap is None else -2.0 * (problem.logit_scale / cap) / cap


def _run(
    kernels_of: dict[str, Any],
    problem: Problem,
    arrays: tuple[Array | None, Array | None],
    result: Array,
    bend: float,
) -> None:
    """Run the kernel for a call by its plan; `arrays` are the vector and the diagonal, one of which is None."""
    logits, q, (vector, diag) = problem.logits, problem.distribution, arrays
    float64 = computes_in_float64(logits, q, problem.softcap, vector)
    may_pack = "packed" in kernels_of and q is None and not problem.focal_gamma
    chosen = plan(logits.shape, side_by_side(logits, q, result, vector, diag), float64, may_pack, False)
    key, fields = kernel_arguments(problem, None, result, vector=vector)
    scale = problem.grad_scale * (problem.logit_scale**2 if problem.softcap is None else 1.0)
    second = (*(None if array is None else native(array) for array in arrays), scale, bend)
    loop = threads.parallel_loop(problem.n_threads, chosen.parallel)
    chunk = -(-chosen.work_items // threads.thread_count(problem.n_threads)) if loop else chosen.work_items
    kernel = kernels_of[chosen.regime]
    kernel((key, signature_key(second)), fields, second, chunk, chosen.work_items, loop)
