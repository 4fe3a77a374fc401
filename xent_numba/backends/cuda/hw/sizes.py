"""Sizes that CUDA fixes for every device that the backend supports."""

from __future__ import annotations

WARP = 32  # threads of a warp
VECTOR_BYTES = 16  # the widest load or store of a thread
MAX_GRID_X, MAX_GRID_Y = 2**31 - 1, 65535  # blocks of a launch
