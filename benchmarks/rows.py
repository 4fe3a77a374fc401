"""Measure what a row can tell: statistics, curvature and distillation, beside the loss, memory and what people write.

    python benchmarks/rows.py [--quick] [--threads N] [--rounds N] [--only TEXT …] [--update-readme]

All contenders of a case take turns in one process, and each is judged by its best round, as in `benchmarks/cpu.py`.
Statistics are compared with `cross_entropy` of the same logits; what writes an array is compared with the copy limit of
its streams: the fastest parallel copy past the caches (two streams), times 1.5 where there are three.  Before anything
is measured, every contender must agree with the others.  A peer that is not installed is left out.
"""

from __future__ import annotations

import argparse
import math
import os
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
    parser = argparse.ArgumentParser(description="Check and measure row statistics, curvature and distillation.")
    parser.add_argument("--quick", action="store_true", help="small arrays and few rounds: to see that it works")
    parser.add_argument("--threads", type=int, default=2, help="of every contender")
    parser.add_argument("--rounds", type=int, help="turns that each contender has")
    parser.add_argument("--only", nargs="*", default=[], help="cases whose name contains one of these")
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
from benchmarks.limits import aligned, limits  # noqa: E402
from benchmarks.peers import installed  # noqa: E402

LOGITS = 100_000_000  # in each case: arrays that no cache holds
QUICK_LOGITS = 1 << 19
CLASSES = (100, 1000, 50_000)
SLOW = 8.0  # a contender that takes so many times as long as ours gets two turns
BEGIN, END = "<!-- benchmarks/rows.py: begin -->", "<!-- benchmarks/rows.py: end -->"

ALL, TWO = "all five statistics", "log_prob, argmax"
BOTH = "loss + gradient"
DIAGONAL, HVP, DISTILLATION = "gradient + Hessian diagonal", "Hessian-vector product", "distillation + gradient"
OURS, LOSS, COPY = "xent_numba", "cross_entropy", "copy"
Call = Callable[[], Any]


class Arrays(NamedTuple):
    """Logits, labels, a second stream of the same shape, and where results go."""

    x: np.ndarray
    y: np.ndarray
    other: np.ndarray
    out: np.ndarray
    second_out: np.ndarray


