"""`row_statistics` on the cpu backend: what prepares the arguments, and which kernel computes a call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from xent_numba.backends.cpu.arguments import kernel_arguments
from xent_numba.backends.cpu.compile.kernel import signature_key
from xent_numba.backends.cpu.fallback import computes_in_float64, options_in_range
from xent_numba.backends.cpu.plan import plan
from xent_numba.backends.cpu.regimes.row_statistics import entry
from xent_numba.backends.cpu.regimes.row_statistics.operands import StatisticsOperands
from xent_numba.backends.cpu.row.operands import Operands
from xent_numba.backends.cpu.runtime import threads

if TYPE_CHECKING:
    from xent_numba.backends.protocol import Problem, RowFields

_KERNELS = {"long": entry.statistics_long}
# The smallest |logit_scale| for which Σ e (m − x) has as many digits as the entropy: with a smaller one, it overflows.
_LEAST_SCALE = {True: 1e-285, False: 1e-26}


def is_supported(problem: Problem, fields: RowFields) -> bool:
    """Whether the kernels' arithmetic can hold the options of a call; if not, the reference computes it."""
    float64 = computes_in_float64(problem.logits, None, problem.softcap)
    too_small = problem.softcap is None and abs(problem.logit_scale) < _LEAST_SCALE[float64]
    labelled = problem._replace(labels=np.empty(0)) if problem.labels is None else problem
    return options_in_range(labelled, (1.0, 1.0)) and not (too_small and fields.entropy is not None)


def run(problem: Problem, fields: RowFields) -> None:
    """Run the kernel of a call by its plan."""
    logits = problem.logits
    _, arguments = kernel_arguments(problem, None, None)
    whole = Operands(*arguments)
    operands = StatisticsOperands(
        whole.logits, whole.labels, whole.ignored_classes, whole.transform, whole.scale,
        *(None if field is None else field.reshape(-1) for field in fields),
    )  # fmt: skip
    arrays: tuple[Any, ...] = tuple(operands)
    float64 = computes_in_float64(logits, None, problem.softcap)
    chosen = plan(logits.shape, logits.strides[2] == logits.itemsize, float64, False, False)
    groups = -(-chosen.work_items // chosen.group)
    loop = threads.parallel_loop(problem.n_threads, chosen.parallel)
    _KERNELS[chosen.regime](signature_key(arrays), arrays, chosen.group, chosen.work_items, groups, loop)
