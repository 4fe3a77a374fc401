"""`row_statistics` on the cpu backend: what prepares the arguments, and which kernel computes a call."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from xent_numba.backends.cpu.arguments import flat, native, side_by_side, transform_of
from xent_numba.backends.cpu.fallback import computes_in_float64, options_in_range
from xent_numba.backends.cpu.plan import plan
from xent_numba.backends.cpu.regimes.row_statistics import entry
from xent_numba.backends.cpu.runtime import threads

if TYPE_CHECKING:
    from xent_numba.backends.protocol import Problem, RowFields

_KERNELS = {"long": entry.statistics_long, "lanes": entry.statistics_lanes, "packed": entry.statistics_packed}
_NO_LABELS = np.empty(0, np.int64)
# The smallest |logit_scale| for which Σ e (m − x) has as many digits as the entropy: with a smaller one, it overflows.
_LEAST_SCALE = {True: 1e-285, False: 1e-26}


def is_supported(problem: Problem, fields: RowFields) -> bool:
    """Whether the kernels' arithmetic can hold the options of a call; if not, the reference computes it."""
    if problem.logit_scale == 1.0 and problem.softcap is None:
        return True
    float64 = computes_in_float64(problem.logits, None, problem.softcap)
    too_small = problem.softcap is None and abs(problem.logit_scale) < _LEAST_SCALE[float64]
    labelled = problem._replace(labels=np.empty(0)) if problem.labels is None else problem
    return options_in_range(labelled, (1.0, 1.0)) and not (too_small and fields.entropy is not None)


def run(problem: Problem, fields: RowFields) -> None:
    """Run the kernel of a call by its plan."""
    logits, labels = problem.logits, problem.labels
    a, b, classes = logits.shape
    ignored_classes = [y for y in problem.ignore if 0 <= y < classes]
    transform, scale = transform_of(problem)
    arrays = tuple([None if field is None else field.reshape(a * b) for field in fields])
    operands = (
        native(logits),
        None if labels is None else flat(labels),
        np.array(ignored_classes, np.int64) if ignored_classes else _NO_LABELS,
        transform,
        scale,
        *arrays,
    )
    # The types of all these arguments, as `signature_key` finds them, but quicker.
    wanted = tuple([field is None for field in fields])
    key = logits.dtype, None if labels is None else labels.dtype, type(transform), type(scale), wanted
    float64 = computes_in_float64(logits, None, problem.softcap)
    sums = not (fields.log_prob is None and fields.entropy is None and fields.logsumexp is None)
    chosen = plan(logits.shape, side_by_side(logits), float64, sums, False)
    groups = -(-chosen.work_items // chosen.group)
    loop = threads.parallel_loop(problem.n_threads, chosen.parallel)
    _KERNELS[chosen.regime](key, operands, chosen.group, chosen.work_items, groups, loop)
