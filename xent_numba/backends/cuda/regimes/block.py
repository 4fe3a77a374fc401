"""Regime "block": a block per row, the row in its registers.

For rows that do not fit the registers of a warp, up to what `plan.most_vectors` lets a block hold: of aligned float32
and a sparse target 16384 classes, from compute capability 9.0 on 32768 (16384 with weights of the rows); of
float64 8192.
"""

from __future__ import annotations

from typing import Any

from xent_numba.backends.cuda.hw import intrinsics as hw
from xent_numba.backends.cuda.regimes.registers import row_in_registers
from xent_numba.backends.cuda.row.spec import Spec


def build(spec: Spec, threads: int, vectors: int) -> Any:
    """Kernel (args) of one block of `threads` threads per row; each thread holds `vectors` vectors of the row."""
    compute_row = row_in_registers(spec, threads, vectors)

    def kernel(args: Any) -> None:
        row = hw.i64(hw.block_index())
        compute_row(args, row, hw.thread_index())

    return kernel
