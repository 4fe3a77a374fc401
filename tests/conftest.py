"""Fixtures that all tests share."""

from __future__ import annotations

import numpy as np
import pytest

import xent_numba as xn
from tests.support.backends import BACKENDS


@pytest.fixture(params=BACKENDS)
def backend(request):
    """Each backend that can run here, made the current one."""
    with xn.use_backend(request.param):
        yield request.param


@pytest.fixture
def rng(request):
    """Random numbers that are the same on every run, and different in every test."""
    return np.random.default_rng(sum(request.node.name.encode()))
