"""What is stored of a row: an element for each class, and its loss or log-sum-exp."""

from __future__ import annotations

from typing import Any

from xent_numba.backends.cuda.hw import intrinsics as hw
from xent_numba.backends.cuda.row.spec import Spec


def output_element(spec: Spec, exp: Any, transform: Any, derivative: Any) -> Any:
    """(args, x, OutputFactors, t_j, whether j is the label of a sparse target) -> the element of a class."""

    @hw.device
    def softmax(args: Any, x: Any, factors: Any, t_j: Any, is_label: Any) -> Any:
        return exp(transform(args, x) - factors.row_max) * factors.p_factor

    @hw.device
    def log_softmax(args: Any, x: Any, factors: Any, t_j: Any, is_label: Any) -> Any:
        return (transform(args, x) - factors.row_max) - factors.p_factor

    @hw.device
    def dense_gradient(args: Any, x: Any, factors: Any, t_j: Any, is_label: Any) -> Any:
        z = transform(args, x)
        # Both are computed, because a branch for each class would cost more.
        difference = exp(z - factors.row_max) * factors.p_factor - t_j
        at_max = (factors.p_factor - t_j) + factors.at_target
        return (at_max if z == factors.row_max else difference) * factors.scale * derivative(args, x)

    @hw.device
    def sparse_gradient(args: Any, x: Any, factors: Any, t_j: Any, is_label: Any) -> Any:
        slope = factors.at_target if is_label else exp(transform(args, x) - factors.row_max) * factors.p_factor
        return slope * derivative(args, x)

    if spec.output in ("softmax", "log_softmax"):
        return softmax if spec.output == "softmax" else log_softmax
    return dense_gradient if spec.dense else sparse_gradient


def store_row_result(spec: Spec) -> Any:
    """(args, row, loss, lse) -> None: stores what is asked of a row as a whole; one thread calls it."""
    store, size, stored = (hw.store_f64, 8, hw.f64) if spec.dtype == "float64" else (hw.store_f32, 4, hw.f32)

    @hw.device
    def store_loss(args: Any, row: Any, loss: Any, lse: Any) -> None:
        store(args.rows + size * row, stored(loss))

    @hw.device
    def store_lse(args: Any, row: Any, loss: Any, lse: Any) -> None:
        store(args.lse + size * row, stored(lse))

    if spec.rows:
        return store_loss
    return store_lse if spec.lse else hw.device(lambda args, row, loss, lse: None)
