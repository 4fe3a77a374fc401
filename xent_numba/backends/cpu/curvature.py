"""Second derivatives by kernels: from a `Problem` to their arguments, and what the reference computes instead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from xent_numba.backends.cpu.arguments import kernel_arguments, native
from xent_numba.backends.cpu.compile.kernel import signature_key
from xent_numba.backends.cpu.fallback import computes_in_float64, options_in_range, rows_out_of_range, select, weight_range
from xent_numba.backends.cpu.plan import plan
from xent_numba.backends.cpu.regimes.curvature import kernels
from xent_numba.backends.cpu.runtime import threads
from xent_numba.backends.reference import BACKEND as REFERENCE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xent_numba.backends.protocol import Problem

    Array = NDArray[Any]

_PRODUCTS = {"long": kernels.product_long}
_DIAGONALS = {"long": kernels.diagonal_long}
