"""The backend registry: which implementations exist, which one a call gets, and why.

A backend is an object with the handful of methods of `protocol.Backend`.  It is imported the first time a call needs
it.  `auto` takes the first of its list that can run; a backend asked for by name runs or says why not.
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
    """One row of the registry."""

    name: str
    module: str  # has a `BACKEND`; imported when first needed
    needs: str  # what to do when it cannot be imported


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether a backend can run here; true or false by itself, and a sentence as text."""

    available: bool
    reason: str  # "" when available

    def __bool__(self) -> bool:
        return self.available

    def __str__(self) -> str:
        return "yes" if self.available else f"no: {self.reason}"


IMPLEMENTATIONS = {
    "numpy": Implementation("numpy", "xent_numba.backends.reference", "install numpy"),
    "cpu": Implementation("cpu", "xent_numba.backends.cpu.backend", "install numba: pip install numba"),
    "cuda": Implementation(
        "cuda", "xent_numba.backends.cuda.backend", "install numba-cuda: pip install 'numba-cuda[cu12]'"
    ),
}
AUTO = ("cpu", "numpy")  # host arrays: the first that can run
VARIABLE = "XENT_NUMBA_BACKEND"
NAMES = ("auto", *IMPLEMENTATIONS)

_default: str = os.environ.get(VARIABLE) or "auto"  # checked when first used: an import must not fail over it
_default_source = f" (from the environment variable {VARIABLE})"
_chosen: ContextVar[str | None] = ContextVar("xent_numba_backend", default=None)
_ready: dict[str, Backend] = {}  # name → backend that can run; "auto" included


def select(name: str | None = None) -> Backend:
    """The backend for a call: the one named, else the current one.

    ValueError for an unknown name, RuntimeError with the reason for a known one that cannot run.
    """
    if name is None:
        name = _chosen.get() or _default
    try:
        return _ready[name]
    except (KeyError, TypeError):  # TypeError: unhashable, so certainly not a name
        return _load(name)


def set_backend(name: str) -> None:
    """Make a backend the default of the whole process: "auto", "numpy", "cpu" or "cuda".

    `use_backend` and a call's own `backend=` go before it.

    >>> set_backend("numpy"); get_backend()
    'numpy'
    >>> set_backend("auto")
    """
    global _default, _default_source
    select(_known(name))
    _default, _default_source = name, ""


def get_backend() -> str:
    """The name that calls without `backend=` use here: "auto" unless something else was set.

    >>> get_backend()
    'auto'
    """
    return _chosen.get() or _default


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Use a backend within a `with` block, in this thread or asynchronous task only.

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
    """Every backend by name, and whether it can run here: true or false, and as text the reason why not.

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
    if isinstance(name, str) and name in NAMES:
        return name
    source = _default_source if name == _default else ""
    raise ValueError(f"backend = {name!r}{source} is unknown; choose one of 'auto', 'numpy', 'cpu' or 'cuda'")


def _load(name: str) -> Backend:
    reasons = []
    for candidate in AUTO if _known(name) == "auto" else (name,):
        outcome = _try(candidate)
        if not isinstance(outcome, str):
            _ready[name] = outcome
            return outcome
        reasons.append(outcome)
    raise RuntimeError(f"backend {name!r} cannot run here: {'; '.join(reasons)}")


def _try(name: str) -> Backend | str:
    """The backend, or in one sentence why it cannot run and what would help."""
    implementation = IMPLEMENTATIONS[name]
    absent = "this version of xent_numba does not include it; use backend='auto'"
    try:
        with uninterrupted():
            module = importlib.import_module(implementation.module)
    except ModuleNotFoundError as error:
        missing = error.name or str(error)
        return absent if missing.startswith("xent_numba") else f"{missing} is not installed; {implementation.needs}"
    except Exception as error:  # whatever a broken installation of an optional package raises
        return f"importing it failed ({type(error).__name__}: {error}); {implementation.needs}"
    backend: Backend | None = getattr(module, "BACKEND", None)
    return absent if backend is None else backend.why_not() or backend


def device_arrays(backend: str | None) -> ModuleType:
    """The functions for arrays on a device (see `backends.cuda.arrays`), if the backend asked for has them.

    RuntimeError with the reason where CUDA cannot be used here; TypeError for a backend that reads host arrays only.
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
