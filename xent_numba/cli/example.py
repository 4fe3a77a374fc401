"""The program without a command: the worked example on every backend, the facts about each, and its speed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

import xent_numba as xn
from xent_numba.backends.registry import select

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from numpy.typing import NDArray

    Array = NDArray[Any]

LOGITS = [[2.0, 1.0, 0.1], [0.1, 2.0, 1.9]]
TARGET = [[0, 1, 0], [1, 0, 0]]
SPEED_SHAPE = (2048, 4096)  # larger than most caches, and still computed in milliseconds
SPEED_ROUNDS = 7
NEXT = (
    ("python -m xent_numba info --shape 4096 50257", "how logits of a shape would be computed"),
    ("python -m xent_numba loss logits.npy targets.npy --grad grad.npy", "loss and gradient of arrays in files"),
    ("python -m xent_numba evaluate logits.npy targets.npy", "perplexity and accuracy of arrays in files"),
    ('python -c "import xent_numba as xn; help(xn.cross_entropy_and_grad)"', "the function and its options"),
)


def report() -> Iterator[str]:
    """The lines of the report, each as soon as it is computed."""
    yield f"xent_numba {xn.__version__}: softmax cross-entropy and its gradient"
    yield f"logits A = {LOGITS}"
    yield f"target Y = {TARGET}"
    yield ""
    backends = xn.available_backends()
    yield from _worked_example([name for name, answer in backends.items() if answer])
    yield ""
    yield "backends and threads"
    for name, answer in backends.items():
        yield f"  {name:<6} {_found(name) if answer else answer}"
    yield from _speed()
    yield ""
    yield "what to try next"
    for command, purpose in NEXT:
        yield f"  {command:<72} {purpose}"


def _worked_example(backends: Iterable[str]) -> Iterator[str]:
    """The table of the example, once for all backends that agree in every digit of it."""
    agreeing: dict[str, list[str]] = {}
    for name in backends:
        agreeing.setdefault(_table(name), []).append(name)
    for table, names in agreeing.items():
        yield table
        yield f"{'the same on' if len(names) > 1 else 'computed on'}: {', '.join(names)}"


def _table(backend: str) -> str:
    """A line for each row of the example, and one for the mean loss."""
    logits, target = np.array(LOGITS), np.array(TARGET)
    with xn.use_backend(backend):
        probabilities = xn.softmax(logits)
        losses = xn.cross_entropy(logits, target, reduction="none")
        mean, gradient = xn.cross_entropy_and_grad(logits, target)
    lines = [f"{'row':<4} {'softmax(A)':<17}   {'loss':>5}   gradient of the mean loss"]
    for row, (p, loss, g) in enumerate(zip(probabilities, losses, gradient, strict=True)):
        lines.append(f"{row:<4} {_numbers(p, 5)}   {loss:.3f}   {_numbers(g, 6)}")
    lines.append(f"{'mean':<4} {'':<17}   {mean:.3f}")
    return "\n".join(lines)


def _numbers(values: Iterable[float], width: int) -> str:
    """Numbers with three decimals, in columns of this width."""
    return " ".join(f"{value:{width}.3f}" for value in values)


def _found(backend: str) -> str:
    """What a backend says of itself, in one line."""
    return ", ".join(f"{fact}: {value}" for fact, value in select(backend).describe().items())


def _speed() -> Iterator[str]:
    """One line: the current backend against plain NumPy, for a loss and a gradient written to an existing array."""
    name = select().name
    if name == "numpy":
        return
    rng = np.random.default_rng(0)
    n, c = SPEED_SHAPE
    logits = rng.standard_normal(SPEED_SHAPE, dtype=np.float32)
    target = rng.integers(0, c, n)
    grad = np.empty_like(logits)
    ours, theirs = _fastest(
        lambda: xn.cross_entropy_and_grad(logits, target, grad_out=grad),
        lambda: _plain_numpy(logits, target, grad),
        rounds=SPEED_ROUNDS,
    )
    yield (
        f"speed: loss and gradient of {n} x {c} float32 logits in {ours * 1e3:.1f} ms by {name}, "
        f"{theirs * 1e3:.1f} ms by plain NumPy: {theirs / ours:.1f} times faster"
    )


def _plain_numpy(logits: Array, target: Array, grad: Array) -> Any:
    """Loss and gradient as one would write them without this package, with few temporaries."""
    rows = np.arange(len(logits))
    np.subtract(logits, logits.max(axis=1, keepdims=True), out=grad)
    np.exp(grad, out=grad)
    grad /= grad.sum(axis=1, keepdims=True)
    loss = -np.log(grad[rows, target]).mean()
    grad[rows, target] -= 1
    grad /= len(logits)
    return loss


def _fastest(*calls: Callable[[], object], rounds: int) -> list[float]:
    """The best time of each call in seconds.  The calls take turns, so that a busy machine slows all of them alike."""
    best = [float("inf")] * len(calls)
    for round_ in range(rounds + 1):
        for i, call in enumerate(calls):
            start = time.perf_counter()
            call()
            if round_ > 0:  # the first round compiles, and touches memory for the first time
                best[i] = min(best[i], time.perf_counter() - start)
    return best
