"""The registry of backends: which exist, which one a call gets, and why another cannot run.

A backend is imported when a call first needs it.  "auto" means the first of `AUTO` that can run, with one warning in
a process where that is not the first of all, since calls then take far longer.  A backend that is asked for by name
either runs or raises an error that says why it cannot.
"""

from __future__ import annotations

import importlib
import os
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xent_numba.interrupts import uninterrupted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from xent_numba.backends.protocol import Backend


@dataclass(frozen=True, slots=True)
class Implementation:
    """One line of the registry."""

    module: str  # where `BACKEND` is; imported when first needed
    needs: str  # what to do where what it needs is not installed, for error messages
    pace: str = "slower"  # against the first of `AUTO`, for the warning that "auto" takes this backend instead
    is_tested: bool = False  # whether the module `tested` lists versions of the package that it needs


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether a backend can run here: true or false as a condition, a sentence as text."""

    available: bool
    reason: str  # "" where it is available

    def __bool__(self) -> bool:
        return self.available

    def __str__(self) -> str:
        return "yes" if self.available else f"no: {self.reason}"


IMPLEMENTATIONS = {
    "numpy": Implementation("xent_numba.backends.reference", "install numpy", "tens to hundreds of times slower"),
    "cpu": Implementation("xent_numba.backends.cpu.backend", "install numba: pip install numba", is_tested=True),
    "njit": Implementation(
        "xent_numba.backends.njit", "install numba: pip install numba", "up to seven times slower", is_tested=True
    ),
    "cuda": Implementation("xent_numba.backends.cuda.backend", "install numba-cuda: pip install 'numba-cuda[cu12]'"),
}
AUTO = ("cpu", "njit", "numpy")  # for arrays on the host, the first of these that can run
VARIABLE = "XENT_NUMBA_BACKEND"
NAMES = ("auto", *IMPLEMENTATIONS)

_default: str = os.environ.get(VARIABLE) or "auto"  # validated on first use, so that the import cannot fail over it
_default_source = f" (from the environment variable {VARIABLE})"
_chosen: ContextVar[str | None] = ContextVar("xent_numba_backend", default=None)
_ready: dict[str, Backend] = {}  # backends that can run, by name, and what "auto" stands for


def select(name: str | None = None) -> Backend:
    """The backend for a call: the one named, or the current one.

    Raises ValueError for an unknown name, and RuntimeError with the reason for a backend that cannot run here.
    """
    if name is None:
        name = _chosen.get() or _default
    try:
        return _ready[name]
    except (KeyError, TypeError):  # TypeError: not hashable, so no name either
        return _load(name)


def set_backend(name: str) -> None:
    """Make a backend the default of the whole process.

    `use_backend`, and the `backend` of a call, take precedence over it.

    Parameters
    ----------
    name : {"auto", "numpy", "cpu", "njit", "cuda"}
        The backend.  "auto" takes "cuda" for logits on a GPU, and else the fastest backend that can run.

    Raises
    ------
    ValueError
        There is no backend of this name.
    RuntimeError
        The backend cannot run here.  The message says why.

    See Also
    --------
    use_backend : Choose a backend for a `with` block only.
    available_backends : Which backends can run, and why others cannot.

    Examples
    --------
    >>> from xent_numba import get_backend, set_backend
    >>> set_backend("numpy"); get_backend()
    'numpy'
    >>> set_backend("auto")
    """
    global _default, _default_source
    select(_known(name))
    _default, _default_source = name, ""


def get_backend() -> str:
    """Name of the backend that calls use here.

    It is "auto" unless another was set, by `use_backend`, `set_backend` or the environment variable XENT_NUMBA_BACKEND.

    Returns
    -------
    str
        One of the names that `set_backend` takes.

    See Also
    --------
    set_backend : Choose a backend for the whole process.
    show_config : Print, among other things, which backend "auto" stands for.

    Examples
    --------
    >>> from xent_numba import get_backend
    >>> get_backend()
    'auto'
    """
    return _chosen.get() or _default


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Use a backend within a `with` block.

    The choice is that of this thread or asynchronous task alone.  Threads that are started within the block use it too
    where Python lets them inherit context variables (`sys.flags.thread_inherit_context`, which is set on free-threaded
    builds).

    Parameters
    ----------
    name : str
        One of the names that `set_backend` takes.

    Yields
    ------
    None
        Nothing.

    Raises
    ------
    ValueError, RuntimeError
        As in `set_backend`.

    See Also
    --------
    set_backend : Choose a backend for the whole process.

    Examples
    --------
    >>> from xent_numba import get_backend, use_backend
    >>> with use_backend("numpy"):
    ...     get_backend()
    'numpy'
    """
    select(_known(name))
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)


