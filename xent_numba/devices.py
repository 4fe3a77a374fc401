"""Arrays that are on a GPU already: told from others without importing anything, and handed to the cuda backend."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from xent_numba.backends import get_backend, select

if TYPE_CHECKING:
    from types import ModuleType

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


def device_arrays(backend: str | None) -> ModuleType:
    """The functions for arrays on a device (see `backends.cuda.arrays`), if the backend asked for has them.

    RuntimeError with the reason where CUDA cannot be used here; TypeError for a backend that reads host arrays only.
    """
    name = get_backend() if backend is None else backend
    if name not in ("auto", "cuda"):
        select(name)  # ValueError for an unknown name
        raise TypeError(
            f"logits are on a GPU, which backend {name!r} cannot read; use 'cuda', or copy them to the host"
        )
    select("cuda")
    from xent_numba.backends.cuda import arrays

    return arrays
