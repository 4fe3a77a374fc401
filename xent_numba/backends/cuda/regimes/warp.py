"""Regime "warp": a warp per row, for 33 to 1024 classes.  No barrier, several rows per block."""

from __future__ import annotations

from typing import Any

from xent_numba.backends.cuda.hw import intrinsics as hw
from xent_numba.backends.cuda.hw.sizes import WARP
from xent_numba.backends.cuda.regimes.registers import row_in_registers
from xent_numba.backends.cuda.row.spec import Spec


def build(spec: Spec, threads: int, vectors: int) -> Any:
    """Kernel (args) of ceil(rows / warps) blocks of `threads` = 32 · warps threads.

    Each lane holds `vectors` vectors of its warp's row.
    """
    compute_row = row_in_registers(spec, WARP, vectors)
    warps = threads // WARP

    def kernel(args: Any) -> None:
        row = hw.i64(hw.block()) * warps + hw.thread() // WARP
        if row < args.n_rows:
            compute_row(args, row, hw.thread() % WARP)

    return kernel
