"""Fingerprints: a hash of every bit of the results of some thousand calls, to compare two versions of the package.

    PYTHONPATH=OLD python fingerprints.py record old.json
    PYTHONPATH=NEW python fingerprints.py record new.json
    python fingerprints.py compare old.json new.json

A case is one call with seeded inputs.  Nearly all the time goes into compiling, so the cases that need the same machine
code form a group, which one process runs.  Compare only files that were made on one machine, with one NumPy.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import re
import sys
import time
import zlib
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

import xent_numba as xn

DTYPES = {np.dtype(one).name: np.dtype(one) for one in ("f4", "f8", "f2", ml_dtypes.bfloat16)}
SHAPES = [(16, 1), (37, 2), (21, 3), (16, 10), (37, 17), (8, 31), (16, 32), (37, 33), (21, 100), (9, 255), (32, 256)]
SHAPES += [(16, 257), (21, 1000), (37, 1009), (3, 5000)]
PARALLEL = [(3001, 10), (701, 100), (101, 1009), (3, 70_000)]
SPLIT = [(2, 150_000), (3, 70_000), (16, 70_000)]  # the last is not split: it has enough rows
STREAM = 1 << 24  # bytes of gradient from which on it is written past the caches
APART = ["fortran", "axis 0", "axis 1", "stepped", "mirrored", "fortran out"]  # no row has its classes side by side
LAYOUTS = ["padded", "cube", "flipped", "in place", "padded out", "unaligned", "read-only", *APART]
# Options, by machine code: all of PLAIN share theirs, RARE are for float32 alone
PLAIN = """plain weight sample ignore several z_loss weight+sample+several+z_loss upstream upstream+sample+weight
    bad""".split()
COMMON = """weight+smoothing weight+smoothing+sample+several+z_loss q q+smoothing q+sample+z_loss q64 scale negative
    scale+sample+z_loss softcap softcap+scale lse lse+upstream lse+weight+ignore+z_loss focal
    focal+weight+sample+several+z_loss""".split()
RARE = """int32 smoothing smoothing+sample+ignore+z_loss q+weight q+weight+smoothing q64+smoothing scale+smoothing
    q+scale softcap+negative+z_loss softcap+smoothing q+softcap lse+smoothing lse+scale+upstream lse+softcap lse+q
    """.split()
FULLY = {"plain", "weight+smoothing+sample+several+z_loss", "q", "softcap", "lse", ""}  # options with every layout
ROWWISE = ("softmax", "log_softmax", "logsumexp")
QUICK = """float32 long loss|float32 lanes loss|float32 packed loss|float32 long grad|float32 lanes grad
float32 packed grad|float32 split grad|float32 packed grad smoothing|float32 long grad smoothing weight
float32 lanes grad q|float32 lanes grad q weight|float32 long grad q64|float32 packed grad scale
float32 long grad softcap|float32 lanes grad softcap|float32 long grad lse|float32 packed grad lse
float32 long softmax|float32 lanes log_softmax
float32 long logsumexp|float16 packed grad|bfloat16 long grad|float64 lanes grad""".replace("\n", "|").split("|")


class Case(NamedTuple):
    """One call."""

    kind: str
    dtype: str
    rows: int
    classes: int
    layout: str
    values: str
    options: str
    reduction: str
    backend: str = "cpu"
    threads: str = ""

    def name(self) -> str:
        """What the case is called in a file."""
        return "/".join(str(part) for part in self if part != "")

    def code(self) -> str:
        """The machine code that it needs on the CPU: another name, another compilation."""
        tokens = set(self.options.split("+"))
        is_dense, is_cap = bool(tokens & {"q", "q64"}), "softcap" in tokens
        matters = tokens & {"q", "q64", "softcap", "lse", "int32", *(() if is_dense else ("smoothing",))}
        matters |= tokens & {"weight"} if is_dense or "smoothing" in tokens else set()
        matters |= {"scale"} if tokens & {"scale", "negative"} and not is_cap else set()
        is_split = self.rows < 16 and self.classes > 1 << 16 and "lse" not in tokens
        regime = "split" if is_split else "long" if self.classes > 256 else "packed"
        in_tiles = self.kind in ROWWISE or self.dtype == "float64" or is_dense or is_cap
        if self.layout in APART or self.classes < 32 or (regime == "packed" and in_tiles):
            regime = "lanes"
        return " ".join((self.dtype, regime, "grad" if self.kind == "both" else self.kind, *sorted(matters)))


def cases_of(kind: str, dtype: str, options: str) -> list[Case]:
    """Shapes and values, layouts, streamed gradients, threads."""
    found, is_long = [], bool({"plain", "q", "softcap", "weight+smoothing", "scale"} & {options})
    for i, (rows, classes) in enumerate(SHAPES + SPLIT * (is_long and (dtype == "float32" or options == "plain"))):
        found.append(Case(kind, dtype, rows, classes, "C", "normal", options, ("mean", "sum", "none")[i % 3]))
        found.append(Case(kind, dtype, rows, classes, "C", "edges", options, "none"))
        if rows * classes < 1000:
            found.append(Case(kind, dtype, rows, classes, "C", "edges", options, "none", "numpy"))
    for rows, classes in ((36, 10), (48, 100), (18, 257), (33, 1009)):
        layouts = LAYOUTS if options in FULLY else ["padded", "fortran"]
        found += [Case(kind, dtype, rows, classes, layout, "edges", options, "none") for layout in layouts]
    if options == "plain":
        found += [Case(kind, dtype, 3, 70_000, "C", f"edges+{first}", options, "none") for first in (3, 6, 9)]
        for shape in PARALLEL:
            found += [Case(kind, dtype, *shape, "C", "normal", options, "mean", "cpu", n) for n in ("", "1 thread")]
    if kind == "both" and options in FULLY:
        for classes in (10, 33, 100, 1000, 1009):
            rows = STREAM // (classes * DTYPES[dtype].itemsize) + 5
            for layout in ("C", "in place", "padded", "axis 0") if options == "plain" else ("C",):
                found.append(Case(kind, dtype, rows, classes, layout, "normal", options, "sum"))
    return found


def all_cases(quick: bool) -> list[Case]:
    """Those that need the same machine code next to each other."""
    found: list[Case] = []
    for dtype in DTYPES:
        for kind in ROWWISE:
            found += cases_of(kind, dtype, "")
        for options in [*PLAIN, *COMMON, *(RARE if dtype == "float32" else ())]:
            is_backward = not {"lse", "upstream"}.isdisjoint(options.split("+"))
            found += cases_of("grad" if is_backward else "both", dtype, options)
            if not is_backward and (dtype == "float32" or options in PLAIN):
                found += cases_of("loss", dtype, options)
    return sorted((case for case in found if not quick or case.code() in QUICK), key=Case.code)


@lru_cache(maxsize=4)
def logits_of(dtype: str, rows: int, classes: int, values: str) -> Any:
    """Logits (rows, classes); "edges" are rows of all kinds in turn."""
    x = 3.0 * np.random.default_rng([rows, classes, zlib.crc32(values.encode())]).standard_normal((rows, classes))
    kind, first = values.partition("+")[::2]
    for i in range(rows if kind == "edges" else 0):
        holes, up, middle, large, peak = x[i].copy(), x[i].copy(), x[i].copy(), x[i].copy(), np.zeros(classes)
        holes[::3], up[-1], middle[classes // 2], large[0], peak[0] = -np.inf, np.inf, np.nan, 1e30, 20.0
        equal, low = np.full((2, classes), [[0.5], [-np.inf]])
        kinds = (x[i], equal, holes, low, up, middle, 1e30 * x[i], 1e-40 * x[i], peak, -1e30 * peak, large)
        x[i] = kinds[(i + int(first or 0)) % len(kinds)]
    with np.errstate(over="ignore", invalid="ignore"):
        return x.astype(DTYPES[dtype])


def arranged(x: Any, layout: str) -> tuple[Any, int]:
    """A copy of x (rows, classes) in a layout, and the axis of its classes."""
    rows, classes = x.shape
    cube = x.reshape(3 if rows % 3 == 0 else 1, -1, classes)
    if layout in ("axis 0", "axis 1"):
        return (x.T.copy(), 0) if layout == "axis 0" else (cube.transpose(0, 2, 1).copy(), 1)
    view = np.zeros_like(x, order="F" if layout == "fortran" else "C")
    if layout in ("flipped", "mirrored"):
        view = view[::-1] if layout == "flipped" else view[::-1, ::-1]
    elif layout == "padded":
        view = np.zeros((rows, classes + 3), x.dtype)[:, :classes]
    elif layout == "stepped":
        view = np.zeros((rows, 2 * classes), x.dtype)[:, ::2]
    elif layout == "cube":
        view, x = np.zeros((len(cube), cube.shape[1] + 1, classes), x.dtype)[:, :-1], cube
    elif layout == "unaligned":
        view = np.zeros(rows, [("byte", "u1"), ("x", x.dtype, (classes,))])["x"]
    view[...] = x
    view.flags.writeable = layout != "read-only"
    return view, -1


def arguments(case: Case, x: Any, shape: tuple[int, ...]) -> dict[str, Any]:
    """The target and the options of a loss of x (rows, classes), whose rows have a shape."""
    tokens, rng = set(case.options.split("+")), np.random.default_rng([case.rows, case.classes])
    y, q = rng.integers(0, case.classes, case.rows), rng.random(x.shape if {"q", "q64"} & tokens else 0)
    weight, sample = rng.uniform(0.1, 2.0, case.classes), rng.uniform(0.0, 2.0, case.rows)
    upstream = rng.normal(size=shape) if case.reduction == "none" else 2.5
    y[::4], weight[1:2], sample[::5] = 0, 0.0, 0.0
    y[1::3] = -100 if "ignore" in tokens else -7 if "several" in tokens else y[1::3]
    y[-1] = case.classes if "bad" in tokens else y[-1]
    scale = 1.7 if "scale" in tokens else -0.6 if "negative" in tokens else 1.0
    cap = 5.0 if "softcap" in tokens else None
    found: dict[str, Any] = {"logit_scale": scale, "softcap": cap, "reduction": case.reduction}
    found["target"] = y.astype(np.int32 if "int32" in tokens else np.int64).reshape(shape)
    if q.size:
        q = (q * (q > 0.3) / case.classes).astype(np.float64 if "q64" in tokens else x.dtype)
        found["target"] = arranged(q, case.layout)[0]
    chosen: dict[str, Any] = {"weight": ("weight", weight), "sample": ("sample_weight", sample.reshape(shape))}
    chosen |= {"several": ("ignore_index", (-7, 1, case.classes - 1)), "upstream": ("grad_output", upstream)}
    chosen |= {"smoothing": ("label_smoothing", 0.1), "z_loss": ("z_loss", 0.01), "focal": ("focal_gamma", 1.5)}
    found |= dict(chosen[token] for token in tokens & chosen.keys())
    if "lse" in tokens:
        with np.errstate(all="ignore"):
            z = scale * x.astype(np.float64)
            z = z if cap is None else cap * np.tanh(z / cap)
            lse = z.max(axis=1) + np.log(np.exp(z - z.max(axis=1, keepdims=True)).sum(axis=1))
            found["lse"] = lse.astype(np.float64 if case.dtype == "float64" else np.float32).reshape(shape)
    return found


def fingerprint(case: Case) -> str:
    """Digests of what a call returns, or the exception that it raises."""
    flat = logits_of(case.dtype, case.rows, case.classes, case.values)
    x, axis = arranged(flat, case.layout)
    options = {"axis": axis, "backend": case.backend, "n_threads": 1 if case.threads else None}
    if case.layout in ("in place", "padded out", "fortran out") and case.kind not in ("loss", "logsumexp"):
        out = x if case.layout == "in place" else arranged(flat, case.layout.removesuffix(" out"))[0]
        options["grad_out" if case.kind == "both" else "out"] = out
    if case.kind not in ROWWISE:
        options |= arguments(case, flat, tuple(np.delete(x.shape, axis)))
    names = {"loss": "cross_entropy", "both": "cross_entropy_and_grad", "grad": "cross_entropy_grad"}
    try:
        found = getattr(xn, names.get(case.kind, case.kind))(x, **options)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    digests = []
    for array in map(np.ascontiguousarray, found if case.kind == "both" else (found,)):
        digest = hashlib.sha256(f"{array.dtype} {array.shape} ".encode())
        array[np.isnan(array)] = np.nan  # the sign of a NaN depends on the order of operands, and means nothing
        digest.update(array.tobytes())
        digests.append(digest.hexdigest()[:16])
    return " ".join(digests)


def run(cases: list[Case]) -> dict[str, str]:
    """A group, in the order of the logits that its cases share."""
    cases = sorted(cases, key=lambda case: (case.rows, case.classes, case.values))
    return {case.name(): fingerprint(case) for case in cases}


def record(path: Path, only: str, quick: bool, jobs: int) -> None:
    """Run the cases and write their fingerprints."""
    started = time.monotonic()
    os.environ.setdefault("NUMBA_NUM_THREADS", "2")  # one thread would not share rows
    cases = [case for case in all_cases(quick) if re.search(only, case.name())]
    groups = sorted((list(group) for _, group in groupby(cases, key=Case.code)), key=len, reverse=True)
    found: dict[str, str] = {}
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        for done in pool.imap_unordered(run, groups):
            found |= done
    facts = {"package": xn.__file__, "numpy": np.__version__, "seconds": round(time.monotonic() - started)}
    path.write_text(json.dumps(facts | {"cases": dict(sorted(found.items()))}, indent=0))
    print(f"{len(found)} cases in {len(groups)} groups, {facts['seconds']} s, {xn.__file__}")


def compare(old: Path, new: Path) -> bool:
    """Print the cases that differ; whether there are none."""
    before, after = (json.loads(path.read_text())["cases"] for path in (old, new))
    both = before.keys() & after.keys()
    differing = sorted(name for name in both if before[name] != after[name])
    for name in differing:
        print(f"{name}\n    {before[name]}\n    {after[name]}")
    print(f"{len(differing)} of {len(both)} cases differ; {len(before.keys() ^ after.keys())} are in one file only")
    return bool(both) and not differing


def main() -> None:
    """Read the command line, and do what it says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record", help="run the cases with the package that PYTHONPATH chooses")
    recording.add_argument("file", type=Path)
    recording.add_argument("--only", default="", metavar="REGEX", help="cases whose names it matches")
    recording.add_argument("--quick", action="store_true", help="a subset that needs an eighth of the machine code")
    recording.add_argument("--jobs", type=int, default=2, help="processes")
    comparing = commands.add_parser("compare", help="list the cases whose bits differ; exit with 1 if there are any")
    comparing.add_argument("old", type=Path)
    comparing.add_argument("new", type=Path)
    given = parser.parse_args()
    if given.command == "record":
        record(given.file, given.only, given.quick, given.jobs)
    elif not compare(given.old, given.new):
        sys.exit(1)


if __name__ == "__main__":
    main()
