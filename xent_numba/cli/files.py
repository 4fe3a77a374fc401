"""Files to write: `.npy` and `.npz`, complete before a reader sees them; and what may not be written to."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from xent_numba.cli.arrays import split_name
from xent_numba.cli.errors import UserError, naming

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[Any]


def new_array_like(path: str, array: Array) -> np.memmap[Any, Any]:
    """A memory map of a new `.npy` file for a gradient of `array`, in the same memory order.

    Its space on the disk is allocated at once.  Otherwise, a write to the map would end the process with a bus error
    when the disk is full.
    """
    # The gradient of integer logits is float64.
    dtype = np.dtype(np.float64) if array.dtype.kind in "iu" else array.dtype
    new = np.lib.format.open_memmap(path, "w+", dtype, array.shape, fortran_order=array.flags.fnc)
    if hasattr(os, "posix_fallocate"):
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
    return new


def save(path: str, arrays: ArrayLike | Mapping[str, Any]) -> None:
    """Write an array to a `.npy` file, or several by name to an `.npz` archive.

    They are flushed to the disk, because some file systems report that they are full only then.
    """
    with open(path, "wb") as file:
        if isinstance(arrays, Mapping):
            np.savez(file, **arrays)
        else:
            np.lib.format.write_array(file, np.asarray(arrays), allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def replacing(path: str | None) -> Iterator[str | None]:
    """The name of a temporary file that replaces `path` if the block succeeds, and is removed if it does not.

    It is in the same directory, so that replacing `path` is a single, atomic step.
    """
    if path is None:
        yield None
        return
    final = os.path.realpath(path)  # a symbolic link stays, and its target is replaced, as with open(path, "wb")
    mode = _mode_of_output(path)
    temporary = os.path.join(os.path.dirname(final), f".{os.path.basename(final)[:200]}.{secrets.token_hex(4)}.tmp")
    with naming(path), open(temporary, "xb"):
        pass
    try:
        yield temporary
        with naming(path):
            if mode is not None:
                os.chmod(temporary, mode)
            os.replace(temporary, final)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _mode_of_output(path: str) -> int | None:
    """The permission bits of the file that will be replaced; None for a new file."""
    with naming(path):
        try:
            mode = os.stat(path).st_mode
        except FileNotFoundError:
            return None
    if not stat.S_ISREG(mode):
        raise UserError(f"{path}: not a regular file, so it cannot be replaced")
    if not os.access(path, os.W_OK):
        raise UserError(f"{path}: not writable")
    return stat.S_IMODE(mode)


def check_outputs(outputs: dict[str, str | None], inputs: Iterable[str | None]) -> None:
    """UserError where an output is also an input or another output.  `outputs` maps an option to its file."""
    taken = {_identity(split_name(path)[0]): path for path in inputs if path is not None}
    for option, path in outputs.items():
        if path is None:
            continue
        if _identity(path) in taken:
            raise UserError(f"{path}: {option} names a file that this command uses already; give it a file of its own")
        taken[_identity(path)] = path


def _identity(path: str) -> object:
    """A value that is equal for two names of the same file, including hard links."""
    try:
        status = os.stat(path)
    except OSError:
        return os.path.realpath(path)
    return status.st_dev, status.st_ino
