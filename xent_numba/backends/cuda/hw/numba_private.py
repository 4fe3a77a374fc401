"""Every internal name of numba-cuda and llvmlite that the backend uses, and why.  No other module names one,
but for `runtime.device`, which must not import CUDA: it asks numba.cuda for the version of the driver.

All are those of numba-cuda 0.30; what a later version moves is mended here.
"""

from __future__ import annotations

from typing import Any

import numba.cuda
import numba.cuda.core.errors
import numba.cuda.extending
from llvmlite import ir as llvm_ir

ir: Any = llvm_ir  # LLVM instructions: Numba has no 128-bit access, no load from an address, no inline PTX
types: Any = numba.cuda.types  # numba-cuda has its own copy of Numba's types, and only these match its signatures
intrinsic: Any = numba.cuda.extending.intrinsic  # functions that emit LLVM instructions
# Device functions that are compiled with their kernel: `cuda.jit(device=True)` asks for a device when it compiles, and
# there is none where the tests compile.
register_jitable: Any = numba.cuda.extending.register_jitable
# What a launch of few blocks raises.  The class of the same name in `numba.core.errors` is another one.
NumbaPerformanceWarning: type[Warning] = numba.cuda.core.errors.NumbaPerformanceWarning
