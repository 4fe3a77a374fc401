"""The types in the signatures of the public functions: for type checkers alone, and empty at run time.

The overloads of a function say what a checker can know: the dtype of the logits, whether they are on the host, and
whether `reduction` leaves one number.  Where it cannot know one of these, the result is `Any`: for arrays of an unknown
dtype or of bfloat16 (whose type ml_dtypes does not declare), for arrays of other libraries, which may be on a GPU, and
for a `reduction` that is some string.

Three things are simplified.  Of 1-D logits, the logsumexp and the loss without reduction are NumPy scalars, but are
declared as arrays, because checkers seldom know the number of dimensions.  `CrossEntropyLoss.backward`, which is not
passed the logits, is declared to return a NumPy array of any dtype.  And of a linear head, whose loss has the widest
dtype of several arrays, loss and gradients are `Any`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any, Generic, Literal, Protocol, SupportsFloat, SupportsIndex, TypedDict

    import numpy as np
    from numpy.typing import ArrayLike, NDArray
    from typing_extensions import TypeVar  # known to every checker, and not imported at run time

    class DeviceArray(Protocol):
        """An array on a GPU, of whatever library."""

        @property
        def __cuda_array_interface__(self) -> Any:
            """Where its elements are."""

    class SparseMatrix(Protocol):
        """A sparse matrix or array of SciPy."""

        @property
        def format(self) -> Any:
            """Which of the formats it has."""

        @property
        def indptr(self) -> Any:
            """Where its rows begin."""

    AnyArray = ArrayLike | DeviceArray
    Features = AnyArray | SparseMatrix
    Integer = SupportsIndex  # int, and the integers of NumPy
    Number = SupportsFloat  # float, int, and the numbers of NumPy, of which only float64 is a float

    # The dtype of a result.  The default applies where no array says otherwise: to lists and integers.
    Real = TypeVar("Real", bound=np.float64 | np.float32, default=np.float64)
    Same = TypeVar("Same", bound=np.float64 | np.float32)  # for what has one already
    Float = TypeVar("Float", bound=np.float64 | np.float32 | np.float16, default=np.float64)

    # Logits: of any dtype, of those dtypes that their losses have too, and of the one whose losses are float32.
    Nested = Sequence["float | Nested"]
    Floats = NDArray[Float] | NDArray[np.integer[Any]] | Nested
    Reals = Floats[Real]
    Half = NDArray[np.float16]

    # Reductions: to one number, and none.
    Total = Literal["mean", "sum"]
    Rows = Literal["none"]
    Reduction = TypeVar("Reduction", bound=str, default=str, covariant=True)  # that of a CrossEntropyLoss

    class LossOptions(TypedDict, total=False):
        """The options that all loss functions share and that do not change the type of a result."""

        axis: Integer
        weight: AnyArray | None
        sample_weight: AnyArray | None
        ignore_index: Integer | Iterable[Integer] | None
        label_smoothing: Number
        logit_scale: Number
        softcap: Number | None
        z_loss: Number
        focal_gamma: Number
        backend: str | None
        n_threads: Integer | None

    class WithGradOut(LossOptions, Generic[Float], total=False):
        """Those of `cross_entropy_and_grad`."""

        grad_out: NDArray[Float] | None

    class WithReduction(LossOptions, total=False):
        """Those of functions whose results have the logits' shape, whatever the reduction is."""

        reduction: str

    class WithGaussNewton(WithReduction, total=False):
        """Those of `cross_entropy_hvp`."""

        gauss_newton: bool

    class WithGradOutput(WithReduction, total=False):
        """Those of `cross_entropy_grad`."""

        lse: AnyArray | None
        grad_output: AnyArray | None

    class DistillationOptions(TypedDict, total=False):
        """Those of the distillation losses that do not change the type of a result."""

        temperature: Number
        temperature_squared: bool | np.bool
        axis: Integer
        sample_weight: AnyArray | None
        backend: str | None
        n_threads: Integer | None

    class DistillationWithGradOut(DistillationOptions, Generic[Float], total=False):
        """Those of `distillation_loss_and_grad`."""

        grad_out: NDArray[Float] | None

    class PartialOptions(LossOptions, total=False):
        """Those of `partial_cross_entropy`."""

        class_offset: Integer

    class RowwiseOptions(TypedDict, total=False):
        """Those of softmax, log_softmax and logsumexp."""

        axis: Integer
        backend: str | None
        n_threads: Integer | None
