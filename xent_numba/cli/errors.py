"""The one exception of the command line: what the user can put right, said in one line."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class UserError(Exception):
    """A mistake in what was asked for.  The message names the file and the value; no traceback is shown."""


@contextlib.contextmanager
def naming(path: str) -> Iterator[None]:
    """Turn an error of the operating system into one line about `path`, whatever temporary file it came from."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error
