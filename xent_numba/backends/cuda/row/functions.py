"""The mathematics of one row for one spec: every function of it, ready to be called by a kernel.

A kernel binds those that it needs to local names, because Numba compiles functions from a closure, not from a tuple.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from xent_numba.backends.cuda.hw import intrinsics as hw
from xent_numba.backends.cuda.row.epilogue import epilogue_function
from xent_numba.backends.cuda.row.output import output_element, store_row_result
from xent_numba.backends.cuda.row.spec import Spec
from xent_numba.backends.cuda.row.target import dense_target, kept_label, label_logit
from xent_numba.backends.cuda.row.transform import exp_function, exp_term, summand, transform_functions


class RowFunctions(NamedTuple):
    """Types, constants and device functions; `args` is the named tuple of the kernel's arguments."""

    real: Any  # type of the arithmetic: float64 where the logits or the distribution are, else float32
    stored: Any  # type of an output element before it is rounded to the dtype of the logits: float64 or float32
    lowest: Any  # the lowest finite number, where a maximum starts
    exp: Any  # (d) -> e^d for d ≤ 0
    exp_term: Any  # (z, row_max) -> e^(z − row_max)
    # (z, row_max, left_out) -> (the summand of a class, left_out), with a dense target for all but one at the maximum
    summand: Any
    transform: Any  # (args, x) -> z
    derivative: Any  # (args, x) -> f'(x)
    kept_label: Any  # (args, row) -> (whether the row is not ignored, y); y = −1 where the target has no label
    label_logit: Any  # (args, address of class 0, y) -> z_y, NaN for a label out of range
    dense_target: Any  # (args, q_j, j, y) -> t_j
    epilogue: Any  # (args, row, y, RowStatistics, z_y) -> (loss, log-sum-exp, OutputFactors)
    output_element: Any  # (args, x, OutputFactors, t_j, whether j is the label of a sparse target) -> element
    store_row_result: Any  # (args, row, loss, lse) -> None


@cache
def row_functions(spec: Spec) -> RowFunctions:
    """The composition for `spec`."""
    real = hw.f64 if spec.float64 else hw.f32
    exp = exp_function(spec)
    term = exp_term(spec, real, exp)
    transform, derivative = transform_functions(spec, real, exp)
    return RowFunctions(
        real=real,
        stored=hw.f64 if spec.dtype == "float64" else hw.f32,
        lowest=real(np.finfo(np.float64 if spec.float64 else np.float32).min),
        exp=exp,
        exp_term=term,
        summand=summand(spec, real, term),
        transform=transform,
        derivative=derivative,
        kept_label=kept_label(spec),
        label_logit=label_logit(spec, real, transform),
        dense_target=dense_target(spec, real),
        epilogue=epilogue_function(spec, real, exp),
        output_element=output_element(spec, exp, transform, derivative),
        store_row_result=store_row_result(spec),
    )
