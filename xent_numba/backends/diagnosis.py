"""What to say of a Numba that does not work here: which version is installed, which were tested, and what to do.

What goes on all the same, only slower, is said once in a process, by `warn_once`.
"""

from __future__ import annotations

import sys
import textwrap
import warnings
from traceback import walk_tb

from xent_numba.tested import NUMBA, NUMPY

LONGEST = 400  # characters of an error that are quoted; those of Numba's compiler fill pages
COMPILERS = ("numba", "numba_cuda", "llvmlite")

_warned: dict[str, object] = {}  # by subject, who has warned of it


def unusable(what: str, error: Exception | None = None) -> str:
    """A sentence: what went wrong, with which versions, and the remedy."""
    return (
        f"{what}{f' ({quoted(error)})' if error else ''} with numba {_version('numba')}, numpy {_version('numpy')} and "
        f"Python {sys.version.split()[0]}; xent_numba was tested with numba {NUMBA[0]} to {NUMBA[1]} and numpy "
        f'{NUMPY[0]} to {NUMPY[1]}: install such versions (pip install "numba>={NUMBA[0]},<={NUMBA[1]}" '
        f'"numpy>={NUMPY[0]},<={NUMPY[1]}"), or report this if yours are such'
    )


def quoted(error: BaseException) -> str:
    """The type and the text of an error, in one line."""
    return textwrap.shorten(f"{type(error).__name__}: {error}", LONGEST, placeholder=" ...")


def failed_backend(error: BaseException) -> str | None:
    """The name of the backend whose compiler or driver an error comes from; None if it does not come from there.

    An error comes from there if a function of Numba or llvmlite was running: no argument of a call gets that far before
    it was checked, so such an error is never a mistake of the caller.
    """
    names = [str(frame.f_globals.get("__name__")).split(".") for frame, _ in walk_tb(error.__traceback__)]
    if not any(name[0] in COMPILERS for name in names):
        return None
    return next((name[2] for name in reversed(names) if name[:2] == ["xent_numba", "backends"] and len(name) > 2), None)


def warn_once(subject: str, message: str) -> None:
    """RuntimeWarning, at the line that calls this package, if nobody has warned of this subject before."""
    me = object()
    if _warned.setdefault(subject, me) is not me:  # one step, so that only one of several threads passes
        return
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("xent_numba"):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, RuntimeWarning, level)


def _version(package: str) -> str:
    """The version of a package: of the module where it is imported, which may be another than is installed by now."""
    version = getattr(sys.modules.get(package), "__version__", None)
    if version is not None:
        return str(version)
    from importlib import metadata  # here, as it takes as long to import as all of this package

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "of an unknown version"
