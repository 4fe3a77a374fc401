"""Measure the CUDA kernels on the GPU that is here: first whether they are right, then how fast.

    python benchmarks/cuda.py [--check] [--classes 1024 32768] [--dtypes float32 bfloat16] [--output DIR]

The check compares every regime and dtype with float64 on the host and prints the worst error over its bound; it
fails where a regime was not met.  `compute-sanitizer --tool memcheck python benchmarks/cuda.py --check` (and
racecheck) looks at the accesses of the same kernels.  The
measurement takes loss and gradient, and the loss alone, for classes from 32 to 262144, and sets their bandwidth
against a device copy of the same bytes, and against PyTorch (eager and compiled), Liger and quack where they are
installed.  It writes results/cuda.csv, and cuda.png where matplotlib is installed.  Needs PyTorch for the arrays.
Without a GPU it says so and stops: nothing is estimated.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

# NVIDIA's Python package is called `cuda` too: this folder must not come before it.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]

from xent_numba.backends.cuda.backend import BACKEND  # noqa: E402
from xent_numba.backends.cuda.runtime import device  # noqa: E402
from xent_numba.prepare.options import make_options  # noqa: E402

CLASSES = [32, 100, 256, 1000, 1024, 4096, 16384, 32000, 32768, 50257, 65536, 131072, 262144]
CHECKED = [1, 2, 10, 32, 33, 127, 512, 1000, 1024, 1025, 4096, 10000, 32000, 50257, 131072]
REGIMES = {"tile", "columns", "warp", "block", "online", "split"}
RESULTS = Path(__file__).parent / "results"
LOGITS_BYTES = 1 << 30  # well beyond any L2 cache
WARM_UP, REPEATS = 5, 30
# Bytes per logit of an ideal kernel, in units of its size: the loss reads it once, the gradient also writes it once.
PASSES = {"loss": 1, "loss and gradient": 2}


def make_inputs(torch: Any, rows: int, classes: int, dtype: str) -> tuple[Any, Any]:
    """Logits with outliers, so that a wrong maximum shows, and labels."""
    generator = torch.Generator(device="cuda").manual_seed(classes)
    x = torch.randn(rows, classes, generator=generator, device="cuda", dtype=torch.float32) * 3
    x[torch.rand(x.shape, generator=generator, device="cuda") < 0.001] *= 20
    y = torch.randint(0, classes, (rows,), generator=generator, device="cuda")
    return x.to(getattr(torch, dtype)), y


# --- is it right? -------------------------------------------------------------------------------------------------


def check(torch: Any, dtypes: list[str]) -> bool:
    """Every regime against float64 on the host, (12 + 2.25 |ln v|) ulp in float32 and (4 + |ln v|) in float64."""
    from xent_numba.backends.cuda.arrays import api as arrays

    options, right = make_options(reduction="none"), True
    for dtype in dtypes:
        met = set()
        for rows, classes, columns in checked_shapes(device.facts().multiprocessors):
            x, y = make_inputs(torch, rows, classes, dtype)
            if columns:
                x = x.t().contiguous().t()
            y[1] = -100
            with regimes() as seen:
                loss, grad = arrays.loss(options, x, y, want_grad=True, out=torch.empty_like(x))  # of the same strides
            met |= seen
            host, labels = x.double().cpu().numpy(), y.cpu().numpy()
            exact_loss, exact_grad = reference(host, labels)
            worst = max(
                worst_error(loss.cpu().numpy(), exact_loss, "float64" if dtype == "float64" else "float32"),
                worst_error(grad.double().cpu().numpy(), exact_grad, dtype),
            )
            in_place = x.clone()  # keeps the strides
            arrays.loss(options, in_place, y, want_grad=True, out=in_place)
            same = bool(torch.equal(in_place, grad)) and bool(torch.equal(arrays.loss(options, x, y)[0], loss))
            right &= worst <= 1 and same
            verdict = "the same" if same else "DIFFERENT"
            print(
                f"{dtype:<9} {rows:>6} × {classes:<7} {'/'.join(sorted(seen)):<8} worst error / bound {worst:.2f}, "
                f"in place and without gradient {verdict}"
            )
        if missed := REGIMES - met:
            print(f"{dtype:<9} not checked: {', '.join(sorted(missed))}")
            right = False
    return right


def checked_shapes(multiprocessors: int) -> Iterator[tuple[int, int, bool]]:
    """(rows, classes, whether rows lie side by side) that lead to every regime."""
    for classes in CHECKED:
        yield min(67, multiprocessors - 1), classes, False
        if classes >= 16384:  # enough rows that none is split
            yield multiprocessors, classes, False
    yield 128 * multiprocessors, 10, True


@contextmanager
def regimes() -> Iterator[set[str]]:
    """The regimes that are chosen within the block."""
    from xent_numba.backends.cuda import launch

    seen: set[str] = set()
    original = launch.plan

    def plan(*arguments: Any) -> Any:
        chosen = original(*arguments)
        seen.add(chosen.regime)
        return chosen

    launch.plan = plan
    try:
        yield seen
    finally:
        launch.plan = original


def reference(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Loss and gradient of the sum, in float64, without cancellation at the label."""
    z = x - x.max(axis=1, keepdims=True)
    e = np.exp(z)
    others = e.copy()
    rows, kept = np.arange(len(y)), y >= 0
    label = np.where(kept, y, 0)
    others[rows, label] = 0
    s, own = others.sum(axis=1), e[rows, label]
    loss = np.where(own == 1, np.log1p(s), np.log(s + own) - z[rows, label])
    grad = others / (s + own)[:, None]
    grad[rows, label] = -s / (s + own)
    return loss * kept, grad * kept[:, None]


