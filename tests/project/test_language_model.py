"""The program that trains a language model: its gradients, its text, and that it learns."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import numpy as np
import pytest

import xent_numba as xn

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "language_model.py"


@pytest.fixture(scope="module")
def program():
    if not SCRIPT.exists():
        pytest.skip("benchmarks/ is not here")
    return runpy.run_path(str(SCRIPT))


@pytest.fixture(autouse=True)
def _reference():
    """The backend that compiles nothing."""
    with xn.use_backend("numpy"):
        yield


def test_words_after_their_context(program):
    words = ["", "", "a", "b", "rare", "a", "", "", "b"]
    vocabulary = program["most_frequent"](words, 2)
    assert vocabulary == {"a": 0, "b": 1}
    assert program["numbered"](words, vocabulary, 2).tolist() == [[2, 2, 0], [2, 0, 1], [1, 2, 0], [2, 2, 1]]


def test_gradients_by_differences(program):
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 7, (20, 3))
    model, out = (program["new_model"](7, 2, 3, np.float64) for _ in range(2))
    for parameter in model:
        parameter[...] = rng.normal(size=parameter.shape)
    way = [rng.normal(size=parameter.shape) for parameter in model]
    program["loss_and_gradients"](model, rows, out)
    slope = sum((a * b).sum() for a, b in zip(out, way, strict=True))

    def loss(step):
        moved = type(model)(*(a + step * b for a, b in zip(model, way, strict=True)))
        return program["mean_loss"](moved, rows, 6)

    h = 1e-3
    assert slope == pytest.approx((loss(-2 * h) - 8 * loss(-h) + 8 * loss(h) - loss(2 * h)) / (12 * h), rel=1e-8)


def test_it_learns(program, capsys):
    """From all words being equally likely to more than the frequencies of words can tell."""
    perplexities = program["main"](["--quick"])
    by_frequency = float(re.search(r"by frequency alone: perplexity (\S+)", capsys.readouterr().out)[1])
    assert perplexities[0] == pytest.approx(500, rel=1e-4)
    assert perplexities[-1] < 0.9 * by_frequency < perplexities[0]
