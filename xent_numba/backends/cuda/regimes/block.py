"""Regime "block": a block per row, the row in its registers, for 1025 to about 32 thousand classes."""

from __future__ import annotations

from typing import Any

from xent_numba.backends.cuda.hw import intrinsics as hw
from xent_numba.backends.cuda.regimes.registers import row_in_registers
from xent_numba.backends.cuda.row.spec import Spec


def build(spec: Spec, threads: int, vectors: int) -> Any:
    """The kernel; a launch has one block of `threads` threads per row."""
    run = row_in_registers(spec, threads, vectors)

    def kernel(a: Any) -> None:
        row = hw.i64(hw.block())
        run(a, row, hw.thread())

    return kernel
