"""The public function of what a row of logits can tell: its signature and docstring."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from xent_numba.backends.registry import device_arrays, select
from xent_numba.devices import on_device
from xent_numba.prepare.misuse import explain_misuse
from xent_numba.prepare.options import make_options
from xent_numba.prepare.statistics import check_fields, prepare_statistics

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from xent_numba.functions.signatures import AnyArray, Integer, Number


class RowStatistics(NamedTuple):
    """What `row_statistics` finds in each row; a field that was not asked for is None.

    Each field has the shape of class indices, and is a NumPy scalar for 1-D logits.  Ignored rows have 0 in each field
    but `argmax`, where they have −1.

    Parameters
    ----------
    log_prob : ndarray, optional
        The log-probability of the target's class, in nats; float64 for float64 logits, else float32.
    entropy : ndarray, optional
        The entropy of the probabilities of the classes, in nats, of the same dtype.
    argmax : ndarray of intp, optional
        The class of the largest logit.
    rank : ndarray of intp, optional
        The place of the target's class among the classes in descending order, 1 for the largest.
    logsumexp : ndarray, optional
        The logarithm of the sum of exponentials, in nats, of the dtype of `log_prob`.

    See Also
    --------
    row_statistics : The function that returns it; its notes define each field.

    Examples
    --------
    >>> from xent_numba import RowStatistics, row_statistics
    >>> isinstance(row_statistics([2.0, 1.0, 0.1], 1), RowStatistics)
    True
    """

    # A checker cannot know which fields were asked for, so their types are not declared: None would be in all of them.
    log_prob: Any = None
    entropy: Any = None
    argmax: Any = None
    rank: Any = None
    logsumexp: Any = None


@explain_misuse
def row_statistics(
    logits: AnyArray,
    target: AnyArray | None = None,
    *,
    axis: Integer = -1,
    fields: Sequence[str] = ("log_prob", "entropy", "argmax", "rank", "logsumexp"),
    ignore_index: Integer | Iterable[Integer] | None = -100,
    logit_scale: Number = 1.0,
    softcap: Number | None = None,
    backend: str | None = None,
    n_threads: Integer | None = None,
) -> RowStatistics:
    """Log-probability and rank of the target, entropy, argmax and logsumexp of each row, in one pass over the logits.

    What is not asked for costs nothing.

    Parameters
    ----------
    logits : array_like of float64, float32, float16 or bfloat16
        Unnormalised log-probabilities, of any shape and with any strides.  They are copied only where they are
        lists or integers, which become float64.
    target : array_like of int, optional
        Class indices: integers, in the shape of the logits without `axis`.  The fields `log_prob` and `rank` need
        them.
    axis : int, default -1
        The axis of the classes.
    fields : sequence of str, default ("log_prob","entropy","argmax","rank","logsumexp")
        The names of the fields to compute, in any order.
    ignore_index : int, several ints or None, default -100
        Class indices that mark rows to leave out, whatever their logits are: each of their fields is 0, but
        `argmax` is −1.
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
    RowStatistics
        A named tuple of arrays in the shape of class indices, or of NumPy scalars for 1-D logits.  `log_prob`,
        `entropy` and `logsumexp` are float64 for float64 logits, else float32; `argmax` and `rank` are intp.  A
        field that was not asked for is None.

    Raises
    ------
    IndexError
        For a class index that is out of range and not ignored.
    ValueError, TypeError, RuntimeError
        As in `cross_entropy`.  ValueError also for unknown or repeated fields, for `log_prob` or `rank` without a
        target, and for a target in the shape of the logits.

    See Also
    --------
    cross_entropy : The loss; without reduction it is the negative of `log_prob`.
    logsumexp : That field alone, without a target.
    log_softmax : The log-probabilities of all classes.

    Notes
    -----
    With z = f(logits) after `logit_scale` and `softcap`, m = max z, S = Σ_j exp(z_j − m), p_j = exp(z_j − m) / S and
    the target's class y, the fields of a row are

    - log_prob = z_y − lse, accurate to the same digits as the loss;
    - entropy = log S + Σ_j p_j (m − z_j), where 0 · (−inf) is 0.  No term is negative, so an entropy H has a relative
      error of at most (8 + |ln H|) units in the last place, however small it is;
    - argmax, the class of the first maximum, or of the first NaN, as np.argmax finds it;
    - rank = 1 + #{j: z_j > z_y} + #{j < y: z_j = z_y}, where NaN is larger than any number.  So the rank is 1 exactly
      where argmax is y, and np.mean(rank <= k) is the top-k accuracy;
    - logsumexp = lse = m + log S.

    argmax and rank compare the logits as given, so rounding neither makes ties nor breaks them.  A row that contains
    +inf or NaN, or nothing but −inf, has a log_prob and an entropy of NaN, and the logsumexp that `logsumexp` gives.

    Examples
    --------
    >>> from xent_numba import row_statistics
    >>> found = row_statistics([[2.0, 1.0, 0.1], [0.1, 2.0, 1.9]], [1, 1])
    >>> print(found.log_prob.round(3), found.entropy.round(3))
    [-1.417 -0.72 ] [0.847 0.902]
    >>> print(found.argmax, found.rank)
    [0 1] [2 1]
    >>> row_statistics([1000.0, 0.0], fields=["entropy"]).entropy
    np.float64(0.0)
    """
    names = check_fields(fields, target is not None)
    options = make_options(axis, ignore_index, 0.0, "none", logit_scale, softcap, 0.0, n_threads)
    if on_device(logits):
        return RowStatistics(*device_arrays(backend).row_statistics(options, logits, target, names))
    chosen = select(backend)
    call = prepare_statistics(chosen, options, logits, target, names)
    for problem, slab_fields in call.slabs:
        chosen.row_statistics(problem, slab_fields)
    return RowStatistics(*[field if field is None or field.ndim else field[()] for field in call.fields])
