"""Arrays that are on a GPU already: told from others without importing any library."""

from __future__ import annotations

import numpy as np

_HOST = frozenset((np.ndarray, list, tuple, float, int))  # what nearly every call passes, answered at once
_CUDA = (2, 13)  # DLPack's numbers for CUDA and CUDA managed memory


def on_device(value: object) -> bool:
    """Whether this is an array on a CUDA device, of whatever library."""
    kind = type(value)
    if kind in _HOST:
        return False
    # Asked of the type first, because a tensor's own attributes may raise: PyTorch's do where it requires gradients.
    where = getattr(kind, "__dlpack_device__", None)
    if where is not None:
        try:
            return int(where(value)[0]) in _CUDA
        except Exception:  # an array that cannot say where it is
            return False
    return hasattr(value, "__cuda_array_interface__")
