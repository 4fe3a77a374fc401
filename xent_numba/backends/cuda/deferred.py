"""Checks of labels and weights on the device whose results a caller reads later."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass(slots=True)
class Deferred:
    """The checks whose results have not been read."""

    pending: list[Callable[[], None]] = field(default_factory=list)

    def check(self) -> None:
        """Wait for the device, and raise for the first call that had a bad label or weight."""
        pending, self.pending = self.pending, []
        for read in pending:
            read()


_deferred: ContextVar[Deferred | None] = ContextVar("xent_numba_cuda_deferred", default=None)


@contextmanager
def deferred_checks() -> Iterator[Deferred]:
    """Within the block, calls on CUDA arrays do not wait for the check of labels and weights.

    A row with a bad label is nan until it is checked; the block's end checks what was not checked before.
    """
    deferred = Deferred()
    token = _deferred.set(deferred)
    try:
        yield deferred
        deferred.check()
    finally:
        _deferred.reset(token)


def current() -> Deferred | None:
    """Where calls put their checks; None where they are to check at once."""
    return _deferred.get()
