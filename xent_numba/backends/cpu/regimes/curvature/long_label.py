"""The label of a long row, for its second derivatives; for a distribution, the `Top` in its place."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import types

from xent_numba.backends.cpu.compile.inline import inline, specialize
from xent_numba.backends.cpu.regimes.long.epilogue import in_one_lane, target_at
from xent_numba.backends.cpu.row.curvature import row_curvature
from xent_numba.backends.cpu.row.epilogue import RowStatistics, label_of_top
from xent_numba.backends.cpu.row.operands import label_weight_of
from xent_numba.backends.cpu.row.transform import apply_transform
from xent_numba.backends.cpu.simd.cast import promote
from xent_numba.backends.cpu.simd.load_store import load_n
from xent_numba.backends.cpu.simd.reduce import extract_lane
from xent_numba.backends.cpu.simd.vector import one_lane, splat


class RowLabel(NamedTuple):
    """The label of a row; for a distribution, the `Top` in its place."""

    stats: Any  # the `RowStatistics`, without the label_weight
    y: int
    weight: float
    is_top: bool  # whether y is the class of the `Top`


@specialize
def row_label(distribution: Any, stats: Any, operands: Any, row: Any, vtype: Any) -> Any:
    """The `RowLabel` of a row with these `RowStatistics`."""
    if isinstance(distribution, types.NoneType):
        return lambda distribution, stats, operands, row, vtype: RowLabel(
            stats, row.y, label_weight_of(operands.confidence, operands.weight, row.y), row.y == stats.top.y
        )

    def of_distribution(distribution: Any, stats: Any, operands: Any, row: Any, vtype: Any) -> Any:
        u = target_at(row.dense, stats.top.y, vtype)
        rest = label_of_top(stats, u)
        of_rest = RowStatistics(
            stats.row_max, stats.sum_exp_others, rest.target_gap, rest.target_sum, stats.top, stats.measured
        )
        return RowLabel(of_rest, stats.top.y, u, True)

    return of_distribution


@inline
def value_at(p: Any, y: int, vtype: Any) -> Any:
    """p[y] in one lane of the arithmetic of the call; p[0] where y is −1."""
    return one_lane(np.float64(extract_lane(load_n(p, max(y, 0), 1, splat(0.0, vtype)), 0)), vtype)


@inline
def curvature_of(operands: Any, label: Any, x_y: Any, vtype: Any) -> Any:
    """The `RowCurvature` of a row in one lane; x_y is the logit at its label, as given."""
    vtype64 = promote(vtype)
    return row_curvature(
        operands,
        in_one_lane(label.stats, vtype),
        one_lane(label.weight, vtype64),
        promote(apply_transform(x_y, operands.transform)),
        mask_of(label.is_top, vtype),
        vtype,
    )


@inline
def mask_of(flag: bool, vtype: Any) -> Any:
    """A flag as a mask of one lane."""
    vtype64 = promote(vtype)
    return one_lane(1.0 if flag else 0.0, vtype64) > one_lane(0.0, vtype64)
