"""One call in device terms: addresses and byte strides, whoever owns the memory.  From it follow spec and arguments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from xent_numba.backends.cuda.row.spec import ITEMSIZE, Spec, arguments

VECTOR = 16  # bytes of the widest access


class Operand(NamedTuple):
    """Something on the device: dtype, address, and the strides in bytes of (A, B, class), as far as it has them."""

    dtype: str
    address: int
    outer: int = 0
    row: int = 0
    step: int = 0


@dataclass(slots=True)
class Call:
    """A validated call on (A, B, C) logits.  Factors per class or per row are contiguous."""

    shape: tuple[int, int, int]
    logits: Operand
    store: str = ""  # what goes to `out`: "", "grad", "softmax" or "log_softmax"
    out: Operand | None = None
    labels: Operand | None = None
    distribution: Operand | None = None
    weight: Operand | None = None
    sample_weight: Operand | None = None
    grad_output: Operand | None = None
    upstream_step: int = 8  # bytes from row to row of grad_output, 0 where one number is for all
    saved_lse: Operand | None = None
    ignore: tuple[int, ...] = ()
    ignore_list: int = 0  # address of more than one value to ignore, int64
    label_smoothing: float = 0.0
    logit_scale: float = 1.0
    softcap: float | None = None
    z_coefficient: float = 0.0
    grad_scale: float = 1.0
    scales: int = 0  # address of (1 / denominator, ratio of the denominators), float64, where the host has no numbers
    rows: int = 0  # addresses of a contiguous result per row, of the loss dtype
    lse: int = 0

    def views(self) -> list[Operand]:
        """The operands with row strides."""
        return [view for view in (self.logits, self.out, self.labels, self.distribution) if view is not None]


def merged(call: Call) -> tuple[bool, int]:
    """Whether the rows need two strides, and the number of rows of the inner one."""
    a, b, _ = call.shape
    if a == 1 or b == 1 or all(view.outer == b * view.row for view in call.views()):
        return False, b
    return True, b


def specialise(call: Call) -> tuple[Spec, Any]:
    """What to compile, and what to pass."""
    a, b, classes = call.shape
    outer, _ = merged(call)
    with_classes = [view for view in (call.logits, call.out, call.distribution) if view is not None]
    unit = classes == 1 or all(view.step == ITEMSIZE[view.dtype] for view in with_classes)
    if call.distribution and call.distribution.dtype == "float64" != call.logits.dtype:
        unit = False  # vectors of 4 or 8 logits, each computed in float64, would not stay in registers
    index = "outer" if b == 1 else "row"  # which stride leads from row to row where one does
    written = [view for view in (call.logits, call.out) if view is not None]
    vectors = [call.distribution] if call.distribution and call.distribution.dtype == call.logits.dtype else []
    whole = unit and all(
        view.address % VECTOR == 0
        and classes * ITEMSIZE[view.dtype] % VECTOR == 0
        and getattr(view, index) % VECTOR == 0
        and (not outer or view.outer % VECTOR == 0)
        for view in [*written, *vectors]
    )
    spec = Spec(
        dtype=call.logits.dtype,
        labels=call.labels.dtype if call.labels else "",
        distribution=call.distribution.dtype if call.distribution else "",
        weight=call.weight.dtype if call.weight else "",
        sample_weight=call.sample_weight.dtype if call.sample_weight else "",
        grad_output=call.grad_output.dtype if call.grad_output else "",
        ignore=min(len(call.ignore), 2) if call.labels else 0,
        smoothing=call.label_smoothing > 0.0,
        scaled=call.logit_scale != 1.0,
        softcap=call.softcap is not None,
        z_loss=call.z_coefficient != 0.0,
        store=call.store,
        rows=bool(call.rows),
        lse=bool(call.lse),
        saved_lse=call.saved_lse.dtype if call.saved_lse else "",
        device_scales=bool(call.scales),
        whole=whole,
        unit=unit,
        outer=outer,
    )
    values: dict[str, int | float] = {
        "n_rows": a * b,
        "n_classes": classes,
        "inner": b,
        "keep": 1.0 - call.label_smoothing,
        "share": call.label_smoothing / classes,
        "logit_scale": call.logit_scale,
        "softcap": call.softcap or 1.0,
        "inner_scale": call.logit_scale / (call.softcap or 1.0),
        "z_coefficient": call.z_coefficient,
        "grad_scale": call.grad_scale,
        "upstream_step": call.upstream_step,
        "scales": call.scales,
        "rows": call.rows,
        "lse": call.lse,
        "ignore": call.ignore[0] if call.ignore else 0,
        "ignore_list": call.ignore_list,
        "n_ignore": len(call.ignore),
    }
    for letter, name in (("x", "logits"), ("g", "out"), ("l", "labels"), ("q", "distribution")):
        view = getattr(call, name)
        if view is not None:
            values |= {name: view.address, f"{letter}_row": getattr(view, index), f"{letter}_outer": view.outer}
            values[f"{letter}_class"] = view.step
    for name in ("weight", "sample_weight", "grad_output", "saved_lse"):
        operand = getattr(call, name)
        if operand is not None:
            values[name] = operand.address
    record = arguments(spec)
    return spec, record(*(values[name] for name in record._fields))
