"""The commands on a large file, against reading that file once: do they run at the speed of the disk cache?

python benchmarks/files.py                                  1 GB of float16 logits of 50257 classes
python benchmarks/files.py --gigabytes 4 --classes 1000     others
python benchmarks/files.py --folder /data                   on another disk than that of temporary files

The calls take turns, in one process, and the best of each counts.  The file is in the disk cache then.  The time of the
processor, over all threads, is less disturbed by other programs than the time that passes.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
# Not this folder: its cuda.py would hide NVIDIA's package `cuda`.
sys.path[:] = [str(ROOT), *(entry for entry in sys.path if Path(entry or ".").resolve() != ROOT / "benchmarks")]

from xent_numba.cli import main  # noqa: E402

PART = 1 << 26  # bytes that a thread reads at a time


def write_files(folder: Path, n_bytes: int, classes: int, dtype: np.dtype) -> tuple[str, str]:
    """Random logits and labels in two files."""
    rng = np.random.default_rng(0)
    rows = n_bytes // (classes * dtype.itemsize)
    logits = np.lib.format.open_memmap(folder / "logits.npy", "w+", dtype, (rows, classes))
    for i in range(rows):
        logits[i] = 3 * rng.standard_normal(classes, np.float32)
    logits.flush()
    np.save(folder / "targets.npy", rng.integers(0, classes, rows))
    return str(folder / "logits.npy"), str(folder / "targets.npy")


def read_mapped(path: str, threads: int) -> None:
    """Read the mapped file once: NumPy's maximum of its bytes, as integers."""
    whole = np.memmap(path, np.uint8, "r")
    words = whole[: whole.size // 8 * 8].view(np.uint64)
    parts = [words[i : i + PART // 8] for i in range(0, words.size, PART // 8)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(np.max, parts))


def read_copied(path: str) -> None:
    """Copy the file into a small buffer, as programs without maps do."""
    buffer = bytearray(1 << 18)
    with open(path, "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def run(*words: str) -> None:
    """A command, without its output."""
    with contextlib.redirect_stdout(io.StringIO()):
        if main(list(words)) != 0:
            raise SystemExit(1)


def fastest(calls: dict[str, Callable[[], None]], rounds: int) -> dict[str, tuple[float, float]]:
    """The best time of each call, and the least time of the processor, in seconds."""
    best = dict.fromkeys(calls, (np.inf, np.inf))
    for _ in range(rounds + 1):  # the first round compiles
        for name, call in calls.items():
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            best[name] = min(best[name][0], wall), min(best[name][1], cpu)
    return best


def report() -> None:
    """Measure, and print a line for each call."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--classes", type=int, default=50257)
    parser.add_argument("--dtype", default="float16", choices=("float16", "float32", "float64"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", help="where to write the file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        n_bytes = int(options.gigabytes * 1e9)
        logits, targets = write_files(Path(folder), n_bytes, options.classes, np.dtype(options.dtype))
        threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        calls = {
            "read, mapped, 1 thread": lambda: read_mapped(logits, 1),
            f"read, mapped, {threads} threads": lambda: read_mapped(logits, threads),
            "read, copied, 1 thread": lambda: read_copied(logits),
            "xent-numba loss": lambda: run("loss", logits, targets),
            "xent-numba evaluate": lambda: run("evaluate", logits, targets),
            "xent-numba evaluate --n-threads 1": lambda: run("evaluate", logits, targets, "--n-threads", "1"),
        }
        for name, (wall, cpu) in fastest(calls, options.rounds).items():
            print(
                f"{name:<34} {wall * 1e3:7.1f} ms  {n_bytes / wall / 1e9:5.1f} GB/s  {cpu * 1e3:7.1f} ms of processor"
            )


if __name__ == "__main__":
    report()
