"""Pieces of kernels: functions that exist only to be inlined into compiled ones.

Numba compiles every function it meets to the end: optimised, turned into machine code, ready to be called from Python.
A kernel is made of a hundred small ones, of which only the whole matters.  A `Piece` stops at unoptimised LLVM code for
its caller to take in, so that LLVM works once, on the kernel: the first call takes a third of the time.

`by_type` and `unless_none` choose a piece by the types of the arguments: an option that is off is an argument None.
"""

from __future__ import annotations

from inspect import signature
from typing import Any

from numba import types
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler
from numba.core.registry import CPUDispatcher
from numba.core.sigutils import normalize_signature

# NumPy's error model: no division raises.
OPTIONS = {
    "nopython": True,
    "nogil": True,
    "forceinline": True,
    "error_model": "numpy",
    "_nrt": False,  # nobody here owns memory: counting references, atomically, cost more than the arithmetic
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
}


class _Library(JITCodeLibrary):
    """LLVM code for linking only."""

    def _optimize_functions(self, ll_module: Any) -> None:
        ll_module.data_layout = self._codegen._data_layout

    def _optimize_final_module(self) -> None:
        """Left to the kernel that takes it in."""

    def _finalize_final_module(self) -> None:
        self._finalized = True


class _Compiler(Compiler):
    """Numba's own, but for the library it compiles into."""

    def __init__(
        self, typingctx: Any, targetctx: Any, library: Any, args: Any, return_type: Any, flags: Any, locals: Any
    ) -> None:
        library = _Library(targetctx.codegen(), "piece")
        super().__init__(typingctx, targetctx, library, args, return_type, flags, locals)


class Piece(CPUDispatcher):
    """A function that compiled code can call, and Python cannot."""

    def __init__(self, function: Any) -> None:
        super().__init__(function, {}, dict(OPTIONS), _Compiler)
        self._compiler._customize_flags = _not_to_the_end

    def add_overload(self, cres: Any) -> None:
        """Keep a compiled overload without the entry point for Python that it has not got."""
        if cres.entry_point is None:
            cres = cres._replace(entry_point=_Entry())
            self.targetctx.insert_user_function(cres.entry_point, cres.fndesc, [cres.library])
        self.overloads[tuple(cres.signature.args)] = cres

    def __call__(self, *args: Any) -> Any:
        raise NotImplementedError(f"{self.py_func.__name__} works only inside compiled code")


class _Entry:
    """Stands where the entry point for Python would be."""


def _not_to_the_end(flags: Any) -> Any:
    flags.no_compile = True
    return flags


def inline(function: Any) -> Any:
    """A piece of a kernel.  What stands under `if argument is None` is left out where the argument is not None."""
    return Piece(function)


class _Choice(Piece):
    """A piece that is one of several, by the types of its arguments."""

    def __init__(self, choose: Any) -> None:
        super().__init__(choose)
        self._choose = choose
        self._pieces: dict[Any, Piece] = {}

    def _piece(self, args: Any) -> Piece:
        key = tuple(types.unliteral(arg) for arg in args)
        if key not in self._pieces:
            self._pieces[key] = Piece(self._choose(*key))
        return self._pieces[key]

    def get_call_template(self, args: Any, kws: Any) -> Any:
        """That of the piece chosen."""
        return self._piece(args).get_call_template(args, kws)

    def get_overload(self, sig: Any) -> Any:
        """That of the piece chosen."""
        return self._piece(normalize_signature(sig)[0]).get_overload(sig)


def by_type(choose: Any) -> Any:
    """A piece whose code `choose` picks by the types of its arguments."""
    return _Choice(choose)


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


def unless_none(function: Any) -> Any:
    """A piece that is None where its first argument is."""
    nothing = _NOTHING[len(signature(function).parameters) - 1]
    return by_type(lambda first, *rest: nothing if isinstance(first, types.NoneType) else function)
