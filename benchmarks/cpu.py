"""Measure the CPU kernels against the memory of this machine and against everybody else: first whether they are right.

    python benchmarks/cpu.py [--quick] [--threads N] [--rounds N] [--only TEXT …] [--peers NumPy SciPy …]
                             [--output FOLDER] [--update-readme]

All contenders of a case take turns in one process, and each is judged by its best round.  The limits are those of the
same turns: **read**, the fastest parallel pass that only reads the logits, and **copy**, the fastest parallel copy past
the caches into an array that is there already.  A peer that is not installed, or cannot do a case, is left out.  Writes
cpu.csv and cpu.json (with what the machine is), and the plots where matplotlib is installed.
"""

from __future__ import annotations

import argparse
import math
import os
import shlex
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
# Not this folder: its cuda.py would hide NVIDIA's package `cuda`.
sys.path[:] = [str(ROOT), *(entry for entry in sys.path if Path(entry or ".").resolve() != ROOT / "benchmarks")]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Check and measure the CPU kernels on this machine.")
    parser.add_argument("--quick", action="store_true", help="small arrays and few rounds: to see that it works")
    parser.add_argument("--threads", type=int, default=2, help="of every contender")
    parser.add_argument("--rounds", type=int, help="turns that each contender has")
    parser.add_argument("--only", nargs="*", default=[], help="cases whose name contains one of these")
    parser.add_argument("--peers", nargs="*", help="instead of all that are installed")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--update-readme", action="store_true", help="put the table into README.md")
    return parser.parse_args()


CHOSEN = arguments() if __name__ == "__main__" else argparse.Namespace(threads=2)
if __name__ == "__main__":  # the same threads for everybody, said before anybody is imported
    CHOSEN.threads = min(CHOSEN.threads, os.cpu_count() or 1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: CHOSEN.threads])
    for variable in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(CHOSEN.threads)
    warnings.filterwarnings("ignore")  # of other libraries

import numpy as np  # noqa: E402

import xent_numba as xn  # noqa: E402
from benchmarks import peers, report  # noqa: E402
from benchmarks.limits import aligned, limits  # noqa: E402
from benchmarks.peers import OURS  # noqa: E402

CAP = 3 << 30  # bytes of arrays at a time
COPIES = 6  # of the logits: ours, the gradient, and what the hungriest peer (PyTorch, forward and backward) makes
SETTLE = 0.03  # seconds
SMALLER = 64  # --quick: by how much


class Case(NamedTuple):
    """Logits of a shape, dtype and layout."""

    rows: int
    classes: int
    dtype: str = "float32"
    layout: str = "contiguous"  # or "padded": longer rows in memory; "columns": the class axis is not the last

    @property
    def name(self) -> str:
        """As printed."""
        layout = "" if self.layout == "contiguous" else f", {self.layout}"
        return f"{self.rows} × {self.classes} {self.dtype}{layout}"

    @property
    def nbytes(self) -> int:
        """Of the logits."""
        return self.rows * self.classes * (2 if self.dtype.endswith("16") else np.dtype(self.dtype).itemsize)


CASES = [
    Case(2048, 50257),
    Case(100_000, 1000),
    Case(800, 128_256),
    Case(1_000_000, 100),
    Case(4_000_000, 10),
    Case(1, 100_000_000),
    Case(3, 30_000_000),
    Case(100_003, 257),
    Case(4999, 10_007),
    Case(50_021, 1009),
    Case(100_000, 1000, layout="padded"),
    Case(100_000, 1000, layout="columns"),
    Case(2048, 50257, "float16"),
    Case(100_000, 1000, "float16"),
    Case(2048, 50257, "bfloat16"),
    Case(100_000, 1000, "bfloat16"),
    Case(50_000, 1000, "float64"),
]
SWEEP = [2, 3, 5, 10, 17, 30, 50, 100, 200, 256, 257, 500, 1000, 1009, 3000, 10_007, 30_000, 50_257, 128_256, 1_000_003]
SWEPT = 1 << 26  # logits in each case of the sweep


# --- the arrays of a case -------------------------------------------------------------------------------------------


class Arrays(NamedTuple):
    """Logits, labels, where a gradient goes, and the same memory flat."""

    x: np.ndarray
    y: np.ndarray
    out: np.ndarray
    flat_x: np.ndarray
    flat_out: np.ndarray
    axis: int


