"""The public functions of distillation: the divergence of a student from its teacher, and its gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, overload

from xent_numba.backends.registry import device_arrays, select
from xent_numba.compute import compute_distillation
from xent_numba.devices import on_device
from xent_numba.prepare.distillation import make_distillation_options, prepare_distillation
from xent_numba.prepare.misuse import explain_misuse

if TYPE_CHECKING:
    from typing import Any, Unpack

    import numpy as np
    from numpy.typing import NDArray

    from xent_numba.functions.signatures import (
        AnyArray,
        DistillationOptions,
        DistillationWithGradOut,
        Half,
        Integer,
        Number,
        Real,
        Reals,
        Rows,
        Total,
    )

    Array = NDArray[Any]
    Scalar = np.floating[Any]


@overload
def distillation_loss(
    student_logits: Reals[Real],
    teacher_logits: AnyArray,
    *,
    reduction: Total = "mean",
    **options: Unpack[DistillationOptions],
) -> Real: ...
@overload
def distillation_loss(
    student_logits: Half,
    teacher_logits: AnyArray,
    *,
    reduction: Total = "mean",
    **options: Unpack[DistillationOptions],
) -> np.float32: ...
@overload
def distillation_loss(
    student_logits: Reals[Real], teacher_logits: AnyArray, *, reduction: Rows, **options: Unpack[DistillationOptions]
) -> NDArray[Real]: ...
@overload
def distillation_loss(
    student_logits: Half, teacher_logits: AnyArray, *, reduction: Rows, **options: Unpack[DistillationOptions]
) -> NDArray[np.float32]: ...
@overload
def distillation_loss(
    student_logits: AnyArray,
    teacher_logits: AnyArray,
    *,
    reduction: str = "mean",
    **options: Unpack[DistillationOptions],
) -> Any: ...
@explain_misuse
def distillation_loss(
    student_logits: AnyArray,
    teacher_logits: AnyArray,
    *,
    temperature: Number = 1.0,
    temperature_squared: bool | np.bool = False,
    reduction: str = "mean",
    axis: Integer = -1,
    sample_weight: AnyArray | None = None,
    backend: str | None = None,
    n_threads: Integer | None = None,
) -> Scalar | Array:
    """Divergence of a student's probabilities from those of its teacher, in nats.

    It is the Kullback-Leibler divergence KL(softmax(teacher / τ) ‖ softmax(student / τ)) of each row, at a temperature
    τ.  It is never negative, 0 for equal probabilities, and accurate even where they are nearly
    equal.

    Parameters
    ----------
    student_logits : array_like of float64, float32, float16 or bfloat16
        Unnormalised log-probabilities, of any shape and with any strides.  They are copied only where they are
        lists or integers, which become float64.
    teacher_logits : array_like of the same shape, of float64, float32, float16 or bfloat16
        Those of the teacher, of any of these dtypes and with any strides.
    temperature : float, default 1.0
        What both logits are divided by, τ > 0: higher temperatures make the probabilities more equal.
    temperature_squared : bool, default False
        Whether the loss is multiplied by τ², so that its gradient keeps its size as τ grows.
    reduction : {"mean", "sum", "none"}, default "mean"
        The weighted mean of the losses of the rows, their sum, or all of them.
    axis : int, default -1
        The axis of the classes.
    sample_weight : array_like in the shape of class indices, optional
        Weights s ≥ 0 of the rows.
    backend : str, optional
        The backend for this call, instead of the current one: a name that `set_backend` takes.
    n_threads : int, optional
        The largest number of threads to use.  Results have the same bits for any number.

    Returns
    -------
    NumPy scalar, or ndarray in the shape of class indices for reduction="none"
        Of dtype float64 for a student of float64, else float32.

    Raises
    ------
    ValueError, TypeError, RuntimeError
        As in `cross_entropy`.  ValueError also where the shapes differ, or where the temperature is not above 0.

    See Also
    --------
    distillation_loss_and_grad : The loss and its gradient for the student.
    cross_entropy : The loss with labels, or with the probabilities of a teacher.

    Notes
    -----
    With p = softmax(t/τ) and q = softmax(s/τ) for a row t of the teacher and a row s of the student,

        loss = Σ_j p_j (log p_j − log q_j),   with 0 · log 0 = 0

    The cross-entropy of p and q is this plus the entropy of p, which does not depend on the student; so both have the
    same gradient for the student.  The mean is Σ s loss / Σ s with sample weights s, and nan where its divisor is 0.

    A class that the teacher excludes, by a logit of −inf, adds 0.  Where the student excludes one that the teacher
    allows, the loss is inf.  A row of −inf alone, or with a NaN or +inf, in either array, is nan.

    The temperature is that of Hinton et al. [1]_, who multiply by τ² where this loss is added to one of labels.

    References
    ----------
    .. [1] G. Hinton, O. Vinyals, J. Dean, "Distilling the Knowledge in a Neural Network", section 2, arXiv:1503.02531,
       2015.

    Examples
    --------
    >>> from xent_numba import distillation_loss
    >>> student, teacher = [[2.0, 1.0, 0.1], [0.1, 2.0, 1.9]], [[2.0, 1.0, 0.3], [0.1, 1.5, 1.9]]
    >>> print(distillation_loss(student, teacher).round(4))
    0.016
    >>> print(distillation_loss(student, teacher, temperature=2.0, temperature_squared=True, reduction="none").round(4))
    [0.0033 0.0296]
    """
    options = make_distillation_options(axis, temperature, temperature_squared, reduction, n_threads)
    if on_device(student_logits):
        loss: Scalar | Array = device_arrays(backend).distillation(
            options, student_logits, teacher_logits, sample_weight
        )[0]
        return loss
    chosen = select(backend)
    call = prepare_distillation(options, (student_logits, teacher_logits, sample_weight), want_grad=False)
    return compute_distillation(chosen, call)


@overload
def distillation_loss_and_grad(
    student_logits: Reals[Real],
    teacher_logits: AnyArray,
    *,
    reduction: Total = "mean",
    **options: Unpack[DistillationWithGradOut[Real]],
) -> tuple[Real, NDArray[Real]]: ...
@overload
def distillation_loss_and_grad(
    student_logits: Half,
    teacher_logits: AnyArray,
    *,
    reduction: Total = "mean",
    **options: Unpack[DistillationWithGradOut[np.float16]],
) -> tuple[np.float32, Half]: ...
@overload
def distillation_loss_and_grad(
    student_logits: Reals[Real],
    teacher_logits: AnyArray,
    *,
    reduction: Rows,
    **options: Unpack[DistillationWithGradOut[Real]],
) -> tuple[NDArray[Real], NDArray[Real]]: ...
@overload
def distillation_loss_and_grad(
    student_logits: Half,
    teacher_logits: AnyArray,
    *,
    reduction: Rows,
    **options: Unpack[DistillationWithGradOut[np.float16]],
) -> tuple[NDArray[np.float32], Half]: ...
@overload
def distillation_loss_and_grad(
    student_logits: AnyArray,
    teacher_logits: AnyArray,
    *,
    reduction: str = "mean",
    grad_out: Any = None,
    **options: Unpack[DistillationOptions],
) -> tuple[Any, Any]: ...
@explain_misuse
def distillation_loss_and_grad(
    student_logits: AnyArray,
    teacher_logits: AnyArray,
    *,
    temperature: Number = 1.0,
    temperature_squared: bool | np.bool = False,
    reduction: str = "mean",
    axis: Integer = -1,
    sample_weight: AnyArray | None = None,
    backend: str | None = None,
    n_threads: Integer | None = None,
    grad_out: Array | None = None,
) -> tuple[Scalar | Array, Array]:
    """Divergence of a student's probabilities from those of its teacher, in nats, and its gradient for the student.

    Neither array is copied, and nothing of their size is stored but the gradient.

    Parameters
    ----------
    student_logits : array_like of float64, float32, float16 or bfloat16
        Unnormalised log-probabilities, of any shape and with any strides.  They are copied only where they are
        lists or integers, which become float64.
    teacher_logits : array_like of the same shape, of float64, float32, float16 or bfloat16
        Those of the teacher, of any of these dtypes and with any strides.
    temperature : float, default 1.0
        What both logits are divided by, τ > 0: higher temperatures make the probabilities more equal.
    temperature_squared : bool, default False
        Whether the loss is multiplied by τ², so that its gradient keeps its size as τ grows.
    reduction : {"mean", "sum", "none"}, default "mean"
        The weighted mean of the losses of the rows, their sum, or all of them.
    axis : int, default -1
        The axis of the classes.
    sample_weight : array_like in the shape of class indices, optional
        Weights s ≥ 0 of the rows.
    backend : str, optional
        The backend for this call, instead of the current one: a name that `set_backend` takes.
    n_threads : int, optional
        The largest number of threads to use.  Results have the same bits for any number.
    grad_out : ndarray of the student's shape and dtype, optional
        Receives the gradient.  It may be the student's logits themselves, which are then overwritten, but may not
        overlap any input otherwise.

    Returns
    -------
    loss : NumPy scalar, or ndarray in the shape of class indices for reduction="none"
        As from `distillation_loss`, with the same bits if the gradient has the memory layout of the student's logits,
        which it has without `grad_out`.
    grad : ndarray of the student's shape and dtype
        The gradient of the loss; for reduction="none", of the sum of the losses.  It is 0 everywhere if the divisor of
        a mean is 0.

    Raises
    ------
    ValueError, TypeError, RuntimeError
        As in `distillation_loss`, before anything is written.  ValueError also for a `grad_out` that does not fit, is
        read-only or overlaps an input.

    See Also
    --------
    distillation_loss : The loss alone; its notes define every symbol.
    cross_entropy_and_grad : The loss with labels, or with the probabilities of a teacher.

    Notes
    -----
    Before the division that makes a mean, and without the factor τ²,

        ∂loss/∂s_j = s (q_j − p_j) / τ,   where s in front is the sample weight

    Examples
    --------
    >>> from xent_numba import distillation_loss_and_grad
    >>> student, teacher = [[2.0, 1.0, 0.1], [0.1, 2.0, 1.9]], [[2.0, 1.0, 0.3], [0.1, 1.5, 1.9]]
    >>> loss, grad = distillation_loss_and_grad(student, teacher, temperature=2.0)
    >>> print(grad.round(4))
    [[ 0.0025  0.0015 -0.004 ]
     [-0.0043  0.015  -0.0106]]
    """
    options = make_distillation_options(axis, temperature, temperature_squared, reduction, n_threads)
    if on_device(student_logits):
        both: tuple[Scalar | Array, Array] = device_arrays(backend).distillation(
            options, student_logits, teacher_logits, sample_weight, want_grad=True, out=grad_out
        )
        return both
    chosen = select(backend)
    call = prepare_distillation(options, (student_logits, teacher_logits, sample_weight), grad_out, want_grad=True)
    return compute_distillation(chosen, call), call.grad  # type: ignore[return-value]
