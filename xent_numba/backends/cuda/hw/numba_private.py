"""Every internal name of numba-cuda and llvmlite that the backend uses, why, and since when it exists.

No other module imports one.  `runtime.device`, which must not import CUDA, asks numba.cuda for the version of the
driver (`cudadrv.driver.driver.get_version`, since numba-cuda 0.0.1).  And `intrinsics` calls three methods of the
target context, an object that numba-cuda passes to every intrinsic when it generates code:

make_tuple         the elements of a 128-bit load as a tuple, which is what a kernel gets
get_dummy_value    the result of a store, which has none
get_value_type     the LLVM type of an argument of inline PTX

They are defined in `numba.cuda.core.base` since numba-cuda 0.20.0; before, they were inherited from `numba.core.base`.
All names are used as in numba-cuda 0.30.  None of the tagged versions before 0.21.0 has all of them.
"""

from __future__ import annotations

from typing import Any

import numba.cuda
import numba.cuda.core.errors
import numba.cuda.extending
from llvmlite import ir as llvm_ir

ir: Any = llvm_ir  # LLVM instructions: Numba has no 128-bit access, no load from an address, no inline PTX
# numba-cuda has its own copy of Numba's types, and only these match its signatures.  Since 0.21.0; before, the module
# held only the types that Numba lacks.
types: Any = numba.cuda.types
intrinsic: Any = numba.cuda.extending.intrinsic  # functions that emit LLVM instructions; since 0.0.1
# Device functions that are compiled with their kernel: `cuda.jit(device=True)` asks for a device when it compiles, and
# there is none where the tests compile.  Since 0.21.0; before, only in `numba.core.extending`.
register_jitable: Any = numba.cuda.extending.register_jitable
# What a launch of few blocks raises.  The class of the same name in `numba.core.errors` is another one.  Since 0.21.0.
NumbaPerformanceWarning: type[Warning] = numba.cuda.core.errors.NumbaPerformanceWarning
