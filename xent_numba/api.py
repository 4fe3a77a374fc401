"""The loss functions: their signatures and what they promise.  The work is done by `problem` and a backend."""

from __future__ import annotations

from typing import TYPE_CHECKING, overload

from xent_numba.backends.registry import device_arrays, select
from xent_numba.devices import on_device
from xent_numba.prepare.aligned import aligned_slabs
from xent_numba.prepare.loss import prepare
from xent_numba.prepare.options import make_options
from xent_numba.reduction import reduced, total

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, Literal, Unpack

    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from xent_numba.backends.protocol import Backend
    from xent_numba.prepare.loss import Prepared
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

    With z = f(logits), s the sample weight and t the effective target of row i, T = Σ_j t_j:

        loss_i = s_i (T · lse(z_i) − Σ_j t_j z_ij + z_loss · lse(z_i)²),   0 · (−inf) = 0 where t_j = 0

    The target t is w_y at the class y of an index target, w q for a distribution q, and smoothing ε makes it
    (1 − ε) t + (ε/C) w.

    Parameters
    ----------
    logits : array_like of float64, float32, float16 or bfloat16
        Unnormalised log-probabilities, of any shape and strides, never changed, and copied
        only where they are lists or integers, which become float64.
    target : array_like
        Class indices (integers, the shape of logits without `axis`) or a distribution over the classes (real
        numbers, the shape of logits; rows need not sum to one; next to a float64 one, the arithmetic is float64).
    axis : int
        The axis of the classes.
    weight : array_like of shape (C,), optional
        Class weights w ≥ 0.
    sample_weight : array_like of the shape of class indices, optional
        Row weights s ≥ 0, as in scikit-learn.
    ignore_index : int, several ints or None
        Labels that mark a row to leave out: whatever its logits are, its loss and gradient are 0.
    label_smoothing : float between 0 and 1
        ε above.
    reduction : "mean", "sum" or "none"
        "mean" divides Σ loss_i by Σ s_i w_{y_i} over the rows that are not ignored (class indices) or by Σ s_i
        (distribution), and the z-loss by Σ s_i; it is nan where that is 0.  "none" returns the rows.
    logit_scale, softcap : float, float > 0 or None
        z = logit_scale · logits, or softcap · tanh(logit_scale · logits / softcap).
    z_loss : float ≥ 0
        Weight of lse², which keeps the logits from drifting.
    backend : "auto", "numpy", "cpu" or "cuda", optional
        Instead of the current one, see `set_backend`.
    n_threads : int, optional
        At most so many threads.  Results are the same, bit for bit, for any number.

    Returns
    -------
    NumPy scalar, or an array of the shape of class indices for reduction="none"
        float64 for float64 logits, else float32.

    Raises
    ------
    IndexError
        A label that is neither a class nor ignored; the message names the first one.
    ValueError, TypeError
        Shapes that do not fit, values out of range, dtypes that are not numbers of the right kind.
    RuntimeError
        A backend asked for by name that cannot run here, with the reason.

    Notes
    -----
    Names, the weighted mean, `ignore_index` and smoothing are those of torch.nn.functional.cross_entropy;
    `sample_weight` is scikit-learn's; z-loss and softcap are those of PaLM and Gemma 2.  Unlike PyTorch, a class
    of probability 0 (−inf) with target 0 adds 0, not nan.

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
    return _loss(chosen, prepare(chosen, options, logits, target, weight, sample_weight, want_rows=True))


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

    With p = softmax(z) and the symbols of `cross_entropy`, before the division that makes a mean:

        ∂loss_i/∂logits_ij = s_i f'(logits_ij) (T p_ij − t_ij + 2 · z_loss · lse(z_i) · p_ij)

    Parameters
    ----------
    grad_out : ndarray of the logits' shape and dtype, optional
        Where the gradient goes.  It may be the logits themselves (in place), and share memory with nothing else.
    logits, target, and all else
        As in `cross_entropy`.

    Returns
    -------
    loss : as from `cross_entropy`, bit for bit if the gradient is laid out as the logits, as it is without `grad_out`
    grad : ndarray of the logits' shape and dtype
        Of the loss; for reduction="none", of the sum of the rows.  0 in ignored rows, and everywhere if the
        denominator of a mean is 0.

    Raises
    ------
    As `cross_entropy`, before anything is written; ValueError for a `grad_out` that does not fit, is read-only or
    overlaps an input.

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
    call = prepare(
        chosen, options, logits, target, weight, sample_weight,
        want_rows=True, want_grad=True, out=grad_out, out_name="grad_out",
    )  # fmt: skip
    return _loss(chosen, call), call.grad  # type: ignore[return-value]


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
    """Gradient of the cross-entropy alone: that of `cross_entropy_and_grad`, times an upstream gradient.

    Parameters
    ----------
    lse : array_like of the shape of class indices, optional
        Saved logsumexp of each row of z, that is of the logits after `logit_scale` and `softcap`: spares one
        pass over them.  The result is as exact as it: a float32 lse of 1e8 knows nothing of the last few units.
    grad_output : float, or array_like of the shape of class indices, optional
        ∂L/∂loss: one number for "mean" and "sum"; one per row (or one for all) for "none".
    out : ndarray of the logits' shape and dtype, optional
        Where the gradient goes.  It may be the logits themselves (in place), and share memory with nothing else.
    logits, target, and all else
        As in `cross_entropy`.

    Returns
    -------
    ndarray of the logits' shape and dtype

    Raises
    ------
    As `cross_entropy_and_grad`; ValueError where `lse` or `grad_output` has another shape.

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
    call = prepare(
        chosen, options, logits, target, weight, sample_weight,
        want_grad=True, out=out, lse=lse, grad_output=grad_output,
    )  # fmt: skip
    for slab in aligned_slabs(call.slabs):
        chosen.cross_entropy_grad(slab.problem, slab.grad, slab.lse, slab.grad_output)  # type: ignore[arg-type]
    return call.grad  # type: ignore[return-value]


def _loss(backend: Backend, call: Prepared) -> Scalar | Array:
    """Run each slab, then reduce in the order of the rows."""
    rows = call.rows
    partials = [backend.cross_entropy(slab.problem, slab.rows, slab.grad) for slab in aligned_slabs(call.slabs)]
    if rows is not None:
        return rows if rows.ndim else rows[()]
    return reduced(total(partials), call.denominator, call.dtype)  # type: ignore[arg-type]