def available_backends() -> dict[str, Availability]:
    """Every backend by name, and whether it can run here.

    To find out, each is imported, with the libraries that it needs.

    Returns
    -------
    dict of str to Availability
        The values are true or false as conditions, and "yes" or "no" with the reason as text.

    See Also
    --------
    set_backend : Choose one of them.
    show_config : Print the same, with versions and threads.

    Examples
    --------
    >>> from xent_numba import available_backends
    >>> found = available_backends()
    >>> bool(found["numpy"]), str(found["numpy"])
    (True, 'yes')
    """
    found = {}
    for name in IMPLEMENTATIONS:
        outcome = _try(name)
        found[name] = Availability(False, outcome) if isinstance(outcome, str) else Availability(True, "")
    return found


def _known(name: object) -> str:
    """The name, if it is one of `NAMES`; else ValueError."""
    if isinstance(name, str) and name in NAMES:
        return name
    source = _default_source if isinstance(name, str) and name == _default else ""
    *first, last = map(repr, NAMES)
    raise ValueError(f"backend = {name!r}{source} is unknown; choose one of {', '.join(first)} or {last}")


def _load(name: str) -> Backend:
    """Import a backend, or the first of `AUTO` that can run, and remember it under this name."""
    reasons: dict[str, list[str]] = {}  # each with the names that it is true of
    for candidate in AUTO if _known(name) == "auto" else (name,):
        outcome = _try(candidate)
        if not isinstance(outcome, str):
            _ready[name] = outcome
            if reasons:
                _warn_of(candidate, reasons)
            return outcome
        reasons.setdefault(outcome, []).append(candidate)
    raise RuntimeError(f"backend {name!r} cannot run here: {'; '.join(reasons)}")


def _warn_of(name: str, reasons: dict[str, list[str]]) -> None:
    """Warn, if nobody has before, that "auto" takes the backend `name`, and why it takes none of those before it."""
    from xent_numba.backends.diagnosis import warn_once

    why = "; ".join(f"{' and '.join(map(repr, others))} cannot run here: {why}" for why, others in reasons.items())
    warn_once(
        "auto",
        f"backend 'auto' computes with {name!r}, {IMPLEMENTATIONS[name].pace}, because {why}.  "
        f"{VARIABLE}={name} or set_backend({name!r}) chooses {name!r} without this warning.",
    )


def _try(name: str) -> Backend | str:
    """The backend, or a sentence that says why it cannot run and what would help."""
    implementation = IMPLEMENTATIONS[name]
    absent = "this version of xent_numba does not include it; use backend='auto'"
    if implementation.is_tested and os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        return "NUMBA_DISABLE_JIT is set, so numba compiles nothing; unset it"
    try:
        with uninterrupted():
            module = importlib.import_module(implementation.module)
    except Exception as error:  # a broken installation may raise anything
        missing = error.name or str(error) if isinstance(error, ModuleNotFoundError) else ""
        if missing.startswith("xent_numba"):
            return absent
        if missing and not (implementation.is_tested and "." in missing):  # else a part of what is installed
            return f"{missing} is not installed; {implementation.needs}"
        from xent_numba.backends.diagnosis import quoted, unusable

        if implementation.is_tested:
            return unusable("importing it failed", error)
        return f"importing it failed ({quoted(error)}); {implementation.needs}"
    backend: Backend | None = getattr(module, "BACKEND", None)
    with uninterrupted():  # this may compile, or start a driver
        return absent if backend is None else backend.why_not() or backend


def device_arrays(backend: str | None, name_of_input: str = "") -> ModuleType:
    """The module with the functions for arrays on a GPU, `backends.cuda.arrays.api`.

    `name_of_input` is what error messages call the array that is there, where that is not logits.  Raises TypeError
    where `backend` names one that reads only arrays on the host, and RuntimeError with the reason where CUDA cannot be
    used here.
    """
    name = get_backend() if backend is None else backend
    if name not in ("auto", "cuda"):
        select(name)  # ValueError for an unknown name
        what, them = (f"{name_of_input} is", "it") if name_of_input else ("logits are", "them")
        raise TypeError(f"{what} on a GPU, which backend {name!r} cannot read; use 'cuda', or copy {them} to the host")
    select("cuda")
    from xent_numba.backends.cuda.arrays import api

    return api
