"""Inline functions: the small functions that kernels are composed of.

Numba compiles every function to the end: optimised, turned into machine code, ready to be called from Python.  A kernel
consists of a hundred small functions, of which only the whole is ever run.  An `InlineFunction` therefore stops at
unoptimised LLVM IR and is always inlined into its caller, so that LLVM optimises once, the whole kernel.  The first
call of a kernel takes a third of the time for it.

    @inline        a function that is compiled for the types of its arguments
    @specialize    a function that is given the types of its arguments, and returns the function to compile for them
    @optional      a function that returns None where its first argument is None
    by_class       a function that is looked up by the class of its first argument, a named tuple

An option that is off is an argument None, and the machine code has only the instructions of the options in use.  Under
`if argument is None`, or `is not None`, Numba drops the branch not taken before it infers any types, but only where the
argument is None; where it has a value, both branches are typed, and LLVM drops the dead one.  A function that returns
either None or a value is therefore `@optional` or `@specialize`.
"""

from __future__ import annotations

from collections.abc import Iterator
from inspect import signature
from typing import Any

from numba import types

from xent_numba.backends.cpu.compile.kernel import OPTIONS as KERNEL_OPTIONS
from xent_numba.backends.cpu.compile.numba_private import (
    AnnotateTypes,
    CompilerBase,
    CPUDispatcher,
    DeadBranchPrune,
    FixupArgs,
    GenericRewrites,
    IRProcessing,
    JITCodeLibrary,
    NativeLowering,
    NoPythonBackend,
    NopythonTypeInference,
    PassManager,
    PreLowerStripPhis,
    ReconstructSSA,
    RewriteSemanticConstants,
    TranslateByteCode,
    normalize_ir_text,
    normalize_signature,
    parse_assembly,
)

OPTIONS = {**KERNEL_OPTIONS, "forceinline": True, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}


class _InlineLibrary(JITCodeLibrary):
    """The LLVM module of one inline function, as lowered: neither optimised nor verified before a kernel links it."""

    _final_module: Any
    _shared_module: Any

    def add_ir_module(self, ir_module: Any) -> None:
        """Parse the module, and no more; LLVM verifies the module of the kernel, which contains it."""
        module = parse_assembly(normalize_ir_text(str(ir_module)))
        module.data_layout = self._codegen._data_layout
        for function in module.functions:
            if not function.is_declaration:
                function.linkage = "linkonce_odr"  # may be linked in several times, and is dropped once inlined
        self._final_module = module

    def finalize(self) -> None:
        """Do nothing: the kernel that links this library generates the machine code."""
        self._finalized = True

    def _get_module_for_linking(self) -> Any:
        """The module with those of all its callees linked in, made once."""
        if self._shared_module is None:
            self._shared_module = self._final_module.clone()
            for library in self._callees({self}):
                self._shared_module.link_in(
                    library._final_module if isinstance(library, _InlineLibrary) else library._get_module_for_linking(),
                    preserve=True,
                )
        return self._shared_module

    def _callees(self, seen: set[Any]) -> Iterator[Any]:
        """The libraries of all functions called from here, directly or not, each once."""
        for library in self._linking_libraries:
            if library not in seen:
                seen.add(library)
                yield library
                if isinstance(library, _InlineLibrary):
                    yield from library._callees(seen)


