"""Pieces of kernels: functions that exist only to be inlined into compiled ones.

Numba compiles every function it meets to the end: optimised, turned into machine code, ready to be called from Python.
A kernel is made of a hundred small ones, of which only the whole matters.  An `InlineFunction` stops at unoptimised
LLVM code for its caller to take in, so that LLVM works once, on the kernel: the first call takes a third of the time.

`specialize` and `optional` choose a piece by the types of the arguments: an option that is off is an argument None.
"""

from __future__ import annotations

from collections.abc import Iterator
from inspect import signature
from typing import Any

from llvmlite.binding import parse_assembly
from numba import types
from numba.core.cgutils import alloca_once, normalize_ir_text
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase
from numba.core.compiler_machinery import PassManager, register_pass
from numba.core.lowering import Lower
from numba.core.registry import CPUDispatcher
from numba.core.sigutils import normalize_signature
from numba.core.typed_passes import (
    AnnotateTypes,
    NativeLowering,
    NoPythonBackend,
    NopythonTypeInference,
    PreLowerStripPhis,
)
from numba.core.untyped_passes import (
    DeadBranchPrune,
    FixupArgs,
    GenericRewrites,
    IRProcessing,
    ReconstructSSA,
    RewriteSemanticConstants,
    TranslateByteCode,
)

from xent_numba.backends.cpu.compile.kernel import OPTIONS as OF_KERNELS

OPTIONS = {**OF_KERNELS, "forceinline": True, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}


class _InlineLibrary(JITCodeLibrary):
    """LLVM code for linking only: each module as it was lowered, put together once, for a kernel."""

    _final_module: Any
    _shared_module: Any

    def add_ir_module(self, ir_module: Any) -> None:
        """Take a module in, unoptimised; the kernel's is verified, with all of them in it."""
        module = parse_assembly(normalize_ir_text(str(ir_module)))
        module.data_layout = self._codegen._data_layout
        for function in module.functions:
            if not function.is_declaration:
                function.linkage = "linkonce_odr"  # may come by several ways, and goes where it was inlined
        self._final_module = module

    def finalize(self) -> None:
        """Left to the kernel that takes it in."""
        self._finalized = True

    def _get_module_for_linking(self) -> Any:
        if self._shared_module is None:
            self._shared_module = self._final_module.clone()
            for library in self._callees({self}):
                self._shared_module.link_in(
                    library._final_module if isinstance(library, _InlineLibrary) else library._get_module_for_linking(),
                    preserve=True,
                )
        return self._shared_module

    def _callees(self, seen: set[Any]) -> Iterator[Any]:
        """The libraries of all that is called from here, each once."""
        for library in self._linking_libraries:
            if library not in seen:
                seen.add(library)
                yield library
                if isinstance(library, _InlineLibrary):
                    yield from library._callees(seen)


class _Lower(Lower):
    def alloca_lltype(self, name: str, lltype: Any, datamodel: Any = None) -> Any:
        """Numba's, less the debug information, for which LLVM would be asked the size of every variable."""
        return alloca_once(self.builder, lltype, name=name, zfill=False)


@register_pass(mutates_CFG=True, analysis_only=False)
class _Lowering(NativeLowering):
    _name = "lowering_of_pieces"

    @property
    def lowering_class(self) -> Any:
        return _Lower


