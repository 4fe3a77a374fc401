"""From a `DistillationProblem` to the call of a kernel, and what the reference backend computes instead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from xent_numba.backends.cpu.arguments import flat, native, side_by_side
from xent_numba.backends.cpu.compile.kernel import signature_key
from xent_numba.backends.cpu.fallback import FLOAT32, FLOAT64, ReferenceGradient, computes_in_float64
from xent_numba.backends.cpu.plan import GROUP_LOGITS, SEGMENT_CLASSES, STREAM_BYTES, Plan, plan
from xent_numba.backends.cpu.regimes.distillation import entry
from xent_numba.backends.cpu.runtime import threads
from xent_numba.backends.reference import BACKEND as REFERENCE
from xent_numba.reduction import loss_dtype

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xent_numba.backends.protocol import DistillationProblem

    Array = NDArray[Any]
    Float64s = NDArray[np.float64]

# The squares of differences of logits, over τ², are then neither too large nor too small for the arithmetic of logits.
TEMPERATURES = (1e-4, 1e4)
LEAST_CLASSES = 64  # of float32 rows that are computed along their classes; a row of fewer takes longer than in a lane
BATCH_CLASSES = 2048  # up to which a row is not computed in parts
BATCH_LOGITS = 8192  # of several rows together: their exponentials stay in a cache
PART_CLASSES = 1024  # of a part of a row at least
_KERNELS = {"long": entry.distill_long, "lanes": entry.distill_lanes}


def distillation_loss(problem: DistillationProblem, rows: Array | None, grad: Array | None) -> Float64s | None:
    """See `protocol.Backend`."""
    low, high = TEMPERATURES
    if not low <= problem.temperature <= high or problem.student.shape[2] == 1:  # p = q = 1, exactly
        return REFERENCE.distillation_loss(problem, rows, grad)
    by_reference = None if grad is None else _reference_gradient(problem)  # first, as `grad` may be the student
    partials = _run(problem, rows, grad)
    if grad is not None and by_reference is not None:
        grad[by_reference.rows] = by_reference.grad
    return partials if rows is None else None


def _grad_factor(problem: DistillationProblem) -> float:
    """What multiplies q − p, besides the sample weights."""
    temperature = problem.temperature
    return problem.grad_scale * (temperature if problem.temperature_squared else 1.0 / temperature)


def _reference_gradient(problem: DistillationProblem) -> ReferenceGradient | None:
    """The gradient of the rows whose factor is out of range, by the reference; None where there are none."""
    least, most = (FLOAT64 if computes_in_float64(problem.student, problem.teacher) else FLOAT32).gradient
    factor, s = _grad_factor(problem), problem.sample_weight
    with np.errstate(all="ignore"):
        smallest, largest = (1.0, 1.0) if s is None else (float(s.min()), float(s.max()))
        if least <= factor * smallest and factor * largest <= most:
            return None
        factors = np.full((1, 1), factor) if s is None else s * factor
        out_of_range = (factors < least) | (factors > most)
    if s is not None:
        out_of_range &= s != 0.0
    if not out_of_range.any():
        return None
    rows = np.nonzero(np.broadcast_to(out_of_range, problem.student.shape[:2]))
    part = problem._replace(
        student=problem.student[rows][None],
        teacher=problem.teacher[rows][None],
        sample_weight=None if s is None else s[rows][None],
    )
    grad = np.empty_like(part.student)
    REFERENCE.distillation_loss(part, None, grad)
    return ReferenceGradient(rows, grad[0])


def _run(problem: DistillationProblem, rows: Array | None, grad: Array | None) -> Float64s:
    """Run the kernel of a call by its plan; return the partial sums of the losses."""
    student, teacher, temperature = problem.student, problem.teacher, problem.temperature
    float64 = computes_in_float64(student, teacher)
    chosen = _plan(student.shape, side_by_side(student, teacher, grad), float64)
    partials = np.zeros(-(-chosen.work_items // chosen.group))
    loop = threads.parallel_loop(problem.n_threads, chosen.parallel)
    chunk = -(-partials.size // threads.thread_count(problem.n_threads)) if loop else partials.size
    fields = (
        native(student),
        native(teacher),
        flat(problem.sample_weight),
        np.empty(0, loss_dtype(student.dtype)) if rows is None else rows.reshape(-1),
        None if grad is None else native(grad),
        None if temperature == 1.0 else 1.0 / temperature,
        temperature * temperature if problem.temperature_squared else 1.0,
        _grad_factor(problem),
        grad is not None and grad.nbytes >= STREAM_BYTES,
        *_batches(chosen, student.shape, -(-partials.size // chunk), float64),
        chunk * chosen.group,
    )
    kernel = _KERNELS[chosen.regime]
    kernel(signature_key(fields), fields, chosen.group, chosen.work_items, partials, chunk, loop)
    return partials


def _plan(shape: tuple[int, ...], contiguous: bool, float64: bool) -> Plan:
    """The plan of a call: rows of fewer classes than those of a loss may be `long` here, in place of `packed`."""
    chosen = plan(shape, contiguous, float64, shape[2] >= LEAST_CLASSES, False)
    if chosen.regime != "packed":
        return chosen
    return Plan("long", chosen.why, shape[0] * shape[1], GROUP_LOGITS // shape[2], 1, chosen.parallel)


def _batches(chosen: Plan, shape: tuple[int, ...], chunks: int, float64: bool) -> tuple[int, int, Array]:
    """The rows of a batch, the classes of each part of them, and memory for what each chunk of rows keeps.

    All of them are for rows along their classes.
    """
    (a, b, classes), lanes = shape, 8 if float64 else 16
    if chosen.regime != "long":
        return 1, classes, np.empty((chunks, 0), np.float64 if float64 else np.float32)
    if classes <= BATCH_CLASSES:
        rows, part = min(lanes, BATCH_LOGITS // classes, a * b), classes
        kept = rows * -(-classes // lanes) * lanes
    else:
        segment = min(classes, SEGMENT_CLASSES)
        rows, part = 1, max(-(-segment // (lanes * lanes)) * lanes, PART_CLASSES)
        kept = -(-segment // part) * part
    return rows, part, np.empty((chunks, 2 * kept), np.float64 if float64 else np.float32)
