"""What this installation consists of and can do: the first thing to look at, and to include in a bug report."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from xent_numba._version import __version__
from xent_numba.backends.registry import IMPLEMENTATIONS, available_backends, get_backend, select

if TYPE_CHECKING:
    from typing import TextIO

PACKAGES = ("numba", "llvmlite", "ml_dtypes", "numba-cuda", "tbb")


def config() -> dict[str, dict[str, object]]:
    """Versions, and what each backend says of itself or why it cannot run.  Imports every backend that can be."""
    import platform  # here, so that importing the package stays quick

    found: dict[str, dict[str, object]] = {
        "versions": {"xent_numba": __version__, "python": platform.python_version(), "numpy": np.__version__}
    }
    for package in PACKAGES:
        version = _version(package)
        if version is not None:
            found["versions"][package] = version
    found["machine"] = {"system": platform.platform(), "cpu": platform.machine(), "cores": os.cpu_count()}
    available = available_backends()
    found["backend"] = {"current": get_backend(), "runs on": select().name}
    for name in IMPLEMENTATIONS:
        answer = available[name]
        found[name] = {"available": str(answer), **(select(name).describe() if answer else {})}
    return found


def show_config(*, file: TextIO | None = None) -> None:
    """Print versions, backends (or why one cannot run) and threads, to stdout or `file`.

    >>> show_config()  # doctest: +ELLIPSIS
    versions:
      xent_numba: ...
    """
    for section, facts in config().items():
        print(f"{section}:", file=file)
        for name, value in facts.items():
            print(f"  {name}: {value}", file=file)


def _version(package: str) -> str | None:
    """The version of an installed package; None where it is not installed."""
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
