"""Arrays to read: in `.npy` files, or by name in files that hold several, as in `scores.npz:logits`.

All are memory-mapped, except compressed members of `.npz` archives, which are read into memory.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from xent_numba.cli import archives
from xent_numba.cli.errors import UserError, naming

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    Array = NDArray[Any]

REASON = 120  # characters of NumPy's reason that are shown, which may quote a whole header
LONGEST_HEADER = 100 << 20  # bytes of a .safetensors file, which begins with that length and then a brace


def split_name(path: str) -> tuple[str, str | None]:
    """A path as the file and the name of an array in it: FILE, or FILE:NAME where the whole is no file.

    Names of either may have colons in them: the longest file that exists is meant.

    >>> split_name("logits.npy")
    ('logits.npy', None)
    """
    if not os.path.exists(path):
        for i in reversed(range(len(path))):
            if path[i] == ":" and os.path.isfile(path[:i]):
                return path[:i], path[i + 1 :]
    return path, None


def open_array(path: str) -> Array:
    """The array that `path` names, read-only."""
    file, name = split_name(path)
    with naming(path):
        with open(file, "rb") as stream:
            head = stream.read(9)
        if head.startswith(b"PK"):
            array = archives.open_npz(path, file, name)
        elif file.endswith(".safetensors") or _begins_as_safetensors(head):
            array = archives.open_safetensors(path, file, name)
        elif name is not None:
            hint = f"; write {file}" if head.startswith(b"\x93NUMPY") else ""
            raise UserError(f"{path}: {file} is neither an .npz archive nor a .safetensors file{hint}")
        else:
            array = _open_npy(path)
    if array.dtype == np.dtype("V2"):
        # The .npy format has no name for bfloat16: NumPy stores it as two bytes of unknown meaning.
        return array.view(_bfloat16(path))
    return array


def _begins_as_safetensors(head: bytes) -> bool:
    """Whether a file begins with the length of a header in JSON."""
    return head[8:] == b"{" and int.from_bytes(head[:8], "little") <= LONGEST_HEADER


def _open_npy(path: str) -> Array:
    """The array in a `.npy` file, memory-mapped."""
    try:
        with np.errstate(over="ignore"):  # in the size of a shape that cannot be, which is an error below
            return np.asarray(np.lib.format.open_memmap(path, mode="r"))
    except OSError:
        raise
    except Exception as error:  # an invalid header may make NumPy raise anything
        raise UserError(f"{path}: {_why_unreadable(path, error)}") from error


def _why_unreadable(path: str, error: Exception) -> str:
    """What is wrong with a file that NumPy cannot map, in the user's terms."""
    with open(path, "rb") as file:
        head = file.read(6)
    if "Python objects" in str(error):
        return "holds Python objects, not numbers"
    if "mmap length" in str(error):
        return "shorter than its header says, so it is incomplete"
    what = "a .npy file with an invalid header" if head == b"\x93NUMPY" else "not a .npy file"
    reason = " ".join(str(error).split()) or type(error).__name__
    return f"{what} ({reason if len(reason) <= REASON else reason[:REASON] + ' ...'})"


def _bfloat16(path: str) -> np.dtype[Any]:
    """The dtype bfloat16; UserError about the file where ml_dtypes is not installed."""
    try:
        import ml_dtypes
    except ImportError as error:
        raise UserError(
            f"{path}: holds two-byte items of unnamed type, as NumPy stores bfloat16; pip install ml_dtypes to read it"
        ) from error
    dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return dtype
