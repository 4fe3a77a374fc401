"""Regime "warp": a warp per row, the row in its registers.  No barrier, several rows per block.

For rows of at most `plan.WARP_CLASSES` classes that fit into `plan.most_vectors` vectors per lane: with 8 vectors up to
1024 classes of aligned float32, but only 512 of float64.
"""

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
        row = hw.i64(hw.block_index()) * warps + hw.thread_index() // WARP
        if row < args.n_rows:
            compute_row(args, row, hw.thread_index() % WARP)

    return kernel
