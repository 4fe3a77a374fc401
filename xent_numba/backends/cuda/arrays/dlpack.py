"""Reading a DLPack capsule: where an array lies, for libraries that offer nothing else."""

from __future__ import annotations

import ctypes
from typing import Any

NAMES = {0: "int", 1: "uint", 2: "float", 4: "bfloat", 6: "bool"}  # of DLPack's type codes


class _Tensor(ctypes.Structure):
    """The head of DLPack's DLManagedTensor, field by field."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class View:
    """Address, shape, strides in bytes and dtype; keeps the capsule, and so the memory, alive."""

    def __init__(self, capsule: Any) -> None:
        """Read the capsule without consuming it: its own destructor gives the memory back."""
        get = ctypes.pythonapi.PyCapsule_GetPointer
        get.restype, get.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
        tensor = _Tensor.from_address(get(capsule, b"dltensor"))
        if tensor.code not in NAMES or tensor.lanes != 1:
            raise TypeError(f"DLPack type code {tensor.code} with {tensor.lanes} lanes is not supported")
        self.capsule = capsule
        self.address = int(tensor.data or 0) + tensor.byte_offset
        self.shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
        size = tensor.bits // 8
        self.strides = tuple(size * tensor.strides[i] for i in range(tensor.ndim)) if tensor.strides else None
        name = NAMES[tensor.code]
        self.dtype = name if name == "bool" else f"{name}{tensor.bits}"


def view(value: Any) -> View:
    """The array behind `__dlpack__`, ready on the default stream."""
    return View(value.__dlpack__(stream=1))
