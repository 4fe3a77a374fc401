"""The kernels that Python calls, one for each regime: groups of work items, in parallel."""

from __future__ import annotations

from typing import Any

from xent_numba.backends.cpu.compile.inline import inline
from xent_numba.backends.cpu.compile.kernel import kernel
from xent_numba.backends.cpu.regimes.row_statistics.lanes import lanes_rows
from xent_numba.backends.cpu.regimes.row_statistics.long import long_rows
from xent_numba.backends.cpu.regimes.row_statistics.operands import StatisticsOperands
from xent_numba.backends.cpu.regimes.row_statistics.packed import packed_rows
from xent_numba.backends.cpu.runtime.parallel_for import parallel_for


def _kernel_of(name: str, compute_rows: Any) -> Any:
    """The kernel of a regime, from the function (operands, start, stop) that computes some of its work items."""

    @inline
    def compute_group(fields: Any, group: int, work_items: int, k: int) -> None:
        """Compute group k of the work items."""
        compute_rows(StatisticsOperands(*fields), k * group, min(work_items, (k + 1) * group))

    def run(fields: Any, group: int, work_items: int, groups: int, loop: int) -> None:
        """Compute all work items, with the fields of `StatisticsOperands`; `loop` is that of `parallel_for`."""
        parallel_for(compute_group, (fields, group, work_items), groups, loop)

    run.__name__ = run.__qualname__ = name  # by which the compile cache tells the kernels apart
    return kernel(run)


statistics_long = _kernel_of("statistics_long", long_rows)
statistics_lanes = _kernel_of("statistics_lanes", lanes_rows)
statistics_packed = _kernel_of("statistics_packed", packed_rows)
