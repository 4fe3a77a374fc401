"""Memory on the device: new, kept per stream, and copied from and to the host."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from xent_numba.backends.cuda.device import numba_cuda

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]


def allocate(n_bytes: int, stream: Any = 0) -> Any:
    """Device memory; MemoryError with the figures where there is none left."""
    cuda = numba_cuda()
    try:
        return cuda.device_array(max(1, n_bytes), np.uint8, stream=stream)
    except Exception as error:
        if "OUT_OF_MEMORY" not in str(error) and not isinstance(error, MemoryError):
            raise
        free, whole = cuda.current_context().get_memory_info()
        raise MemoryError(
            f"out of device memory: {n_bytes / 2**20:.1f} MiB wanted, {free / 2**20:.1f} of {whole / 2**20:.1f} MiB "
            "free; pass fewer rows at a time, or grad_out=logits to work in place"
        ) from error


def address(there: Any) -> int:
    """Where device memory lies."""
    from xent_numba.backends.cuda import intrinsics as hw

    return hw.address(there)


def upload(array: Array) -> Any:
    """The bytes of a host array, in C order, on the device."""
    packed = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    there = allocate(packed.size)
    there.copy_to_device(packed)
    return there


def download(there: Any, array: Array, stream: Any = 0) -> None:
    """Into a contiguous host array; waits for the stream."""
    there.copy_to_host(array.reshape(-1).view(np.uint8), stream=stream)
    if stream:
        stream.synchronize()


_scratch: dict[tuple[int, int], Any] = {}  # (device, stream) -> memory that grows and stays: freeing it would wait


def scratch(n_bytes: int, stream: Any = 0) -> Any:
    """Memory that one stream may use until the next call for it."""
    key = (getattr(numba_cuda().get_current_device(), "id", 0), _stream_number(stream))
    found = _scratch.get(key)
    if found is None or found.nbytes < n_bytes:
        found = _scratch[key] = allocate(2 * n_bytes, stream)
    return found[:n_bytes]


def _stream_number(stream: Any) -> int:
    handle = getattr(stream, "handle", stream)
    return int(getattr(handle, "value", handle) or 0)