class _InlineCompiler(CompilerBase):
    """Numba's, into the library above, by the passes that pieces need of some thirty: they have no closures, lists or
    exceptions, and own no memory, so that no variable has to be deleted either.
    """

    PASSES = (
        (TranslateByteCode, "bytecode to Numba's IR"),
        (FixupArgs, "arguments"),
        (IRProcessing, "definitions"),
        (RewriteSemanticConstants, "lengths of tuples"),
        (DeadBranchPrune, "branches on arguments that are None"),
        (GenericRewrites, "constant subscripts"),
        (ReconstructSSA, "single assignment"),
        (NopythonTypeInference, "types"),
        (PreLowerStripPhis, "assignments for phi nodes"),
        (AnnotateTypes, "types for the result"),
        (_Lowering, "LLVM code"),
        (NoPythonBackend, "result"),
    )

    def __init__(
        self, typingctx: Any, targetctx: Any, library: Any, args: Any, return_type: Any, flags: Any, locals: Any
    ) -> None:
        library = _InlineLibrary(targetctx.codegen(), "piece")
        super().__init__(typingctx, targetctx, library, args, return_type, flags, locals)

    def define_pipelines(self) -> list[PassManager]:
        """The one pipeline."""
        manager = PassManager("piece")
        for kind, what in self.PASSES:
            manager.add_pass(kind, what)
        manager.finalize()
        return [manager]


class InlineFunction(CPUDispatcher):
    """A function that compiled code can call, and Python cannot."""

    def __init__(self, function: Any) -> None:
        super().__init__(function, {}, dict(OPTIONS), _InlineCompiler)
        self._compiler._customize_flags = _not_to_the_end

    def add_overload(self, cres: Any) -> None:
        """Keep a compiled overload without the entry point for Python that it has not got."""
        if cres.entry_point is None:
            cres = cres._replace(entry_point=_Entry())
            self.targetctx.insert_user_function(cres.entry_point, cres.fndesc, [cres.library])
        self.overloads[tuple(cres.signature.args)] = cres

    def get_call_template(self, args: Any, kws: Any) -> Any:
        """As Numba's, but one for all constants of a type: LLVM will see which they are."""
        plain = tuple(types.unliteral(arg) for arg in args)
        return super().get_call_template(plain, {name: types.unliteral(arg) for name, arg in kws.items()})

    def get_compiled(self, sig: Any) -> Any:
        """What compiling for a signature gave."""
        return self.overloads[tuple(normalize_signature(sig)[0])]

    def __call__(self, *args: Any) -> Any:
        raise NotImplementedError(f"{self.py_func.__name__} works only inside compiled code")


class _Entry:
    """Stands where the entry point for Python would be."""


def _not_to_the_end(flags: Any) -> Any:
    flags.no_compile = True
    return flags


def inline(function: Any) -> Any:
    """A piece of a kernel.  What stands under `if argument is None` is left out where the argument is not None."""
    return InlineFunction(function)


class _Specialized(InlineFunction):
    """A piece that is one of several, by the types of its arguments."""

    def __init__(self, choose: Any) -> None:
        super().__init__(choose)
        self._choose = choose
        self._pieces: dict[Any, InlineFunction] = {}

    def _piece(self, args: Any) -> InlineFunction:
        key = tuple(types.unliteral(arg) for arg in args)
        if key not in self._pieces:
            self._pieces[key] = InlineFunction(self._choose(*key))
        return self._pieces[key]

    def get_call_template(self, args: Any, kws: Any) -> Any:
        """That of the piece chosen."""
        return self._piece(args).get_call_template(args, kws)

    def get_overload(self, sig: Any) -> Any:
        """That of the piece chosen."""
        return self._piece(normalize_signature(sig)[0]).get_overload(sig)


def specialize(choose: Any) -> Any:
    """A piece whose code `choose` picks by the types of its arguments."""
    return _Specialized(choose)


# Numba inlines no function with *args: one for each number of arguments.
_NOTHING = (
    lambda a: None,
    lambda a, b: None,
    lambda a, b, c: None,
    lambda a, b, c, d: None,
    lambda a, b, c, d, e: None,
    lambda a, b, c, d, e, f: None,
    lambda a, b, c, d, e, f, g: None,
)


def optional(function: Any) -> Any:
    """A piece that is None where its first argument is."""
    nothing = _NOTHING[len(signature(function).parameters) - 1]
    return specialize(lambda first, *rest: nothing if isinstance(first, types.NoneType) else function)