def dtype_of(name: str) -> Any:
    """A NumPy dtype, of ml_dtypes for bfloat16."""
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def make(case: Case) -> Arrays:
    """Logits with outliers, so that a wrong maximum shows."""
    rng, dtype = np.random.default_rng(case.classes), dtype_of(case.dtype)
    shape, axis = (case.rows, case.classes), -1
    if case.layout == "columns":
        inner = math.gcd(case.rows, 400)
        shape, axis = (case.rows // inner, case.classes, inner), 1
    padding = 24 if case.layout == "padded" else 0
    stored = (*shape[:-1], shape[-1] + padding)
    views, flats = [], []
    for _ in range(2):
        flat = aligned(math.prod(stored), dtype)
        flats.append(flat)
        views.append(flat.reshape(stored)[..., : shape[-1]])
    chunk = 1 << 22
    for start in range(0, flats[0].size, chunk):
        part = flats[0][start : start + chunk]
        values = rng.standard_normal(part.size, dtype=np.float32)
        values[::997] *= 10
        part[...] = values
    label_shape = (case.rows,) if axis == -1 else (shape[0], shape[2])
    y = rng.integers(0, case.classes, label_shape)
    size = math.prod(shape)
    return Arrays(views[0], y, views[1], flats[0][:size], flats[1][:size], axis)


# --- is it right? ---------------------------------------------------------------------------------------------------


def check() -> bool:
    """Every operation, dtype and layout against the reference backend."""
    right = True
    for dtype in ("float32", "float64", "float16", "bfloat16"):
        worst = 0.0
        for layout in ("contiguous", "padded", "columns"):
            for rows, classes in ((40, 1), (2000, 10), (400, 100), (200, 257), (80, 1009), (40, 50257)):
                case = Case(rows, classes, dtype, layout)
                x, y, out, *_, axis = make(case)
                loss, grad = xn.cross_entropy_and_grad(x, y, axis=axis, grad_out=out, backend="cpu")
                expected, slope = xn.cross_entropy_and_grad(x, y, axis=axis, backend="numpy")
                step = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float64": 2.0**-48}.get(dtype, 2.0**-18)
                pairs = [
                    (loss, expected, 2.0**-18),
                    (xn.cross_entropy(x, y, axis=axis), loss, 0.0),
                    (grad, slope, step),
                ]
                pairs += [
                    (function(x, axis=axis, backend="cpu"), function(x, axis=axis, backend="numpy"), step)
                    for function in (xn.softmax, xn.log_softmax, xn.logsumexp)
                ]
                for found, wanted, tolerance in pairs:
                    a, b = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
                    error = np.abs(a - b) / (tolerance * np.abs(b) + (1e-14 if dtype == "float64" else 1e-7))
                    worst = max(worst, float(error.max()))
        right &= worst <= 1
        print(f"{dtype:<9} worst error / bound {worst:.2f}")
    return right


# --- how fast? ------------------------------------------------------------------------------------------------------


def seconds(function: Callable[[], object], nbytes: int) -> float:
    """One call, once the threads of whoever came before have stopped to spin (libgomp's do so for 18 ms here).

    First, `nbytes` bytes are written and freed.  Otherwise a contender that allocates, after one that did not, would
    pay for new pages: ten times the call itself.
    """
    time.sleep(SETTLE)
    if nbytes:
        np.empty(nbytes, np.uint8).fill(1)
    start = time.perf_counter()
    result = function()
    taken = time.perf_counter() - start
    del result  # after the clock: whoever allocates frees too, but not in the time of the call
    return taken


class Contender(NamedTuple):
    """One way to compute an operation: by whom, what, and whether into an existing array."""

    who: str
    what: str
    reusing: bool
    function: Callable[[], object]


def contenders(arrays: Arrays, names: list[str]) -> list[Contender]:
    """Limits, ourselves and those peers that can do this case and agree on the loss."""
    found = [
        Contender("limit", what, True, function)
        for what, functions in limits(arrays.flat_x, arrays.flat_out).items()
        for function in functions
    ]
    for function in (each.function for each in found):
        function()
    x, y, out, *_, axis = arrays
    loss = float(xn.cross_entropy(x, y, axis=axis))
    for who, peer in [(OURS, peers.xent_numba), *((name, peers.PEERS[name]) for name in names)]:
        try:
            for what, reusing, function in peer(x, y, out, axis, CHOSEN.threads):
                result = function()
                if what in (peers.LOSS, peers.BOTH) and not math.isclose(float(result), loss, rel_tol=2e-2):  # type: ignore[arg-type]
                    print(f"{who} finds another {what}: {result}, not {loss}", file=sys.stderr)
                    continue
                del result
                found.append(Contender(who, what, reusing, function))
        except Exception as error:  # another library's limits are not ours to mend
            if who == OURS:
                raise
            print(f"{who}: {type(error).__name__}: {str(error)[:200]}", file=sys.stderr)
    return found


def measure(case: Case, names: list[str], rounds: int) -> list[dict[str, Any]]:
    """The best time of everybody, one row each."""
    arrays = make(case)
    everybody = contenders(arrays, names)
    best = [math.inf] * len(everybody)
    for turn in range(rounds):
        for i, each in enumerate(everybody):
            # A contender that is far behind gets two turns only, as more would take minutes.
            ours = min(
                (t for t, c in zip(best, everybody, strict=True) if c.who == OURS and c.what == each.what), default=0
            )
            if turn < 2 or best[i] < 8 * ours or each.who in (OURS, "limit"):
                best[i] = min(best[i], seconds(each.function, 0 if each.reusing else 2 * case.nbytes))
    times: dict[tuple[str, str, bool], float] = {}
    for each, taken in zip(everybody, best, strict=True):
        key = (each.who, each.what, each.reusing)
        times[key] = min(taken, times.get(key, math.inf))
    rows = []
    for (who, what, reusing), taken in times.items():
        if who == "limit":
            formula, moved, limit = ("N·C·b", 1, taken) if what == "read" else ("2·N·C·b", 2, taken)
        else:
            moved = 2 if what in (peers.BOTH, peers.SOFTMAX, peers.LOG_SOFTMAX) else 1
            formula = "2·N·C·b" if moved == 2 else "N·C·b"
            limit = times["limit", "copy" if moved == 2 else "read", True]
        ours = times.get((OURS, what, reusing), math.nan)
        rows.append(
            {
                "case": case.name, **case._asdict(), "who": who, "what": what, "reusing": reusing, "ms": taken * 1e3,
                "bytes": formula, "GB/s": moved * case.nbytes / taken * 1e-9, "of limit": limit / taken,
                "ours faster": taken / ours,
            }
        )  # fmt: skip
    return rows


# --- small calls, first calls ---------------------------------------------------------------------------------------


def small_calls(names: list[str]) -> dict[str, float]:
    """Loss and gradient of 2 × 3 logits, in microseconds."""
    x = np.array([[2.0, 1.0, 0.1], [0.1, 2.0, 1.9]], np.float32)
    y, out = np.array([1, 0]), np.empty((2, 3), np.float32)
    calls = {}
    for who, peer in [(OURS, peers.xent_numba), *((name, peers.PEERS[name]) for name in names)]:
        try:
            for what, reusing, function in peer(x, y, out, -1, 1):
                if what == peers.BOTH:
                    calls[f"{who}{', reusing' if reusing else ''}"] = function
                    function()
        except Exception as error:  # as in `contenders`
            print(f"{who}: {type(error).__name__}: {str(error)[:200]}", file=sys.stderr)
    best = dict.fromkeys(calls, math.inf)
    for _ in range(20):
        for who, function in calls.items():
            start = time.perf_counter()
            for _ in range(200):
                function()
            best[who] = min(best[who], (time.perf_counter() - start) / 200 * 1e6)
    return best


FIRST = """
import time
import numpy as np
start = time.perf_counter()
import xent_numba as xn
imported = time.perf_counter()
x, y = np.zeros({shape}, np.float32), np.zeros({shape}[0], np.int64)
xn.cross_entropy_and_grad(x, y)
print(imported - start, time.perf_counter() - imported)
"""


def first_calls() -> dict[str, float]:
    """Seconds from the import, over NumPy's, to the first result: with an empty cache, and in the next process."""
    found = {}
    for shape in ((2, 3), (1000, 1000)):
        with tempfile.TemporaryDirectory() as directory:
            env = {**os.environ, "PYTHONPATH": str(ROOT), "XENT_NUMBA_CACHE_DIR": directory}
            for which in ("cold", "second process", "second process"):
                done = subprocess.run(
                    [sys.executable, "-c", FIRST.format(shape=shape)],
                    env=env, capture_output=True, text=True, check=True,
                )  # fmt: skip
                imported, called = map(float, done.stdout.split())
                key = f"{shape[0]} × {shape[1]}, {which}"
                found[key] = min(called, found.get(key, math.inf))
                found["import"] = min(imported, found.get("import", math.inf))
    return found


def main() -> int:
    """Check, measure, write."""
    names = list(peers.PEERS) if CHOSEN.peers is None else CHOSEN.peers
    names = [name for name in names if peers.installed(*peers.MODULES[name])]
    rounds = CHOSEN.rounds or (3 if CHOSEN.quick else 7)
    if not check():
        print("the kernels are wrong, so nothing was measured", file=sys.stderr)
        return 1
    rows: list[dict[str, Any]] = []
    cases = [case for case in CASES if not CHOSEN.only or any(part in case.name for part in CHOSEN.only)]
    sweep = [Case(max(1, SWEPT // classes), classes) for classes in SWEEP] if not CHOSEN.only else []
    for case, who in [*((case, names) for case in cases), *((case, []) for case in sweep)]:
        if CHOSEN.quick:
            rows_left = max(1, case.rows // SMALLER // 400 * 400 if case.layout == "columns" else case.rows // SMALLER)
            case = case._replace(rows=rows_left, classes=case.classes // (SMALLER if case.rows < SMALLER else 1))
        if case.nbytes * COPIES > CAP:
            print(f"{case.name}: left out, needs more than {CAP >> 30} GiB", file=sys.stderr)
            continue
        measured = measure(case, who, rounds)
        for row in measured:
            row["sweep"] = not who
        rows += measured
        print(report.as_text(measured), flush=True)
    found = {
        "machine": report.machine(CHOSEN.threads, names, rounds, CHOSEN.quick)
        | {"command": shlex.join(["python", "benchmarks/cpu.py", *sys.argv[1:]])},
        "small calls, µs": small_calls(names),
        "first calls, s": first_calls(),
        "results": rows,
    }
    for title in ("small calls, µs", "first calls, s"):
        print(title, *(f"  {who}: {value:.3g}" for who, value in found[title].items()), sep="\n")  # type: ignore[attr-defined]
    report.write(found, CHOSEN.output)
    print(report.table(found))
    if CHOSEN.update_readme:
        report.update_readme(found, ROOT / "README.md", CHOSEN.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
