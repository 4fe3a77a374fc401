"""The public functions of the second derivatives: Hessian-vector products, and the diagonal of the Hessian."""

from __future__ import annotations

from typing import TYPE_CHECKING, overload

from xent_numba.backends.registry import device_arrays, select
from xent_numba.devices import on_device
from xent_numba.prepare.curvature import prepare_grad_and_hessian_diag, prepare_hvp
from xent_numba.prepare.misuse import explain_misuse
from xent_numba.prepare.options import as_flag, make_options

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, Unpack

    from numpy.typing import NDArray

    from xent_numba.functions.signatures import AnyArray, Float, Floats, Integer, Number, WithGaussNewton, WithReduction

    Array = NDArray[Any]


@overload
def cross_entropy_hvp(
    logits: Floats[Float],
    target: AnyArray,
    vector: AnyArray,
    *,
    out: NDArray[Float] | None = None,
    **options: Unpack[WithGaussNewton],
) -> NDArray[Float]: ...
@overload
def cross_entropy_hvp(
    logits: AnyArray, target: AnyArray, vector: AnyArray, *, out: Any = None, **options: Unpack[WithGaussNewton]
) -> Any: ...
@explain_misuse
def cross_entropy_hvp(
    logits: AnyArray,
    target: AnyArray,
    vector: AnyArray,
    *,
    gauss_newton: bool = False,
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
    out: Array | None = None,
) -> Array:
    """Hessian of the softmax cross-entropy with respect to the logits, times a vector.

    It is the derivative of the gradient that `cross_entropy_and_grad` returns, in the direction of the vector.  The
    Hessian itself is never formed.

    Parameters
    ----------
    logits : array_like of float64, float32, float16 or bfloat16
        Unnormalised log-probabilities, of any shape and with any strides.  They are copied only where they are
        lists or integers, which become float64.
    target : array_like
        Class indices: integers, in the shape of the logits without `axis`.  Or a distribution over the classes:
        real numbers in the shape of the logits, whose rows need not sum to one; integers must be one-hot rows.
    vector : array_like of the logits' shape
        The direction v: float64, float32, float16 or bfloat16, with any strides.  It is copied only where it is of
        another type or a list, which become float64.
    gauss_newton : bool, default False
        Leave out the curvature of the softcap, so that H is the Gauss–Newton matrix of the loss of f(x): positive
        semi-definite as long as T + 2 λ · lse(z) ≥ 0.  Without a softcap, this changes nothing.
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
    out : ndarray of the logits' shape and dtype, optional
        Receives the product.  It may be the logits or the vector themselves, which are then overwritten, but may
        not overlap any input otherwise.

    Returns
    -------
    ndarray of the logits' shape and dtype
        H v, where H is the Hessian of the loss; for reduction="none", of the sum of the losses.  It is 0 in ignored
        rows, of whose vector nothing is read either, and everywhere if the divisor of a mean is 0.

    Raises
    ------
    IndexError, ValueError, TypeError, RuntimeError
        As in `cross_entropy_and_grad`.  ValueError also for a vector of another shape than the logits, and TypeError
        for one that is not of real numbers.

    See Also
    --------
    cross_entropy_grad_and_hessian_diag : The gradient and the diagonal of the Hessian.
    cross_entropy_and_grad : The loss and its gradient.
    cross_entropy : The loss alone; its notes define every symbol.

    Notes
    -----
    With p = softmax(z), u = f'(x) v, ⟨p, u⟩ = Σ_j p_j u_j and the symbols of `cross_entropy`, and before the division
    that makes a mean,

        (H v)_j = s f'(x_j) p_j ((T + 2 λ · lse(z)) (u_j − ⟨p, u⟩) + 2 λ ⟨p, u⟩) + f''(x_j) v_j · ∂loss/∂z_j

    where ∂loss/∂z_j = s (T p_j − t_j + 2 λ · lse(z) · p_j).  The last term, which `gauss_newton` leaves out, is 0
    unless there is a softcap.  With a `focal_gamma`, t_y and T are w_y φ instead of w_y, and
    s f'(x_j) w_y ψ (u_y − ⟨p, u⟩) (p_j − [j = y]) is added; with q = 1 − p_y, these factors are

        φ = q^γ − γ q^(γ−1) p_y log p_y        ψ = p_y dφ/dp_y

    The rows are independent of each other: each is multiplied by a Hessian of its own.  A float64 vector makes the
    arithmetic float64, whatever the dtype of the logits.  In float32 arithmetic, differences of the values of the
    vector must be smaller than 1e28; otherwise the product may be infinite or nan.

    Examples
    --------
    >>> from xent_numba import cross_entropy_hvp
    >>> logits = [[2.0, 1.0, 0.1], [0.1, 2.0, 1.9]]
    >>> print(cross_entropy_hvp(logits, [1, 0], [[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]]).round(3))
    [[ 0.112 -0.08  -0.032]
     [ 0.     0.     0.   ]]
    """
    flag = as_flag("gauss_newton", gauss_newton)
    options = make_options(
        axis, ignore_index, label_smoothing, reduction, logit_scale, softcap, z_loss, n_threads, focal_gamma
    )
    if on_device(logits):
        product: Array = device_arrays(backend).hvp(
            options, logits, target, vector, weight, sample_weight, gauss_newton=flag, out=out
        )
        return product
    chosen = select(backend)
    call = prepare_hvp(chosen, options, (logits, target, weight, sample_weight, None, None), vector, out)
    for slab in call.slabs:
        chosen.cross_entropy_hvp(slab.problem, slab.vector, slab.grad, flag)  # type: ignore[arg-type]
    return call.result


