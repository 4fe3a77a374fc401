"""Arrays of other libraries on a CUDA device, without copying them and without importing what is not imported yet.

An array becomes a *stand-in*: a NumPy array of the same shape, dtype and strides whose data pointer is the device
address.  Shapes, strides and overlaps can then be checked by the functions that check NumPy arrays.  No function may
read an element of a stand-in.  bfloat16 is represented by float16, which has its size.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from xent_numba.backends.cuda.arrays import dlpack
from xent_numba.backends.cuda.runtime import memory
from xent_numba.backends.cuda.runtime.device import numba_cuda
from xent_numba.devices import on_device
from xent_numba.prepare.tensors import refuse_gradient

STAND_INS = {"bfloat16": "float16"}  # dtypes that NumPy lacks -> one of their size


@dataclass(frozen=True, slots=True)
class Adopted:
    """A device array of any library, described by a stand-in."""

    array: np.ndarray[Any, Any]  # the stand-in
    dtype: str  # its true dtype
    owner: Any  # the caller's object, which keeps the memory
    library: str  # "torch", "cupy", "jax" or "" for any other
    view: dlpack.View | None = None  # what keeps the memory where DLPack lent it


def library_of(value: object) -> str:
    """Which library's array this is."""
    root = type(value).__module__.partition(".")[0]
    return {"torch": "torch", "cupy": "cupy", "jax": "jax", "jaxlib": "jax"}.get(root, "")


def device_of(value: Any) -> int | None:
    """The number of the GPU that an array is on, None where its library does not say."""
    name = {"torch": "index", "cupy": "id", "jax": "local_hardware_id"}.get(library_of(value))
    try:
        return None if name is None else getattr(value.device, name)
    except AttributeError:  # an array over several devices: its address will be refused
        return None


def adopt(value: Any, name: str, logits: Adopted | None = None) -> Adopted:
    """The device array `value`, the argument called `name`, which must be on the GPU of the logits.

    TypeError where it would lose a gradient, is on the host or of no known kind; ValueError where it is on another GPU.
    """
    refuse_gradient(value, name)
    if not on_device(value):
        raise TypeError(f"{name} is not on the GPU as the logits are; move it there first")
    if logits is not None:
        gpu, logits_gpu = device_of(value), device_of(logits.owner)
        if gpu is not None and logits_gpu is not None and gpu != logits_gpu:
            raise ValueError(f"{name} is on GPU {gpu}, the logits are on GPU {logits_gpu}; move it there first")
    library = library_of(value)
    if library == "jax":  # it works on streams of its own
        value.block_until_ready()
    if library == "torch":  # within torch.no_grad() too, a tensor that requires gradients refuses both interfaces
        size = value.element_size()
        strides = tuple(size * step for step in value.stride())
        return _adopted(value.data_ptr(), tuple(value.shape), strides, str(value.dtype)[6:], False, value, library)
    interface = _interface(value)
    if interface is not None:
        address, read_only = interface["data"]
        dtype = _dtype_name(np.dtype(interface["typestr"]), name)
        steps = interface.get("strides")
        return _adopted(address, tuple(interface["shape"]), steps, dtype, read_only, value, library)
    found = dlpack.view(value)
    return _adopted(found.address, found.shape, found.strides, found.dtype, False, value, library, found)


def _interface(value: Any) -> dict[str, Any] | None:
    """The array's interface, None where it has none or, as JAX for bfloat16, cannot express itself by it."""
    try:
        found: dict[str, Any] = value.__cuda_array_interface__
    except Exception:
        return None
    return found


def _dtype_name(dtype: np.dtype[Any], name: str) -> str:
    """The name of the dtype that an interface gives; TypeError for a foreign byte order."""
    if not dtype.isnative:
        raise TypeError(f"{name} has dtype {dtype.str!r}, which is not in this machine's byte order; convert it first")
    # The interface has no name for bfloat16; a float of two bytes that NumPy does not know can be nothing else.
    return "bfloat16" if dtype.kind == "V" and dtype.itemsize == 2 else dtype.name


class _Interface:
    """An object from which NumPy makes an array."""

    def __init__(self, interface: dict[str, Any]) -> None:
        """Hold the interface where NumPy looks for it."""
        self.__array_interface__ = interface


def _adopted(
    address: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...] | None,
    dtype: str,
    read_only: bool,
    owner: Any,
    library: str,
    view: dlpack.View | None = None,
) -> Adopted:
    """The stand-in for memory of this address, shape, strides in bytes (None: C order) and dtype."""
    kind = np.dtype(STAND_INS.get(dtype, dtype))
    if 0 in shape:
        return Adopted(np.empty(shape, kind), dtype, owner, library, view)
    interface = {"shape": shape, "typestr": kind.str, "data": (int(address), read_only), "version": 3}
    if strides is not None:
        interface["strides"] = tuple(strides)
    return Adopted(np.asarray(_Interface(interface)), dtype, owner, library, view)


@contextmanager
def on_its_device(value: Any) -> Iterator[None]:
    """Make the device of an array the current one, where its library says which that is."""
    number = device_of(value)
    if number is None:
        yield
    else:
        with numba_cuda().gpus[number]:
            yield


def current_stream(adopted: Adopted) -> Any:
    """The stream on which the caller's library works now, as Numba knows it (0 for the default stream)."""
    if adopted.library == "torch":
        return _external(sys.modules["torch"].cuda.current_stream(adopted.owner.device).cuda_stream)
    if adopted.library == "cupy":
        return _external(sys.modules["cupy"].cuda.get_current_stream().ptr)
    return _external(0 if adopted.library else stream_of(adopted.owner) or 0)


def stream_of(value: Any) -> int | None:
    """The stream that the interface of an array names; None where it names none."""
    return (_interface(value) or {}).get("stream")


def _external(pointer: int) -> Any:
    """The Numba stream of a CUDA stream handle; 0 is the default stream."""
    if not pointer:
        return 0
    return _stream(numba_cuda().get_current_device().id, pointer)


@cache
def _stream(number: int, pointer: int) -> Any:
    """The stream of a device; the same object each time, so that `configure` finds its launches again."""
    cuda = numba_cuda()
    named: dict[int, Any] = {1: cuda.legacy_default_stream, 2: cuda.per_thread_default_stream}
    return named[pointer]() if pointer in named else cuda.external_stream(pointer)


def empty(shape: tuple[int, ...], dtype: str, prototype: Adopted) -> Adopted:
    """A new array of the library and on the device of `prototype`, in C order."""
    if prototype.library == "torch":
        torch = sys.modules["torch"]
        return adopt(torch.empty(shape, dtype=getattr(torch, dtype), device=prototype.owner.device), "result")
    if prototype.library == "cupy":
        cupy = sys.modules["cupy"]
        kind = prototype.owner.dtype if dtype == prototype.dtype else np.dtype(dtype)
        return adopt(cupy.empty(shape, kind), "result")
    if prototype.library == "jax":
        numpy = sys.modules["jax"].numpy
        return adopt(numpy.empty(shape, dtype, device=prototype.owner.device).block_until_ready(), "result")
    # Numba has no bfloat16 array: its bits come back as uint16.
    made = numba_cuda().device_array(shape, np.dtype("uint16" if dtype == "bfloat16" else dtype))
    address = memory.address(made) if 0 not in shape else 0
    return _adopted(address, shape, None, dtype, False, made, "")


def release(result: Adopted, stream: Any) -> Any:
    """The caller's array of a result; JAX works on streams of its own, so there it must be finished first."""
    if result.library == "jax":
        numba_cuda().synchronize() if not stream else stream.synchronize()
    return result.owner
