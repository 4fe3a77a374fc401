"""The public functions of the loss, alone and with its gradient: their signatures and docstrings.

Each validates its options (`prepare.options`), chooses a backend (`backends.registry`), brings its arrays into
canonical form (`prepare.loss`), and has the backend compute them (`compute`).  The overloads tell type checkers which
logits and which `reduction` give what; `signatures` has their types.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, overload

from xent_numba.backends.registry import device_arrays, select
from xent_numba.compute import compute_loss
from xent_numba.devices import on_device
from xent_numba.prepare.loss import LOSS, LOSS_AND_GRAD, prepare
from xent_numba.prepare.misuse import explain_misuse
from xent_numba.prepare.options import make_options

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, Unpack

    import numpy as np
    from numpy.typing import NDArray

    from xent_numba.functions.signatures import (
        AnyArray,
        Half,
        Integer,
        LossOptions,
        Number,
        Real,
        Reals,
        Rows,
        Total,
        WithGradOut,
    )

    Array = NDArray[Any]
    Scalar = np.floating[Any]


@overload
def cross_entropy(
    logits: Reals[Real], target: AnyArray, *, reduction: Total = "mean", **options: Unpack[LossOptions]
) -> Real: ...
@overload
def cross_entropy(
    logits: Half, target: AnyArray, *, reduction: Total = "mean", **options: Unpack[LossOptions]
) -> np.float32: ...
@overload
def cross_entropy(
    logits: Reals[Real], target: AnyArray, *, reduction: Rows, **options: Unpack[LossOptions]
) -> NDArray[Real]: ...
@overload
def cross_entropy(
    logits: Half, target: AnyArray, *, reduction: Rows, **options: Unpack[LossOptions]
) -> NDArray[np.float32]: ...
@overload
def cross_entropy(
    logits: AnyArray, target: AnyArray, *, reduction: str = "mean", **options: Unpack[LossOptions]
) -> Any: ...
@explain_misuse
def cross_entropy(
    logits: AnyArray,
    target: AnyArray,
    *,
    axis: Integer = -1,
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
) -> Scalar | Array:
    """Softmax cross-entropy, in nats.

    The negative log-likelihood of the target, where the probabilities of the classes are the softmax of the logits.

    Parameters
    ----------
    logits : array_like of float64, float32, float16 or bfloat16
        Unnormalised log-probabilities, of any shape and with any strides.  They are copied only where they are
        lists or integers, which become float64.
    target : array_like
        Class indices: integers, in the shape of the logits without `axis`.  Or a distribution over the classes:
        real numbers in the shape of the logits, whose rows need not sum to one; integers must be one-hot rows.
    axis : int, default -1
        The axis of the classes.
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
        Of dtype float64 for float64 logits, else float32.  For logits on a GPU, an array of the same library there.

    Raises
    ------
    IndexError
        A label is neither a class nor ignored.  The message names the first such label.
    ValueError, TypeError
        Shapes do not fit, a value is out of range, or a dtype is not of the right kind.
    RuntimeError
        The backend that was asked for cannot run here.  The message says why.

    See Also
    --------
    cross_entropy_and_grad : The loss and its gradient in one fused pass.
    cross_entropy_grad : The gradient alone, times an upstream gradient.
    CrossEntropyLoss : The loss as a layer, with its options fixed.
    logsumexp : The term lse(z) of the loss, to be saved for the gradient.

    Notes
    -----
    For a row x of the logits, let z = f(x) be the transformed logits, t the effective target and T = Σ_j t_j.  Then

        loss = s (T · lse(z) − Σ_j t_j z_j + λ · lse(z)²),   with 0 · (−inf) = 0 where t_j = 0

    The transform is f(x) = logit_scale · x, or c · tanh(logit_scale · x / c) with a softcap c.  The effective target is
    t = w_y at the class y of an index target and 0 elsewhere, or t = w q for a distribution q.  Label smoothing turns
    it into (1 − ε) t + (ε/C) w.

    The mean divides the sum of the losses by Σ s w_y over the rows that are not ignored (class indices), or by Σ s
    (distribution).  Its z-loss is divided by Σ s in both cases.  It is nan where its divisor is 0.

    A focal factor lets rows count less the better they are predicted [6]_.  With p = softmax(z)_y, the loss of a row is

        loss = s (w_y (1 − p)^γ (−log p) + λ · lse(z)²)

    with all digits of 1 − p where p is nearly 1.  The divisor of the mean is Σ s w_y all the same, without the factors.
    A target in the shape of the logits is a distribution here, even if its rows are one-hot integers.

    A float64 distribution makes the arithmetic float64, whatever the dtype of the logits.  Logits are never changed.

    The names, the weighted mean, `ignore_index` and the smoothing [1]_ are those of PyTorch [2]_, `sample_weight` is
    that of scikit-learn [3]_, the z-loss that of PaLM [4]_ and the softcap that of Gemma 2 [5]_.  Unlike in PyTorch, a
    class of probability 0 (a logit of −inf) contributes 0, not nan, to the loss where its target is 0.

    References
    ----------
    .. [1] C. Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", section 7, CVPR 2016.
    .. [2] https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.cross_entropy.html
    .. [3] https://scikit-learn.org/stable/modules/generated/sklearn.metrics.log_loss.html
    .. [4] A. Chowdhery et al., "PaLM: Scaling Language Modeling with Pathways", section 5, JMLR 24(240), 2023.
    .. [5] Gemma Team, "Gemma 2: Improving Open Language Models at a Practical Size", section 2, arXiv:2408.00118, 2024.
    .. [6] T.-Y. Lin et al., "Focal Loss for Dense Object Detection", section 3, ICCV 2017.

    Examples
    --------
    >>> from xent_numba import cross_entropy
    >>> logits = [[2.0, 1.0, 0.1], [0.1, 2.0, 1.9]]
    >>> print(cross_entropy(logits, [1, 0]).round(3))
    2.019
    >>> print(cross_entropy(logits, [[0, 1, 0], [1, 0, 0]], reduction="none").round(3))
    [1.417 2.62 ]
    """
    options = make_options(
        axis, ignore_index, label_smoothing, reduction, logit_scale, softcap, z_loss, n_threads, focal_gamma
    )
    if on_device(logits):
        found: Scalar | Array = device_arrays(backend).loss(options, logits, target, weight, sample_weight)[0]
        return found
    chosen = select(backend)
    return compute_loss(chosen, prepare(chosen, options, (logits, target, weight, sample_weight, None, None), LOSS))


@overload
def cross_entropy_and_grad(
    logits: Reals[Real], target: AnyArray, *, reduction: Total = "mean", **options: Unpack[WithGradOut[Real]]
) -> tuple[Real, NDArray[Real]]: ...
@overload
def cross_entropy_and_grad(
    logits: Half, target: AnyArray, *, reduction: Total = "mean", **options: Unpack[WithGradOut[np.float16]]
) -> tuple[np.float32, Half]: ...
@overload
def cross_entropy_and_grad(
    logits: Reals[Real], target: AnyArray, *, reduction: Rows, **options: Unpack[WithGradOut[Real]]
) -> tuple[NDArray[Real], NDArray[Real]]: ...
@overload
def cross_entropy_and_grad(
    logits: Half, target: AnyArray, *, reduction: Rows, **options: Unpack[WithGradOut[np.float16]]
) -> tuple[NDArray[np.float32], Half]: ...
@overload
def cross_entropy_and_grad(
    logits: AnyArray, target: AnyArray, *, reduction: str = "mean", grad_out: Any = None, **options: Unpack[LossOptions]
) -> tuple[Any, Any]: ...
@explain_misuse
def cross_entropy_and_grad(
    logits: AnyArray,
    target: AnyArray,
    *,
    axis: Integer = -1,
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
    grad_out: Array | None = None,
) -> tuple[Scalar | Array, Array]:
    """Softmax cross-entropy, in nats, and its gradient with respect to the logits.

    Both come from one fused pass, which writes each element of the gradient once.

    Parameters
    ----------
    logits : array_like of float64, float32, float16 or bfloat16
        Unnormalised log-probabilities, of any shape and with any strides.  They are copied only where they are
        lists or integers, which become float64.
    target : array_like
        Class indices: integers, in the shape of the logits without `axis`.  Or a distribution over the classes:
        real numbers in the shape of the logits, whose rows need not sum to one; integers must be one-hot rows.
    axis : int, default -1
        The axis of the classes.
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
    grad_out : ndarray of the logits' shape and dtype, optional
        Receives the gradient.  It may be the logits themselves, which are then overwritten, but may not overlap
        any input otherwise.

    Returns
    -------
    loss : NumPy scalar, or ndarray in the shape of class indices for reduction="none"
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

    See Also
    --------
    cross_entropy : The loss alone; its notes define every symbol.
    cross_entropy_grad : The gradient alone, times an upstream gradient.
    CrossEntropyLoss : The loss as a layer, with its options fixed.

    Notes
    -----
    With p = softmax(z) and the symbols of `cross_entropy`, and before the division that makes a mean,

        ∂loss/∂x_j = s f'(x_j) (T p_j − t_j + 2 λ · lse(z) · p_j)

    With a focal factor, w_y in T and t_y has the factor (1 − p)^γ − γ (1 − p)^(γ−1) p log p, with p = p_y.

    Examples
    --------
    >>> from xent_numba import cross_entropy_and_grad
    >>> loss, grad = cross_entropy_and_grad([[2.0, 1.0, 0.1], [0.1, 2.0, 1.9]], [1, 0])
    >>> print(grad.round(3))
    [[ 0.33  -0.379  0.049]
     [-0.464  0.243  0.22 ]]
    """
    options = make_options(
        axis, ignore_index, label_smoothing, reduction, logit_scale, softcap, z_loss, n_threads, focal_gamma
    )
    if on_device(logits):
        on_gpu = device_arrays(backend)
        both: tuple[Scalar | Array, Array] = on_gpu.loss(
            options, logits, target, weight, sample_weight, want_grad=True, out=grad_out
        )
        return both
    chosen = select(backend)
    call = prepare(chosen, options, (logits, target, weight, sample_weight, None, None), LOSS_AND_GRAD, grad_out)
    return compute_loss(chosen, call), call.grad  # type: ignore[return-value]
