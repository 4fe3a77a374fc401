"""What the command line reports in one line: a mistake that the user can correct, and a compiler that fails."""

from __future__ import annotations

import contextlib
import re
import shlex
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


class UserError(Exception):
    """A mistake in the arguments or files.  The message names the file or option; no traceback is shown."""


@contextlib.contextmanager
def naming(path: str) -> Iterator[None]:
    """Turn an error of the operating system into a `UserError` about `path`, even if a temporary file caused it."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error


@contextlib.contextmanager
def naming_files(inputs: Mapping[str, str | None]) -> Iterator[None]:
    """Turn an error about an argument of the library into one about the file that holds it."""
    try:
        yield
    except (TypeError, ValueError, IndexError, RuntimeError) as error:
        if is_compiler_failure(error):
            raise
        message = str(error)
        # A RuntimeError is about the backend, and may quote names of Numba.
        words = [] if isinstance(error, RuntimeError) else re.findall(r"\w+", message)
        named = [name for name in words if inputs.get(name) is not None]
        paths = [str(inputs[name]) for name in dict.fromkeys(named)]
        raise UserError(": ".join((*([", ".join(paths)] if paths else []), message))) from error


def is_compiler_failure(error: Exception) -> bool:
    """Whether an error comes from inside Numba, so that neither a file nor an option is to blame."""
    from xent_numba.backends.diagnosis import failed_backend

    return failed_backend(error) is not None


def compiler_failure(error: Exception, arguments: Sequence[str] | None) -> str | None:
    """What to say of an error that comes from inside Numba; None for any other.  Prints its traceback if asked to."""
    from xent_numba.backends.diagnosis import failed_backend, quoted, unusable
    from xent_numba.backends.registry import AUTO, IMPLEMENTATIONS

    name = failed_backend(error)
    if name not in IMPLEMENTATIONS:
        return None
    arguments = sys.argv[1:] if arguments is None else arguments
    if "--traceback" in arguments:
        import traceback

        with contextlib.suppress(OSError):
            traceback.print_exception(error)
        more = ""
    else:
        more = f"; for the traceback: {shlex.join(['xent-numba', '--traceback', *arguments])}"
    others = " or ".join(f"--backend {other}" for other in AUTO if other != name)
    what = f"backend {name!r} failed inside Numba, which is no mistake in the files or options"
    failure = unusable(what, error) if IMPLEMENTATIONS[name].is_tested else f"{what} ({quoted(error)})"
    return f"{failure}; meanwhile, use {others}{more}"
