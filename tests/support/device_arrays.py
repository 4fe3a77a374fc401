"""Arrays "on a GPU" whose memory is the host's."""

from __future__ import annotations

import os

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"
if SIMULATED:
    from tests.support import cudasim


class OnDevice:
    """An array of some library: nothing but the interface."""

    def __init__(self, array, stream=None, read_only=False):
        self.array = array
        if SIMULATED and array.size:
            cudasim.allow(array)
        self.__cuda_array_interface__ = {
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (array.ctypes.data, read_only),
            "strides": array.strides,
            "version": 3,
            "stream": stream,
        }
