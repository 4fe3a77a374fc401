"""softmax and its logarithms, with the same arrays, layouts and backends as the losses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xent_numba.backends.registry import device_arrays, select
from xent_numba.devices import on_device
from xent_numba.prepare.aligned import aligned_pairs
from xent_numba.prepare.options import make_options
from xent_numba.prepare.rowwise import prepare_rowwise

if TYPE_CHECKING:
    from typing import Any

    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[Any]


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
        Of any shape and strides; lists and integers become float64.
    axis : int
        The axis of the classes.
    out : ndarray of the logits' shape and dtype, optional
        Where the result goes; may be the logits themselves.
    backend, n_threads
        As in `cross_entropy`.

    Returns
    -------
    ndarray of the logits' shape and dtype.  A row with +inf or nan, or of −inf alone, is nan.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `cross_entropy_and_grad`.

    Examples
    --------
    >>> from xent_numba import softmax
    >>> print(softmax([[2.0, 1.0, 0.1], [0.1, 2.0, 1.9]]).round(3))
    [[0.659 0.242 0.099]
     [0.073 0.487 0.44 ]]
    """
    options = make_options(axis, n_threads=n_threads)
    if on_device(logits):
        found: Array = device_arrays(backend).rowwise(options, logits, out, "softmax")
        return found
    chosen = select(backend)
    call = prepare_rowwise(options, logits, out, reduces=False)
    for x, result in aligned_pairs(call.slabs):
        chosen.softmax(x, result, options.n_threads)
    return call.result


def log_softmax(
    logits: ArrayLike,
    *,
    axis: int = -1,
    out: Array | None = None,
    backend: str | None = None,
    n_threads: int | None = None,
) -> Array:
    """Log-probabilities x_j − log Σ_k exp(x_k) along an axis, in nats, without forming the probabilities.

    Parameters, results and errors are those of `softmax`; the log-probability of −inf is −inf.

    Examples
    --------
    >>> from xent_numba import log_softmax
    >>> print(log_softmax([1000.0, 0.0]))
    [    0. -1000.]
    """
    options = make_options(axis, n_threads=n_threads)
    if on_device(logits):
        found: Array = device_arrays(backend).rowwise(options, logits, out, "log_softmax")
        return found
    chosen = select(backend)
    call = prepare_rowwise(options, logits, out, reduces=False)
    for x, result in aligned_pairs(call.slabs):
        chosen.log_softmax(x, result, options.n_threads)
    return call.result


def logsumexp(
    logits: ArrayLike,
    *,
    axis: int = -1,
    out: Array | None = None,
    backend: str | None = None,
    n_threads: int | None = None,
) -> Array | np.floating[Any]:
    """log Σ_k exp(x_k) along an axis, in nats.

    Parameters
    ----------
    logits, axis, backend, n_threads
        As in `softmax`.
    out : ndarray of the logits' shape without `axis`, optional
        Where the result goes: float64 for float64 logits, else float32.

    Returns
    -------
    ndarray of the logits' shape without `axis` (a NumPy scalar for 1-D logits): float64 for float64 logits, else
    float32.  −inf for a row of −inf alone, +inf for any +inf, as in SciPy.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `cross_entropy_and_grad`.

    Examples
    --------
    >>> from xent_numba import logsumexp
    >>> print(logsumexp([1000.0, 1000.0]).round(3))
    1000.693
    """
    options = make_options(axis, n_threads=n_threads)
    if on_device(logits):
        found: Array = device_arrays(backend).rowwise(options, logits, out, "")
        return found
    chosen = select(backend)
    call = prepare_rowwise(options, logits, out, reduces=True)
    for x, result in aligned_pairs(call.slabs):
        chosen.logsumexp(x, result, options.n_threads)
    return call.result if out is not None or call.result.ndim else call.result[()]
