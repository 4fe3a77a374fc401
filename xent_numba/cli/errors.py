"""The exception of the command line: a mistake that the user can correct, reported in one line."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class UserError(Exception):
    """A mistake in the arguments or files.  The message names the file or option; no traceback is shown."""


@contextlib.contextmanager
def naming(path: str) -> Iterator[None]:
    """Turn an error of the operating system into a `UserError` about `path`, even if a temporary file caused it."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
