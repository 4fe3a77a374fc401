"""Importing this module (with NUMBA_ENABLE_CUDASIM=1) lets Numba's simulator run the CUDA kernels of this package.

It does four things.  It gives the simulated `cuda` module the warp shuffle that it lacks: the threads of a warp
exchange values through a list between two barriers of their own, so control flow need only be uniform in a warp.
It lets the threads of a block wait for each other instead of being polled, which is ten times as fast.  It gives the
simulated device the number 0.  And it puts itself in the place of `xent_numba.backends.cuda.hw.intrinsics`: the same
names, as Python on host memory.  Loads and stores check that they stay inside a known array, and that vector accesses
are aligned; ex2 has errors as large as the hardware's may be.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from bisect import bisect_right
from typing import Any

import ml_dtypes
import numpy as np
from numba import cuda as _module
from numba.cuda import types
from numba.cuda.simulator import kernel as _kernel
from numba.cuda.simulator.cudadrv.devices import FakeCUDADevice
from numba.cuda.simulator.kernelapi import FakeCUDAModule

assert os.environ.get("NUMBA_ENABLE_CUDASIM") == "1", "set NUMBA_ENABLE_CUDASIM=1 before Numba is imported"

FakeCUDADevice.id = 0  # which the simulator leaves out

# --- threads of a block -----------------------------------------------------------------------------------------


class _Meeting:
    """`syncthreads` of a block: everybody who has not finished waits for the last one."""

    def __init__(self, size: int) -> None:
        self.changed, self.live, self.waiting, self.round, self.failed = threading.Condition(), size, 0, 0, False

    def wait(self) -> None:
        with self.changed:
            mine = self.round
            self.waiting += 1
            self._release()
            while self.round == mine and not self.failed:
                self.changed.wait(60)
            if self.failed:
                raise RuntimeError("another thread of the block failed")

    def leave(self) -> None:
        with self.changed:
            self.live -= 1
            self._release()

    def fail(self) -> None:
        with self.changed:
            self.failed = True
            self.changed.notify_all()

    def _release(self) -> None:
        if self.live and self.waiting == self.live:
            self.waiting, self.round = 0, self.round + 1
            self.changed.notify_all()


def _run_block(self: Any, grid_point: Any, *args: Any) -> None:
    threads = []
    self._meeting = _Meeting(int(np.prod(self._block_dim)))

    def body() -> None:
        try:
            self._f(*args)
        except BaseException:
            self._meeting.fail()
            for warp in self.__dict__.get("_warps", {}).values():
                warp.barrier.abort()
            raise
        finally:
            self._meeting.leave()

    for block_point in np.ndindex(*self._block_dim):
        threads.append(_kernel.BlockThread(body, self, grid_point, block_point, self._debug))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    failures = [thread.exception for thread in threads if thread.exception]
    # The first cause, not one of the barriers that broke because of it.
    failures.sort(key=lambda failure: isinstance(failure[0], (threading.BrokenBarrierError, RuntimeError)))
    if failures:
        raise failures[0][0].with_traceback(failures[0][1])


_kernel.BlockManager.run = _run_block
_kernel.BlockThread.syncthreads = lambda self: self._manager._meeting.wait()

# --- warp shuffles for `cuda` inside a kernel -------------------------------------------------------------------

WARP = 32
_lock = threading.Lock()


class _Warp:
    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size, timeout=60)
        self.values: list[Any] = [None] * WARP


def _warp() -> tuple[_Warp, int]:
    """The warp of this simulated thread, and its lane."""
    thread: Any = threading.current_thread()
    manager = thread._manager
    number, lane = divmod(thread.thread_id, WARP)
    with _lock:
        warps = manager.__dict__.setdefault("_warps", {})
        if number not in warps:
            warps[number] = _Warp(min(WARP, int(np.prod(manager._block_dim)) - number * WARP))
    return warps[number], lane


def _exchange(value: Any, lane_mask: int) -> Any:
    """The value of the lane `lane ^ lane_mask`, one's own where there is no such lane."""
    warp, lane = _warp()
    warp.values[lane] = value
    warp.barrier.wait()
    wanted = lane ^ lane_mask
    result = warp.values[wanted] if wanted < warp.barrier.parties else value
    warp.barrier.wait()
    return result


FakeCUDAModule.shfl_xor_sync = lambda self, mask, value, lane_mask: _exchange(value, lane_mask)

# --- host memory that kernels may touch -------------------------------------------------------------------------

_starts: list[int] = []
_ranges: dict[int, tuple[int, Any]] = {}  # start -> (end, the array, kept alive)


def allow(array: np.ndarray) -> int:
    """Let kernels use the memory of an array; its address."""
    low, high = np.lib.array_utils.byte_bounds(array)
    if low not in _ranges:
        _starts.insert(bisect_right(_starts, low), low)
    if low not in _ranges or _ranges[low][0] < high:
        _ranges[low] = (high, array)
    return array.ctypes.data


def forget() -> None:
    """Drop all arrays, between tests."""
    _starts.clear()
    _ranges.clear()


