"""The public loss functions: their signatures and docstrings.

Each validates its options (`prepare.options`), chooses a backend (`backends.registry`), brings its arrays into
canonical form (`prepare.loss`), and has the backend compute them (`compute`).  The overloads tell type checkers which
values of `reduction` give a scalar and which an array.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, overload

from xent_numba.backends.registry import device_arrays, select
from xent_numba.compute import compute_loss
from xent_numba.devices import on_device
from xent_numba.prepare.loss import GRAD, LOSS, LOSS_AND_GRAD, prepare
from xent_numba.prepare.options import make_options

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, Literal, Unpack

    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from xent_numba.prepare.options import LossOptions

    Array = NDArray[Any]
    Scalar = np.floating[Any]


@overload
def cross_entropy(
    logits: ArrayLike, target: ArrayLike, *, reduction: Literal["mean", "sum"] = "mean", **options: Unpack[LossOptions]
) -> Scalar: ...
@overload
def cross_entropy(
    logits: ArrayLike, target: ArrayLike, *, reduction: Literal["none"], **options: Unpack[LossOptions]
) -> Array: ...
@overload
def cross_entropy(
    logits: ArrayLike, target: ArrayLike, *, reduction: str, **options: Unpack[LossOptions]
) -> Scalar | Array: ...
def cross_entropy(
    logits: ArrayLike,
    target: ArrayLike,
    *,
    axis: int = -1,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: int | Iterable[int] | None = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    logit_scale: float = 1.0,
    softcap: float | None = None,
    z_loss: float = 0.0,
    backend: str | None = None,
    n_threads: int | None = None,
) -> Scalar | Array:
    """Softmax cross-entropy, in nats.

    For row i, let z = f(logits) be the transformed logits, s the sample weight, t the effective target and
    T = Σ_j t_j.  Then

        loss_i = s_i (T · lse(z_i) − Σ_j t_j z_ij + z_loss · lse(z_i)²),   with 0 · (−inf) = 0 where t_j = 0

    The effective target is t = w_y at the class y of an index target, or t = w q for a distribution q.  Label smoothing
    ε turns it into (1 − ε) t + (ε/C) w.

    Parameters
    ----------
    logits : array_like of float64, float32, float16 or bfloat16
        Unnormalised log-probabilities of any shape and with any strides.  They are never changed, and copied only
        where they are lists or integers, which become float64.
    target : array_like
        Either class indices: integers, in the shape of the logits without `axis`.  Or a distribution over the classes:
        real numbers, in the shape of the logits, whose rows need not sum to one.  A float64 distribution makes the
        arithmetic float64.
    axis : int
        The axis of the classes.
    weight : array_like of shape (C,), optional
        Class weights w ≥ 0.
    sample_weight : array_like of the shape of class indices, optional
        Row weights s ≥ 0, as in scikit-learn.
    ignore_index : int, several ints or None
        Labels that mark rows to leave out.  The loss and the gradient of such a row are 0, whatever its logits are.
    label_smoothing : float between 0 and 1
        The ε above.
    reduction : "mean", "sum" or "none"
        "mean" divides Σ loss_i by Σ s_i w_{y_i} over the rows that are not ignored (class indices), or by Σ s_i
        (distribution).  The z-loss is divided by Σ s_i in both cases.  The mean is nan where its divisor is 0.
        "none" returns the loss of each row.
    logit_scale, softcap : float, float > 0 or None
        z = logit_scale · logits, or softcap · tanh(logit_scale · logits / softcap).
    z_loss : float ≥ 0
        The weight of lse², a penalty that keeps the logits from drifting.
    backend : "auto", "numpy", "cpu", "njit" or "cuda", optional
        The backend for this call, instead of the current one; see `set_backend`.
    n_threads : int, optional
        The largest number of threads to use.  Results are the same, bit for bit, for any number.

    Returns
    -------
    NumPy scalar, or an array of the shape of class indices for reduction="none"
        float64 for float64 logits, else float32.

    Raises
    ------
    IndexError
        A label is neither a class nor ignored.  The message names the first such label.
    ValueError, TypeError
        Shapes do not fit, a value is out of range, or a dtype is not of the right kind.
    RuntimeError
        The backend that was asked for cannot run here.  The message says why.

    Notes
    -----
    The names, the weighted mean, `ignore_index` and the smoothing are those of torch.nn.functional.cross_entropy;
    `sample_weight` is that of scikit-learn; the z-loss and the softcap are those of PaLM and Gemma 2.  Unlike in
    PyTorch, a class of probability 0 (a logit of −inf) contributes 0, not nan, to the loss where its target is 0.

    Examples
    --------
    >>> from xent_numba import cross_entropy
    >>> logits = [[2.0, 1.0, 0.1], [0.1, 2.0, 1.9]]
    >>> print(cross_entropy(logits, [1, 0]).round(3))
    2.019
    >>> print(cross_entropy(logits, [[0, 1, 0], [1, 0, 0]], reduction="none").round(3))
    [1.417 2.62 ]
    """
    options = make_options(axis, ignore_index, label_smoothing, reduction, logit_scale, softcap, z_loss, n_threads)
    if on_device(logits):
        found: Scalar | Array = device_arrays(backend).loss(options, logits, target, weight, sample_weight)[0]
        return found
    chosen = select(backend)
    return compute_loss(chosen, prepare(chosen, options, (logits, target, weight, sample_weight, None, None), LOSS))


@overload
def cross_entropy_and_grad(
    logits: ArrayLike,
    target: ArrayLike,
    *,
    reduction: Literal["mean", "sum"] = "mean",
    grad_out: Array | None = None,
    **options: Unpack[LossOptions],
) -> tuple[Scalar, Array]: ...
@overload
def cross_entropy_and_grad(
    logits: ArrayLike,
    target: ArrayLike,
    *,
    reduction: Literal["none"],
    grad_out: Array | None = None,
    **options: Unpack[LossOptions],
) -> tuple[Array, Array]: ...
@overload
def cross_entropy_and_grad(
    logits: ArrayLike,
    target: ArrayLike,
    *,
    reduction: str,
    grad_out: Array | None = None,
    **options: Unpack[LossOptions],
) -> tuple[Scalar | Array, Array]: ...
def cross_entropy_and_grad(
    logits: ArrayLike,
    target: ArrayLike,
    *,
    axis: int = -1,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: int | Iterable[int] | None = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    logit_scale: float = 1.0,
    softcap: float | None = None,
    z_loss: float = 0.0,
    backend: str | None = None,
    n_threads: int | None = None,
    grad_out: Array | None = None,
) -> tuple[Scalar | Array, Array]:
    """Softmax cross-entropy, in nats, and its gradient with respect to the logits, in one fused pass.

    With p = softmax(z) and the symbols of `cross_entropy`, and before the division that makes a mean,

        ∂loss_i/∂logits_ij = s_i f'(logits_ij) (T p_ij − t_ij + 2 · z_loss · lse(z_i) · p_ij)

    Parameters
    ----------
    logits, target, and all other options
        As in `cross_entropy`.
    grad_out : ndarray of the logits' shape and dtype, optional
        Receives the gradient.  It may be the logits themselves, which are then overwritten, but may not overlap any
        input otherwise.

    Returns
    -------
    loss : NumPy scalar or array
        As from `cross_entropy`, with the same bits if the gradient has the memory layout of the logits, which it has
        without `grad_out`.
    grad : ndarray of the logits' shape and dtype
        The gradient of the loss; for reduction="none", of the sum of the losses.  It is 0 in ignored rows, and
        everywhere if the divisor of a mean is 0.

    Raises
    ------
    IndexError, ValueError, TypeError, RuntimeError
        As in `cross_entropy`, before anything is written.  ValueError also for a `grad_out` that does not fit, is
        read-only or overlaps an input.

    Examples
    --------
    >>> from xent_numba import cross_entropy_and_grad
    >>> loss, grad = cross_entropy_and_grad([[2.0, 1.0, 0.1], [0.1, 2.0, 1.9]], [1, 0])
    >>> print(grad.round(3))
    [[ 0.33  -0.379  0.049]
     [-0.464  0.243  0.22 ]]
    """
    options = make_options(axis, ignore_index, label_smoothing, reduction, logit_scale, softcap, z_loss, n_threads)
    if on_device(logits):
        on_gpu = device_arrays(backend)
        both: tuple[Scalar | Array, Array] = on_gpu.loss(
            options, logits, target, weight, sample_weight, want_grad=True, out=grad_out
        )
        return both
    chosen = select(backend)
    call = prepare(chosen, options, (logits, target, weight, sample_weight, None, None), LOSS_AND_GRAD, grad_out)
    return compute_loss(chosen, call), call.grad  # type: ignore[return-value]


def cross_entropy_grad(
    logits: ArrayLike,
    target: ArrayLike,
    *,
    lse: ArrayLike | None = None,
    grad_output: ArrayLike | None = None,
    axis: int = -1,
    weight: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    ignore_index: int | Iterable[int] | None = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    logit_scale: float = 1.0,
    softcap: float | None = None,
    z_loss: float = 0.0,
    backend: str | None = None,
    n_threads: int | None = None,
    out: Array | None = None,
) -> Array:
    """Gradient of the softmax cross-entropy with respect to the logits, times an upstream gradient.

    It is the gradient that `cross_entropy_and_grad` returns, multiplied by `grad_output`.

    Parameters
    ----------
    logits, target, and all other options
        As in `cross_entropy`.
    lse : array_like of the shape of class indices, optional
        The logsumexp of each row of z, that is, of the logits after `logit_scale` and `softcap`, saved from an earlier
        pass.  It saves one pass over the logits.  The result is only as accurate as `lse` is: a float32 lse of 1e8 is
        a multiple of 8.
    grad_output : float, or array_like of the shape of class indices, optional
        ∂L/∂loss: one number for "mean" and "sum"; one for each row, or one for all, for "none".
    out : ndarray of the logits' shape and dtype, optional
        Receives the gradient.  It may be the logits themselves, which are then overwritten, but may not overlap any
        input otherwise.

    Returns
    -------
    ndarray of the logits' shape and dtype

    Raises
    ------
    IndexError, ValueError, TypeError, RuntimeError
        As in `cross_entropy_and_grad`.  ValueError also where `lse` or `grad_output` has another shape.

    Examples
    --------
    >>> from xent_numba import cross_entropy_grad
    >>> logits = [[2.0, 1.0, 0.1], [0.1, 2.0, 1.9]]
    >>> print(cross_entropy_grad(logits, [1, 0], grad_output=2.0).round(3))
    [[ 0.659 -0.758  0.099]
     [-0.927  0.487  0.44 ]]
    """
    options = make_options(axis, ignore_index, label_smoothing, reduction, logit_scale, softcap, z_loss, n_threads)
    if on_device(logits):
        grad: Array = device_arrays(backend).gradient(
            options, logits, target, weight, sample_weight, lse=lse, grad_output=grad_output, out=out
        )
        return grad
    chosen = select(backend)
    inputs = (logits, target, weight, sample_weight, lse, grad_output)
    call = prepare(chosen, options, inputs, GRAD, out)
    for slab in call.slabs:
        chosen.cross_entropy_grad(slab.problem, slab.grad, slab.lse, slab.grad_output)  # type: ignore[arg-type]
    return call.grad  # type: ignore[return-value]
