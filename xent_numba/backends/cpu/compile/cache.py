"""The cache of compiled kernels on disk, safe enough to be on by default.

Numba's own cache is not: it checks the time stamp of a function's own source file only, and misses a change in a
function called from another file; its index file can end up pointing to the wrong code when two processes run for the
first time at once; and it raises where it cannot write.

Here a compiled function is one file, named by a digest of everything that it depends on: all sources of this backend,
the versions of the compilers, the processor and the signature.  A file is written under a temporary name and then
renamed, so a reader sees all of it or nothing.  Whatever fails on the disk, the function is compiled and the call goes
on.

The directory also holds an empty file for each combination of sources, versions and processor that has passed the
self-test of this backend (`note_passed`), so that later processes need not repeat it.

The directory is `xent_numba` within the one that `XENT_NUMBA_CACHE_DIR` names, else within `NUMBA_CACHE_DIR`, else
within the user's cache directory.  An empty `XENT_NUMBA_CACHE_DIR` turns the cache off.  Code is loaded only from a
directory that belongs to the user or to root and that nobody else can write to.  A directory that can only be read,
such as one that was filled when a container was built, works too.
"""

from __future__ import annotations

import contextlib
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

from xent_numba._version import __version__
from xent_numba.backends.cpu.compile.numba_private import (
    VERSIONS,
    CompileResultCacheImpl,
    NumbaCache,
    dumps,
    target_processor,
)

VARIABLE = "XENT_NUMBA_CACHE_DIR"
ABANDONED = 3600  # age in seconds of a temporary file that no running process can still be writing
_BACKEND = Path(__file__).parent.parent  # the folder `backends/cpu`, whose sources, folders and all, are digested
CHECKSUM_BYTES = hashlib.sha256().digest_size  # of the checksum with which a file begins


@cache
def directory() -> Path | None:
    """The directory of compiled functions; None if the cache is off, or no directory can be trusted."""
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
    """The user's cache directory, as each operating system has it."""
    if sys.platform == "win32":
        return os.environ.get("LOCALAPPDATA")
    if sys.platform == "darwin":
        return "~/Library/Caches"
    return os.environ.get("XDG_CACHE_HOME") or "~/.cache"


def _usable(parent: str) -> Path | None:
    """Our directory within `parent`, created if need be; None if it cannot be, or if others can write to it."""
    try:
        path = Path(parent).expanduser().absolute() / "xent_numba"
        if not path.is_dir():
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.stat()
    except (OSError, RuntimeError, ValueError):  # RuntimeError: `~` for a user without a home
        return None
    if not hasattr(os, "getuid"):
        return path
    trusted = found.st_uid in (os.getuid(), 0) and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return path if trusted else None


def _sources_digest(folder: Path = _BACKEND) -> str | None:
    """The digest of all sources below a folder, with their relative paths; None if there are none to read.

    All of them, since any compiled function may call any other.
    """
    digest = hashlib.sha256()
    try:
        sources = sorted(folder.rglob("*.py"))
        for source in sources:
            digest.update(str(source.relative_to(folder)).encode() + b"\0" + source.read_bytes())
    except OSError:
        return None
    return digest.hexdigest() if sources else None


_SOURCES = _sources_digest()  # as imported: the files may change while this process runs


@cache
def _package_digest() -> str:
    """The digest of the sources, the versions of what compiles them, and Numba's options."""
    facts = (_SOURCES, VERSIONS, np.__version__, sys.version, _options())
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def _options() -> dict[str, Any]:
    """The settings of Numba that change the code it generates."""
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


def _passed_file() -> Path | None:
    """The file that says that the self-test has passed here; None if there is no cache."""
    home = directory()
    if home is None or _SOURCES is None:
        return None
    key = __version__, _package_digest(), target_processor()
    return home / f"selftest-{hashlib.sha256(repr(key).encode()).hexdigest()[:40]}.passed"


def has_passed() -> bool:
    """Whether the self-test has passed, in any process, with these sources and versions and on this processor."""
    path = _passed_file()
    try:
        return path is not None and path.exists()
    except OSError:
        return False


def note_passed() -> None:
    """Note that it has, if possible."""
    path = _passed_file()
    if path is not None and _sources_digest() == _SOURCES:
        with contextlib.suppress(OSError):
            path.touch(mode=0o600)


def _tidy(home: Path) -> None:
    """Remove temporary files left by processes that were killed while writing."""
    for path in home.glob("*.tmp"):
        if path.stat().st_mtime < time.time() - ABANDONED:
            path.unlink(missing_ok=True)


class Cache(NumbaCache):
    """The cache of one dispatcher, to be its `_cache`, which Numba's own `enable_caching` would set."""

    def __init__(self, dispatcher: Any) -> None:
        self._function = dispatcher.py_func
        # Without its __init__, which would look for a directory on the disk: this class replaces that part.
        self._impl = CompileResultCacheImpl.__new__(CompileResultCacheImpl)

    @property
    def cache_path(self) -> str:
        """The directory, which Numba reports under this name."""
        return str(directory())

    def pack(self, compiled: Any) -> bytes:
        """A compiled function as bytes."""
        content: bytes = dumps(self._impl.reduce(compiled))
        return content

    def unpack(self, content: bytes, target_context: Any) -> Any:
        """The compiled function that `pack` made bytes of."""
        return self._impl.rebuild(target_context, pickle.loads(content))

    def _file(self, sig: Any, codegen: Any) -> Path | None:
        """The file for a signature and a processor; None if there is no cache."""
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
        """The compiled function for a signature, or None if it has to be compiled."""
        target_context.refresh()
        try:
            path = self._file(sig, target_context.codegen())
            if path is None:
                return None
            content = path.read_bytes()
            checksum, content = content[:CHECKSUM_BYTES], content[CHECKSUM_BYTES:]
            if checksum != hashlib.sha256(content).digest():  # truncated or damaged: must not be run
                return None
            return self.unpack(content, target_context)
        except Exception:  # most often, there is no such file yet
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Store a compiled function if possible, unless the sources have changed since they were imported."""
        try:
            path = self._file(sig, data.codegen)
            if path is None or not self._impl.check_cachable(data) or _sources_digest() != _SOURCES:
                return
            content = self.pack(data)
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem[:20], suffix=".tmp")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(hashlib.sha256(content).digest())
                    file.write(content)
                os.replace(temporary, path)
            except BaseException:
                os.unlink(temporary)
                raise
            _tidy(path.parent)
        except OSError:
            return

    def enable(self) -> None:
        """Do nothing: whether the cache is on is a matter of `directory`."""

    def disable(self) -> None:
        """Do nothing: whether the cache is on is a matter of `directory`."""

    def flush(self) -> None:
        """Do nothing: outdated files have other names, so they are never read."""


def cached(dispatcher: Any) -> Any:
    """Give a function of Numba's `njit` this cache: `@cached` above `@njit`."""
    dispatcher._cache = Cache(dispatcher)
    return dispatcher
