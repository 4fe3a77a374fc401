"""Every private or internal name of Numba and llvmlite that this backend uses, so that an upgrade has one file to read.

"Since" is the first release that has the name in its present role; the package requires Numba 0.62.1 (llvmlite 0.45).
Public names (`numba.njit`, `numba.types`, `numba.extending`, …) are imported where they are used.

Inheriting from these classes also relies on some members of theirs:

    JITCodeLibrary   _codegen, _data_layout, _linking_libraries, _final_module, _shared_module, _finalized,
                     _get_module_for_linking()                     in `inline`; since 0.49
    CPUDispatcher    _compiler, _customize_flags, targetctx, overloads, add_overload(), get_call_template(),
                     get_overload()                                in `inline`; since 0.26
                     _cache, compile()                             in `kernel`; since 0.26
    NumbaCache       load_overload(), save_overload(), _impl       in `cache`; since 0.31
    options          forceinline, no_cpython_wrapper, no_cfunc_wrapper, _nrt, and the flag no_compile; since 0.49
    in generated code: context.active_code_library, context.call_conv, context.make_array, fndesc, library; since 0.23
"""

from __future__ import annotations

from typing import Any

import llvmlite
import llvmlite.binding
import numba
from llvmlite import ir  # the public IR builder; here so that llvmlite is named in one file only
from llvmlite.binding import parse_assembly  # public: LLVM's own module from IR text

# --- the compile cache
from numba.core.caching import CompileResultCacheImpl  # a compiled function to plain data and back; since 0.31
from numba.core.caching import _Cache as NumbaCache  # the interface that a dispatcher expects; since 0.21

# --- code generation
from numba.core.cgutils import (
    alloca_once_value,  # a value on the stack of the caller; since 0.16
    for_range,  # a counted loop in IR; since 0.12
    get_or_insert_function,  # the declaration of an external function; since 0.54
    normalize_ir_text,  # IR text in the encoding that LLVM parses; since 0.28
)
from numba.core.codegen import JITCodeLibrary  # base of the library of inline functions; since 0.49

# --- compiling inline functions
from numba.core.compiler import CompilerBase  # a compiler with its own list of passes; since 0.46
from numba.core.compiler_lock import global_compiler_lock  # held while compiling, and across a fork; since 0.40
from numba.core.compiler_machinery import PassManager  # the list of passes; since 0.46
from numba.core.registry import CPUDispatcher  # base of `Kernel` and `InlineFunction`; since 0.23
from numba.core.serialize import dumps  # pickles what the cache stores; since 0.51
from numba.core.sigutils import normalize_signature  # argument types of any spelling of a signature; since 0.12
from numba.core.typed_passes import (  # passes; since 0.46, PreLowerStripPhis since 0.49
    AnnotateTypes,
    NativeLowering,
    NoPythonBackend,
    NopythonTypeInference,
    PreLowerStripPhis,
)
from numba.core.untyped_passes import (  # passes; since 0.46, ReconstructSSA since 0.47
    DeadBranchPrune,
    FixupArgs,
    GenericRewrites,
    IRProcessing,
    ReconstructSSA,
    RewriteSemanticConstants,
    TranslateByteCode,
)

# --- the threading layer
from numba.np.ufunc import parallel as _parallel

__all__ = [
    "VERSIONS",
    "AnnotateTypes",
    "CPUDispatcher",
    "CompileResultCacheImpl",
    "CompilerBase",
    "DeadBranchPrune",
    "FixupArgs",
    "GenericRewrites",
    "IRProcessing",
    "JITCodeLibrary",
    "NativeLowering",
    "NoPythonBackend",
    "NopythonTypeInference",
    "NumbaCache",
    "PassManager",
    "PreLowerStripPhis",
    "ReconstructSSA",
    "RewriteSemanticConstants",
    "TranslateByteCode",
    "alloca_once_value",
    "current_thread_count",
    "dumps",
    "for_range",
    "get_or_insert_function",
    "global_compiler_lock",
    "host_cpu_features",
    "host_cpu_name",
    "ir",
    "normalize_ir_text",
    "normalize_signature",
    "parse_assembly",
    "thread_start_lock",
    "threading_layer",
    "threads_started",
]

VERSIONS = {"numba": numba.__version__, "llvmlite": llvmlite.__version__}
thread_start_lock = _parallel._backend_init_thread_lock  # held while the threads are started; since 0.40
host_cpu_name = llvmlite.binding.get_host_cpu_name  # public
host_cpu_features = llvmlite.binding.get_host_cpu_features  # public


def threads_started() -> bool:
    """Whether Numba has started its threads.  `_is_initialized` exists since 0.23."""
    return bool(_parallel._is_initialized)


def threading_layer() -> Any:
    """The name of the threading layer, None before the threads are started.  `_threading_layer` exists since 0.40."""
    return _parallel._threading_layer


def current_thread_count() -> int:
    """`numba.get_num_threads()` without its locks, once the threads are started.  `_get_num_threads`: since 0.49."""
    return int(_parallel._get_num_threads())
