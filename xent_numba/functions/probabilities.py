"""The public functions softmax, log_softmax and logsumexp, for the same arrays, layouts and backends as the losses."""

from __future__ import annotations

from typing import TYPE_CHECKING, overload

from xent_numba.backends.registry import device_arrays, select
from xent_numba.devices import on_device
from xent_numba.prepare.aligned import aligned_pairs
from xent_numba.prepare.misuse import explain_misuse
from xent_numba.prepare.options import make_options
from xent_numba.prepare.rowwise import prepare_rowwise

if TYPE_CHECKING:
    from typing import Any, Unpack

    import numpy as np
    from numpy.typing import NDArray

    from xent_numba.functions.signatures import AnyArray, Float, Floats, Half, Integer, Real, Reals, RowwiseOptions

    Array = NDArray[Any]


@overload
def softmax(
    logits: Floats[Float], *, out: NDArray[Float] | None = None, **options: Unpack[RowwiseOptions]
) -> NDArray[Float]: ...
@overload
def softmax(logits: AnyArray, *, out: Any = None, **options: Unpack[RowwiseOptions]) -> Any: ...
@explain_misuse
def softmax(
    logits: AnyArray,
    *,
    axis: Integer = -1,
    out: Array | None = None,
    backend: str | None = None,
    n_threads: Integer | None = None,
) -> Array:
    """Softmax, the probabilities of the classes.

    It is exp(x_j) / Σ_k exp(x_k) along an axis, computed without overflow.

    Parameters
    ----------
    logits : array_like of float64, float32, float16 or bfloat16
        Unnormalised log-probabilities, of any shape and with any strides.  They are copied only where they are
        lists or integers, which become float64.
    axis : int, default -1
        The axis of the classes.
    out : ndarray of the logits' shape and dtype, optional
        Receives the result.  It may be the logits themselves, which are then overwritten, but may not overlap
        any input otherwise.
    backend : str, optional
        The backend for this call, instead of the current one: a name that `set_backend` takes.
    n_threads : int, optional
        The largest number of threads to use.  Results have the same bits for any number.

    Returns
    -------
    ndarray of the logits' shape and dtype
        All nan in a row that contains +inf or nan, or nothing but −inf.

    Raises
    ------
    ValueError, TypeError, RuntimeError
        As in `cross_entropy_and_grad`.

    See Also
    --------
    log_softmax : The logarithm of these probabilities, which keeps its digits where they are tiny.
    cross_entropy : The loss, which needs no probabilities.

    Examples
    --------
    >>> from xent_numba import softmax
    >>> print(softmax([[2.0, 1.0, 0.1], [0.1, 2.0, 1.9]]).round(3))
    [[0.659 0.242 0.099]
     [0.073 0.487 0.44 ]]
    """
    return _rowwise("softmax", logits, axis, out, backend, n_threads)


@overload
def log_softmax(
    logits: Floats[Float], *, out: NDArray[Float] | None = None, **options: Unpack[RowwiseOptions]
) -> NDArray[Float]: ...
@overload
def log_softmax(logits: AnyArray, *, out: Any = None, **options: Unpack[RowwiseOptions]) -> Any: ...
@explain_misuse
def log_softmax(
    logits: AnyArray,
    *,
    axis: Integer = -1,
    out: Array | None = None,
    backend: str | None = None,
    n_threads: Integer | None = None,
) -> Array:
    """Logarithm of the softmax, in nats.

    It is x_j − log Σ_k exp(x_k) along an axis, computed without forming the probabilities.

    Parameters
    ----------
    logits : array_like of float64, float32, float16 or bfloat16
        Unnormalised log-probabilities, of any shape and with any strides.  They are copied only where they are
        lists or integers, which become float64.
    axis : int, default -1
        The axis of the classes.
    out : ndarray of the logits' shape and dtype, optional
        Receives the result.  It may be the logits themselves, which are then overwritten, but may not overlap
        any input otherwise.
    backend : str, optional
        The backend for this call, instead of the current one: a name that `set_backend` takes.
    n_threads : int, optional
        The largest number of threads to use.  Results have the same bits for any number.

    Returns
    -------
    ndarray of the logits' shape and dtype
        The result for a logit of −inf is −inf.  All nan in a row that contains +inf or nan, or nothing but −inf.

    Raises
    ------
    ValueError, TypeError, RuntimeError
        As in `cross_entropy_and_grad`.

    See Also
    --------
    softmax : The probabilities themselves.
    logsumexp : The term that is subtracted.

    Examples
    --------
    >>> from xent_numba import log_softmax
    >>> print(log_softmax([1000.0, 0.0]))
    [    0. -1000.]
    """
    return _rowwise("log_softmax", logits, axis, out, backend, n_threads)


@overload
def logsumexp(
    logits: Reals[Real], *, out: NDArray[Real] | None = None, **options: Unpack[RowwiseOptions]
) -> NDArray[Real]: ...
@overload
def logsumexp(
    logits: Half, *, out: NDArray[np.float32] | None = None, **options: Unpack[RowwiseOptions]
) -> NDArray[np.float32]: ...
@overload
def logsumexp(logits: AnyArray, *, out: Any = None, **options: Unpack[RowwiseOptions]) -> Any: ...
@explain_misuse
def logsumexp(
    logits: AnyArray,
    *,
    axis: Integer = -1,
    out: Array | None = None,
    backend: str | None = None,
    n_threads: Integer | None = None,
) -> Array | np.floating[Any]:
    """Logarithm of a sum of exponentials, in nats.

    It is log Σ_k exp(x_k) along an axis, computed without overflow.

    Parameters
    ----------
    logits : array_like of float64, float32, float16 or bfloat16
        Unnormalised log-probabilities, of any shape and with any strides.  They are copied only where they are
        lists or integers, which become float64.
    axis : int, default -1
        The axis of the classes.
    out : ndarray of the logits' shape without `axis`, optional
        Receives the result; float64 for float64 logits, else float32.
    backend : str, optional
        The backend for this call, instead of the current one: a name that `set_backend` takes.
    n_threads : int, optional
        The largest number of threads to use.  Results have the same bits for any number.

    Returns
    -------
    ndarray of the logits' shape without `axis`, or a NumPy scalar for 1-D logits
        Of dtype float64 for float64 logits, else float32.  As in SciPy, −inf for a row of nothing but −inf, and +inf
        for any row with a +inf.

    Raises
    ------
    ValueError, TypeError, RuntimeError
        As in `cross_entropy_and_grad`.

    See Also
    --------
    cross_entropy_grad : The gradient, which can use the result as its `lse`.
    log_softmax : The logits minus this.

    Examples
    --------
    >>> from xent_numba import logsumexp
    >>> print(logsumexp([1000.0, 1000.0]).round(3))
    1000.693
    """
    return _rowwise("logsumexp", logits, axis, out, backend, n_threads)


def _rowwise(
    name: str, logits: Any, axis: Integer, out: Array | None, backend: str | None, n_threads: Integer | None
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
