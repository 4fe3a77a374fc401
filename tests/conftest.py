"""Fixtures and inputs that all tests share."""

from __future__ import annotations

import numpy as np
import pytest

import xent_numba as xn

BACKENDS = [name for name, answer in xn.available_backends().items() if answer]


@pytest.fixture(params=BACKENDS)
def backend(request):
    """Each backend that can run here, made the current one."""
    with xn.use_backend(request.param):
        yield request.param


@pytest.fixture
def rng(request):
    """Random numbers that are the same on every run, and different in every test."""
    return np.random.default_rng(sum(request.node.name.encode()))


def random_logits(rng, shape, dtype=np.float64, *, outliers=True, masked=True, offsets=True):
    """Logits with what makes softmax hard: outliers, rows far from 0, and masked (−inf) classes.

    The class axis is the last one; class 0 is never masked, so a test can keep its targets there or tell by
    isfinite where else.
    """
    x = rng.normal(scale=3.0, size=shape)
    if outliers:
        x = np.where(rng.random(shape) < 0.05, x * 30.0, x)
    if offsets and x.ndim:
        far = 1e3 if np.dtype(dtype).itemsize == 2 else 1e5
        x = x + rng.choice([0.0, -far, far], p=[0.8, 0.1, 0.1], size=(*shape[:-1], 1))
    if masked:
        hidden = rng.random(shape) < 0.1
        hidden[..., 0] = False
        x = np.where(hidden, -np.inf, x)
    return x.astype(dtype)
