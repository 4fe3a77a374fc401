"""Numba's on-disk cache, made safe enough to be on by default.

Numba stamps a cached function with the time of its own source file, so it misses a change in a function called from
another file; it keeps an index file that two first runs at once can leave pointing at each other's code; and it
raises where it cannot write.  Here a compiled function is one file, named by a digest of everything it depends on:
the sources of this package, the versions, the processor, the signature.  Files are written aside and renamed, so a
reader sees all of one or nothing.  Whatever goes wrong with the disk, the function is compiled and the call goes on.

The files are in the directory that `XENT_NUMBA_CACHE_DIR` names, else in `NUMBA_CACHE_DIR`, else in the user's cache
directory.  An empty `XENT_NUMBA_CACHE_DIR` turns the cache off.  Code is loaded from where nobody but its user and root
can have put it; a directory that can be read only, as one that was filled for a container, serves as it is.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import stat
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

import numba
import numpy as np

from xent_numba.backends.cpu.compile.numba_private import VERSIONS, CompileResultCacheImpl, NumbaCache, dumps

VARIABLE = "XENT_NUMBA_CACHE_DIR"
ABANDONED = 3600  # seconds after which nobody writes to a file any more
_PACKAGE = Path(__file__).parent.parent  # `backends.cpu` with all its folders
SEAL = hashlib.sha256().digest_size  # bytes before the content of a file


@cache
def directory() -> Path | None:
    """Where compiled functions are kept; None where there is nowhere that can be trusted."""
    named = os.environ.get(VARIABLE)
    if named == "":
        return None
    candidates = [named, os.environ.get("NUMBA_CACHE_DIR"), _user_cache()]
    for candidate in candidates:
        if candidate:
            path = _usable(candidate)
            if path is not None or candidate == named:
                return path
    return None


def _user_cache() -> str | None:
    if sys.platform == "win32":
        return os.environ.get("LOCALAPPDATA")
    if sys.platform == "darwin":
        return "~/Library/Caches"
    return os.environ.get("XDG_CACHE_HOME") or "~/.cache"


def _usable(parent: str) -> Path | None:
    """The directory within `parent`, made if need be; None where there is none, or others can write to it."""
    try:
        path = Path(parent).expanduser().absolute() / "xent_numba"
        if not path.is_dir():
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.stat()
    except (OSError, RuntimeError, ValueError):  # RuntimeError: `~` of a user without a home
        return None
    if not hasattr(os, "getuid"):
        return path
    trusted = found.st_uid in (os.getuid(), 0) and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return path if trusted else None


def _sources_digest() -> str | None:
    """Of the kernels' sources: every function may call any other.  None where there are none to read."""
    digest = hashlib.sha256()
    try:
        sources = sorted(_PACKAGE.rglob("*.py"))
        for source in sources:
            digest.update(str(source.relative_to(_PACKAGE)).encode() + b"\0" + source.read_bytes())
    except OSError:
        return None
    return digest.hexdigest() if sources else None


_SOURCES = _sources_digest()  # as they are imported: they may change while this process runs


@cache
def _package_digest() -> str:
    """Of the kernels' sources and of what compiles them."""
    facts = (_SOURCES, VERSIONS, np.__version__, sys.version, _options())
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def _options() -> dict[str, Any]:
    """What of Numba's configuration changes the code it makes."""
    names = (
        "OPT",
        "BOUNDSCHECK",
        "DEBUGINFO_DEFAULT",
        "LOOP_VECTORIZE",
        "SLP_VECTORIZE",
        "ENABLE_AVX",
        "DISABLE_INTEL_SVML",
    )
    return {name: str(getattr(numba.config, name, None)) for name in names}


def _tidy(home: Path) -> None:
    """Remove what processes that were killed have left half written."""
    for path in home.glob("*.tmp"):
        if path.stat().st_mtime < time.time() - ABANDONED:
            path.unlink(missing_ok=True)


class Cache(NumbaCache):
    """The cache of one dispatcher: `dispatcher._cache`, as Numba's own `enable_caching` would set it."""

    def __init__(self, dispatcher: Any) -> None:
        self._function = dispatcher.py_func
        self._impl = CompileResultCacheImpl.__new__(
            CompileResultCacheImpl
        )  # its locator, which touches the disk, is ours

    @property
    def cache_path(self) -> str:
        """The directory, as Numba reports it."""
        return str(directory())

    def _file(self, sig: Any, codegen: Any) -> Path | None:
        home = directory()
        if home is None or _SOURCES is None:
            return None
        key = (
            self._function.__module__,
            self._function.__qualname__,
            str(sig),
            codegen.magic_tuple(),
            _package_digest(),
        )
        return home / f"{self._function.__name__}-{hashlib.sha256(repr(key).encode()).hexdigest()[:40]}.nbc"

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The compiled function for a signature, or None."""
        target_context.refresh()
        try:
            path = self._file(sig, target_context.codegen())
            if path is None:
                return None
            content = path.read_bytes()
            seal, content = content[:SEAL], content[SEAL:]
            if seal != hashlib.sha256(content).digest():  # cut short, or damaged: not to be run
                return None
            return self._impl.rebuild(target_context, pickle.loads(content))
        except Exception:  # above all that there is no such file yet: compile
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep a compiled function, if the disk lets it."""
        try:
            path = self._file(sig, data.codegen)
            if path is None or not self._impl.check_cachable(data) or _sources_digest() != _SOURCES:
                return
            content = dumps(self._impl.reduce(data))
            handle, aside = tempfile.mkstemp(dir=path.parent, prefix=path.stem[:20], suffix=".tmp")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(hashlib.sha256(content).digest())
                    file.write(content)
                os.replace(aside, path)
            except BaseException:
                os.unlink(aside)
                raise
            _tidy(path.parent)
        except OSError:
            return

    def enable(self) -> None:
        """Always on."""

    def disable(self) -> None:
        """Always on."""

    def flush(self) -> None:
        """Nothing to do: a file that is not asked for is never read."""
