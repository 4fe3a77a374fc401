"""Measure the linear head: its loss and gradients beside the bare matrix products, PyTorch and scikit-learn.

    python benchmarks/linear.py [--quick] [--threads N] [--rounds N] [--sweep] [--memory] [--update-readme]

Two cases.  A language model's head: 8192 rows of 256 features into 50 257 classes, float32, the loss and the gradients
of input and weight, which takes three matrix products.  They are done bare too, in the same chunks and into the same
memory: what is left of their speed is what the loss costs.  And a classifier: 100 000 rows of 200 features into 10, 100
and 1000 classes, float64, the loss and the gradients of weight and bias, as scikit-learn's solvers want them.

All contenders of a case take turns in one process, and each is judged by its best round, as in `benchmarks/cpu.py`.
Before anything is measured, they must agree.  `--sweep` adds other sizes of chunks, and `--memory` the peak memory of a
process that computes the first case.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
# Not this folder: its cuda.py would hide NVIDIA's package `cuda`.
sys.path[:] = [str(ROOT), *(entry for entry in sys.path if Path(entry or ".").resolve() != ROOT / "benchmarks")]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Check and measure the linear head.")
    parser.add_argument("--quick", action="store_true", help="small arrays and few rounds: to see that it works")
    parser.add_argument("--threads", type=int, default=2, help="of every contender")
    parser.add_argument("--rounds", type=int, help="turns that each contender has")
    parser.add_argument("--only", nargs="*", default=[], help="cases whose name contains one of these")
    parser.add_argument("--sweep", action="store_true", help="other sizes of chunks too")
    parser.add_argument("--memory", action="store_true", help="the peak memory of the first case, and nothing else")
    parser.add_argument("--update-readme", action="store_true", help="put the table into README.md")
    return parser.parse_args()


CHOSEN = arguments() if __name__ == "__main__" else argparse.Namespace(threads=2)
if __name__ == "__main__":  # the same threads for everybody, said before anybody is imported
    for variable in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(CHOSEN.threads)
    warnings.filterwarnings("ignore")  # of other libraries

import numpy as np  # noqa: E402

import xent_numba as xn  # noqa: E402
from benchmarks.cpu import seconds  # noqa: E402
from benchmarks.peers import installed  # noqa: E402
from xent_numba.linear.chunks import chunk_rows  # noqa: E402
from xent_numba.linear.products import Weight, WeightGradient  # noqa: E402

BEGIN, END = "<!-- benchmarks/linear.py: begin -->", "<!-- benchmarks/linear.py: end -->"
OURS, PRODUCTS = "xent_numba", "matrix products"
SWEEP = (32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
Call = Callable[[], Any]


class Case(NamedTuple):
    """Shapes, and what is differentiated."""

    rows: int
    features: int
    classes: int
    dtype: type
    wrt: tuple[str, ...]

    @property
    def name(self) -> str:
        """What the table calls it."""
        return f"{self.rows} × {self.features} into {self.classes}, {np.dtype(self.dtype).name}"


class Arrays(NamedTuple):
    """Those of a case, and where its gradients go."""

    x: np.ndarray
    w: np.ndarray
    b: np.ndarray | None
    y: np.ndarray
    outs: dict[str, np.ndarray]


LANGUAGE_MODEL = Case(8192, 256, 50_257, np.float32, ("input", "linear_weight"))
CLASSIFIERS = [Case(100_000, 200, c, np.float64, ("linear_weight", "linear_bias")) for c in (10, 100, 1000)]


def make(case: Case) -> Arrays:
    """Random features, weights and labels."""
    rng = np.random.default_rng(case.classes)
    x = rng.standard_normal((case.rows, case.features)).astype(case.dtype)
    w = (rng.standard_normal((case.classes, case.features)) / math.sqrt(case.features)).astype(case.dtype)
    b = rng.standard_normal(case.classes).astype(case.dtype) if "linear_bias" in case.wrt else None
    named = {"input": x, "linear_weight": w, "linear_bias": b}
    outs = {f"{name}_grad_out": np.empty_like(named[name]) for name in case.wrt}
    return Arrays(x, w, b, rng.integers(0, case.classes, case.rows), outs)


# --- contenders -----------------------------------------------------------------------------------------------------


def ours(case: Case, a: Arrays, chunk: int | None = None) -> Call:
    """This package: the loss, and the gradients in the order of `wrt`."""

    def call() -> list[Any]:
        found = xn.linear_cross_entropy_and_grad(
            a.x, a.w, a.y, linear_bias=a.b, wrt=case.wrt, batch_chunk_size=chunk, n_threads=CHOSEN.threads, **a.outs
        )
        return [found.loss, *(getattr(found, name) for name in case.wrt)]

    return call


def products(case: Case, a: Arrays) -> Call:
    """The matrix products alone, in the same chunks and by the same calls."""
    step = default_chunk(case)
    outs, dtype = a.outs, np.dtype(case.dtype)
    logits = np.empty((step, case.classes), dtype)

    def call() -> None:
        weight, total = Weight(a.w, dtype), WeightGradient(outs["linear_weight_grad_out"], dtype)
        for start in range(0, case.rows, step):
            x = a.x[start : start + step]
            z = weight.logits(x, None, logits[: len(x)])
            total.add(z, x)
            if "input" in case.wrt:
                outs["input_grad_out"][start : start + step] = weight.features_gradient(z)

    return call


def default_chunk(case: Case) -> int:
    """The rows of a chunk that this package chooses."""
    return chunk_rows(case.rows, max(case.classes, case.features), np.dtype(case.dtype).itemsize, None)


def with_torch(case: Case, a: Arrays) -> Iterator[tuple[str, Call]]:
    """PyTorch: the unfused pair, and its function for a linear head in each of its ways."""
    import torch
    from torch.nn import functional

    torch.set_num_threads(CHOSEN.threads)
    named = {"input": a.x, "linear_weight": a.w, "linear_bias": a.b}
    tensors = {name: None if array is None else torch.from_numpy(array) for name, array in named.items()}
    y = torch.from_numpy(a.y)

    def run(function: Callable[..., Any]) -> Call:
        def call() -> list[Any]:
            leaves = {name: None if t is None else t.detach() for name, t in tensors.items()}
            for name in case.wrt:
                leaves[name].requires_grad_()
            loss = function(leaves["input"], leaves["linear_weight"], leaves["linear_bias"])
            loss.backward()
            return [loss.detach(), *(leaves[name].grad for name in case.wrt)]

        return call

    yield "PyTorch, unfused", run(lambda x, w, b: functional.cross_entropy(functional.linear(x, w, b), y))
    if hasattr(functional, "linear_cross_entropy"):
        options = [None]
        if hasattr(torch.nn, "LinearCrossEntropyOptions"):
            options.append(torch.nn.LinearCrossEntropyOptions())
        for chosen in options:
            name = "PyTorch, linear_cross_entropy" + ("" if chosen is None else " in chunks")
            yield (
                name,
                run(lambda x, w, b, o=chosen: functional.linear_cross_entropy(x, w, y, linear_bias=b, options=o)),
            )


def with_sklearn(case: Case, a: Arrays) -> Iterator[tuple[str, Call]]:
    """scikit-learn's loss of a multinomial regression."""
    from sklearn._loss import HalfMultinomialLoss
    from sklearn.linear_model._linear_loss import LinearModelLoss

    if case.wrt != ("linear_weight", "linear_bias"):
        return
    loss = LinearModelLoss(base_loss=HalfMultinomialLoss(n_classes=case.classes), fit_intercept=True)
    coefficients = np.asfortranarray(np.column_stack([a.w, a.b]))
    y = a.y.astype(case.dtype)

    def call() -> list[Any]:
        value, gradient = loss.loss_gradient(coefficients, a.x, y, n_threads=CHOSEN.threads)
        return [value, gradient[:, :-1], gradient[:, -1]]

    yield "scikit-learn", call