def _checked(begin: int, size: int) -> int:
    begin = int(begin)
    at = bisect_right(_starts, begin)
    for start in _starts[max(0, at - 8) : at]:
        if begin + size <= _ranges[start][0]:
            break
    else:
        raise IndexError(f"access to {size} bytes at {begin:#x}, outside of all arrays")
    if begin % size:
        raise ValueError(f"access to {size} bytes at {begin:#x} is not aligned")
    return begin


def _loader(dtype: Any, convert: Any, count: int = 1) -> Any:
    size = np.dtype(dtype).itemsize * count

    def load(begin: int) -> Any:
        found = np.frombuffer((ctypes.c_char * size).from_address(_checked(begin, size)), dtype)
        return convert(found[0]) if count == 1 else tuple(convert(value) for value in found)

    return load


def _storer(dtype: Any, count: int = 1) -> Any:
    size = np.dtype(dtype).itemsize * count

    def store(begin: int, value: Any) -> None:
        target = np.frombuffer((ctypes.c_char * size).from_address(_checked(begin, size)), dtype)
        target[:] = value

    return store


# --- the names of xent_numba.backends.cuda.hw.intrinsics -----------------------------------------------------------


class _Int32:
    """int32 as a dtype and as a conversion that wraps around."""

    dtype = np.dtype(np.int32)

    def __call__(self, value: Any) -> int:
        return (int(value) + 2**31) % 2**32 - 2**31


class _InKernel:
    """`cuda` as device functions see it: that of the kernel that runs."""

    def __getattr__(self, name: str) -> Any:
        return getattr(_kernel._get_kernel_context(), name)


def device(function: Any) -> Any:
    return function


cuda = _InKernel()
f32, f64, i32, i64 = types.float32, types.float64, _Int32(), int


def thread_index() -> int:
    return cuda.threadIdx.x


def block_index() -> int:
    return cuda.blockIdx.x


def block_index_y() -> int:
    return cuda.blockIdx.y


def grid_width() -> int:
    return cuda.gridDim.x


def barrier() -> None:
    cuda.syncthreads()


def shfl_xor(value: Any, lane_mask: int) -> Any:
    return cuda.shfl_xor_sync(0xFFFFFFFF, value, lane_mask)


def jit_kernel(kernel: Any, threads: int) -> Any:
    return _module.jit(kernel)


def configure(kernel: Any, grid: Any, threads: int, stream: Any = 0, shared: int = 0) -> Any:
    return kernel[grid, threads, stream, shared]


def address(array: Any) -> int:
    return allow(getattr(array, "_ary", array))


log, log1p, expm1, tanh, exp, fmax = np.log, np.log1p, np.expm1, np.tanh, np.exp, np.fmax
EX2_ERROR = 2.0**-22


def ex2(x: Any) -> Any:
    """2^x as bad as ex2.approx.ftz.f32 may be: a relative error up to 2^-22 either way, and no subnormals."""
    exact = np.exp2(np.float64(x))
    noise = (int(np.float32(x).view(np.uint32)) * 2654435761 % 2**32) / 2**31 - 1.0
    value = np.float32(exact * (1.0 + EX2_ERROR * noise)) if x != 0 else np.float32(1)
    return np.float32(0) if value < np.finfo(np.float32).smallest_normal else value


load_f32, store_f32 = _loader(np.float32, np.float32), _storer(np.float32)
load_f64, store_f64 = _loader(np.float64, np.float64), _storer(np.float64)
load_f16, store_f16 = _loader(np.float16, np.float32), _storer(np.float16)
load_bf16, store_bf16 = _loader(ml_dtypes.bfloat16, np.float32), _storer(ml_dtypes.bfloat16)
load_i8, load_u8 = _loader(np.int8, int), _loader(np.uint8, int)
load_i16, load_u16 = _loader(np.int16, int), _loader(np.uint16, int)
load_i32, load_u32 = _loader(np.int32, int), _loader(np.uint32, int)
load_i64, store_i64 = _loader(np.int64, int), _storer(np.int64)
load_f32x4, store_f32x4 = _loader(np.float32, np.float32, 4), _storer(np.float32, 4)
load_f64x2, store_f64x2 = _loader(np.float64, np.float64, 2), _storer(np.float64, 2)
load_i32x4, store_i32x4 = _loader(np.int32, int, 4), _storer(np.int32, 4)


def _unpack(dtype: Any, high: bool) -> Any:
    return lambda word: np.float32(np.uint16(int(word) >> 16 & 0xFFFF if high else int(word) & 0xFFFF).view(dtype))


def _pack(dtype: Any) -> Any:
    def pack(low: Any, high: Any) -> int:
        bits = [int(np.asarray(value).astype(dtype).view(np.uint16)) for value in (low, high)]
        return i32(bits[0] | bits[1] << 16)

    return pack


f16_low, f16_high, pack_f16 = _unpack(np.float16, False), _unpack(np.float16, True), _pack(np.float16)
bf16_low, bf16_high = _unpack(ml_dtypes.bfloat16, False), _unpack(ml_dtypes.bfloat16, True)
pack_bf16 = _pack(ml_dtypes.bfloat16)
store_bf16_before_sm_80, pack_f16_before_sm_80, pack_bf16_before_sm_80 = store_bf16, pack_f16, pack_bf16

sys.modules["xent_numba.backends.cuda.hw.intrinsics"] = sys.modules[__name__]
