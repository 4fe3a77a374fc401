"""The public function of the second derivative of the loss of a linear head, and its result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from xent_numba.backends.registry import device_arrays, select
from xent_numba.devices import on_device
from xent_numba.prepare.linear import prepare_head
from xent_numba.prepare.misuse import explain_misuse
from xent_numba.prepare.options import as_flag, make_options

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from xent_numba.functions.signatures import AnyArray, Features, Integer, Number

    Array = NDArray[Any]


class LinearCrossEntropyHvp(NamedTuple):
    """What `linear_cross_entropy_hvp` returns: the product, in the parts that belong to the weight and to the bias.

    Each has the shape and dtype of that argument.

    Parameters
    ----------
    linear_weight : ndarray
        The part for the weight.
    linear_bias : ndarray, optional
        The part for the bias; None if there is no bias.

    See Also
    --------
    linear_cross_entropy_hvp : The function that returns it.

    Examples
    --------
    >>> from xent_numba import LinearCrossEntropyHvp, linear_cross_entropy_hvp
    >>> weight = [[1.0, 0.0], [0.0, 1.0]]
    >>> isinstance(linear_cross_entropy_hvp([[1.0, 2.0]], weight, [1], weight), LinearCrossEntropyHvp)
    True
    """

    linear_weight: Any
    linear_bias: Any = None


@explain_misuse
def linear_cross_entropy_hvp(
    input: Features,
    linear_weight: AnyArray,
    target: AnyArray,
    vector: AnyArray,
    *,
    linear_bias: AnyArray | None = None,
    bias_vector: AnyArray | None = None,
    gauss_newton: bool = True,
    batch_chunk_size: Integer | None = None,
    weight: AnyArray | None = None,
    sample_weight: AnyArray | None = None,
    ignore_index: Integer | Iterable[Integer] | None = -100,
    label_smoothing: Number = 0.0,
    reduction: str = "mean",
    logit_scale: Number = 1.0,
    softcap: Number | None = None,
    z_loss: Number = 0.0,
    focal_gamma: Number = 0.0,
    backend: str | None = None,
    n_threads: Integer | None = None,
    out: Array | None = None,
    bias_out: Array | None = None,
) -> LinearCrossEntropyHvp:
    """Hessian of `linear_cross_entropy` with respect to weight and bias, times a vector.

    It is the derivative of these gradients in the direction of the vector, as Newton's method with conjugate gradients
    wants it.  Neither the Hessian nor the logits exist as a whole.

    Parameters
    ----------
    input : array_like of float64, float32, float16 or bfloat16, or CSR matrix of SciPy
        The features of the rows, of shape (..., D) and with any strides.  A sparse matrix has shape (N, D), and real
        numbers, which become float64 if they are neither that nor float32.
    linear_weight : array_like of shape (C, D)
        The features of the classes, in one of these four dtypes.
    target : array_like
        Class indices: integers, in the shape of the input without its last axis.  Or a distribution over the classes:
        real numbers of shape (..., C), whose rows need not sum to one; integers must be one-hot rows.
    vector : array_like of the shape of `linear_weight`
        The direction V of the weight, in one of these four dtypes.
    linear_bias : array_like of shape (C,), optional
        What is added to the logits of each class.
    bias_vector : array_like of shape (C,), optional
        The direction v of the bias.  By default, it is 0.
    gauss_newton : bool, default True
        Leave out the curvature of the softcap, so that H is the Gauss–Newton matrix of the loss of f(x): positive
        semi-definite as long as T + 2 λ · lse(z) ≥ 0.  Without a softcap, this changes nothing.
    batch_chunk_size : int, optional
        The largest number of rows whose logits exist at a time.  By default, it is chosen by the shape: as many as have
        32 MB of logits, or of features if these are more, and on a GPU 256 MB; if those are fewer than 512, up to 512
        in at most four times the memory, but at least 64.  It changes nothing but the last digits.
    weight : array_like of shape (C,), optional
        Weights w ≥ 0 of the classes.
    sample_weight : array_like in the shape of class indices, optional
        Weights s ≥ 0 of the rows.
    ignore_index : int, several ints or None, default -100
        Class indices that mark rows to leave out: their loss and gradient are 0, whatever their logits are.
    label_smoothing : float, default 0.0
        The part ε of the target, between 0 and 1, that is spread evenly over all classes.
    reduction : {"mean", "sum", "none"}, default "mean"
        The weighted mean of the losses of the rows, their sum, or all of them.
    logit_scale : float, default 1.0
        Factor of the logits.
    softcap : float, optional
        Bound c > 0 of the scaled logits, which become c · tanh(logits / c).
    z_loss : float, default 0.0
        Factor λ ≥ 0 of lse², a penalty that keeps the logits from drifting.
    focal_gamma : float, default 0.0
        Exponent γ ≥ 0 of the focal factor (1 − p)^γ of each row, where p is the probability of its label.  It needs
        class indices without label smoothing.
    backend : str, optional
        The backend for this call, instead of the current one: a name that `set_backend` takes.
    n_threads : int, optional
        The largest number of threads to use.  Results have the same bits for any number.
    out : ndarray of the shape and dtype of `linear_weight`, optional
        Receives the product for the weight.  It may not overlap any input.
    bias_out : ndarray of the shape and dtype of `linear_bias`, optional
        Receives the product for the bias, likewise.

    Returns
    -------
    LinearCrossEntropyHvp
        A named tuple of the products `linear_weight` and `linear_bias`, each of the shape and dtype of that argument.
        The second is None without a bias.

    Raises
    ------
    ValueError, TypeError, IndexError, RuntimeError
        As in `linear_cross_entropy_and_grad`.  ValueError also for vectors of other shapes, or a `bias_vector` without
        a bias.

    See Also
    --------
    linear_cross_entropy_and_grad : The loss with its gradients.
    cross_entropy_hvp : The same for logits; its notes have the formula.

    Notes
    -----
    The logits depend linearly on weight and bias.  So with the rows of the input as the matrix H, and P the product of
    `cross_entropy_hvp` for the logits and the direction H Vᵀ + v, the result is Pᵀ H and Pᵀ 1.  With `gauss_newton` or
    without a softcap, it is that of a positive semi-definite matrix, unless there is a z-loss or a focal factor.

    The extra memory is that of `linear_cross_entropy`, with the chunk's part of H Vᵀ + v besides its logits.

    Examples
    --------
    >>> from xent_numba import linear_cross_entropy_hvp
    >>> weight, vector = [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], [[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]
    >>> print(linear_cross_entropy_hvp([[1.0, 2.0]], weight, [2], vector).linear_weight.round(3))
    [[ 0.082  0.164]
     [-0.022 -0.044]
     [-0.06  -0.12 ]]
    """
    flag = as_flag("gauss_newton", gauss_newton)
    options = make_options(
        -1, ignore_index, label_smoothing, reduction, logit_scale, softcap, z_loss, n_threads, focal_gamma
    )
    outs = {"linear_weight": out, "linear_bias": bias_out}
    head, loss = (input, linear_weight, linear_bias), (target, weight, sample_weight)
    if on_device(input):
        device_arrays(backend, "input")
        from xent_numba.linear import device

        direction = (vector, bias_vector)
        return LinearCrossEntropyHvp(
            *device.hessian_vector_product(options, head, loss, direction, batch_chunk_size, flag, outs)
        )
    from xent_numba.linear import outcome

    chosen = select(backend)
    prepared = prepare_head(chosen, options, head, loss, batch_chunk_size, (vector, bias_vector))
    return LinearCrossEntropyHvp(*outcome.hessian_vector_product(chosen, prepared, flag, outs))
