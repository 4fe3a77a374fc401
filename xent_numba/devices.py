"""Recognising arrays that are already on a GPU, without importing the libraries they come from."""

from __future__ import annotations

import numpy as np

_HOST = frozenset((np.ndarray, list, tuple, float, int))  # what nearly every call passes: decided by one look-up
_CUDA = (2, 13)  # DLPack's device types kDLCUDA and kDLCUDAManaged


def on_device(value: object) -> bool:
    """Whether this is an array on a CUDA device, from whatever library."""
    kind = type(value)
    if kind in _HOST:
        return False
    # Looked up on the type, because attributes of the array itself may raise, as those of PyTorch tensors that require
    # gradients do.
    where = getattr(kind, "__dlpack_device__", None)
    if where is not None:
        try:
            return int(where(value)[0]) in _CUDA
        except Exception:  # an array that cannot say where it is counts as one on the host
            return False
    return hasattr(value, "__cuda_array_interface__")
