"""Standard output and standard error, which may be closed, full, or left by their reader.

A program that cannot print its result must say so and fail; one that cannot complain must still have the right status.
"""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from typing import TYPE_CHECKING

from xent_numba.cli.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import TextIO


def open_closed() -> None:
    """Give the process a standard output and error where it was started without, as by `>&-`.

    Else Python has None there, and a file opened later could get the number of the closed descriptor.  What is written
    to standard error is lost; writing to standard output fails, as with a closed descriptor.
    """
    if sys.stdout is None:
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_RDONLY), "w")
    if sys.stderr is None:
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")


def write(lines: Iterable[str]) -> None:
    """Print lines, each as soon as it is there; UserError where standard output cannot take them."""
    for line in lines:
        with _failure_reported():
            print(line, flush=True)


@contextlib.contextmanager
def flushed() -> Iterator[None]:
    """Flush standard output at the end of the block, with the errors of `write`, even if argparse ends the program."""
    try:
        yield
    finally:
        with _failure_reported():
            sys.stdout.flush()


@contextlib.contextmanager
def warnings_in_a_line() -> Iterator[None]:
    """Show a warning as an error is shown, without the place in the source."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: complain(str(message), kind="warning")
        yield


def complain(message: str, program: str = "xent-numba", kind: str = "error") -> None:
    """Print an error or a warning in one line on standard error, if that can be written to."""
    try:
        print(f"{program}: {kind}: {message}", file=sys.stderr, flush=True)
    except OSError:
        _discard(sys.stderr)


@contextlib.contextmanager
def _failure_reported() -> Iterator[None]:
    """Turn a failure to write to standard output into a UserError; that of a reader who left stays BrokenPipeError."""
    try:
        yield
    except OSError as error:
        _discard(sys.stdout)
        if isinstance(error, BrokenPipeError):
            raise
        raise UserError(f"standard output: {error.strerror or error}") from error


def _discard(stream: TextIO) -> None:
    """Lose what is still buffered, which would raise again when the interpreter flushes it at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
