"""Every private or internal name of Numba and llvmlite that this backend uses: the one file to check at an upgrade.

"Since" is the first release of Numba that has the name; the package requires 0.62.1 (with llvmlite 0.45).  Public names
(`numba.njit`, `numba.types`, `numba.extending`, …) are imported where they are used.

Some members of these classes and of the objects that Numba passes on are internal as well, and are used directly:

    in `inline`         JITCodeLibrary._codegen, ._linking_libraries, ._final_module, ._shared_module, ._finalized and
                        ._get_module_for_linking (since 0.17); CPUDispatcher._compiler and ._customize_flags (0.26),
                        .add_overload, .get_call_template, .get_overload and .targetctx.insert_user_function (0.14);
                        flags.no_compile
    in `kernel`         CPUDispatcher._cache and .overloads (0.23); the option _nrt; library.get_pointer_to_function and
                        fndesc.llvm_cfunc_wrapper_name (0.26) of a compile result
    in `cache`          ._cache of what `numba.njit` returns (0.23); NumbaCache._impl, CompileResultCacheImpl.reduce,
                        .rebuild and .check_cachable (0.31); target_context.refresh and .codegen;
                        codegen.magic_tuple; .codegen of a compile result
    in `parallel_for`   context.active_code_library (0.41) and its .name and .add_linking_library, context.call_conv,
                        context.declare_function; function.get_call_type and .dispatcher of an argument that is a
                        function; the C functions get_num_threads and set_num_threads of the threading layer
    in `simd`           context.make_array, of which .data and .strides are read
    in all intrinsics   context.cast, context.get_dummy_value
    options of both     forceinline, no_cpython_wrapper, no_cfunc_wrapper (0.49)

Some programs in `tests/support` and `tests/runtime` use private names of Numba too, which an upgrade may break as well.
"""

from __future__ import annotations

from typing import Any

import llvmlite
import numba
from llvmlite import ir  # the public IR builder; here so that llvmlite is named in one file only
from llvmlite.binding import (  # public
    Target,  # for `processor`: what LLVM can generate code for
    parse_assembly,  # an LLVM module from IR text
)

# For `cache`.
from numba.core.caching import CompileResultCacheImpl  # a compiled function to picklable data and back; since 0.31
from numba.core.caching import _Cache as NumbaCache  # the interface that a dispatcher expects; since 0.21

# For `parallel_for` and `simd`.
from numba.core.cgutils import (
    alloca_once_value,  # a value on the stack of the caller; since 0.16
    for_range,  # a counted loop in IR; since 0.12
    get_or_insert_function,  # the declaration of an external function; since 0.54
    normalize_ir_text,  # for `inline`: IR text in the encoding that LLVM parses; since 0.28
)

# For `inline`: a compiler with a code library and a list of passes of its own.
from numba.core.codegen import JITCodeLibrary  # since 0.49
from numba.core.compiler import CompilerBase  # since 0.46
from numba.core.compiler_lock import global_compiler_lock  # held while compiling, and across a fork; since 0.40
from numba.core.compiler_machinery import PassManager  # since 0.46
from numba.core.registry import (
    CPUDispatcher,  # base of `InlineFunction`, and of `Kernel`; since 0.23
    cpu_target,  # for `processor`: the processor that Numba compiles for; since 0.14
)
from numba.core.serialize import dumps  # for `cache`: pickles what it stores; since 0.51
from numba.core.sigutils import normalize_signature  # the argument types in any form of a signature; since 0.12
from numba.core.typed_passes import (  # since 0.46, PreLowerStripPhis since 0.49
    AnnotateTypes,
    NativeLowering,
    NoPythonBackend,
    NopythonTypeInference,
    PreLowerStripPhis,
)
from numba.core.untyped_passes import (  # since 0.46, ReconstructSSA since 0.49
    DeadBranchPrune,
    FixupArgs,
    GenericRewrites,
    IRProcessing,
    ReconstructSSA,
    RewriteSemanticConstants,
    TranslateByteCode,
)

# For `threads`: the state of the threading layer, wrapped below.
from numba.np.ufunc import parallel as _parallel

VERSIONS = {"numba": numba.__version__, "llvmlite": llvmlite.__version__}
thread_start_lock = _parallel._backend_init_thread_lock  # held while the threads are started; since 0.40


def target_processor() -> tuple[str, str, str]:
    """The triple, the name and the features of the processor that Numba compiles for."""
    found: tuple[str, str, str] = cpu_target.target_context.codegen().magic_tuple()
    return found


def threads_started() -> bool:
    """Whether Numba has started its threads.  `_is_initialized` exists since 0.25."""
    return bool(_parallel._is_initialized)


def threading_layer() -> Any:
    """The name of the threading layer, None before the threads are started.  `_threading_layer` exists since 0.40."""
    return _parallel._threading_layer


def current_thread_count() -> int:
    """`numba.get_num_threads()` without its locks, once the threads are started.  `_get_num_threads`: since 0.49."""
    return int(_parallel._get_num_threads())