PEERS = {"PyTorch": (("torch",), with_torch), "scikit-learn": (("sklearn",), with_sklearn)}


# --- check, measure, print ------------------------------------------------------------------------------------------


def agree(who: str, found: list[Any], expected: list[Any], dtype: type) -> None:
    """AssertionError where a contender computes something else."""
    tolerance = 1e-9 if dtype is np.float64 else 1e-4
    for part, truth in zip(found, expected, strict=True):
        one, other = np.asarray(part, np.float64), np.asarray(truth, np.float64)
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance * abs(other).max(), err_msg=who)


def measure(case: Case, rounds: int) -> dict[str, float]:
    """The best time of each contender, after a check that all who compute the same agree."""
    arrays = make(case)
    expected = [np.array(part) for part in ours(case, arrays)()]
    calls = {OURS: ours(case, arrays), PRODUCTS: products(case, arrays)}
    if CHOSEN.sweep:
        for chunk in SWEEP:
            if chunk <= case.rows and chunk * case.classes * np.dtype(case.dtype).itemsize < 1 << 31:
                calls[f"{OURS}, chunks of {chunk}"] = ours(case, arrays, chunk)
    for modules, peer in PEERS.values():
        if installed(*modules):
            for who, call in peer(case, arrays):
                agree(who, call(), expected, case.dtype)
                calls[who] = call
    best = dict.fromkeys(calls, math.inf)
    for _ in range(rounds):
        for who, call in calls.items():
            best[who] = min(best[who], seconds(call, 0))
    return best