def worst_error(found: np.ndarray, exact: np.ndarray, dtype: str) -> float:
    """The largest error as a multiple of what is allowed."""
    arithmetic = np.float64 if dtype == "float64" else np.float32
    a, b = (4, 1) if dtype == "float64" else (12, 2.25)
    size = np.maximum(np.abs(exact), np.finfo(arithmetic).smallest_normal)
    allowed = (a + b * np.abs(np.log(size))) * np.spacing(size.astype(arithmetic)).astype(np.float64)
    allowed += {"float16": np.abs(exact) * 2.0**-11 + 6e-8, "bfloat16": np.abs(exact) * 2.0**-8}.get(dtype, 0.0)
    return float(np.max(np.abs(found - exact) / (allowed + np.finfo(arithmetic).smallest_normal)))


# --- how fast? ----------------------------------------------------------------------------------------------------


def contenders(torch: Any, x: Any, y: Any) -> Iterator[tuple[str, str, Callable[[], object]]]:
    """(who, what, function) for everything that can run here."""
    from xent_numba.backends.cuda.arrays import api as arrays
    from xent_numba.backends.cuda.deferred import deferred_checks

    options, out = make_options(), torch.empty_like(x)

    def ours(want_grad: bool) -> object:
        with deferred_checks() as checks:
            result = arrays.loss(options, x, y, want_grad=want_grad, out=out if want_grad else None)
            checks.pending.clear()  # the labels were checked before; reading them back would time the host
        return result

    yield "xent_numba", "loss", lambda: ours(False)
    yield "xent_numba", "loss and gradient", lambda: ours(True)
    yield "copy", "loss and gradient", lambda: out.copy_(x)
    leaf = x.detach().requires_grad_()

    def both(function: Callable[..., Any]) -> Callable[[], object]:
        def run() -> object:
            leaf.grad = None
            loss = function(leaf, y)
            loss.backward()
            return loss

        return run

    eager = torch.nn.functional.cross_entropy
    yield "torch eager", "loss and gradient", both(eager)
    torch.compiler.reset()  # else a few shapes on, it compiles for any shape, or no longer
    yield "torch.compile", "loss and gradient", both(torch.compile(eager, dynamic=False))
    if importlib.util.find_spec("liger_kernel"):
        from liger_kernel.ops.cross_entropy import LigerCrossEntropyFunction

        def liger(logits: Any, labels: Any) -> Any:
            return LigerCrossEntropyFunction.apply(logits * 1, labels, None)[0]  # it overwrites its input

        yield "Liger", "loss and gradient", both(liger)
    if importlib.util.find_spec("quack"):
        from quack.cross_entropy import cross_entropy

        yield "quack", "loss and gradient", both(lambda logits, labels: cross_entropy(logits, labels, reduction="mean"))


