"""Regime "columns": classes far apart and rows side by side, as in images (N, C, H, W).  A thread per row.

Neighbouring threads then read neighbouring addresses for each class, so the accesses of a warp are coalesced although
each is a scalar.  A row is computed as in `online`, by a single thread: there is nothing to reduce.
"""

from __future__ import annotations

from typing import Any

from xent_numba.backends.cuda.regimes.online import row_in_two_reads
from xent_numba.backends.cuda.regimes.sweep import thread_per_row
from xent_numba.backends.cuda.row.spec import Spec


def build(spec: Spec, threads: int, batch: int) -> Any:
    """Kernel (args) of ceil(rows / threads) blocks; each thread has `batch` classes in flight."""
    return thread_per_row(row_in_two_reads(spec, 1, batch), threads)