def make(classes: int, logits: int) -> Arrays:
    """Arrays of a case, with outliers among the logits."""
    rows = max(2, logits // classes)
    rng = np.random.default_rng(classes)
    x, other, out, second = (aligned(rows * classes, np.float32).reshape(rows, classes) for _ in range(4))
    for array in (x, other):
        for part in np.array_split(array, max(1, array.nbytes >> 24)):
            part[...] = rng.standard_normal(part.shape, dtype=np.float32)
    x.reshape(-1)[::997] *= 10
    return Arrays(x, rng.integers(0, classes, rows), other, out, second)


# --- ourselves ------------------------------------------------------------------------------------------------------


def ours(a: Arrays) -> Iterator[tuple[str, Call]]:
    """This package: (what, call that returns what is compared)."""
    at: dict[str, Any] = {"n_threads": CHOSEN.threads}
    yield LOSS, lambda: xn.cross_entropy(a.x, a.y, **at)
    yield BOTH, lambda: xn.cross_entropy_and_grad(a.x, a.y, reduction="sum", grad_out=a.out, **at)
    yield ALL, lambda: xn.row_statistics(a.x, a.y, **at)[:4]
    yield TWO, lambda: xn.row_statistics(a.x, a.y, fields=("log_prob", "argmax"), **at)[:3:2]
    yield (
        DIAGONAL,
        lambda: xn.cross_entropy_grad_and_hessian_diag(
            a.x, a.y, reduction="sum", grad_out=a.out, diag_out=a.second_out, **at
        ),
    )
    yield HVP, lambda: (xn.cross_entropy_hvp(a.x, a.y, a.other, reduction="sum", out=a.out, **at),)
    yield DISTILLATION, lambda: xn.distillation_loss_and_grad(a.x, a.other, reduction="sum", grad_out=a.out, **at)


# --- what people write ----------------------------------------------------------------------------------------------


def with_numpy(a: Arrays) -> Iterator[tuple[str, Call]]:
    """NumPy alone."""
    rows = np.arange(len(a.x))

    def log_softmax(x: np.ndarray) -> np.ndarray:
        z = x - x.max(axis=1, keepdims=True)
        return z - np.log(np.exp(z).sum(axis=1, keepdims=True))

    def statistics() -> Any:
        logp = log_softmax(a.x)
        chosen = logp[rows, a.y]
        rank = 1 + (logp > chosen[:, None]).sum(axis=1)
        return chosen, -(np.exp(logp) * logp).sum(axis=1), a.x.argmax(axis=1), rank

    def diagonal() -> Any:
        p = np.exp(log_softmax(a.x))
        diag = p * (1 - p)
        p[rows, a.y] -= 1
        return p, diag

    def hvp() -> Any:
        p = np.exp(log_softmax(a.x))
        return (p * (a.other - (p * a.other).sum(axis=1, keepdims=True)),)

    def distillation() -> Any:
        student, teacher = log_softmax(a.x), log_softmax(a.other)
        p = np.exp(teacher)
        return (p * (teacher - student)).sum(dtype=np.float64), np.exp(student) - p

    def two() -> Any:
        return log_softmax(a.x)[rows, a.y], a.x.argmax(axis=1)

    yield from ((ALL, statistics), (TWO, two), (DIAGONAL, diagonal), (HVP, hvp), (DISTILLATION, distillation))


def with_scipy(a: Arrays) -> Iterator[tuple[str, Call]]:
    """scipy.special and scipy.stats."""
    from scipy import special

    rows = np.arange(len(a.x))
    yield TWO, lambda: (special.log_softmax(a.x, axis=1)[rows, a.y], a.x.argmax(axis=1))

    def distillation() -> Any:
        q, p = special.softmax(a.x, axis=1), special.softmax(a.other, axis=1)
        return special.rel_entr(p, q).sum(dtype=np.float64), q - p

    yield DISTILLATION, distillation


def with_torch(a: Arrays) -> Iterator[tuple[str, Call]]:
    """PyTorch; `log_prob, argmax` is what an evaluation harness computes: log_softmax, then gather and argmax."""
    import torch
    from torch.nn import functional

    torch.set_num_threads(CHOSEN.threads)
    x, y, other = torch.from_numpy(a.x), torch.from_numpy(a.y), torch.from_numpy(a.other)

    def statistics() -> Any:
        logp = torch.log_softmax(x, dim=1)
        chosen = logp.gather(1, y[:, None])
        rank = 1 + (logp > chosen).sum(dim=1)
        return chosen[:, 0], -(logp.exp() * logp).sum(dim=1), x.argmax(dim=1), rank

    def harness() -> Any:
        logp = torch.log_softmax(x, dim=1)
        return logp.gather(1, y[:, None])[:, 0], logp.argmax(dim=1)

    def diagonal() -> Any:
        p = torch.softmax(x, dim=1)
        diag = p * (1 - p)
        p[torch.arange(len(p)), y] -= 1
        return p, diag

    def hvp() -> Any:
        gradient = torch.func.grad(lambda z: functional.cross_entropy(z, y, reduction="sum"))
        return (torch.func.jvp(gradient, (x,), (other,))[1],)

    def distillation() -> Any:
        student = x.detach().requires_grad_()
        loss = functional.kl_div(
            torch.log_softmax(student, dim=1), torch.log_softmax(other, dim=1), reduction="sum", log_target=True
        )
        loss.backward()
        return loss.detach(), student.grad

    yield from ((ALL, statistics), (TWO, harness), (DIAGONAL, diagonal), (HVP, hvp), (DISTILLATION, distillation))


PEERS = {
    "NumPy": (("numpy",), with_numpy),
    "SciPy": (("scipy",), with_scipy),
    "PyTorch": (("torch",), with_torch),
}


# --- check, measure, print ------------------------------------------------------------------------------------------


def agree(what: str, who: str, found: Any, expected: Any) -> None:
    """AssertionError where a contender computes something else, to the accuracy of a textbook formula in float32.

    Ranks may differ a little, and classes in one row of a thousand, as rounded log-probabilities have ties.
    """
    for part, truth in zip(found, expected, strict=True):
        a, b = np.asarray(part), np.asarray(truth)
        if b.dtype.kind == "i":
            assert (abs(a - b) > 1 + b // 1000).mean() < 1e-3, f"{what}: {who}"
        else:
            np.testing.assert_allclose(
                np.asarray(a, np.float64), np.asarray(b, np.float64), rtol=2e-3, atol=2e-4, err_msg=f"{what}: {who}"
            )


def measure(classes: int, rounds: int) -> dict[tuple[str, str], float]:
    """The best time of each (what, who), after a check that all who compute the same agree."""
    arrays = make(classes, QUICK_LOGITS if CHOSEN.quick else LOGITS)
    calls: dict[tuple[str, str], list[Call]] = {}
    for call in limits(arrays.x.reshape(-1), arrays.out.reshape(-1))["copy"]:
        call()
        calls.setdefault((COPY, COPY), []).append(call)
    expected: dict[str, Any] = {}
    for what, call in ours(arrays):
        calls[what, OURS] = [call]
        found = call()
        if what != LOSS:
            expected[what] = [np.array(part) for part in found]
    for who, (modules, peer) in PEERS.items():
        if installed(*modules):
            for what, call in peer(arrays):
                agree(what, who, call(), expected[what])
                calls[what, who] = [call]
    best = dict.fromkeys(calls, math.inf)
    for turn in range(rounds):
        for key, variants in calls.items():
            if turn < 2 or key[1] in (OURS, COPY) or best[key] < SLOW * best[key[0], OURS]:
                for call in variants:
                    best[key] = min(best[key], seconds(call, 0))
    return best


def table(found: dict[int, dict[tuple[str, str], float]]) -> str:
    """Markdown: for each quantity and number of classes the ratio to the loss or the limit, and to the peers."""
    names = [name for name, (modules, _) in PEERS.items() if installed(*modules)]
    lines = [
        f"| | classes | speed ÷ that of | | {' | '.join(f'faster than {name}' for name in names)} |",
        f"|---|--:|---|--:|{'--:|' * len(names)}",
    ]
    for what in (ALL, TWO, BOTH, DIAGONAL, HVP, DISTILLATION):
        for classes, best in found.items():
            if what in (ALL, TWO):
                beside, limit = "`cross_entropy`", best[LOSS, OURS]
            else:
                beside, limit = "copy limit", best[COPY, COPY] * (1.0 if what == BOTH else 1.5)
            ours_took = best[what, OURS]
            others = [f"{best[what, name] / ours_took:.1f}×" if (what, name) in best else "" for name in names]
            lines.append(f"| {what} | {classes} | {beside} | {limit / ours_took:.2f} | {' | '.join(others)} |")
    return "\n".join(lines)


def main() -> int:
    """Check, measure, print, and put the table into the README if asked to."""
    rounds = CHOSEN.rounds or (2 if CHOSEN.quick else 9)
    chosen = [classes for classes in CLASSES if not CHOSEN.only or str(classes) in CHOSEN.only]
    found = {}
    for classes in chosen:
        found[classes] = measure(classes, rounds)
        for (what, who), taken in found[classes].items():
            print(f"{classes:>7} {what:<28} {who:<12} {taken * 1e3:9.2f} ms", flush=True)
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
