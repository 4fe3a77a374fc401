"""What the tests of the command line share: processes that run this checkout, and arrays in files."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]


def command(*args: object) -> list[str]:
    return [sys.executable, "-m", "xent_numba", *map(str, args)]


def environment() -> dict[str, str]:
    """Of a child that runs this checkout wherever it is started, on the backend that starts fastest."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "XENT_NUMBA_BACKEND": "numpy"}


def left_over(folder: Path) -> list[str]:
    """What should not have been left: all but arrays."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".npy")


def write_data(folder: Path) -> dict[str, np.ndarray]:
    """Arrays, each also in NAME.npy of the folder."""
    rng = np.random.default_rng(5)
    logits = rng.normal(scale=3, size=(37, 6)).astype(np.float32)
    logits[3, 2], logits[5, 1], logits[7] = -np.inf, 80.0, 1e30
    labels = rng.integers(0, 6, 37)
    labels[[4, 30]] = -100
    labels[3] = 0
    arrays = {
        "logits": logits,
        "target": labels,
        "wide": rng.normal(size=(37, 6)),
        "half": rng.normal(size=(37, 6)).astype(np.float16),
        "fortran": np.asfortranarray(logits),
        "transposed": np.ascontiguousarray(logits.T),
        "image": rng.normal(size=(3, 6, 5, 4)).astype(np.float32),
        "image_target": rng.integers(0, 6, (3, 5, 4)),
        "single": rng.normal(size=6),
        "single_target": np.array(2),
        "integer": rng.integers(-5, 5, (37, 6)),
        "distribution": rng.dirichlet(np.ones(6), 37),
        "weight": rng.uniform(0.5, 2, 6),
        "sample_weight": rng.uniform(0, 2, 37),
        "bad": np.where(np.arange(37) == 11, 6, labels),
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return arrays
