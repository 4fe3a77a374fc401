"""What a kernel is compiled for: the options that are on, the dtypes, the layout; and the arguments that this needs.

Two calls with equal specs run the same compiled kernel.  An option that is off has no argument and no instruction.
"""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from functools import cache
from typing import Any

ITEMSIZE = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}


@dataclass(frozen=True, slots=True)
class Spec:
    """The composition a call needs; every field is a compile-time constant of the kernel."""

    dtype: str  # of the logits and of what is stored
    labels: str = ""  # integer dtype of the index target, "" where there is none
    distribution: str = ""  # dtype of the distribution target, "" where there is none
    weight: str = ""  # dtypes of the optional factors, "" where absent
    sample_weight: str = ""
    grad_output: str = ""
    ignore: int = 0  # ignored values: 0, 1 (an argument) or 2 (a list in memory)
    smoothing: bool = False
    scaled: bool = False  # z = logit_scale · x
    softcap: bool = False  # z = softcap · tanh(logit_scale · x / softcap)
    z_loss: bool = False
    store: str = ""  # "", "grad", "softmax" or "log_softmax"
    rows: bool = False  # store the loss of each row
    lse: bool = False  # store log Σ exp of each row
    saved_lse: str = ""  # dtype of a saved log Σ exp, which replaces the statistics
    device_scales: bool = False  # the denominators are on the device (label check deferred), not in the arguments
    whole: bool = True  # every row starts on 16 bytes and is a multiple of 16 bytes long: no scalar head or tail
    unit: bool = True  # class stride 1; otherwise scalar accesses everywhere
    outer: bool = False  # rows have two strides

    @property
    def wide(self) -> bool:
        """Whether the arithmetic is float64."""
        return "float64" in (self.dtype, self.distribution)

    @property
    def dense(self) -> bool:
        """Whether the effective target has weight on every class, not only on the label."""
        return self.smoothing or bool(self.distribution)

    @property
    def has_target(self) -> bool:
        return bool(self.labels or self.distribution)


@cache
def arguments(spec: Spec) -> Any:
    """The named tuple of a kernel's arguments: addresses and counts are int64, factors are float64."""
    names = ["logits", "x_row", "n_rows", "n_classes"]
    strided = [("x", True), ("g", bool(spec.store)), ("q", bool(spec.distribution)), ("l", bool(spec.labels))]
    if spec.outer:
        names += ["inner"] + [f"{letter}_outer" for letter, used in strided if used]
    if not spec.unit:
        names += [f"{letter}_class" for letter, used in strided[:3] if used]
    names += ["labels", "l_row"] * bool(spec.labels)
    names += ["distribution", "q_row"] * bool(spec.distribution)
    names += ["out", "g_row"] * bool(spec.store)
    names += [[], ["ignore"], ["ignore_list", "n_ignore"]][spec.ignore]
    for name in ("weight", "sample_weight", "grad_output", "rows", "lse", "saved_lse"):
        names += [name] * bool(getattr(spec, name))
    names += ["upstream_step"] * bool(spec.grad_output)
    names += ["scales"] * spec.device_scales
    names += ["keep", "share"] * spec.smoothing
    names += ["logit_scale"] * (spec.scaled or spec.softcap) + ["softcap", "inner_scale"] * spec.softcap
    names += ["z_coefficient"] * spec.z_loss + ["grad_scale"] * (spec.store == "grad")
    return namedtuple("Arguments", names)


FLOATS = frozenset({"keep", "share", "logit_scale", "softcap", "inner_scale", "z_coefficient", "grad_scale"})


def signature(spec: Spec, extra: tuple[str, ...] = ()) -> Any:
    """The Numba signature of a kernel with these arguments and some more integers after them."""
    from xent_numba.backends.cuda.hw.intrinsics import types

    record = arguments(spec)
    kinds = tuple(types.float64 if name in FLOATS else types.int64 for name in record._fields)
    # As Numba types a value: a tuple of one type is another type.
    uniform = types.float64 not in kinds
    passed = types.NamedUniTuple(types.int64, len(kinds), record) if uniform else types.NamedTuple(kinds, record)
    return types.void(passed, *(types.int64 for _ in extra))
