"""The loss of classes that are spread over several arrays or processes: the public function and its result."""

from __future__ import annotations

from typing import TYPE_CHECKING, overload

from xent_numba.backends.registry import device_arrays, select
from xent_numba.devices import on_device
from xent_numba.functions.parts import PartialCrossEntropy
from xent_numba.prepare.misuse import explain_misuse
from xent_numba.prepare.options import make_options
from xent_numba.prepare.shards import prepare_shard

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, Unpack

    import numpy as np
    from numpy.typing import NDArray

    from xent_numba.functions.signatures import (
        AnyArray,
        Half,
        Integer,
        Number,
        PartialOptions,
        Real,
        Reals,
    )

    Array = NDArray[Any]


@overload
def partial_cross_entropy(
    logits_shard: Reals[Real], target: AnyArray, *, n_classes: Integer, **options: Unpack[PartialOptions]
) -> PartialCrossEntropy[Real]: ...
@overload
def partial_cross_entropy(
    logits_shard: Half, target: AnyArray, *, n_classes: Integer, **options: Unpack[PartialOptions]
) -> PartialCrossEntropy[np.float32]: ...
@overload
def partial_cross_entropy(
    logits_shard: AnyArray, target: AnyArray, *, n_classes: Integer, **options: Unpack[PartialOptions]
) -> PartialCrossEntropy[Any]: ...
@explain_misuse
def partial_cross_entropy(
    logits_shard: AnyArray,
    target: AnyArray,
    *,
    class_offset: Integer = 0,
    n_classes: Integer,
    axis: Integer = -1,
    weight: AnyArray | None = None,
    sample_weight: AnyArray | None = None,
    ignore_index: Integer | Iterable[Integer] | None = -100,
    label_smoothing: Number = 0.0,
    logit_scale: Number = 1.0,
    softcap: Number | None = None,
    z_loss: Number = 0.0,
    focal_gamma: Number = 0.0,
    backend: str | None = None,
    n_threads: Integer | None = None,
) -> PartialCrossEntropy[Any]:
    """What some of the classes contribute to a softmax cross-entropy.

    The results of all shards, added in any order, give the loss and the gradient, although no process ever has the
    logits of more than its own classes.  Class indices count the classes of all shards, and smoothing is spread over
    them; a distribution and the class weights are those of the shard, sliced like the logits.

    Parameters
    ----------
    logits_shard : array_like of float64, float32, float16 or bfloat16
        The logits of some consecutive classes of each row, as `cross_entropy` takes those of all classes.
    target : array_like
        Class indices: integers, in the shape of the logits without `axis`.  Or a distribution over the classes:
        real numbers in the shape of the logits, whose rows need not sum to one; integers must be one-hot rows.
    class_offset : int, default 0
        The number of the first class of the shard.
    n_classes : int
        The number of the classes of all shards.
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
    PartialCrossEntropy
        A few numbers for each row.  Those of all shards are added with ``+``.

    Raises
    ------
    ValueError, TypeError, RuntimeError
        As in `cross_entropy`; ValueError also for classes beyond `n_classes`.  A label that is no class is an error of
        the loss, since any other shard may have its class.

    See Also
    --------
    PartialCrossEntropy : What can be done with the result.
    cross_entropy : The loss of classes that are all in one array; its notes define every symbol.

    Examples
    --------
    >>> import numpy as np
    >>> from xent_numba import cross_entropy, partial_cross_entropy
    >>> logits, target = np.array([[2.0, 1.0, 0.1, 3.0], [0.1, 2.0, 1.9, 0.0]]), [1, 2]
    >>> left = partial_cross_entropy(logits[:, :2], target, n_classes=4)
    >>> right = partial_cross_entropy(logits[:, 2:], target, class_offset=2, n_classes=4)
    >>> print((left + right).loss().round(3), cross_entropy(logits, target).round(3))
    1.664 1.664
    """
    options = make_options(
        axis, ignore_index, label_smoothing, "mean", logit_scale, softcap, z_loss, n_threads, focal_gamma
    )
    if on_device(logits_shard):
        device_arrays(backend).refuse_shards("partial_cross_entropy")
    chosen = select(backend)
    checked = prepare_shard(options, (logits_shard, target, weight, sample_weight), class_offset, n_classes)
    from xent_numba.sharding.build import state_of  # here, so that importing the package stays quick

    return PartialCrossEntropy(state_of(chosen, checked))
