"""The public functions softmax, log_softmax and logsumexp, for the same arrays, layouts and backends as the losses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xent_numba.backends.registry import device_arrays, select
from xent_numba.devices import on_device
from xent_numba.prepare.aligned import aligned_pairs
from xent_numba.prepare.misuse import explain_misuse
from xent_numba.prepare.options import make_options
from xent_numba.prepare.rowwise import prepare_rowwise

if TYPE_CHECKING:
    from typing import Any

    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[Any]


@explain_misuse
def softmax(
    logits: ArrayLike,
    *,
    axis: int = -1,
    out: Array | None = None,
    backend: str | None = None,
    n_threads: int | None = None,
) -> Array:
    """Probabilities exp(x_j) / Σ_k exp(x_k) along an axis.

    Parameters
    ----------
    logits : array_like of float64, float32, float16 or bfloat16
        Of any shape and with any strides; lists and integers become float64.
    axis : int
        The axis of the classes.
    out : ndarray of the logits' shape and dtype, optional
        Receives the result.  It may be the logits themselves, which are then overwritten.
    backend, n_threads
        As in `cross_entropy`.

    Returns
    -------
    ndarray of the logits' shape and dtype
        All nan in a row that contains +inf or nan, or nothing but −inf.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As in `cross_entropy_and_grad`.

    Examples
    --------
    >>> from xent_numba import softmax
    >>> print(softmax([[2.0, 1.0, 0.1], [0.1, 2.0, 1.9]]).round(3))
    [[0.659 0.242 0.099]
     [0.073 0.487 0.44 ]]
    """
    return _rowwise("softmax", logits, axis, out, backend, n_threads)


@explain_misuse
def log_softmax(
    logits: ArrayLike,
    *,
    axis: int = -1,
    out: Array | None = None,
    backend: str | None = None,
    n_threads: int | None = None,
) -> Array:
    """Log-probabilities x_j − log Σ_k exp(x_k) along an axis, in nats, computed without forming the probabilities.

    Parameters, results and errors are those of `softmax`.  The log-probability of a logit of −inf is −inf.

    Examples
    --------
    >>> from xent_numba import log_softmax
    >>> print(log_softmax([1000.0, 0.0]))
    [    0. -1000.]
    """
    return _rowwise("log_softmax", logits, axis, out, backend, n_threads)


@explain_misuse
def logsumexp(
    logits: ArrayLike,
    *,
    axis: int = -1,
    out: Array | None = None,
    backend: str | None = None,
    n_threads: int | None = None,
) -> Array | np.floating[Any]:
    """Logarithm of a sum of exponentials, log Σ_k exp(x_k), along an axis, in nats.

    Parameters
    ----------
    logits, axis, backend, n_threads
        As in `softmax`.
    out : ndarray of the logits' shape without `axis`, optional
        Receives the result; float64 for float64 logits, else float32.

    Returns
    -------
    ndarray of the logits' shape without `axis`, or a NumPy scalar for 1-D logits
        float64 for float64 logits, else float32.  As in SciPy, −inf for a row of nothing but −inf, and +inf for any
        row with a +inf.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As in `cross_entropy_and_grad`.

    Examples
    --------
    >>> from xent_numba import logsumexp
    >>> print(logsumexp([1000.0, 1000.0]).round(3))
    1000.693
    """
    return _rowwise("logsumexp", logits, axis, out, backend, n_threads)


def _rowwise(
    name: str, logits: ArrayLike, axis: int, out: Array | None, backend: str | None, n_threads: int | None
) -> Array:
    """The function of this name, which is also the name of the backend's method that computes it."""
    options = make_options(axis, n_threads=n_threads)
    reduces = name == "logsumexp"
    if on_device(logits):
        found: Array = device_arrays(backend).rowwise(options, logits, out, "" if reduces else name)
        return found
    compute = getattr(select(backend), name)
    call = prepare_rowwise(options, logits, out, reduces=reduces)
    for x, result in aligned_pairs(call.slabs):
        compute(x, result, options.n_threads)
    # For 1-D logits a scalar, as NumPy's functions return.
    return call.result if out is not None or call.result.ndim else call.result[()]
