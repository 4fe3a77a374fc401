"""pytest-benchmark cases: `python -m pytest benchmarks/test_speed.py --benchmark-only`.

Without the plugin they are skipped.  With it each is run once, as a test that it works, unless it is asked to measure:
`--benchmark-enable` or `--benchmark-only`.  No time decides whether a case passes.
"""

from __future__ import annotations

import numpy as np
import pytest

import xent_numba as xn

pytest.importorskip("pytest_benchmark", reason="pytest-benchmark is not installed")

SHAPES = [(2, 3), (64, 10), (400_000, 10), (40_000, 100), (4000, 1000), (80, 50_257), (1, 4_000_000)]


@pytest.fixture(params=SHAPES, ids=lambda shape: f"{shape[0]}x{shape[1]}")
def arrays(request):
    """Logits, labels and where a gradient goes."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal(request.param, dtype=np.float32)
    return x, rng.integers(0, x.shape[1], len(x)), np.empty_like(x)


@pytest.fixture(autouse=True)
def _group(request, benchmark):
    """Compare what works on the same array."""
    benchmark.group = request.node.name.partition("[")[2].rstrip("]")


def test_loss(benchmark, arrays):
    x, y, _ = arrays
    assert np.isfinite(benchmark(xn.cross_entropy, x, y))


def test_loss_and_gradient(benchmark, arrays):
    x, y, out = arrays
    loss, _ = benchmark(xn.cross_entropy_and_grad, x, y, grad_out=out)
    assert np.isfinite(loss)


def test_gradient(benchmark, arrays):
    x, y, out = arrays
    assert benchmark(xn.cross_entropy_grad, x, y, out=out) is out


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_probabilities(benchmark, arrays, name):
    x, _, out = arrays
    assert benchmark(getattr(xn, name), x, out=out) is out


def test_logsumexp(benchmark, arrays):
    x, y, _ = arrays
    assert benchmark(xn.logsumexp, x).shape == y.shape
