"""Memory on the device: allocated, kept per thread and stream, and copied from and to the host.

Freeing device memory waits for the device, so memory that every call needs is kept.
"""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

from xent_numba.backends.cuda.runtime.device import numba_cuda

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


def address(memory: Any) -> int:
    """The address of device memory."""
    from xent_numba.backends.cuda.hw import intrinsics as hw

    return hw.address(memory)


def upload(array: Array, stream: Any = 0) -> Any:
    """The bytes of a host array, in C order, on the device: ready for what the stream does next."""
    packed = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    there = allocate(packed.size, stream)
    there.copy_to_device(packed, stream=stream)  # pageable memory has been read when this returns
    return there


def download(memory: Any, array: Array, stream: Any = 0) -> None:
    """Copy device memory into a contiguous host array; waits for the stream."""
    memory.copy_to_host(array.reshape(-1).view(np.uint8), stream=stream)
    if stream:
        stream.synchronize()


class _Kept(threading.local):
    """What one thread keeps by (device, stream): on a shared stream another thread's launches may come between."""

    def __init__(self) -> None:
        """Start without memory."""
        self.scratch: dict[tuple[int, int], Any] = {}  # memory that grows and stays
        self.free: dict[tuple[int, int, int], list[tuple[Any, int]]] = {}  # (..., size) -> (memory, offset)

    def clear(self) -> None:
        """Drop it all."""
        self.scratch.clear()
        self.free.clear()


_kept = _Kept()
LENT_AT_ONCE = 64  # pieces that are allocated together


def scratch(n_bytes: int, stream: Any = 0) -> Any:
    """Scratch memory of a stream, valid until this thread's next call for it."""
    key = _key(stream)
    found = _kept.scratch.get(key)
    if found is None or found.nbytes < n_bytes:
        found = _kept.scratch[key] = allocate(2 * n_bytes, stream)
    return found[:n_bytes]


def lend(n_bytes: int, stream: Any = 0) -> Any:
    """Memory for one stream, valid as long as what this returns is held; later it is lent again on the same stream."""
    free = _kept.free.setdefault((*_key(stream), n_bytes), [])
    if not free:
        block = allocate(LENT_AT_ONCE * n_bytes, stream)
        free.extend((block, i * n_bytes) for i in range(LENT_AT_ONCE))
    piece = free.pop()
    block, offset = piece
    found = block[offset : offset + n_bytes]
    weakref.finalize(found, free.append, piece).atexit = False
    return found


def _key(stream: Any) -> tuple[int, int]:
    """The current device and the stream, as numbers."""
    return numba_cuda().get_current_device().id, _stream_number(stream)


def _stream_number(stream: Any) -> int:
    """The handle of a Numba stream, 0 for the default stream."""
    handle = getattr(stream, "handle", stream)
    return int(getattr(handle, "value", handle) or 0)
