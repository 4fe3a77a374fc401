"""What a part of a loss is."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from xent_numba.backends.reference.shards import scale_of
from xent_numba.prepare.shards import has_dense_target

if TYPE_CHECKING:
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray

    from xent_numba.prepare.options import Options
    from xent_numba.sharding.coverage import Spans
    from xent_numba.sharding.merging import Sums

    Array = NDArray[Any]
    Float64s = NDArray[np.float64]


class Call(NamedTuple):
    """What all parts of one loss have in common; N is the number of rows, in C order."""

    options: Options
    n_classes: int
    rows: tuple[int, ...]  # the shape of class indices
    axis: int
    dtype: np.dtype[Any]  # of the logits
    kind: str  # of the target, one of those in `prepare.shards`
    has_weight: bool
    target: Array | None  # labels as passed, for messages
    kept: NDArray[np.bool] | None  # (N,)
    sample_weight: Float64s | None  # (N,)

    @property
    def scale(self) -> float:
        """The factor s of the logits in the sums."""
        return scale_of(self.options.logit_scale, self.options.softcap)

    @property
    def has_dense(self) -> bool:
        """As of a `CheckedShard`."""
        return has_dense_target(self.kind, self.options)


class State(NamedTuple):
    """One part: the classes it has, and what it knows about their rows."""

    call: Call
    sums: Sums
    spans: Spans
    weights: tuple[tuple[int, Float64s], ...]  # the class weights that a gradient needs, each with its first class
