"""The order of the classes of a row: which is the first of the largest, and the rank of a label.

Logits are compared as they are, times the sign of the logit_scale, never after a transform that rounds: f is strictly
increasing, so the order and the ties are exact.  NaN is larger than any number, as for `np.argmax`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from xent_numba.backends.cuda.hw import intrinsics as hw
from xent_numba.backends.cuda.row.spec import Spec


class Top(NamedTuple):
    """The class that comes first in the order of a row, or of a part of it."""

    key: Any  # what is compared, see `order_key`
    j: Any  # int64; −1 where there is no class yet
    z: Any
    slope_v: Any  # f'(x) v of its element v of the second array, 0 where there is none


def order_key(spec: Spec, real: Any) -> Any:
    """(args, x) -> what is compared: x times the sign of the logit_scale."""
    if not (spec.scaled or spec.softcap):
        return hw.device(lambda args, x: x)
    zero = real(0)

    @hw.device
    def key(args: Any, x: Any) -> Any:
        if args.logit_scale > 0.0:
            return x
        return -x if args.logit_scale < 0.0 else zero * x

    return key


class Measured(NamedTuple):
    """Sums over a row relative to its top class, with the terms e_j = exp(z_j − z_top)."""

    gap: Any  # Σ e_j (z_top − z_j); the entropy is log S + gap / S
    stream: Any  # Σ e_j (f'_j v_j − f'_top v_top); ⟨p, f' v⟩ is f'_top v_top + stream / S


class RowFromTop(NamedTuple):
    """What one pass over a row has found where its statistics leave out the top class; 0 where nobody asks for it."""

    top: Top
    stats: Any  # `RowStatistics`, as of a dense target
    measured: Measured
    before: Any  # int64: how many classes come before the label in the order of the row


@hw.device
def precedes(key: Any, index: Any, other_key: Any, other_index: Any) -> Any:
    """Whether a class comes before another one: a larger key or, where these are equal, a smaller index.

    An index of −1 stands for no class, which comes after all.
    """
    if index < 0 or other_index < 0:
        return index >= 0
    is_nan, other_is_nan = key != key, other_key != other_key
    if is_nan or other_is_nan:
        return is_nan and (not other_is_nan or index < other_index)
    return key > other_key or (key == other_key and index < other_index)