def table(found: dict[Case, dict[str, float]]) -> str:
    """Markdown: for each case the speed as a part of that of the products, and beside the peers."""
    names = list(PEERS)
    lines = [
        f"| | speed ÷ that of the products | {' | '.join(f'faster than {name}' for name in names)} |",
        f"|---|--:|{'--:|' * len(names)}",
    ]
    for case, best in found.items():
        fastest = [min((t for who, t in best.items() if who.startswith(name)), default=None) for name in names]
        others = ["" if taken is None else f"{taken / best[OURS]:.1f}×" for taken in fastest]
        lines.append(f"| {case.name} | {best[PRODUCTS] / best[OURS]:.2f} | {' | '.join(others)} |")
    return "\n".join(lines)


def peak_memory() -> None:
    """Print the peak memory of a process with the first case, besides what it held before and its results."""
    code = (
        "import benchmarks.linear as b; a = b.make(b.LANGUAGE_MODEL)\n"
        "def peak(): return int(next(l for l in open('/proc/self/status') if l.startswith('VmHWM')).split()[1]) << 10\n"
        "for out in a.outs.values(): out.fill(0)\n"
        "before = peak(); b.ours(b.LANGUAGE_MODEL, a)(); print(f'{(peak() - before) / 1e6:.0f} MB')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})


def main() -> int:
    """Check, measure, print, and put the table into the README if asked to."""
    if CHOSEN.memory:
        peak_memory()
        return 0
    rounds = CHOSEN.rounds or (2 if CHOSEN.quick else 7)
    found = {}
    for case in (LANGUAGE_MODEL, *CLASSIFIERS):
        if CHOSEN.only and not any(text in case.name for text in CHOSEN.only):
            continue
        if CHOSEN.quick:
            case = case._replace(rows=case.rows // 64, classes=max(10, case.classes // 16))
        found[case] = measure(case, rounds)
        for who, taken in found[case].items():
            print(f"{case.name:<44} {who:<40} {taken * 1e3:9.2f} ms", flush=True)
    text = table(found)
    print(text)
    if CHOSEN.update_readme:
        readme = ROOT / "README.md"
        old = readme.read_text(encoding="utf-8")
        before, after = old.partition(BEGIN)[0], old.partition(END)[2]
        readme.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
