"""The public function of the gradient alone, for chains of gradients: its signature and docstring."""

from __future__ import annotations

from typing import TYPE_CHECKING, overload

from xent_numba.backends.registry import device_arrays, select
from xent_numba.devices import on_device
from xent_numba.prepare.loss import GRAD, prepare
from xent_numba.prepare.misuse import explain_misuse
from xent_numba.prepare.options import make_options

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, Unpack

    from numpy.typing import NDArray

    from xent_numba.functions.signatures import AnyArray, Float, Floats, Integer, Number, WithGradOutput

    Array = NDArray[Any]


@overload
def cross_entropy_grad(
    logits: Floats[Float], target: AnyArray, *, out: NDArray[Float] | None = None, **options: Unpack[WithGradOutput]
) -> NDArray[Float]: ...
@overload
def cross_entropy_grad(
    logits: AnyArray, target: AnyArray, *, out: Any = None, **options: Unpack[WithGradOutput]
) -> Any: ...
@explain_misuse
def cross_entropy_grad(
    logits: AnyArray,
    target: AnyArray,
    *,
    lse: AnyArray | None = None,
    grad_output: AnyArray | None = None,
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
    """Gradient of the softmax cross-entropy with respect to the logits, times an upstream gradient.

    It is the gradient that `cross_entropy_and_grad` returns, multiplied by `grad_output`.

    Parameters
    ----------
    logits : array_like of float64, float32, float16 or bfloat16
        Unnormalised log-probabilities, of any shape and with any strides.  They are copied only where they are
        lists or integers, which become float64.
    target : array_like
        Class indices: integers, in the shape of the logits without `axis`.  Or a distribution over the classes:
        real numbers in the shape of the logits, whose rows need not sum to one; integers must be one-hot rows.
    lse : array_like in the shape of class indices, optional
        The logsumexp of each row from an earlier pass, which saves one pass over the logits: that of the logits
        after `logit_scale` and `softcap`.
    grad_output : float, or array_like in the shape of class indices, optional
        The upstream gradient ∂L/∂loss: one number for "mean" and "sum"; one for each row, or one for all, for
        "none".
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
        Receives the gradient.  It may be the logits themselves, which are then overwritten, but may not overlap
        any input otherwise.

    Returns
    -------
    ndarray of the logits' shape and dtype
        The gradient of the loss, or for reduction="none" of the sum of the losses, each times its `grad_output`.

    Raises
    ------
    IndexError, ValueError, TypeError, RuntimeError
        As in `cross_entropy_and_grad`.  ValueError also where `lse` or `grad_output` has another shape.

    See Also
    --------
    cross_entropy_and_grad : The loss and its gradient in one fused pass; its notes have the formula.
    cross_entropy : The loss alone; its notes define every symbol.
    CrossEntropyLoss : The loss as a layer, whose `backward` calls this function.
    logsumexp : What to pass as `lse`.

    Notes
    -----
    The result is only as accurate as `lse` is: a float32 lse of 1e8 is a multiple of 8.  With `focal_gamma`, a saved
    `lse` saves no time, because each row is read twice all the same.

    Examples
    --------
    >>> from xent_numba import cross_entropy_grad
    >>> logits = [[2.0, 1.0, 0.1], [0.1, 2.0, 1.9]]
    >>> print(cross_entropy_grad(logits, [1, 0], grad_output=2.0).round(3))
    [[ 0.659 -0.758  0.099]
     [-0.927  0.487  0.44 ]]
    """
    options = make_options(
        axis, ignore_index, label_smoothing, reduction, logit_scale, softcap, z_loss, n_threads, focal_gamma
    )
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
