"""Fixtures that all tests share, and the order of their files."""

from __future__ import annotations

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # one of several processes, whose BLAS threads would wait for each other
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pytest

import xent_numba as xn
from tests.support.backends import BACKENDS

# The files that take longest.  They come first, so that no worker of pytest-xdist is left with one of them at the end.
LONG = [
    "test_edges.py",
    "test_cuda_sim.py",
    "test_accuracy.py",
    "test_reference.py",
    "test_threads.py",
    "test_cache.py",
    "04_inside_the_cpu_kernel.ipynb",
    "test_guard_pages.py",
    "test_bits.py",
    "test_inputs.py",
    "02_numerical_stability.ipynb",
    "05_inside_the_cuda_kernels.ipynb",
    "06_training_on_digits.ipynb",
    "test_properties.py",
    "test_codegen_cpu.py",
]
# What runs on the njit backend by default: float32 and float64, at the edges and under the accuracy law.
NJIT = {
    "test_every_edge",
    "test_the_worked_example",
    "test_values_by_hand",
    "test_rows_that_are_nan",
    "test_losses_that_float32_cannot_hold_raise_nothing",
    "test_softmax_family_edges",
    "test_the_accuracy_law",
    "test_the_edge_of_the_range",
    "test_finite_differences",
}


def pytest_configure(config: pytest.Config) -> None:
    """Have `--dist loadfile` keep that order, which it would change for one by the number of tests."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, each as it was; and the njit backend rarely, except in the tests of NJIT."""
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        if parameters.get("backend") == "njit" and item.originalname not in NJIT:
            item.add_marker(pytest.mark.rare)
    places = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONG)))


@pytest.fixture(params=BACKENDS)
def backend(request):
    """Each backend that can run here, made the current one."""
    with xn.use_backend(request.param):
        yield request.param


@pytest.fixture
def rng(request):
    """Random numbers that are the same on every run, seeded by the name of the test."""
    return np.random.default_rng(sum(request.node.name.encode()))
