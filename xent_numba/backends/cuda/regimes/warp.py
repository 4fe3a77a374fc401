"""Regime "warp": a warp per row, for 33 to 1024 classes.  No barrier, several rows per block."""

from __future__ import annotations

from typing import Any

from xent_numba.backends.cuda.hw import intrinsics as hw
from xent_numba.backends.cuda.hw.reduce import WARP
from xent_numba.backends.cuda.regimes.registers import row_in_registers
from xent_numba.backends.cuda.row.spec import Spec

WARPS = 4  # per block


def build(spec: Spec, vectors: int, warps: int = WARPS) -> Any:
    """The kernel; a launch has ceil(rows / warps) blocks of 32 · warps threads."""
    run = row_in_registers(spec, WARP, vectors)

    def kernel(a: Any) -> None:
        row = hw.i64(hw.block()) * warps + hw.thread() // WARP
        if row < a.n_rows:
            run(a, row, hw.thread() % WARP)

    return kernel
