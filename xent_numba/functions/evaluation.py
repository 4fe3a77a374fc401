"""The public function that scores logits against labels, and the sums of which its means are made.

`block_sums` adds up the statistics of rows, a block at a time.  `summary` makes an `Evaluation` of the sums of all
blocks, which may be those of several shards of rows.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from xent_numba.backends.protocol import RowFields
from xent_numba.backends.registry import device_arrays, select
from xent_numba.devices import on_device
from xent_numba.prepare.evaluation import as_top_k, check_target, check_top_k
from xent_numba.prepare.inputs import PER_ROW, as_weights, without_extremes
from xent_numba.prepare.misuse import explain_misuse
from xent_numba.prepare.options import make_options
from xent_numba.prepare.statistics import prepare_statistics

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from numpy.typing import NDArray

    from xent_numba.functions.signatures import AnyArray, Integer, Number

    Float64s = NDArray[np.float64]

FIELDS = ("log_prob", "entropy", "rank")  # of `row_statistics`: what a tally needs
BLOCK = 1 << 14  # rows that are summed at a time, whose temporaries stay in the cache


class Evaluation(NamedTuple):
    """How well logits predict labels: what `evaluate` finds.

    Each number but `n_rows` is a mean over the rows that count, weighted by their sample weights, or made of one.  It
    is nan where no row counts.

    Parameters
    ----------
    loss : float
        The cross-entropy, in nats.
    perplexity : float
        The exponential of `loss`.
    bits : float
        The cross-entropy in bits, which is `loss` / log 2.
    accuracy : dict of int to float
        For each k of `top_k`, the share of rows whose class is among the k that are predicted first.
    entropy : float
        The entropy of the predicted probabilities, in nats.
    n_rows : int
        The number of rows that count: those that are neither ignored nor of weight 0.

    See Also
    --------
    evaluate : The function that returns it; its notes have the formulas.

    Examples
    --------
    >>> from xent_numba import Evaluation, evaluate
    >>> isinstance(evaluate([2.0, 1.0, 0.1], 1, top_k=1), Evaluation)
    True
    """

    loss: float
    perplexity: float
    bits: float
    accuracy: dict[int, float]
    entropy: float
    n_rows: int


@explain_misuse
def evaluate(
    logits: AnyArray,
    target: AnyArray,
    *,
    top_k: Integer | Iterable[Integer] = (1, 5),
    sample_weight: AnyArray | None = None,
    axis: Integer = -1,
    ignore_index: Integer | Iterable[Integer] | None = -100,
    logit_scale: Number = 1.0,
    softcap: Number | None = None,
    backend: str | None = None,
    n_threads: Integer | None = None,
) -> Evaluation:
    """Loss, perplexity, top-k accuracy and entropy of the predictions of a classifier, in one pass over the logits.

    Each is a mean over the rows that are not ignored, or made of one.

    Parameters
    ----------
    logits : array_like of float64, float32, float16 or bfloat16
        Unnormalised log-probabilities, of any shape and with any strides.  They are copied only where they are
        lists or integers, which become float64.
    target : array_like of int
        Class indices: integers, in the shape of the logits without `axis`.
    top_k : int or several ints, default (1,5)
        The numbers k for which the top-k accuracy is wanted, each from 1 to the number of classes.
    sample_weight : array_like in the shape of class indices, optional
        Weights s ≥ 0 of the rows.
    axis : int, default -1
        The axis of the classes.
    ignore_index : int, several ints or None, default -100
        Class indices that mark rows to leave out, whatever their logits are.
    logit_scale : float, default 1.0
        Factor of the logits.
    softcap : float, optional
        Bound c > 0 of the scaled logits, which become c · tanh(logits / c).
    backend : str, optional
        The backend for this call, instead of the current one: a name that `set_backend` takes.
    n_threads : int, optional
        The largest number of threads to use.  Results have the same bits for any number.

    Returns
    -------
    Evaluation
        A named tuple of Python numbers: `loss`, `perplexity`, `bits`, `accuracy` (a dict with a number for each k),
        `entropy` and `n_rows`.  All but the last are nan where no row counts.

    Raises
    ------
    IndexError, ValueError, TypeError, RuntimeError
        As in `row_statistics`.  ValueError also where a k is below 1 or above the number of classes, and where a sample
        weight is negative or not finite.

    See Also
    --------
    row_statistics : Log-probability, entropy, argmax and rank of each row.
    cross_entropy : The loss alone, with more options.

    Notes
    -----
    With log_prob, the entropy H and the rank of each row, as `row_statistics` defines them,

        loss = Σ s (−log_prob) / Σ s,   entropy = Σ s H / Σ s,   accuracy[k] = Σ s [rank ≤ k] / Σ s

    where the sums are over the rows that are not ignored.  A row of weight 0 adds 0 to the loss even where its loss is
    infinite, as in `cross_entropy`.  All sums are float64, in an order that only the number of rows decides.

    The mean of a loss over batches of different sizes is that of their losses weighted by `n_rows`; the perplexity of
    all is the exponential of that mean, and no mean of perplexities.  `xent-numba evaluate` evaluates arrays in files,
    which may be larger than memory.

    Examples
    --------
    >>> from xent_numba import evaluate
    >>> found = evaluate([[2.0, 1.0, 0.1], [0.1, 2.0, 1.9]], [1, 1], top_k=(1, 2))
    >>> print(f"{found.loss:.3f} nats, {found.bits:.3f} bits, perplexity {found.perplexity:.3f}")
    1.069 nats, 1.542 bits, perplexity 2.911
    >>> found.accuracy, found.n_rows
    ({1: 0.5, 2: 1.0}, 2)
    """
    ks = as_top_k(top_k)
    options = make_options(axis, ignore_index, 0.0, "none", logit_scale, softcap, 0.0, n_threads)
    check_target(target)
    if on_device(logits):
        gpu = device_arrays(backend)
        check_top_k(ks, gpu.count_classes(options, logits))
        there = gpu.row_statistics(options, logits, target, FIELDS)
        fields = RowFields(*(None if field is None else gpu.to_host(field, "result") for field in there))
        if sample_weight is not None and on_device(sample_weight):
            sample_weight = gpu.to_host(sample_weight, "sample_weight")
        s = _weights(sample_weight, fields)
    else:
        chosen = select(backend)
        call = prepare_statistics(chosen, options, logits, target, FIELDS)
        fields = call.fields
        check_top_k(ks, call.n_classes)
        s = _weights(sample_weight, fields)
        for problem, slab_fields in call.slabs:
            chosen.row_statistics(problem, slab_fields)
    return summary(block_sums(fields, s, ks), ks)


def _weights(sample_weight: Any, fields: RowFields) -> Float64s | None:
    """The sample weights of rows in the shape of `fields`, as they can be summed."""
    if sample_weight is None:
        return None
    assert fields.rank is not None
    return without_extremes(as_weights(sample_weight, "sample_weight", fields.rank.shape, PER_ROW))


def block_sums(fields: RowFields, sample_weight: Float64s | None, top_k: tuple[int, ...]) -> Float64s:
    """Sums over the rows that count, a line for each block of rows.

    The columns are the number of rows, and Σ s, Σ s (−log p_y), Σ s H, and Σ s over the rows of rank ≤ k for each k.
    """
    assert fields.log_prob is not None
    assert fields.entropy is not None
    assert fields.rank is not None
    log_prob, entropy, rank = (field.reshape(-1) for field in (fields.log_prob, fields.entropy, fields.rank))
    weight = None if sample_weight is None else sample_weight.reshape(-1)
    lines = []
    with np.errstate(all="ignore"):
        for start in range(0, rank.size, BLOCK):
            rows = slice(start, start + BLOCK)
            values = [array[rows].astype(np.float64, copy=False) for array in (log_prob, entropy)]
            if weight is None:
                sums = _sums(values, rank[rows], top_k)
            else:
                sums = _weighted_sums(values, rank[rows], weight[rows], top_k)
            lines.append(sums)
    return np.array(lines, np.float64).reshape(-1, 4 + len(top_k))


def _sums(values: list[Float64s], rank: NDArray[np.intp], top_k: tuple[int, ...]) -> list[float]:
    """The line of a block without weights.  An ignored row has rank 0, and 0 for its log_prob and entropy."""
    n_rows = int(np.count_nonzero(rank))
    n_ignored = rank.size - n_rows
    log_prob, entropy = (float(value.sum()) for value in values)
    hits = [float(np.count_nonzero(rank <= k) - n_ignored) for k in top_k]
    return [n_rows, n_rows, 0.0 - log_prob, entropy, *hits]


def _weighted_sums(
    values: list[Float64s], rank: NDArray[np.intp], weight: Float64s, top_k: tuple[int, ...]
) -> list[float]:
    """The line of a block with weights."""
    s = np.where(rank > 0, weight, 0.0)
    log_prob, entropy = (_product(s, value) for value in values)
    hits = [float(np.where(rank <= k, s, 0.0).sum()) for k in top_k]
    return [int(np.count_nonzero(s)), float(s.sum()), 0.0 - log_prob, entropy, *hits]


def _product(s: Float64s, values: Float64s) -> float:
    """Σ s · value, where 0 · inf is 0."""
    found = float((s * values).sum())
    if math.isfinite(found):
        return found
    return float(np.where((s == 0.0) & np.isinf(values), 0.0, s * values).sum())


def summary(sums: Float64s, top_k: tuple[int, ...]) -> Evaluation:
    """The evaluation of all rows from the lines of all their blocks."""
    with np.errstate(all="ignore"):
        n_rows, weight, *totals = (float(np.ascontiguousarray(column).sum()) for column in sums.T)
        loss, entropy, *hits = (total / weight if weight else math.nan for total in totals)
        perplexity = float(np.exp(loss))
    return Evaluation(loss, perplexity, loss / math.log(2.0), dict(zip(top_k, hits, strict=True)), entropy, int(n_rows))
