"""What this installation consists of and can do: the first thing to look at, and to include in a bug report."""

from __future__ import annotations

import math
import operator
import os
from typing import TYPE_CHECKING

import numpy as np

from xent_numba._version import __version__
from xent_numba.backends.registry import IMPLEMENTATIONS, available_backends, get_backend, select
from xent_numba.prepare.inputs import as_logits
from xent_numba.prepare.layout import canonical
from xent_numba.prepare.options import make_options

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import TextIO

    from numpy.typing import DTypeLike

    Sections = dict[str, dict[str, object]]

PACKAGES = ("numba", "llvmlite", "ml_dtypes", "numba-cuda", "tbb")


def config() -> Sections:
    """Versions, and what each backend says of itself or why it cannot run.  Imports every backend that can be."""
    import platform  # here, so that importing the package stays quick

    found: Sections = {
        "versions": {"xent_numba": __version__, "python": platform.python_version(), "numpy": np.__version__}
    }
    for package in PACKAGES:
        version = _version(package)
        if version is not None:
            found["versions"][package] = version
    found["machine"] = {"system": platform.platform(), "cpu": platform.machine(), "cores": os.cpu_count()}
    available = available_backends()
    try:
        runs_on = select().name
    except (RuntimeError, ValueError) as error:  # what is chosen cannot run, or is misspelt: here is where to find out
        runs_on = f"none: {error}"
    found["backend"] = {"current": get_backend(), "runs on": runs_on}
    for name in IMPLEMENTATIONS:
        answer = available[name]
        found[name] = {"available": str(answer), **(select(name).describe() if answer else {})}
    return found


def show_config(*, file: TextIO | None = None) -> None:
    """Print versions, the machine, and what each backend says of itself or why it cannot run.

    It is what to include in a bug report; `xent-numba info` prints the same.

    Parameters
    ----------
    file : text file, optional
        Where to print, instead of to stdout.

    See Also
    --------
    available_backends : Whether each backend can run, to be used in a program.
    get_backend : Name of the backend that calls use here.

    Examples
    --------
    >>> from xent_numba import show_config
    >>> show_config()  # doctest: +ELLIPSIS
    versions:
      xent_numba: ...
    """
    print("\n".join(lines(config())), file=file)


def explain_plan(
    shape: Sequence[int], dtype: DTypeLike = "float32", *, axis: int = -1, grad: bool = True, distribution: bool = False
) -> Sections:
    """How each backend would compute a loss of C-contiguous logits of this shape, and why, or why it cannot run.

    With `grad`, the loss and its gradient; with `distribution`, for a target in the shape and dtype of the logits
    instead of class indices.  Other options have their defaults.  No memory is allocated for the logits.  Errors in
    shape, dtype and axis are those of a loss.

    >>> explain_plan((4096, 50257))["numpy"]["regime"]
    'blocks'
    """
    axis = make_options(axis).axis  # checked as that of a loss
    try:
        shape = tuple(operator.index(size) for size in shape)
    except TypeError as error:
        raise TypeError(f"shape = {shape!r} must be a sequence of integers") from error
    if any(size < 0 for size in shape):
        raise ValueError(f"shape {shape} has a negative size")
    element, _ = as_logits(np.zeros(1, dtype), 0)  # converted here, so that nothing reads the view below
    strides = [element.itemsize * math.prod(shape[i + 1 :]) for i in range(len(shape))]
    # NumPy would not notice here that a shape is too large for an array, and sizes in bytes would overflow.
    if math.prod(max(size, 1) for size in shape) * element.itemsize >= 2**63:
        raise ValueError(f"shape {shape} is larger than any array can be")
    logits, axis = as_logits(np.lib.stride_tricks.as_strided(element, shape, strides), axis)
    if logits.size == 0:
        raise ValueError(f"shape {shape} has no rows, so there is nothing to compute")
    views = canonical(axis, logits, logits if distribution else None, logits if grad else None)
    x, q, gradient = next(views.slabs())
    return {
        name: select(name).explain(x, q, gradient) if answer else {"available": str(answer)}
        for name, answer in available_backends().items()
    }


def lines(sections: Sections) -> Iterator[str]:
    """Sections of facts as text."""
    for section, facts in sections.items():
        yield f"{section}:"
        for name, value in facts.items():
            yield f"  {name}: {value}"


def _version(package: str) -> str | None:
    """The version of an installed package; None where it is not installed."""
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
