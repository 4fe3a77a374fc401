"""Every dtype, kind of target and regime of the cpu backend, held to the numpy backend by the accuracy law.

    python -m tests.tools.smoke

There are as few kernels as will do, because this is for processors on which compiling is slow, such as the emulated one
of `arm64.sh`.  Where the tests can run, they say far more.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple
from unittest import mock

import ml_dtypes
import numpy as np

import xent_numba as xn
from tests.support.palette import excess
from xent_numba.backends.cpu import arguments, backend
from xent_numba.backends.cpu.compile.processor import processor
from xent_numba.backends.cpu.fallback import computes_in_float64
from xent_numba.backends.cpu.plan import plan

FUNCTIONS = {"softmax": xn.softmax, "log_softmax": xn.log_softmax, "logsumexp": xn.logsumexp}


class Case(NamedTuple):
    """A loss with its gradient, or a function of the softmax family."""

    regime: str
    shape: tuple[int, int]
    dtype: Any
    what: str = "labels"  # or "distribution", for a loss; or one of FUNCTIONS
    options: Mapping[str, Any] = MappingProxyType({})

    def __str__(self) -> str:
        parts = [self.regime, str(self.shape), np.dtype(self.dtype).name, self.what, *self.options]
        return " ".join(parts)


# Those of 32768 logits and more are computed by several threads.
CASES = [
    Case("long", (70, 700), np.float32),
    Case("long", (3, 259), np.float64, "distribution"),
    Case("split", (2, 70_000), np.float32),
    Case("packed", (601, 100), ml_dtypes.bfloat16),
    Case("packed", (37, 40), np.float32, "labels", {"weight": True, "z_loss": 1e-3, "logit_scale": -0.37}),
    Case("lanes", (5001, 10), np.float16),
    Case("lanes", (21, 5), np.float32, "distribution", {"label_smoothing": 0.2}),
    Case("lanes", (19, 37), np.float64, "labels", {"label_smoothing": 0.1}),
    Case("lanes", (9, 20), np.float32, "labels", {"softcap": 30.0}),
    Case("long", (3, 400), np.float16, "softmax"),
    Case("lanes", (20, 30), ml_dtypes.bfloat16, "log_softmax"),
    Case("long", (3, 400), np.float64, "logsumexp"),
]


def inputs(case: Case) -> tuple[Any, Any, dict[str, Any]]:
    """Logits with masked classes, a tie and a confident row; a target; the options."""
    rng = np.random.default_rng(sum(case.shape))
    rows, classes = case.shape
    x, y = rng.normal(scale=3.0, size=case.shape), rng.integers(0, classes, rows)
    dense = case.what == "distribution" or "label_smoothing" in case.options
    x[(rng.random(x.shape) < 0.05) & (y[:, None] != np.arange(classes))] = -9.0 if dense else -np.inf
    x[0], x[1, y[1]] = 0.5, 25.0
    y[-1] = -100
    x = x.astype(case.dtype)
    options = {**case.options, **({"weight": rng.random(classes)} if "weight" in case.options else {})}
    q = rng.dirichlet(np.ones(classes), rows).astype(np.float64 if x.dtype == np.float64 else np.float32)
    return x, q if case.what == "distribution" else y, options


def call(case: Case, x: Any, target: Any, options: dict[str, Any], **where: Any) -> list[Any]:
    """What a backend computes: losses and gradients, or the one result of a function."""
    if case.what in FUNCTIONS:
        return [FUNCTIONS[case.what](x, **where)]
    return list(xn.cross_entropy_and_grad(x, target, reduction="none", **options, **where))


def larger_terms(case: Case, x: Any, target: Any, options: dict[str, Any]) -> Any:
    """What the law takes the units of a gradient T·p − t from: the larger of T·p and t with a dense target, else 0."""
    epsilon = options.get("label_smoothing", 0.0)
    if epsilon == 0.0 and case.what == "labels":
        return 0.0
    hard = target if case.what == "distribution" else np.arange(x.shape[1]) == target[:, None]
    t = (1 - epsilon) * hard + epsilon / x.shape[1]
    return np.maximum(xn.softmax(x, backend="numpy") * t.sum(axis=1, keepdims=True), t)


def regime(case: Case) -> str:
    """The regime that computes the case."""
    q = np.empty(0, np.float64) if case.what == "distribution" and case.dtype == np.float64 else None
    float64 = computes_in_float64(np.empty(0, case.dtype), q, case.options.get("softcap"))
    is_loss = case.what not in FUNCTIONS
    return plan((1, *case.shape), True, float64, is_loss and case.what == "labels", is_loss).regime


def worst(case: Case) -> float:
    """The worst error over its bound; checks also the regime, and that one thread and streaming change no bit."""
    assert regime(case) == case.regime
    x, target, options = inputs(case)
    found = call(case, x, target, options, backend="cpu")
    with mock.patch.object(arguments, "STREAM_BYTES", 0), mock.patch.object(backend, "STREAM_BYTES", 0):
        for again, first in zip(call(case, x, target, options, backend="cpu", n_threads=1), found, strict=True):
            np.testing.assert_array_equal(again, first)
    exact = x.astype(np.float64)
    truth = call(case, exact, target, options, backend="numpy")
    larger = [0.0, larger_terms(case, exact, target, options)]
    if case.what == "logsumexp":  # the sum of two terms, of which the larger is at most this
        larger = [np.abs(np.where(np.isinf(exact), 0.0, exact)).max() + np.log(x.shape[1])]
    errors = [0.0]
    for values, right, size in zip(found, truth, larger, strict=False):
        there = np.isfinite(right)
        np.testing.assert_array_equal(np.asarray(values)[~there], right[~there])
        size = np.broadcast_to(size, right.shape)[there]
        errors.append(excess(np.asarray(values)[there], (right[there], 0.0), values.dtype, larger=size))
    # The numpy backend computes in float64, so for float64 its own error, which is within the law, comes on top.
    return max(errors) / (2 if x.dtype == np.float64 else 1)


def main() -> int:
    """Run all cases; print the worst error of each over the bound of the law.  Returns the number of failures."""
    print(processor(), flush=True)
    failed = 0
    for case in CASES:
        start = time.perf_counter()
        error = worst(case)
        failed += not error < 1
        print(f"{time.perf_counter() - start:6.1f} s  {error:.2f} of the bound  {case}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
