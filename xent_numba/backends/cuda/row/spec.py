"""What a kernel is compiled for: the options that are on, the dtypes, the layout; and the arguments that this needs.

Calls of equal specs share a compiled kernel.  An option that is off has no argument and no instruction.
"""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from functools import cache
from typing import Any

ITEMSIZE = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}


@dataclass(frozen=True, slots=True)
class Spec:
    """The options, dtypes and layout of a call; every field is a compile-time constant of the kernel."""

    dtype: str  # of the logits and of the output
    labels: str = ""  # integer dtype of the class indices, "" where there are none
    distribution: str = ""  # dtype of the distribution, "" where there is none
    weight: str = ""  # dtypes of the optional factors, "" where absent
    sample_weight: str = ""
    grad_output: str = ""
    ignore: int = 0  # ignored values: 0, 1 (an argument) or 2 (a list in memory)
    smoothing: bool = False
    scaled: bool = False  # z = logit_scale · x
    softcap: bool = False  # z = softcap · tanh(logit_scale · x / softcap)
    z_loss: bool = False
    focal: bool = False  # the label's weight has the factor (1 − p)^γ
    output: str = ""  # what is stored for each class: "", "grad", "softmax" or "log_softmax"
    rows: bool = False  # store the loss of each row
    lse: bool = False  # store log Σ exp of each row
    saved_lse: str = ""  # dtype of a saved log Σ exp, which replaces that of the statistics
    device_scales: bool = False  # the denominators are in device memory, not in the arguments: the check is deferred
    aligned: bool = True  # every row starts on 16 bytes and is a multiple of 16 bytes long
    unit_stride: bool = True  # the classes of a row lie side by side; otherwise every access is scalar
    two_row_strides: bool = False  # the rows (A, B) do not merge into one axis
    sm_80: bool = True  # the device has the conversions to 16 bits that compute capability 8.0 added

    @property
    def float64(self) -> bool:
        """Whether the arithmetic is float64: for float64 logits or distributions."""
        return "float64" in (self.dtype, self.distribution)

    @property
    def dense(self) -> bool:
        """Whether the target has weight on every class (label smoothing, a distribution), not only on the label."""
        return self.smoothing or bool(self.distribution)

    @property
    def sums_exp(self) -> bool:
        """Whether a row is summed up: unless the sum is saved, and there is no focal factor of a part of it."""
        return not self.saved_lse or self.focal

    @property
    def has_statistics(self) -> bool:
        """Whether a row is read before its output is known."""
        return self.sums_exp or self.dense

    @property
    def ragged(self) -> bool:
        """Whether the first and the last vector of a row may hold elements that lie outside of it."""
        return self.unit_stride and not self.aligned


@cache
def arguments_type(spec: Spec) -> Any:
    """The named tuple of a kernel's arguments.

    Addresses, counts and strides (in bytes) are int64, factors are float64.  Each array has its address under its own
    name, and the strides `NAME_row`, `NAME_outer` (of the first row axis) and `NAME_class` as far as they are needed.
    """
    names = ["logits", "logits_row", "n_rows", "n_classes"]
    present = (("logits", True), ("out", spec.output), ("distribution", spec.distribution), ("labels", spec.labels))
    strided = [name for name, used in present if used]
    if spec.two_row_strides:
        names += ["inner_rows"] + [f"{name}_outer" for name in strided]
    if not spec.unit_stride:
        names += [f"{name}_class" for name in strided if name != "labels"]
    names += ["labels", "labels_row"] * bool(spec.labels)
    names += ["distribution", "distribution_row"] * bool(spec.distribution)
    names += ["out", "out_row"] * bool(spec.output)
    names += [[], ["ignore"], ["ignore_list", "n_ignore"]][spec.ignore]
    for name in ("weight", "sample_weight", "grad_output", "rows", "lse", "saved_lse"):
        names += [name] * bool(getattr(spec, name))
    names += ["grad_output_row"] * bool(spec.grad_output)
    names += ["device_scales"] * spec.device_scales
    names += ["confidence", "smoothing_share"] * spec.smoothing
    names += ["logit_scale"] * (spec.scaled or spec.softcap) + ["softcap", "scale_over_cap"] * spec.softcap
    names += ["focal_gamma"] * spec.focal
    names += ["z_coefficient"] * spec.z_loss + ["grad_scale"] * (spec.output == "grad")
    return namedtuple("Arguments", names)


FLOATS = frozenset(
    {
        "confidence", "smoothing_share", "logit_scale", "softcap", "scale_over_cap", "z_coefficient", "focal_gamma",
        "grad_scale",
    }
)  # fmt: skip


def signature(spec: Spec, extra: tuple[str, ...] = ()) -> Any:
    """The Numba signature of a kernel with these arguments, followed by the integers named in `extra`."""
    from xent_numba.backends.cuda.hw.numba_private import types

    arguments = arguments_type(spec)
    kinds = tuple(types.float64 if name in FLOATS else types.int64 for name in arguments._fields)
    # As Numba types a value: a tuple of one type is another type.
    uniform = types.float64 not in kinds
    passed = types.NamedUniTuple(types.int64, len(kinds), arguments) if uniform else types.NamedTuple(kinds, arguments)
    return types.void(passed, *(types.int64 for _ in extra))