class _InlineCompiler(CompilerBase):
    """Numba's compiler, into an `_InlineLibrary`, with the dozen of its thirty passes that inline functions need.

    They have no closures, lists or exceptions, and own no memory, so no pass has to look for these or to delete
    variables.  With all passes of Numba's default pipeline, the first call of `cross_entropy_and_grad` takes 23 % more
    CPU time for a 2 × 3 array (4.3 s instead of 3.5 s) and 11 % more for a 1000 × 1000 array.
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
        (NativeLowering, "LLVM IR"),
        (NoPythonBackend, "result"),
    )

    def __init__(
        self, typingctx: Any, targetctx: Any, library: Any, args: Any, return_type: Any, flags: Any, locals: Any
    ) -> None:
        library = _InlineLibrary(targetctx.codegen(), "inline")
        super().__init__(typingctx, targetctx, library, args, return_type, flags, locals)

    def define_pipelines(self) -> list[PassManager]:
        """The one pipeline, of `PASSES`."""
        manager = PassManager("inline")
        for kind, what in self.PASSES:
            manager.add_pass(kind, what)
        manager.finalize()
        return [manager]


class InlineFunction(CPUDispatcher):
    """A function that compiled code can call, and Python cannot."""

    def __init__(self, function: Any) -> None:
        super().__init__(function, {}, dict(OPTIONS), _InlineCompiler)
        self._compiler._customize_flags = _without_machine_code

    def add_overload(self, cres: Any) -> None:
        """Store a compiled overload.  It has no entry point for Python, so another object takes the place of one."""
        if cres.entry_point is None:
            cres = cres._replace(entry_point=_NoEntryPoint())
            self.targetctx.insert_user_function(cres.entry_point, cres.fndesc, [cres.library])
        self.overloads[tuple(cres.signature.args)] = cres

    def get_call_template(self, args: Any, kws: Any) -> Any:
        """Numba's call template, with one overload for all literals of a type: LLVM propagates the constants anyway."""
        plain = tuple(types.unliteral(arg) for arg in args)
        return super().get_call_template(plain, {name: types.unliteral(arg) for name, arg in kws.items()})

    def get_compiled(self, sig: Any) -> Any:
        """The result of compiling for a signature."""
        return self.overloads[tuple(normalize_signature(sig)[0])]

    def __call__(self, *args: Any) -> Any:
        raise NotImplementedError(f"{self.py_func.__name__} works only inside compiled code")


class _NoEntryPoint:
    """Takes the place of the entry point for Python, as the key under which Numba finds the function."""


def _without_machine_code(flags: Any) -> Any:
    """Compiler flags that make Numba stop at LLVM IR."""
    flags.no_compile = True
    return flags


def inline(function: Any) -> Any:
    """Make a function an inline function: `@inline`."""
    return InlineFunction(function)


class _Specialized(InlineFunction):
    """An inline function that stands for several, one for each combination of argument types."""

    def __init__(self, choose: Any) -> None:
        super().__init__(choose)
        self._choose = choose
        self._chosen: dict[Any, InlineFunction] = {}

    def _function_for(self, args: Any) -> InlineFunction:
        """The inline function for arguments of these types."""
        key = tuple(types.unliteral(arg) for arg in args)
        if key not in self._chosen:
            self._chosen[key] = InlineFunction(self._choose(*key))
        return self._chosen[key]

    def get_call_template(self, args: Any, kws: Any) -> Any:
        """The call template of the function that `choose` returns for these argument types."""
        return self._function_for(args).get_call_template(args, kws)

    def get_overload(self, sig: Any) -> Any:
        """The overload of the function that `choose` returns for the argument types of this signature."""
        return self._function_for(normalize_signature(sig)[0]).get_overload(sig)


def specialize(choose: Any) -> Any:
    """Make an inline function of `choose`, which returns the function to compile for given argument types."""
    return _Specialized(choose)


def by_class(functions: dict[type, Any]) -> Any:
    """Make an inline function of a table: the function to compile for each class of the first argument, a named tuple.

    Whoever defines such a class adds its function to the table.
    """
    return specialize(lambda first, *rest: functions[first.instance_class])


# Functions of one to seven arguments that return None; Numba cannot inline a function with *args.
_NONE = (
    lambda a: None,
    lambda a, b: None,
    lambda a, b, c: None,
    lambda a, b, c, d: None,
    lambda a, b, c, d, e: None,
    lambda a, b, c, d, e, f: None,
    lambda a, b, c, d, e, f, g: None,
)


def optional(function: Any) -> Any:
    """Make an inline function that returns None where its first argument is None."""
    none = _NONE[len(signature(function).parameters) - 1]
    return specialize(lambda first, *rest: none if isinstance(first, types.NoneType) else function)
