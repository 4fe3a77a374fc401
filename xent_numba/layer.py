"""The loss as an object, for code that consists of layers with a forward and a backward call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xent_numba.api import cross_entropy, cross_entropy_grad
from xent_numba.backends.registry import select
from xent_numba.prepare.misuse import explain_misuse
from xent_numba.prepare.options import make_options

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from xent_numba.prepare.options import LossOptions

    Array = NDArray[Any]


class CrossEntropyLoss:
    """Softmax cross-entropy with its options fixed: call it for the loss, then `backward` for the gradient.

    The options are those of `cross_entropy`, and are validated when the object is made.  The object keeps references to
    the last logits and target, not copies, so neither may be changed in place between a call and its `backward`.

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

    @explain_misuse
    def __init__(
        self,
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
    ) -> None:
        """Validate and keep the options."""
        checked = make_options(axis, ignore_index, label_smoothing, reduction, logit_scale, softcap, z_loss, n_threads)
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
            "backend": backend,
            "n_threads": checked.n_threads,
        }
        self._last: tuple[ArrayLike, ArrayLike, ArrayLike | None] | None = None

    @explain_misuse
    def __call__(
        self, logits: ArrayLike, target: ArrayLike, *, sample_weight: ArrayLike | None = None
    ) -> np.floating[Any] | Array:
        """The loss, as from `cross_entropy`; a `sample_weight` replaces the object's own for this call."""
        weights = self.sample_weight if sample_weight is None else sample_weight
        self._last = None  # after a call that fails, `backward` must not use an older one
        options: LossOptions = {**self._options, "sample_weight": weights}
        loss = cross_entropy(logits, target, reduction=self.reduction, **options)
        self._last = (logits, target, weights)
        return loss

    @explain_misuse
    def backward(self, grad_output: ArrayLike = 1.0, *, out: Array | None = None) -> Array:
        """Gradient of the last loss with respect to the logits, times `grad_output`, as from `cross_entropy_grad`."""
        if self._last is None:
            raise RuntimeError("backward needs a loss first: call the object with logits and target")
        logits, target, weights = self._last
        options: LossOptions = {**self._options, "sample_weight": weights}
        return cross_entropy_grad(logits, target, grad_output=grad_output, reduction=self.reduction, out=out, **options)

    def __repr__(self) -> str:
        """The object as it would be written in code."""
        shown = {**self._options, "reduction": self.reduction, "sample_weight": self.sample_weight}
        return f"CrossEntropyLoss({', '.join(f'{name}={value!r}' for name, value in shown.items())})"
