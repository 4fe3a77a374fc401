"""The public functions of the loss of a linear head, alone and with its gradients, and the result of the latter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from xent_numba.backends.registry import device_arrays, select
from xent_numba.devices import on_device
from xent_numba.prepare.linear import WRT, prepare_head
from xent_numba.prepare.misuse import explain_misuse
from xent_numba.prepare.options import make_options

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from xent_numba.functions.signatures import AnyArray, Features, Integer, Number

    Array = NDArray[Any]


class LinearCrossEntropyGrad(NamedTuple):
    """What `linear_cross_entropy_and_grad` returns: the loss, and its gradients.

    Each gradient has the shape and dtype of the argument of its name.

    Parameters
    ----------
    loss : NumPy scalar or ndarray
        The loss, as `linear_cross_entropy` returns it.
    input : ndarray, optional
        The gradient with respect to the input; None if `wrt` does not name it, or it is sparse.
    linear_weight : ndarray, optional
        The gradient with respect to the weight; None if `wrt` does not name it.
    linear_bias : ndarray, optional
        The gradient with respect to the bias; None if `wrt` does not name it, or there is no bias.

    See Also
    --------
    linear_cross_entropy_and_grad : The function that returns it.

    Examples
    --------
    >>> from xent_numba import LinearCrossEntropyGrad, linear_cross_entropy_and_grad
    >>> isinstance(linear_cross_entropy_and_grad([[1.0]], [[1.0], [2.0]], [1]), LinearCrossEntropyGrad)
    True
    """

    loss: Any
    input: Any = None
    linear_weight: Any = None
    linear_bias: Any = None


@explain_misuse
def linear_cross_entropy(
    input: Features,
    linear_weight: AnyArray,
    target: AnyArray,
    *,
    linear_bias: AnyArray | None = None,
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
) -> Any:
    """Softmax cross-entropy of the logits input @ linear_weight.T + linear_bias, in nats.

    It is `cross_entropy` of these logits to rounding, but they never exist as a whole.

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
    linear_bias : array_like of shape (C,), optional
        What is added to the logits of each class.
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

    Returns
    -------
    NumPy scalar, or ndarray in the shape of class indices for reduction="none"
        Of dtype float64 if the input, the weight or the bias is of float64, else float32.  For an input on a GPU, an
        array of the same library there.

    Raises
    ------
    ValueError, TypeError
        Shapes do not fit, a value is out of range, or a dtype is not of the right kind.
    IndexError
        A label is neither a class nor ignored.  The message names the first such label.
    RuntimeError
        The backend that was asked for cannot run here.  The message says why.

    See Also
    --------
    linear_cross_entropy_and_grad : The loss with its gradients.
    linear_cross_entropy_hvp : The second derivative, times a vector.
    cross_entropy : The same for logits; its notes define every symbol.

    Notes
    -----
    For a row h of the input, the logits are x = W h + b.  Besides the results, the extra memory is that of one chunk of
    rows: their logits, and their features or the gradient of these.  A weight of float16 or bfloat16, or one that is
    not contiguous, is copied some classes at a time; for a sparse input, it is copied as a whole.  The arithmetic is in
    the dtype of the loss, so a product beyond the range of float16 is not infinite here.  Rows that are ignored enter
    no product, so nothing in them matters, not even nan.

    The matrix products are those of the BLAS that NumPy has, whose threads `n_threads` does not limit, and whose last
    bits may depend on their number.  The names are those of PyTorch [1]_.

    On a GPU, all arrays must be of CuPy or all of PyTorch, which then does the products as it is set up to, those in
    TF32 included; `weight` and `sample_weight` may be on the host too.

    References
    ----------
    .. [1] https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.linear_cross_entropy.html

    Examples
    --------
    >>> from xent_numba import linear_cross_entropy
    >>> print(linear_cross_entropy([[1.0, 2.0]], [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], [2]).round(3))
    0.408
    """
    options = make_options(
        -1, ignore_index, label_smoothing, reduction, logit_scale, softcap, z_loss, n_threads, focal_gamma
    )
    head, loss = (input, linear_weight, linear_bias), (target, weight, sample_weight)
    if on_device(input):
        device_arrays(backend, "input")
        from xent_numba.linear import device

        return device.loss(options, head, loss, batch_chunk_size)
    from xent_numba.linear import outcome

    chosen = select(backend)
    return outcome.loss(chosen, prepare_head(chosen, options, head, loss, batch_chunk_size))


@explain_misuse
def linear_cross_entropy_and_grad(
    input: Features,
    linear_weight: AnyArray,
    target: AnyArray,
    *,
    linear_bias: AnyArray | None = None,
    wrt: str | Sequence[str] = WRT,
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
    input_grad_out: Array | None = None,
    linear_weight_grad_out: Array | None = None,
    linear_bias_grad_out: Array | None = None,
) -> LinearCrossEntropyGrad:
    """Softmax cross-entropy of the logits input @ linear_weight.T + linear_bias, in nats, and its gradients.

    Both come from one pass over chunks of rows, so neither the logits nor their gradient exist as a whole.

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
    linear_bias : array_like of shape (C,), optional
        What is added to the logits of each class.
    wrt : str or sequence of str, default ("input", "linear_weight", "linear_bias")
        The arguments with respect to which to differentiate.  What is not among them costs nothing.  There is no
        gradient of a sparse input: the default passes over it, and naming it besides is an error.
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
    input_grad_out : ndarray of the shape and dtype of `input`, optional
        Receives the gradient with respect to it.  It may not overlap any input.
    linear_weight_grad_out : ndarray of the shape and dtype of `linear_weight`, optional
        Receives the gradient with respect to it, likewise.
    linear_bias_grad_out : ndarray of the shape and dtype of `linear_bias`, optional
        Receives the gradient with respect to it, likewise.

    Returns
    -------
    LinearCrossEntropyGrad
        A named tuple of the `loss`, as from `linear_cross_entropy`, and the gradients `input`, `linear_weight` and
        `linear_bias`, each of the shape and dtype of that argument; for reduction="none", of the sum of the losses.
        Those that there are not, or that `wrt` does not name, are None.

    Raises
    ------
    ValueError, TypeError, IndexError, RuntimeError
        As in `linear_cross_entropy`, before anything is written.  ValueError also for an array to write to that does
        not fit, is read-only or overlaps an input, and where `wrt` names a sparse input but not all three.

    See Also
    --------
    linear_cross_entropy : The loss alone; its notes say what is computed how.
    linear_cross_entropy_hvp : The second derivative, times a vector.
    cross_entropy_and_grad : The same for logits; its notes have the formula of their gradient.

    Notes
    -----
    With the rows of the input as the matrix H and the gradient of `cross_entropy_and_grad` as G,

        ∂loss/∂H = G W        ∂loss/∂W = Gᵀ H        ∂loss/∂b = Gᵀ 1

    The sums over the rows in the last two are kept in float32 or float64, whatever the dtype of the weight.  That takes
    as much memory as the weight's gradient in that dtype, if the weight is of another or the input is sparse.

    Examples
    --------
    >>> from xent_numba import linear_cross_entropy_and_grad
    >>> found = linear_cross_entropy_and_grad([[1.0, 2.0]], [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], [2])
    >>> print(found.linear_weight.round(3))
    [[ 0.09   0.18 ]
     [ 0.245  0.489]
     [-0.335 -0.67 ]]
    """
    options = make_options(
        -1, ignore_index, label_smoothing, reduction, logit_scale, softcap, z_loss, n_threads, focal_gamma
    )
    head, loss = (input, linear_weight, linear_bias), (target, weight, sample_weight)
    outs = dict(zip(WRT, (input_grad_out, linear_weight_grad_out, linear_bias_grad_out), strict=True))
    if on_device(input):
        device_arrays(backend, "input")
        from xent_numba.linear import device

        return LinearCrossEntropyGrad(*device.loss_and_gradients(options, head, loss, batch_chunk_size, wrt, outs))
    from xent_numba.linear import outcome

    chosen = select(backend)
    prepared = prepare_head(chosen, options, head, loss, batch_chunk_size)
    return LinearCrossEntropyGrad(*outcome.loss_and_gradients(chosen, prepared, wrt, outs))