def seconds(torch: Any, function: Callable[[], object]) -> float:
    """Median time on the device."""
    for _ in range(WARM_UP):
        function()
    times = []
    for _ in range(REPEATS):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        function()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e-3)
    return statistics.median(times)


def measure(torch: Any, classes: list[int], dtypes: list[str]) -> list[dict[str, object]]:
    """One row per contender, dtype and number of classes."""
    table: list[dict[str, object]] = []
    name = device.facts().name
    for dtype in dtypes:
        size = torch.empty(0, dtype=getattr(torch, dtype)).element_size()
        for count in classes:
            rows = max(1, LOGITS_BYTES // (count * size))
            x, y = make_inputs(torch, rows, count, dtype)
            results = []
            for who, what, function in contenders(torch, x, y):
                try:
                    taken = seconds(torch, function)
                except Exception as error:  # another library's limits are not ours to mend
                    print(f"{who} at {count} classes, {dtype}: {type(error).__name__}: {error}", file=sys.stderr)
                    continue
                results.append((who, what, taken, PASSES[what] * rows * count * size / taken * 1e-9))
            copy = next((speed for who, _, _, speed in results if who == "copy"), float("nan"))
            for who, what, taken, speed in results:
                row: dict[str, object] = {
                    "device": name, "dtype": dtype, "classes": count, "rows": rows, "who": who, "what": what,
                    "ms": round(taken * 1e3, 4), "GB/s": round(speed, 1), "of copy": round(speed / copy, 3),
                }  # fmt: skip
                table.append(row)
                print(
                    "{dtype:<9} {classes:>7} {who:<14} {what:<18} {ms:>9} ms {GB/s:>8} GB/s {of copy:>6}".format(**row)
                )
            del x, y
            torch.cuda.empty_cache()
    return table


def write(table: list[dict[str, object]], folder: Path) -> None:
    """The table as CSV, and as a plot where matplotlib is installed."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "cuda.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    if not importlib.util.find_spec("matplotlib"):
        return
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    dtypes = sorted({str(row["dtype"]) for row in table})
    figure, axes = plt.subplots(1, len(dtypes), figsize=(6 * len(dtypes), 4), sharey=True, squeeze=False)
    for axis, dtype in zip(axes[0], dtypes, strict=True):
        chosen = [row for row in table if row["dtype"] == dtype and row["what"] == "loss and gradient"]
        for who in dict.fromkeys(str(row["who"]) for row in chosen):
            points = [(row["classes"], row["GB/s"]) for row in chosen if row["who"] == who]
            axis.plot(*zip(*points, strict=True), marker="o", label=who)
        axis.set(title=f"{dtype}, {table[0]['device']}", xlabel="classes", ylabel="GB/s", xscale="log")
        axis.grid(alpha=0.3)
    axes[0][0].legend()
    figure.savefig(folder / "cuda.png", dpi=120, bbox_inches="tight")


def main() -> int:
    """Check, measure, write."""
    parser = argparse.ArgumentParser(description="Check and measure the CUDA kernels on the GPU that is here.")
    parser.add_argument("--check", action="store_true", help="only check, measure nothing")
    parser.add_argument("--classes", type=int, nargs="+", default=CLASSES)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--output", type=Path, default=RESULTS, help="where cuda.csv and cuda.png go")
    chosen = parser.parse_args()
    reason = BACKEND.why_not()
    if reason is None and not importlib.util.find_spec("torch"):
        reason = "PyTorch is not installed"
    if reason is None:
        import torch

        if not torch.cuda.is_available():
            reason = "this PyTorch was built without CUDA"
    if reason is not None:
        print(f"not measured: {reason}", file=sys.stderr)
        return 2
    if not check(torch, ["float32", "bfloat16", "float16", "float64"]):
        print("the kernels are wrong, so nothing was measured", file=sys.stderr)
        return 1
    if not chosen.check:
        write(measure(torch, chosen.classes, chosen.dtypes), chosen.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
