"""The device: whether one can be used, and if not, why; and what it is."""

from __future__ import annotations

import importlib.util
from functools import cache
from typing import Any, NamedTuple

from xent_numba.interrupts import uninterrupted

NEEDED = (7, 5)  # compute capability; also the least that the compiler of CUDA 13 knows
INSTALL = "pip install 'xent_numba[cuda13]' (or [cuda12], to match the driver)"


class DeviceFacts(NamedTuple):
    """What `plan` and `show_config` want to know of a device."""

    name: str
    compute_capability: tuple[int, int]
    multiprocessors: int


@cache
def numba_cuda() -> Any:
    """numba.cuda, imported when first needed."""
    with uninterrupted():
        from numba import cuda

        return cuda


def why_not() -> str | None:
    """None when kernels can run here, else the reason and the remedy in one sentence."""
    if importlib.util.find_spec("numba_cuda") is None:
        return f"numba-cuda is not installed; install it with {INSTALL}"
    try:
        cuda = numba_cuda()
        if not cuda.is_available():
            return _unavailable(cuda)
        capability = tuple(cuda.get_current_device().compute_capability)
        old = _too_old(cuda)
    except ImportError as error:
        return f"numba-cuda is not complete ({error}); install it with {INSTALL}"
    except Exception as error:  # whatever a driver in a bad state raises
        return f"the CUDA driver does not work ({type(error).__name__}: {error}); update it from nvidia.com/drivers"
    if capability < NEEDED:
        found, needed = (f"{major}.{minor}" for major, minor in (capability, NEEDED))
        return f"the GPU has compute capability {found}, at least {needed} is needed; use backend='cpu'"
    return old


def _too_old(cuda: Any) -> str | None:
    """Why the driver cannot run what the compiler makes, if so.

    A driver runs what compilers of its own major version of CUDA make, and of earlier ones.
    """
    try:  # numba.cuda has no public name for the version of the driver
        driver, compiler = cuda.cudadrv.driver.driver.get_version(), cuda.runtime.get_version()
    except Exception:  # no version, no verdict
        return None
    if driver[0] >= compiler[0]:
        return None
    or_else = ", or pip install 'xent_numba[cuda12]'" if driver[0] == 12 else ""
    return (
        f"the NVIDIA driver is too old for this CUDA (it has {driver[0]}.{driver[1]}, the compiler is of "
        f"{compiler[0]}.{compiler[1]}); update it{or_else}"
    )


def _unavailable(cuda: Any) -> str:
    """Why `is_available` is false, and what to do."""
    error = str(cuda.cuda_error() or "")
    if "cannot be found" in error:
        return "no NVIDIA driver was found, so there is no usable GPU; install one from nvidia.com/drivers"
    if "INSUFFICIENT_DRIVER" in error or "MISMATCH" in error:
        return f"the NVIDIA driver is too old for this CUDA ({_one_line(error)}); update it, or {INSTALL}"
    if not error:  # the driver works, so what is missing is the compiler
        return f"numba-cuda has no compiler (libNVVM was not found); install it with {INSTALL}"
    if "NO_DEVICE" not in error:
        return f"the CUDA driver reports {_one_line(error)}; check nvidia-smi"
    return "no CUDA GPU was found; check nvidia-smi and CUDA_VISIBLE_DEVICES, or use backend='cpu'"


def _one_line(text: str) -> str:
    """The beginning of a driver's message, without line breaks."""
    return " ".join(text.split())[:200]


def facts() -> DeviceFacts:
    """What the current device is."""
    cuda = numba_cuda()
    return _facts(cuda.get_current_device().id)


@cache
def _facts(number: int) -> DeviceFacts:
    """The facts of a device, which must be the current one; asked for once."""
    cuda = numba_cuda()
    device = cuda.get_current_device()
    name = device.name.decode() if isinstance(device.name, bytes) else str(device.name)
    return DeviceFacts(name, tuple(device.compute_capability), int(device.MULTIPROCESSOR_COUNT))
