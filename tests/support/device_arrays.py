"""Arrays "on a GPU" whose memory is the host's."""

from __future__ import annotations

import os
from functools import partial
from types import SimpleNamespace

import numpy as np

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


class CupyArray(np.ndarray):
    """An array as CuPy's are, whose memory functions of NumPy may not read."""

    __module__ = "cupy"
    device = SimpleNamespace(id=0)

    def __dlpack_device__(self):
        return (2, 0)

    @property
    def __cuda_array_interface__(self):
        if SIMULATED and self.size:
            cudasim.allow(self.view(np.ndarray))
        return self.__array_interface__

    def __array_function__(self, function, types, args, kwargs):
        raise TypeError(f"{function.__name__} of NumPy cannot read memory of a GPU")


def fake_cupy():
    """As much of the module `cupy` as a linear head needs, to be put among `sys.modules`."""

    def on_gpu(function, *args, out=None, **kwargs):
        plain = [arg.view(np.ndarray) if isinstance(arg, CupyArray) else arg for arg in args]
        if out is not None:
            kwargs["out"] = out.view(np.ndarray)
        result = function(*plain, **kwargs)
        many = isinstance(result, tuple)
        found = tuple(np.asarray(one).view(CupyArray) for one in (result if many else (result,)))
        return found if many else found[0]

    def empty(shape, dtype):
        return np.full(shape, 77, dtype).view(CupyArray)

    stream = SimpleNamespace(ptr=0)
    names = ("matmul", "where", "arange", "unravel_index", "asarray")
    functions = {name: partial(on_gpu, getattr(np, name)) for name in names}
    return SimpleNamespace(empty=empty, cuda=SimpleNamespace(get_current_stream=lambda: stream), **functions)
