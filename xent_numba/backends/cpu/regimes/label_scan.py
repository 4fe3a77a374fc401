"""One pass over the labels: the first that is out of range, and the denominators of the means."""

from __future__ import annotations

from typing import Any

import numpy as np

from xent_numba.backends.cpu.compile.inline import inline
from xent_numba.backends.cpu.compile.kernel import kernel
from xent_numba.backends.cpu.plan import LABEL_GROUP
from xent_numba.backends.cpu.row.operands import is_among, value_or_one
from xent_numba.backends.cpu.runtime.parallel_for import parallel_for


@inline
def _count(labels: Any, start: int, stop: int, classes: int, ignore: Any) -> Any:
    """How many of the labels start … stop are not ignored, or −1 if one of these is not a class.

    The loops have no branches, so that LLVM vectorises them.
    """
    bad, kept = np.int64(0), np.int64(0)
    if ignore.size == 1:
        ignored = ignore[0]
        for i in range(start, stop):
            y = np.int64(labels[i])
            is_kept = np.int64(y != ignored)
            kept += is_kept
            bad += is_kept & np.int64((y < 0) | (y >= classes))
    else:
        for i in range(start, stop):
            y = np.int64(labels[i])
            is_kept = np.int64(not is_among(ignore, y))
            kept += is_kept
            bad += is_kept & np.int64((y < 0) | (y >= classes))
    return -1 if bad else kept


@inline
def _weight_sums(labels: Any, start: int, stop: int, ignore: Any, weight: Any, sample_weight: Any, kept: int) -> Any:
    """(Σ s_i w_y, Σ s_i) over the labels start … stop that are not ignored: `kept` of them, all in range."""
    if weight.size == 0 and sample_weight.size == 0:
        return float(kept), float(kept)
    weight_sum, weight_error, sample_sum, sample_error = 0.0, 0.0, 0.0, 0.0
    for i in range(start, stop):
        y = np.int64(labels[i])
        if not is_among(ignore, y):
            s = value_or_one(sample_weight, i)
            sample_sum, sample_error = _compensated_add(sample_sum, sample_error, s)
            weight_sum, weight_error = _compensated_add(weight_sum, weight_error, s * value_or_one(weight, y))
    return weight_sum + weight_error, sample_sum + sample_error


@inline
def _compensated_add(total: float, error: float, x: float) -> tuple[float, float]:
    """(total + x, error + the rounding error of that), of finite numbers ≥ 0 with a finite sum."""
    whole = total + x
    part = whole - total
    return whole, error + ((total - (whole - part)) + (x - part))


@inline
def _scan_group(
    labels: Any, classes: int, ignore: Any, weight: Any, sample_weight: Any, kept: Any, sums: Any, k: int
) -> None:
    """Count and weigh group k of the labels; store the results in kept[k] and sums[k]."""
    start, stop = k * LABEL_GROUP, min((k + 1) * LABEL_GROUP, labels.size)
    kept[k] = _count(labels, start, stop, classes, ignore)
    if kept[k] >= 0:
        sums[0, k], sums[1, k] = _weight_sums(labels, start, stop, ignore, weight, sample_weight, kept[k])


@kernel
def scan_labels(
    labels: Any, classes: int, ignore: Any, weight: Any, sample_weight: Any, kept: Any, sums: Any, loop: int
) -> None:
    """Count and weigh the labels, (N,) int32 or int64, in groups of `LABEL_GROUP`.

    ignore: (K,) int64; weight: (C,) or (0,); sample_weight: (N,) or (0,).  kept: (groups,) int64, how many labels of
    each group are not ignored, or −1 where one of these is not a class; sums: (2, groups), their Σ s_i w_y and Σ s_i.
    """
    parallel_for(_scan_group, (labels, classes, ignore, weight, sample_weight, kept, sums), kept.size, loop)


@kernel
def count_unweighted_labels(labels: Any, classes: int, ignored: int) -> int:
    """How many labels, at most a group and unweighted, are not `ignored`, or −1 if one of these is not a class."""
    kept = 0
    for y in labels:
        if y != ignored:
            if y < 0 or y >= classes:
                return -1
            kept += 1
    return kept
