"""The registry of backends: which exist, which one a call gets, and why another cannot run.

A backend is imported when a call first needs it.  "auto" means the first of `AUTO` that can run.  A backend that is
asked for by name either runs or raises an error that says why it cannot.
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
    needs: str  # what to do where it cannot be imported, for error messages


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
    "numpy": Implementation("xent_numba.backends.reference", "install numpy"),
    "cpu": Implementation("xent_numba.backends.cpu.backend", "install numba: pip install numba"),
    "njit": Implementation("xent_numba.backends.njit", "install numba: pip install numba"),
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
    """Make a backend the default of the whole process: "auto", or a key of `available_backends()`.

    `use_backend`, and the `backend=` of a call, take precedence over it.  ValueError for an unknown name, RuntimeError
    for a backend that cannot run here.

    >>> set_backend("numpy"); get_backend()
    'numpy'
    >>> set_backend("auto")
    """
    global _default, _default_source
    select(_known(name))
    _default, _default_source = name, ""


def get_backend() -> str:
    """The name of the backend that calls without `backend=` use here; "auto" unless another was set.

    >>> get_backend()
    'auto'
    """
    return _chosen.get() or _default


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Use a backend within a `with` block, only in this thread or asynchronous task.  Errors as in `set_backend`.

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
    """Every backend by name, and whether it can run here: true or false as a condition, with the reason as text.

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
    source = _default_source if name == _default else ""
    *first, last = map(repr, NAMES)
    raise ValueError(f"backend = {name!r}{source} is unknown; choose one of {', '.join(first)} or {last}")


def _load(name: str) -> Backend:
    """Import a backend, or the first of `AUTO` that can run, and remember it under this name."""
    reasons = []
    for candidate in AUTO if _known(name) == "auto" else (name,):
        outcome = _try(candidate)
        if not isinstance(outcome, str):
            _ready[name] = outcome
            return outcome
        reasons.append(outcome)
    raise RuntimeError(f"backend {name!r} cannot run here: {'; '.join(reasons)}")


def _try(name: str) -> Backend | str:
    """The backend, or a sentence that says why it cannot run and what would help."""
    implementation = IMPLEMENTATIONS[name]
    absent = "this version of xent_numba does not include it; use backend='auto'"
    try:
        with uninterrupted():
            module = importlib.import_module(implementation.module)
    except ModuleNotFoundError as error:
        missing = error.name or str(error)
        return absent if missing.startswith("xent_numba") else f"{missing} is not installed; {implementation.needs}"
    except Exception as error:  # a broken installation may raise anything
        return f"importing it failed ({type(error).__name__}: {error}); {implementation.needs}"
    backend: Backend | None = getattr(module, "BACKEND", None)
    return absent if backend is None else backend.why_not() or backend


def device_arrays(backend: str | None) -> ModuleType:
    """The module with the functions for arrays on a GPU, `backends.cuda.arrays.api`.

    Raises TypeError where `backend` names one that reads only arrays on the host, and RuntimeError with the reason
    where CUDA cannot be used here.
    """
    name = get_backend() if backend is None else backend
    if name not in ("auto", "cuda"):
        select(name)  # ValueError for an unknown name
        raise TypeError(
            f"logits are on a GPU, which backend {name!r} cannot read; use 'cuda', or copy them to the host"
        )
    select("cuda")
    from xent_numba.backends.cuda.arrays import api

    return api
