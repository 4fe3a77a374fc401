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
    """How many labels are kept, or −1 if one is neither a class nor ignored; branch-free, so that it vectorises."""
    bad, kept = np.int64(0), np.int64(0)
    if ignore.size == 1:
        unlike = ignore[0]
        for i in range(start, stop):
            y = np.int64(labels[i])
            counts = np.int64(y != unlike)
            kept += counts
            bad += counts & np.int64((y < 0) | (y >= classes))
    else:
        for i in range(start, stop):
            y = np.int64(labels[i])
            counts = np.int64(not is_among(ignore, y))
            kept += counts
            bad += counts & np.int64((y < 0) | (y >= classes))
    return -1 if bad else kept


@inline
def _weigh(labels: Any, start: int, stop: int, ignore: Any, weight: Any, sample_weight: Any, kept: int) -> Any:
    """(Σ s w_y, Σ s) over the labels that are kept, all of them known to be in range."""
    if weight.size == 0 and sample_weight.size == 0:
        return float(kept), float(kept)
    by_weight, by_sample = 0.0, 0.0
    for i in range(start, stop):
        y = np.int64(labels[i])
        if not is_among(ignore, y):
            s = value_or_one(sample_weight, i)
            by_sample += s
            by_weight += s * value_or_one(weight, y)
    return by_weight, by_sample


@inline
def _scan_group(
    labels: Any, classes: int, ignore: Any, weight: Any, sample_weight: Any, kept: Any, sums: Any, k: int
) -> None:
    start, stop = k * LABEL_GROUP, min((k + 1) * LABEL_GROUP, labels.size)
    kept[k] = _count(labels, start, stop, classes, ignore)
    if kept[k] >= 0:
        sums[k, 0], sums[k, 1] = _weigh(labels, start, stop, ignore, weight, sample_weight, kept[k])


@kernel
def scan_labels(
    labels: Any, classes: int, ignore: Any, weight: Any, sample_weight: Any, kept: Any, sums: Any, loop: int
) -> None:
    """For each group of labels: how many are kept, or −1 for a bad one among them; Σ s w and Σ s over them."""
    parallel_for(_scan_group, (labels, classes, ignore, weight, sample_weight, kept, sums), kept.size, loop)


@kernel
def count_few_labels(labels: Any, classes: int, unlike: int) -> int:
    """How many of a few unweighted labels are not `unlike`, or −1 if one of these is not a class."""
    kept = 0
    for y in labels:
        if y != unlike:
            if y < 0 or y >= classes:
                return -1
            kept += 1
    return kept
