"""The kernels of the distillation losses, one for each regime."""

from __future__ import annotations

from xent_numba.backends.cpu.regimes.distillation.lanes import lanes_rows
from xent_numba.backends.cpu.regimes.distillation.long import long_rows
from xent_numba.backends.cpu.regimes.distillation.terms import DistillationOperands
from xent_numba.backends.cpu.regimes.entry import kernel_of

distill_long = kernel_of("distill_long", long_rows, DistillationOperands)
distill_lanes = kernel_of("distill_lanes", lanes_rows, DistillationOperands)
