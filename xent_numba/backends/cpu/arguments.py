"""From a `Problem` to the arguments of a loss kernel, in dtypes that Numba has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from xent_numba.backends.cpu.compile.kernel import signature_key
from xent_numba.backends.cpu.fallback import computes_in_float64
from xent_numba.backends.cpu.plan import STREAM_BYTES
from xent_numba.backends.cpu.row.target import DenseCoefficients
from xent_numba.backends.cpu.row.transform import Sign, Softcap
from xent_numba.reduction import exact_sum, loss_dtype

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xent_numba.backends.protocol import Problem

    Array = NDArray[Any]
    Float64s = NDArray[np.float64]

Arguments = tuple[Any, tuple[Any, ...]]  # a signature key, and the fields of `Operands`
_NATIVE = "df"  # the floats that Numba has
_EMPTY = np.empty(0)
_NO_ROWS = {np.float64: np.empty(0, np.float64), np.float32: np.empty(0, np.float32)}
_NO_LABELS = np.empty(0, np.int64)


def native(array: Array) -> Array:
    """A view of the same memory in a dtype that Numba has: uint16 stands for float16, int16 for bfloat16."""
    char = array.dtype.char
    if char in _NATIVE:
        return array
    return array.view(np.uint16 if char == "e" else np.int16)  # bfloat16 has no fixed character


def flat(array: Array | None) -> Array:
    """A per-row array (A, B) as a contiguous (A·B,) array, copied only if need be; an array (0,) for None."""
    return _EMPTY if array is None else array.ravel()


def plain_arguments(problem: Problem, row_losses: Array | None, grad: Array | None) -> Arguments:
    """What `kernel_arguments` returns for a problem that `is_ordinary`, at a fraction of the cost."""
    logits, labels = problem.logits, problem.labels
    key = logits.dtype, labels.dtype, grad is None  # type: ignore[union-attr]
    return key, (
        native(logits), flat(labels), None, None, _EMPTY, _EMPTY, _EMPTY, None,
        _NO_ROWS[loss_dtype(logits.dtype)] if row_losses is None else row_losses.reshape(-1),
        None if grad is None else native(grad), _NO_LABELS, 1.0, None, None, None,
        problem.z_coefficient, problem.grad_scale, grad is not None and grad.nbytes >= STREAM_BYTES,
    )  # fmt: skip


def kernel_arguments(
    problem: Problem,
    row_losses: Array | None,
    grad: Array | None,
    saved_lse: Array | None = None,
    grad_output: Float64s | None = None,
) -> Arguments:
    """The signature key of a call, and the fields of its `Operands`.

    The fields are a plain tuple: passing a named tuple to compiled code takes four times as long.
    """
    classes = problem.logits.shape[2]
    confidence, dense, dense_weight = _target(problem, classes)
    transform, scale = transform_of(problem)
    ignored_classes = [y for y in problem.ignore if 0 <= y < classes]
    fields = (
        native(problem.logits),
        None if problem.labels is None else flat(problem.labels),
        None if problem.distribution is None else native(problem.distribution),
        dense_weight,
        _EMPTY if problem.labels is None else flat(problem.weight),
        flat(problem.sample_weight),
        flat(grad_output),
        None if saved_lse is None else flat(saved_lse),
        _NO_ROWS[loss_dtype(problem.logits.dtype)] if row_losses is None else row_losses.reshape(-1),
        None if grad is None else native(grad),
        np.array(ignored_classes, np.int64) if ignored_classes else _NO_LABELS,
        confidence,
        dense,
        transform,
        scale,
        problem.z_coefficient,
        problem.grad_scale * (problem.logit_scale if problem.softcap is None else 1.0),
        grad is not None and grad.nbytes >= STREAM_BYTES,
    )
    return signature_key(fields), fields


def transform_of(problem: Problem) -> tuple[Sign | Softcap | None, float | None]:
    """The fields `transform` and `scale` of the `Operands`."""
    scale, cap = problem.logit_scale, problem.softcap
    if cap is not None:
        return Softcap(scale, cap), None
    if scale == 1.0:
        return None, None
    return Sign(-1.0 if scale < 0.0 else 1.0), abs(scale)


def _target(problem: Problem, classes: int) -> tuple[float | None, DenseCoefficients | None, Array | None]:
    """The fields `confidence`, `dense` and `dense_weight`: the effective target as `row.target` describes it."""
    epsilon, w = problem.label_smoothing, problem.weight
    beta = epsilon / classes
    if problem.labels is not None and (epsilon == 0.0 or classes == 1):  # one class: (1 − ε) w + ε w, exactly
        return 1.0, None, None
    float64 = computes_in_float64(problem.logits, problem.distribution, problem.softcap)
    weight = None if w is None else w.astype(np.float64 if float64 else np.float32)
    if problem.labels is None:
        return None, DenseCoefficients(1.0 - epsilon, beta, 0.0), weight
    target_sum = beta * (classes if w is None else exact_sum(w))
    return 1.0 - epsilon, DenseCoefficients(0.0, beta, target_sum), weight
