"""The counterpart of `loss` for the distillation losses, which have two arrays of logits and no labels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from xent_numba.backends.protocol import DistillationProblem
from xent_numba.prepare.aligned import aligned_blocks, is_aligned
from xent_numba.prepare.inputs import PER_ROW, as_logits, as_weights, check_out, check_shape, without_extremes
from xent_numba.prepare.layout import canonical, row_shape
from xent_numba.prepare.options import as_flag, as_temperature, make_options
from xent_numba.reduction import exact_sum, loss_dtype
from xent_numba.results import empty_like

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from numpy.typing import NDArray

    from xent_numba.prepare.options import Options

    Array = NDArray[Any]
    # and where the losses of the rows and the gradient go
    Slab = tuple[DistillationProblem, Array | None, Array | None]


class DistillationOptions(NamedTuple):
    """The validated scalar options of a distillation."""

    shared: Options  # axis, reduction, n_threads
    temperature: float
    temperature_squared: bool


class PreparedDistillation(NamedTuple):
    """A call ready to run; its fields are those of `loss.Prepared`."""

    slabs: Iterable[Slab]
    rows: Array | None
    grad: Array | None
    denominator: float
    dtype: type[np.float32] | type[np.float64]


def make_distillation_options(
    axis: object, temperature: object, temperature_squared: object, reduction: object, n_threads: object
) -> DistillationOptions:
    """Validated options; TypeError or ValueError names the option, its value and what it may be."""
    return DistillationOptions(
        make_options(axis, reduction=reduction, n_threads=n_threads),
        as_temperature(temperature),
        as_flag("temperature_squared", temperature_squared),
    )


def prepare_distillation(
    options: DistillationOptions, inputs: tuple[Any, Any, Any], out: object = None, *, want_grad: bool
) -> PreparedDistillation:
    """Validate a call and bring it into canonical form.

    `inputs` are the logits of the student and of the teacher, and the sample weights.  A wanted gradient goes to `out`,
    or to a new array where that is None.
    """
    student, teacher, sample_weight = inputs
    shared = options.shared
    x, axis = as_logits(student, shared.axis, "student_logits")
    t, _ = as_logits(teacher, shared.axis, "teacher_logits")
    check_shape(t.shape, "teacher_logits", x.shape, "that of student_logits")
    rows_shape = row_shape(x.shape, axis)
    s = None if sample_weight is None else as_weights(sample_weight, "sample_weight", rows_shape, PER_ROW)
    grad = None
    if want_grad:
        grad = empty_like(x) if out is None else check_out(out, "grad_out", x.shape, x.dtype, x, t, s)
    n_rows = math.prod(rows_shape)
    denominator = 1.0
    if shared.reduction == "mean":
        s = None if s is None else without_extremes(s)
        denominator = float(n_rows) if s is None else exact_sum(s.reshape(-1))
    dtype = loss_dtype(x.dtype)
    rows = np.empty(rows_shape, dtype) if shared.reduction == "none" else None
    slabs: Iterable[Slab] = ()
    if denominator != 0.0 and n_rows:
        slabs = _slabs(options, axis, (x, t, grad), s, rows, 1.0 / denominator)
    elif grad is not None:
        grad.fill(0)
    return PreparedDistillation(slabs, rows, grad if out is None else out, denominator, dtype)  # type: ignore[arg-type]


def _slabs(
    options: DistillationOptions,
    axis: int,
    arrays: tuple[Array, Array, Array | None],
    sample_weight: Array | None,
    rows: Array | None,
    grad_scale: float,
) -> Iterable[Slab]:
    """The call as (A, B, C) views of the student, the teacher and the gradient; misaligned arrays are copied."""
    shared, temperature, squared = options
    layout = canonical(axis, *arrays)
    s, losses = (None if array is None else array.reshape(-1, layout.a, layout.b) for array in (sample_weight, rows))
    slabs = []
    for i, (x, t, grad) in enumerate(layout.slabs()):
        problem = DistillationProblem(
            x, t, None if s is None else s[i], temperature, squared, grad_scale, shared.n_threads
        )
        slabs.append((problem, None if losses is None else losses[i], grad))
    return slabs if is_aligned(*arrays) else _aligned(slabs)


def _aligned(slabs: Iterable[Slab]) -> Iterator[Slab]:
    """The slabs as aligned copies of blocks of rows, like `aligned.aligned_slabs`."""
    for problem, *results in slabs:
        for _, (x, t, s), found in aligned_blocks((problem.student, problem.teacher, problem.sample_weight), results):
            yield (problem._replace(student=x, teacher=t, sample_weight=s), *found)
