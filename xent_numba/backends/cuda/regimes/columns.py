"""Regime "columns": classes far apart and rows side by side, as in images (N, C, H, W).  A thread per row.

Neighbouring threads then read neighbouring addresses for each class, so the accesses of a warp are coalesced although
each is a scalar.  The passes over a row are those of `online`, by a single thread: there is nothing to reduce.
"""

from __future__ import annotations

from typing import Any

from xent_numba.backends.cuda.hw import intrinsics as hw
from xent_numba.backends.cuda.regimes.online import row_passes
from xent_numba.backends.cuda.row.address import address_functions
from xent_numba.backends.cuda.row.epilogue import RowStatistics
from xent_numba.backends.cuda.row.functions import row_functions
from xent_numba.backends.cuda.row.spec import Spec


def build(spec: Spec, threads: int, batch: int) -> Any:
    """Kernel (args) of ceil(rows / threads) blocks; each thread has `batch` classes in flight."""
    maths, memory, passes = row_functions(spec), address_functions(spec), row_passes(spec, 1, batch)
    kept_label, label_logit = maths.kept_label, maths.label_logit
    epilogue, store_row_result = maths.epilogue, maths.store_row_result
    logits_row, out_row = memory.logits_row, memory.out_row
    elements_before, fill_row = memory.elements_before, memory.fill_row
    statistics, store_output = passes.statistics, passes.store_output
    has_output, zero, lowest = bool(spec.output), maths.real(0), maths.lowest
    needs_statistics = not spec.saved_lse or spec.dense

    def kernel(args: Any) -> None:
        row = hw.i64(hw.block_index()) * threads + hw.thread_index()
        if row < args.n_rows:
            kept, y = kept_label(args, row)
            if kept:
                x = logits_row(args, row)
                z_y = label_logit(args, x, y)
                begin = -elements_before(x)  # 0 for the rows of this regime; any others would be slow, not wrong
                stats = RowStatistics(lowest, zero, zero, zero)
                if needs_statistics:
                    stats = statistics(args, row, x, y, 0, begin, args.n_classes)
                loss, lse, factors = epilogue(args, row, y, stats, z_y)
                store_row_result(args, row, loss, lse)
                if has_output:
                    store_output(args, row, x, y, 0, begin, args.n_classes, factors)
            else:
                if has_output:
                    fill_row(args, out_row(args, row), zero, 0, 1)
                store_row_result(args, row, zero, zero)

    return kernel
