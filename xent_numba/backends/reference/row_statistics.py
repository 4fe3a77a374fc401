"""What a block of rows can tell: the log-probability and the rank of the target, entropy, argmax, logsumexp.

argmax and rank compare the logits themselves, times the sign of `logit_scale`, never the rounded z = f(x): f is
strictly increasing, so the order and the ties are exact.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from xent_numba.backends.compensated import sum_of
from xent_numba.backends.reference.blocks import block_rows, is_kept, times, transform
from xent_numba.backends.reference.statistics import block_stats, quarter_below

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xent_numba.backends.protocol import Problem, RowFields
    from xent_numba.backends.reference.blocks import Block
    from xent_numba.backends.reference.statistics import Stats

    Float64s = NDArray[np.float64]
    Integers = NDArray[np.int64]


def block_fields(problem: Problem, block: Block, fields: RowFields) -> None:
    """Fill the parts of the fields that belong to a block; None stays None."""
    x = block_rows(problem.logits, block)
    y, kept = np.zeros((1, 1), np.int64), np.ones((1, 1), np.bool)
    if problem.labels is not None:
        labels = problem.labels[block].reshape(-1, 1)
        kept = is_kept(labels, problem.ignore)
        y = np.where(kept, labels, 0).astype(np.int64)
    if not (fields.log_prob is None and fields.entropy is None and fields.logsumexp is None):
        z, lost, _ = transform(x, problem)
        stats = block_stats(z, lost)
        below = quarter_below(z, lost, stats)
        if fields.log_prob is not None:
            log_prob = 0.0 - 4.0 * (np.take_along_axis(below, y, axis=1) + 0.25 * stats.log_sums)
            _store(fields.log_prob, log_prob, kept)
        if fields.entropy is not None:
            _store(fields.entropy, entropy(below, stats), kept)
        if fields.logsumexp is not None:
            _store(fields.logsumexp, np.where(np.isfinite(stats.top), stats.lse, stats.top), kept)
    key = np.sign(problem.logit_scale) * x  # a logit_scale of 0 makes all finite logits equal
    if fields.argmax is not None:
        _store(fields.argmax, np.argmax(key, axis=1, keepdims=True), kept, ignored=-1)
    if fields.rank is not None:
        _store(fields.rank, rank(key, y), kept)


def entropy(below: Float64s, stats: Stats) -> Float64s:
    """log S + Σ p (max − z), of terms that are never negative; `below` is a quarter of max − z."""
    return stats.log_sums + 4.0 * (sum_of(times(stats.exps, below)) / stats.sums)


def rank(key: Float64s, y: Integers) -> Integers:
    """1 + #{j: key_j > key_y} + #{j < y: key_j = key_y} as (R, 1).

    NaN is larger than any number here, and equal to NaN.  So the rank is 1 exactly where y is what np.argmax finds.
    """
    own = np.take_along_axis(key, y, axis=1)
    nan, own_nan = np.isnan(key), np.isnan(own)
    larger = (key > own) | (nan & ~own_nan)
    before = np.arange(key.shape[1]) < y
    ties = before & ((key == own) | (nan & own_nan))
    count: Integers = np.count_nonzero(larger | ties, axis=1, keepdims=True)
    return 1 + count


def _store(out: NDArray[np.generic], values: NDArray[np.generic], kept: NDArray[np.bool], ignored: int = 0) -> None:
    """Write (R, 1) values into a block of (A, B), and `ignored` in ignored rows."""
    out[...] = np.where(kept, values, ignored).reshape(out.shape)
