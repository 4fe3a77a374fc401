"""The backend registry: which implementations exist, which one a call gets, and why.

A backend is an object with the handful of methods of `Backend`.  It receives validated values only (see
`xent_numba.problem`), raises nothing a user could have caused, and is imported the first time a call needs it.

`auto` takes the first of its list that can run; a backend asked for by name runs or says why not.
"""

from __future__ import annotations

import importlib
import os
import signal
import threading
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray

    from xent_numba.problem import Problem

    Array = NDArray[Any]


class LabelScan(NamedTuple):
    """What one pass over the labels finds out."""

    first_bad: int  # flat C-order index of the first label out of range and not ignored; -1 if none
    n_kept: int  # rows that are not ignored
    weight_sum: float  # Σ m_i s_i w_{y_i}: the denominator of the mean
    sample_sum: float  # Σ m_i s_i: the denominator of the mean z-loss


class Backend(Protocol):
    """What an implementation provides.  A, B are the two row dimensions of the canonical view, C the classes."""

    name: str

    def why_not(self) -> str | None:
        """None when this backend can run here, else the reason and the remedy in one sentence."""

    def describe(self) -> dict[str, object]:
        """Facts for `show_config`: versions, threads, vector width, device."""

    def scan_labels(
        self,
        labels: Array,  # (A, B) int32 or int64, any strides, no dimension 0
        n_classes: int,
        ignore: tuple[int, ...],
        weight: NDArray[np.float64] | None,  # (C,)
        sample_weight: NDArray[np.float64] | None,  # (A, B)
        n_threads: int | None,
    ) -> LabelScan:
        """Find the first bad label and the denominators in one pass."""

    def cross_entropy(self, problem: Problem, rows: Array | None, grad: Array | None) -> NDArray[np.float64] | None:
        """Loss, and the gradient where `grad` (A, B, C) is given, in one fused pass.

        With `rows` (A, B) the loss of each row goes there and None comes back; without, the partial sums of
        fixed groups of rows come back, for `reduction.total`.  The gradient is that of
        problem.grad_scale · Σ_i row_i.
        """

    def cross_entropy_grad(
        self, problem: Problem, grad: Array, lse: Array | None, grad_output: NDArray[np.float64] | None
    ) -> None:
        """Gradient alone into `grad` (A, B, C), from a saved `lse` (A, B) where given, times `grad_output` (A, B).

        Both are contiguous float64.  Where `lse` is infinite or nan, so are all its row's logits' gradients: nan.
        """

    def softmax(self, logits: Array, out: Array, n_threads: int | None) -> None:
        """softmax over the last axis of (A, B, C)."""

    def log_softmax(self, logits: Array, out: Array, n_threads: int | None) -> None:
        """log_softmax over the last axis of (A, B, C)."""

    def logsumexp(self, logits: Array, out: Array, n_threads: int | None) -> None:
        """logsumexp over the last axis of (A, B, C) into (A, B); −inf of −inf alone, +inf of any +inf, as in SciPy."""


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
    "cpu": Implementation("cpu", "xent_numba.backends.cpu", "install numba: pip install numba"),
    "cuda": Implementation("cuda", "xent_numba.backends.cuda", "install numba-cuda: pip install 'numba-cuda[cu12]'"),
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


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Put Ctrl-C off until the end.

    Half an import of Numba would be all that this process ever gets, and half a start of its threads too.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield  # a signal interrupts no other thread, or nobody
        return
    pressed: list[tuple[int, FrameType | None]] = []
    signal.signal(signal.SIGINT, lambda *args: pressed.append(args))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if pressed:
            before(*pressed[0])


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
