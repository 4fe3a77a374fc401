"""Copies on the host of arrays on a GPU, from whatever library: for what a function computes there."""

from __future__ import annotations

from typing import Any

import numpy as np

from xent_numba.backends.cuda.arrays.adopt import Adopted, adopt, library_of, stream_of
from xent_numba.backends.cuda.runtime.device import numba_cuda
from xent_numba.prepare.inputs import as_array
from xent_numba.prepare.tensors import refuse_gradient


def to_host(array: Any, name: str) -> np.ndarray[Any, Any]:
    """A NumPy array of one on a GPU, copied by its own library, which waits for what it has under way.

    Arrays of a library that is not known here are copied by Numba.  `name` is what the function calls the array, for
    error messages.
    """
    refuse_gradient(array, name)
    library = library_of(array)
    if library == "torch":
        return as_array(array.detach().cpu(), name)
    if library == "cupy":
        return np.asarray(array.get())
    if library == "jax":
        return np.asarray(array)
    if hasattr(array, "copy_to_host"):
        return np.asarray(array.copy_to_host())
    adopted = adopt(array, name)
    if adopted.array.size == 0:
        return adopted.array
    found: np.ndarray[Any, Any] = numba_cuda().as_cuda_array(_Interface(adopted)).copy_to_host()
    return (found.astype(np.uint32) << 16).view(np.float32) if adopted.dtype == "bfloat16" else found


class _Interface:
    """An adopted array under the one interface that Numba reads; bfloat16, which Numba lacks, as uint16."""

    def __init__(self, adopted: Adopted) -> None:
        """Describe the memory, and keep it."""
        self.adopted = adopted
        self.array = adopted.array.view(np.uint16) if adopted.dtype == "bfloat16" else adopted.array
        self.__cuda_array_interface__ = {**self.array.__array_interface__, "stream": stream_of(adopted.owner)}
