"""The kernels of second derivatives, one for each result and regime, in chunks of rows."""

from __future__ import annotations

from typing import Any

from xent_numba.backends.cpu.compile.inline import inline
from xent_numba.backends.cpu.compile.kernel import kernel
from xent_numba.backends.cpu.regimes.curvature.lanes import lanes_diagonals, lanes_products
from xent_numba.backends.cpu.regimes.curvature.long import long_diagonals, long_products
from xent_numba.backends.cpu.regimes.curvature.operands import SecondOrder
from xent_numba.backends.cpu.regimes.curvature.packed import packed_products
from xent_numba.backends.cpu.row.operands import Operands
from xent_numba.backends.cpu.runtime.parallel_for import parallel_for


def _kernel_of(name: str, compute_rows: Any) -> Any:
    """The kernel of `compute_rows(operands, second, start, stop)`, which computes some of the work items."""

    @inline
    def compute_chunk(fields: Any, second: Any, chunk: int, work_items: int, k: int) -> None:
        """Compute chunk k of the work items."""
        compute_rows(Operands(*fields), SecondOrder(*second), k * chunk, min(work_items, (k + 1) * chunk))

    def run(fields: Any, second: Any, chunk: int, work_items: int, loop: int) -> None:
        """Compute all work items, given the fields of `Operands` and `SecondOrder`; `loop` as in `regimes.entry`."""
        parallel_for(compute_chunk, (fields, second, chunk, work_items), -(-work_items // chunk), loop)

    run.__name__ = run.__qualname__ = name  # by which the compile cache tells the kernels apart
    return kernel(run)


product_long = _kernel_of("product_long", long_products)
product_packed = _kernel_of("product_packed", packed_products)
product_lanes = _kernel_of("product_lanes", lanes_products)
diagonal_long = _kernel_of("diagonal_long", long_diagonals)
diagonal_lanes = _kernel_of("diagonal_lanes", lanes_diagonals)