@overload
def cross_entropy_grad_and_hessian_diag(
    logits: Floats[Float],
    target: AnyArray,
    *,
    grad_out: NDArray[Float] | None = None,
    diag_out: NDArray[Float] | None = None,
    **options: Unpack[WithReduction],
) -> tuple[NDArray[Float], NDArray[Float]]: ...
@overload
def cross_entropy_grad_and_hessian_diag(
    logits: AnyArray,
    target: AnyArray,
    *,
    grad_out: Any = None,
    diag_out: Any = None,
    **options: Unpack[WithReduction],
) -> tuple[Any, Any]: ...
@explain_misuse
def cross_entropy_grad_and_hessian_diag(
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
    diag_out: Array | None = None,
) -> tuple[Array, Array]:
    """Gradient of the softmax cross-entropy with respect to the logits, and the diagonal of its Hessian.

    Both come from one fused pass, as gradient boosting and diagonal Newton steps want them.

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
    diag_out : ndarray of the logits' shape and dtype, optional
        Receives the diagonal.  It may not overlap any input, nor `grad_out`.

    Returns
    -------
    grad : ndarray of the logits' shape and dtype
        The gradient of the loss; for reduction="none", of the sum of the losses.  It is 0 in ignored rows, and
        everywhere if the divisor of a mean is 0.
    diag : ndarray of the logits' shape and dtype
        The second derivative of the same with respect to each logit, 0 in the same places.

    Raises
    ------
    IndexError, ValueError, TypeError, RuntimeError
        As in `cross_entropy_and_grad`.  ValueError also for a `diag_out` that does not fit, is read-only, or overlaps
        an input or `grad_out`.

    See Also
    --------
    cross_entropy_hvp : The whole Hessian, times a vector.
    cross_entropy_and_grad : The loss and its gradient.
    cross_entropy : The loss alone; its notes define every symbol.

    Notes
    -----
    With p = softmax(z) and the symbols of `cross_entropy`, and before the division that makes a mean, the diagonal is

        ∂²loss/∂x_j² = s f'(x_j)² p_j ((T + 2 λ · lse(z)) (1 − p_j) + 2 λ p_j) + f''(x_j) · ∂loss/∂z_j

    where ∂loss/∂z_j = s (T p_j − t_j + 2 λ · lse(z) · p_j).  The last term is 0 unless there is a softcap.  1 − p_j is
    the sum of the other probabilities, so the diagonal keeps its digits where a row is certain of its class.  With a
    `focal_gamma`, t_y and T are w_y φ instead of w_y, and s f'(x_j)² w_y ψ (p_j − [j = y])² is subtracted, with the
    factors φ and ψ of `cross_entropy_hvp`.

    Examples
    --------
    >>> from xent_numba import cross_entropy_grad_and_hessian_diag
    >>> grad, diag = cross_entropy_grad_and_hessian_diag([[2.0, 1.0, 0.1], [0.1, 2.0, 1.9]], [1, 0])
    >>> print(diag.round(3))
    [[0.112 0.092 0.044]
     [0.034 0.125 0.123]]
    """
    options = make_options(
        axis, ignore_index, label_smoothing, reduction, logit_scale, softcap, z_loss, n_threads, focal_gamma
    )
    if on_device(logits):
        both: tuple[Array, Array] = device_arrays(backend).grad_and_hessian_diag(
            options, logits, target, weight, sample_weight, grad_out=grad_out, diag_out=diag_out
        )
        return both
    chosen = select(backend)
    inputs = (logits, target, weight, sample_weight, None, None)
    call = prepare_grad_and_hessian_diag(chosen, options, inputs, grad_out, diag_out)
    for slab in call.slabs:
        chosen.cross_entropy_grad_and_hessian_diag(slab.problem, slab.grad, slab.hessian_diag)  # type: ignore[arg-type]
    return call.result, call.diag
