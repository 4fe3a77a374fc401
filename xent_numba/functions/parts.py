"""The contributions of shards of the classes to a loss, which are added up: the public class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, overload

from xent_numba.backends.registry import device_arrays, select
from xent_numba.devices import on_device
from xent_numba.prepare.misuse import explain_misuse
from xent_numba.prepare.options import make_options
from xent_numba.prepare.shards import prepare_shard

if TYPE_CHECKING:
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray

    from xent_numba.functions.signatures import AnyArray, Float, Floats, Integer, Real, Rows, Same, Total
    from xent_numba.sharding.state import State

    Array = NDArray[Any]
else:
    from typing import TypeVar

    Real = TypeVar("Real")


class PartialCrossEntropy(Generic[Real]):
    """What one or several shards of the classes contribute to a cross-entropy, made by `partial_cross_entropy`.

    Parts of one loss are added with ``+``, in any order and however they are grouped, which changes no more than the
    last bits; `sum` adds them too.  They hold 11 numbers for each row, never logits, and can be pickled.

    Parameters
    ----------
    state : object
        The contents, which only this package makes and reads.

    Attributes
    ----------
    n_classes : int
        The number of the classes of all shards.
    logsumexp : NumPy scalar or ndarray in the shape of class indices
        The logsumexp of the classes that were added so far, in the dtype of the loss; 0 in ignored rows.

    Methods
    -------
    loss(reduction="mean")
        The loss, once all classes are there.
    grad(logits_shard, target, *, class_offset=0, reduction="mean", grad_output=None, out=None, ...)
        The gradient of a shard, once all classes are there.
    to_array()
        The contents as (rows, k) numbers.
    from_array(array, like)
        The part with such numbers.

    See Also
    --------
    partial_cross_entropy : Makes such an object from the logits of a shard.

    Notes
    -----
    Relative to the largest logit m of a row, a part holds Σ exp(z_j − m) without the class at m itself, the target's
    logit z_y, and Σ u_j and Σ u_j (m − z_j) of smoothing or a distribution u.  The loss, and the gradient at the
    target, follow from these without cancellation, so they are as accurate as those of `cross_entropy`, however small.

    Examples
    --------
    Two processes that have half of the classes each, and exchange only the parts:

    >>> import numpy as np
    >>> from xent_numba import partial_cross_entropy
    >>> logits, target = np.array([[20.0, 0.0, 0.0]], np.float32), [0]
    >>> one = partial_cross_entropy(logits[:, :1], target, n_classes=3)
    >>> other = partial_cross_entropy(logits[:, 1:], target, class_offset=1, n_classes=3)
    >>> whole = one + other
    >>> print(f"{whole.loss():.7g}")
    4.122307e-09
    >>> print(whole.grad(logits[:, 1:], target, class_offset=1))
    [[2.0611537e-09 2.0611537e-09]]
    """

    __slots__ = ("_state",)

    def __init__(self, state: State) -> None:
        """Hold what `partial_cross_entropy` found."""
        self._state = state

    @property
    def n_classes(self) -> int:
        """The number of the classes of all shards."""
        return self._state.call.n_classes

    @property
    def logsumexp(self) -> Any:
        """The logsumexp of the classes that were added so far."""
        from xent_numba.sharding import outcome

        return outcome.logsumexp(self._state)

    def __add__(self, other: PartialCrossEntropy[Real]) -> PartialCrossEntropy[Real]:
        """Both parts together; ValueError where they overlap or do not belong to one loss."""
        if not isinstance(other, PartialCrossEntropy):
            return NotImplemented
        from xent_numba.sharding import build

        return PartialCrossEntropy(build.add(self._state, other._state))

    def __radd__(self, other: object) -> PartialCrossEntropy[Real]:
        """0 + part is the part, so that `sum` works."""
        return self if other.__class__ is int and other == 0 else NotImplemented

    @overload
    def loss(self, reduction: Total = "mean") -> Real: ...
    @overload
    def loss(self, reduction: Rows) -> NDArray[Real]: ...
    @overload
    def loss(self, reduction: str = "mean") -> Any: ...
    def loss(self, reduction: str = "mean") -> Any:
        """The loss, once the shards of all classes are added.

        It is computed from a few numbers for each row, as often as one likes.

        Parameters
        ----------
        reduction : {"mean", "sum", "none"}, default "mean"
            The weighted mean of the losses of the rows, their sum, or all of them.

        Returns
        -------
        NumPy scalar, or ndarray in the shape of class indices for reduction="none"
            As from `cross_entropy` for the logits of all shards side by side.

        Raises
        ------
        IndexError
            A label is neither ignored nor a class of any of the shards.  The message names the first such label.
        ValueError
            Classes are missing.  The message says which.

        See Also
        --------
        cross_entropy : The same for classes that are all in one array.

        Examples
        --------
        >>> from xent_numba import partial_cross_entropy
        >>> print(partial_cross_entropy([[0.0, 0.0]], [1], n_classes=2).loss("none").round(3))
        [0.693]
        """
        from xent_numba.sharding import outcome

        return outcome.loss(self._state, make_options(reduction=reduction).reduction)

    @overload
    def grad(
        self,
        logits_shard: Floats[Float],
        target: AnyArray,
        *,
        class_offset: Integer = 0,
        reduction: str = "mean",
        grad_output: AnyArray | None = None,
        out: NDArray[Float] | None = None,
        backend: str | None = None,
        n_threads: Integer | None = None,
    ) -> NDArray[Float]: ...
    @overload
    def grad(
        self,
        logits_shard: AnyArray,
        target: AnyArray,
        *,
        class_offset: Integer = 0,
        reduction: str = "mean",
        grad_output: AnyArray | None = None,
        out: Any = None,
        backend: str | None = None,
        n_threads: Integer | None = None,
    ) -> Any: ...
    @explain_misuse
    def grad(
        self,
        logits_shard: AnyArray,
        target: AnyArray,
        *,
        class_offset: Integer = 0,
        reduction: str = "mean",
        grad_output: AnyArray | None = None,
        out: Array | None = None,
        backend: str | None = None,
        n_threads: Integer | None = None,
    ) -> Any:
        """Gradient of the loss with respect to the logits of a shard, once the shards of all classes are added.

        The options are those that the parts were made with; class weights too, which need not be passed again.

        Parameters
        ----------
        logits_shard : array_like of float64, float32, float16 or bfloat16
            The logits of some consecutive classes, as `partial_cross_entropy` has read them.
        target : array_like
            The target, likewise.
        class_offset : int, default 0
            The number of the first class of the shard.
        reduction : {"mean", "sum", "none"}, default "mean"
            The weighted mean of the losses of the rows, their sum, or all of them.
        grad_output : float, or array_like in the shape of class indices, optional
            The upstream gradient ∂L/∂loss: one number for "mean" and "sum"; one for each row, or one for all, for
            "none".
        out : ndarray of the logits' shape and dtype, optional
            Receives the gradient.  It may be the logits themselves, which are then overwritten, but may not overlap
            any input otherwise.
        backend : str, optional
            The backend for this call, instead of the current one: a name that `set_backend` takes.
        n_threads : int, optional
            The largest number of threads to use.  Results have the same bits for any number.

        Returns
        -------
        ndarray of the shape and dtype of the shard
            Its part of what `cross_entropy_grad` returns for the logits of all shards side by side.

        Raises
        ------
        ValueError, IndexError, TypeError, RuntimeError
            As in `loss` and `cross_entropy_grad`.

        See Also
        --------
        cross_entropy_grad : The same for classes that are all in one array.

        Examples
        --------
        >>> from xent_numba import partial_cross_entropy
        >>> print(partial_cross_entropy([[0.0, 0.0]], [1], n_classes=2).grad([[0.0, 0.0]], [1]))
        [[ 0.5 -0.5]]
        """
        call = self._state.call
        found = call.options
        options = make_options(
            found.axis, found.ignore_index, found.label_smoothing, reduction, found.logit_scale, found.softcap,
            found.z_loss, n_threads, found.focal_gamma,
        )  # fmt: skip
        if on_device(logits_shard):
            device_arrays(backend).refuse_shards("PartialCrossEntropy.grad")
        chosen = select(backend)
        checked = prepare_shard(options, (logits_shard, target, None, None), class_offset, call.n_classes)
        from xent_numba.sharding import outcome

        return outcome.gradient(chosen, self._state, checked, options.reduction, grad_output, out)

    def to_array(self) -> NDArray[np.float64]:
        """The contents as numbers, to be sent by MPI or put into shared memory.

        The options, the target and the weights of the rows are not among them, as every process has its own.

        Returns
        -------
        ndarray of shape (N, k), float64
            A line of k numbers for each of the N rows, in C order; k is the same for every part.  The last three
            say which classes they are of: the first, the one after the last, and how many.

        See Also
        --------
        PartialCrossEntropy.from_array : The way back.

        Examples
        --------
        >>> from xent_numba import partial_cross_entropy
        >>> partial_cross_entropy([[0.0, 0.0]], [1], n_classes=2).to_array().shape
        (1, 14)
        """
        from xent_numba.sharding import build

        return build.to_array(self._state)

    @staticmethod
    def from_array(array: AnyArray, like: PartialCrossEntropy[Same]) -> PartialCrossEntropy[Same]:
        """The part that has numbers from `to_array`.

        The way back from what another process has sent.

        Parameters
        ----------
        array : array_like of shape (N, k)
            What `to_array` returned for a part of the same loss, in this process or in another.
        like : PartialCrossEntropy
            Any part of the same loss, such as that of the process's own shard.  What is no number of a row comes from
            it: the target, the sample weights, the class weights, the options and the shape of the rows.

        Returns
        -------
        PartialCrossEntropy
            The part.  If it was added from parts with classes missing between them, it still knows how many they
            are, but not which.

        Raises
        ------
        ValueError
            The array is not of the shape that `to_array` returns for such rows.

        See Also
        --------
        PartialCrossEntropy.to_array : Returns the numbers.

        Examples
        --------
        What an all-reduce calls for two arrays:

        >>> from xent_numba import PartialCrossEntropy, partial_cross_entropy
        >>> own = partial_cross_entropy([[0.0]], [1], n_classes=2)
        >>> other = partial_cross_entropy([[0.0]], [1], class_offset=1, n_classes=2).to_array()
        >>> both = own + PartialCrossEntropy.from_array(other, own)
        >>> print(both.loss().round(3))
        0.693
        """
        from xent_numba.sharding import build

        if not isinstance(like, PartialCrossEntropy):
            raise TypeError(f"like must be a PartialCrossEntropy of the same loss, not {type(like).__name__}")
        return PartialCrossEntropy(build.from_array(array, like._state))

    def __repr__(self) -> str:
        """What the part is of."""
        from xent_numba.sharding import coverage

        call, spans = self._state.call, self._state.spans
        return f"<PartialCrossEntropy of the classes {coverage.written(spans)} of {call.n_classes}, rows {call.rows}>"
