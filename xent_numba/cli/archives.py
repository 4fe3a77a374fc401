"""Arrays in files that hold several, each with a name: `.npz` archives and `.safetensors` files.

An array that lies in the file as it would in memory is mapped there.  `.safetensors` files are opened, and so checked,
by the library of that name, which is imported only for them.
"""

from __future__ import annotations

import json
import math
import struct
import zipfile
import zlib
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from xent_numba.cli.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Any

    from numpy.typing import NDArray

    Array = NDArray[Any]

SHOWN = 6  # names of arrays in a message, at most
LOCAL_HEADER = struct.Struct("<26xHH")  # of a zip member; at its end are the lengths of the name and of extra fields

# Dtypes of .safetensors files as those of NumPy; bfloat16 as .npy files have it.
DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "V2",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1",
    "BOOL": "?",
}  # fmt: skip


class Place(NamedTuple):
    """Where the elements of an array are in a file, one after another."""

    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran_order: bool


def open_npz(path: str, file: str, name: str | None) -> Array:
    """The member `name` of the archive `file`, mapped where it is not compressed, else read."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
            member = members[_checked_name(path, file, name, members, "an .npz archive")]
            if member.compress_type == zipfile.ZIP_STORED and not member.flag_bits & 1:
                return _mapped(file, _place_of(path, file, member))
            with archive.open(member) as stream:
                return np.lib.format.read_array(stream, allow_pickle=False)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, struct.error) as error:
        # A RuntimeError is about encryption or an unknown compression.
        if "pickle" in str(error):
            raise UserError(f"{path}: holds Python objects, not numbers") from error
        reason = " ".join(str(error).split())
        damaged = isinstance(error, (zipfile.BadZipFile, zlib.error, EOFError))
        hint = "; it is damaged or incomplete" if damaged else ""
        raise UserError(f"{path}: an .npz archive that cannot be read ({reason}){hint}") from error


def _place_of(path: str, file: str, member: zipfile.ZipInfo) -> Place:
    """Where the array of a member that is not compressed is in the archive."""
    with open(file, "rb") as stream:
        stream.seek(member.header_offset)
        start = member.header_offset + LOCAL_HEADER.size + sum(LOCAL_HEADER.unpack(stream.read(LOCAL_HEADER.size)))
        stream.seek(start)
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran_order, dtype = read(stream)
        place = Place(stream.tell(), dtype, shape, fortran_order)
    if dtype.hasobject:
        raise UserError(f"{path}: holds Python objects, not numbers")
    if place.offset + math.prod(shape) * dtype.itemsize > start + member.file_size:
        raise UserError(f"{path}: shorter than its header says, so it is incomplete")
    return place


def open_safetensors(path: str, file: str, name: str | None) -> Array:
    """The array `name` of a `.safetensors` file, mapped."""
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise UserError(
            f'{path}: .safetensors files need the package of that name: pip install "xent_numba[safetensors]"'
        ) from error
    try:
        with safe_open(file, framework="np") as opened:  # checks the header, and that the file is complete
            chosen = _checked_name(path, file, name, opened.keys(), "a .safetensors file")
    except SafetensorError as error:
        raise UserError(f"{path}: not a .safetensors file that can be read ({error})") from error
    with open(file, "rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        entry = json.loads(stream.read(length))[chosen]
    if entry["dtype"] not in DTYPES:
        raise UserError(f"{path}: holds numbers of type {entry['dtype']}; those that can be read: {', '.join(DTYPES)}")
    offset = 8 + length + entry["data_offsets"][0]
    return _mapped(file, Place(offset, np.dtype(DTYPES[entry["dtype"]]), tuple(entry["shape"]), False))


def _checked_name(path: str, file: str, name: str | None, names: Collection[str], what: str) -> str:
    """The name of an array in a file; UserError where it is not given, or not there."""
    if name is not None and name in names:
        return name
    shown = [*list(names)[:SHOWN], *(["..."] if len(names) > SHOWN else [])]
    if not shown:
        raise UserError(f"{path}: {what} without any array")
    if name is None:
        more = f" (it has {', '.join(shown)})" if len(names) > 1 else ""
        raise UserError(f"{path}: {what}; name one of its arrays, as in {file}:{shown[0]}{more}")
    raise UserError(f"{path}: {what} without an array of that name; it has {', '.join(shown)}")


def _mapped(file: str, place: Place) -> Array:
    """An array at its place in a file, read-only."""
    offset, dtype, shape, fortran_order = place
    if 0 in shape:  # nothing to map
        return np.empty(shape, dtype)
    return np.asarray(np.memmap(file, dtype, "r", offset, shape, "F" if fortran_order else "C"))
