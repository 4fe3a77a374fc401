"""The loss as an object, for code that consists of layers with a forward and a backward call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, overload

from xent_numba.backends.registry import select
from xent_numba.functions.gradient import cross_entropy_grad
from xent_numba.functions.loss import cross_entropy
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
        Reduction,
        Rows,
        Total,
    )

    Array = NDArray[Any]
else:
    from typing import TypeVar

    Reduction = TypeVar("Reduction")


# Undecorated: the names of the arguments are right here, and to look at them takes a tenth of the time of a small call.
_loss = cross_entropy.__wrapped__  # type: ignore[attr-defined]


class CrossEntropyLoss(Generic[Reduction]):
    """Softmax cross-entropy with its options fixed: call it for the loss, then `backward` for the gradient.

    The options are validated when the object is made.  It keeps references to the last logits and target, not copies,
    so neither may be changed in place between a call and its `backward`.

    Parameters
    ----------
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

    Attributes
    ----------
    reduction : str
        As passed.
    sample_weight : array_like or None
        As passed; it may be replaced between calls.

    Methods
    -------
    __call__(logits, target, *, sample_weight=None)
        The loss.
    backward(grad_output=1.0, *, out=None)
        Gradient of the last loss.

    Raises
    ------
    ValueError, TypeError, RuntimeError
        As in `cross_entropy`, for the options when the object is made, and for the arrays when it is called.

    See Also
    --------
    cross_entropy : The function for the loss; its notes define every symbol.
    cross_entropy_and_grad : The loss and its gradient in one fused pass, which is faster.
    cross_entropy_grad : The function for the gradient.

    Examples
    --------
    >>> from xent_numba import CrossEntropyLoss
    >>> xent = CrossEntropyLoss()
    >>> print(xent([[2.0, 1.0, 0.1], [0.1, 2.0, 1.9]], [1, 0]).round(3))
    2.019
    >>> print(xent.backward().round(3))
    [[ 0.33  -0.379  0.049]
     [-0.464  0.243  0.22 ]]
    """

    @overload
    def __init__(
        self: CrossEntropyLoss[Total], *, reduction: Total = "mean", **options: Unpack[LossOptions]
    ) -> None: ...
    @overload
    def __init__(self: CrossEntropyLoss[Rows], *, reduction: Rows, **options: Unpack[LossOptions]) -> None: ...
    @overload
    def __init__(self: CrossEntropyLoss[str], *, reduction: str, **options: Unpack[LossOptions]) -> None: ...
    @explain_misuse
    def __init__(
        self,
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
    ) -> None:
        """Validate and keep the options."""
        checked = make_options(
            axis, ignore_index, label_smoothing, reduction, logit_scale, softcap, z_loss, n_threads, focal_gamma
        )
        if backend is not None:
            select(backend)
        self.reduction = checked.reduction
        self.sample_weight = sample_weight
        self._options: LossOptions = {
            "axis": checked.axis,
            "weight": weight,
            "ignore_index": checked.ignore_index,
            "label_smoothing": checked.label_smoothing,
            "logit_scale": checked.logit_scale,
            "softcap": checked.softcap,
            "z_loss": checked.z_loss,
            "focal_gamma": checked.focal_gamma,
            "backend": backend,
            "n_threads": checked.n_threads,
        }
        self._last: tuple[AnyArray, AnyArray, AnyArray | None] | None = None

    @overload
    def __call__(
        self: CrossEntropyLoss[Total],
        logits: Reals[Real],
        target: AnyArray,
        *,
        sample_weight: AnyArray | None = None,
    ) -> Real: ...
    @overload
    def __call__(
        self: CrossEntropyLoss[Total], logits: Half, target: AnyArray, *, sample_weight: AnyArray | None = None
    ) -> np.float32: ...
    @overload
    def __call__(
        self: CrossEntropyLoss[Rows], logits: Reals[Real], target: AnyArray, *, sample_weight: AnyArray | None = None
    ) -> NDArray[Real]: ...
    @overload
    def __call__(
        self: CrossEntropyLoss[Rows], logits: Half, target: AnyArray, *, sample_weight: AnyArray | None = None
    ) -> NDArray[np.float32]: ...
    @overload
    def __call__(self, logits: AnyArray, target: AnyArray, *, sample_weight: AnyArray | None = None) -> Any: ...
    @explain_misuse
    def __call__(
        self, logits: AnyArray, target: AnyArray, *, sample_weight: AnyArray | None = None
    ) -> np.floating[Any] | Array:
        """The loss of one batch, with the options of the object.

        The logits and the target are kept for `backward`.

        Parameters
        ----------
        logits : array_like of float64, float32, float16 or bfloat16
            Unnormalised log-probabilities, of any shape and with any strides.  They are copied only where they are
            lists or integers, which become float64.
        target : array_like
            Class indices: integers, in the shape of the logits without `axis`.  Or a distribution over the classes:
            real numbers in the shape of the logits, whose rows need not sum to one; integers must be one-hot rows.
        sample_weight : array_like in the shape of class indices, optional
            Weights s ≥ 0 of the rows, in place of the object's own for this call.

        Returns
        -------
        NumPy scalar, or ndarray in the shape of class indices for reduction="none"
            As from `cross_entropy`.

        See Also
        --------
        cross_entropy : The same as a function.

        Examples
        --------
        >>> from xent_numba import CrossEntropyLoss
        >>> print(CrossEntropyLoss(reduction="none")([[0.0, 0.0], [0.0, 3.0]], [0, 1]).round(3))
        [0.693 0.049]
        """
        weights = self.sample_weight if sample_weight is None else sample_weight
        self._last = None  # after a call that fails, `backward` must not use an older one
        options: LossOptions = {**self._options, "sample_weight": weights}
        loss: np.floating[Any] | Array = _loss(logits, target, reduction=self.reduction, **options)
        self._last = (logits, target, weights)
        return loss

    @explain_misuse
    def backward(self, grad_output: AnyArray = 1.0, *, out: Array | None = None) -> Array:
        """Gradient of the last loss with respect to the logits, times an upstream gradient.

        It is computed from the logits again, as by `cross_entropy_grad`.

        Parameters
        ----------
        grad_output : float, or array_like in the shape of class indices, default 1.0
            The upstream gradient ∂L/∂loss: one number for "mean" and "sum"; one for each row, or one for all, for
            "none".
        out : ndarray of the logits' shape and dtype, optional
            Receives the gradient.  It may be the logits themselves, which are then overwritten, but may not overlap
            any input otherwise.

        Returns
        -------
        ndarray of the logits' shape and dtype
            The gradient.

        Raises
        ------
        RuntimeError
            The object was not called before, or its last call failed.

        See Also
        --------
        cross_entropy_grad : The same as a function.

        Examples
        --------
        >>> from xent_numba import CrossEntropyLoss
        >>> xent = CrossEntropyLoss()
        >>> loss = xent([[0.0, 0.0]], [0])
        >>> print(xent.backward(grad_output=2.0))
        [[-1.  1.]]
        """
        if self._last is None:
            raise RuntimeError("backward needs a loss first: call the object with logits and target")
        logits, target, weights = self._last
        options: LossOptions = {**self._options, "sample_weight": weights}
        grad: Array = cross_entropy_grad(
            logits, target, grad_output=grad_output, reduction=self.reduction, out=out, **options
        )
        return grad

    def __repr__(self) -> str:
        """The object as it would be written in code."""
        shown = {**self._options, "reduction": self.reduction, "sample_weight": self.sample_weight}
        return f"CrossEntropyLoss({', '.join(f'{name}={value!r}' for name, value in shown.items())})"
