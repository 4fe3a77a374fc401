"""Random logits with what makes softmax hard."""

from __future__ import annotations

import numpy as np


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
