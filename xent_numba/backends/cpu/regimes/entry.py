"""The kernels that Python calls, one for each regime: they share out the work items of a call, in chunks.

A chunk is a number of consecutive groups, and each group has one partial sum of its own.  The caller chooses the size
of a chunk by the number of threads; a group has the same size and order of summation whatever the chunk is, so the
number of threads never changes a result.
"""

from __future__ import annotations

from typing import Any

from xent_numba.backends.cpu.compile.inline import inline
from xent_numba.backends.cpu.compile.kernel import kernel
from xent_numba.backends.cpu.regimes.lanes.rows import lanes_rows
from xent_numba.backends.cpu.regimes.long.rows import long_rows
from xent_numba.backends.cpu.regimes.packed.rows import packed_rows
from xent_numba.backends.cpu.row.operands import Operands
from xent_numba.backends.cpu.runtime.parallel_for import parallel_for


def kernel_of(name: str, compute_rows: Any, operands: Any = Operands) -> Any:
    """The kernel of a regime, from the function that computes some of its work items; `operands` is their class.

    `compute_rows(operands, start, stop, group, partials)` computes the work items start … stop, of which the first is
    the first of a group, and leaves the sum of the losses of each group in partials[item // group], which is 0 before.
    """

    @inline
    def compute_chunk(fields: Any, group: int, work_items: int, partials: Any, chunk: int, k: int) -> None:
        """Compute chunk k of the work items: the groups k * chunk … (k + 1) * chunk."""
        step = chunk * group
        compute_rows(operands(*fields), k * step, min(work_items, (k + 1) * step), group, partials)

    def run(fields: Any, group: int, work_items: int, partials: Any, chunk: int, loop: int) -> None:
        """Compute all work items; `loop` is a parallel loop of `runtime.threads`, or 0 to run serially.

        `partials`, (groups,) float64, must be 0 before.
        """
        parallel_for(compute_chunk, (fields, group, work_items, partials, chunk), -(-partials.size // chunk), loop)

    run.__name__ = run.__qualname__ = name  # by which the compile cache tells the kernels apart
    return kernel(run)


run_long = kernel_of("run_long", long_rows)
run_packed = kernel_of("run_packed", packed_rows)
run_lanes = kernel_of("run_lanes", lanes_rows)
