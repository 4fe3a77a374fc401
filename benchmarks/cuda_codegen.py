"""What the compiler makes of the CUDA kernels, without a GPU: registers, spills, 128-bit accesses.

    python benchmarks/cuda_codegen.py [--json | --ptx] [--arch sm_90] [--dtype bfloat16] [--kernel warp]

Needs `pip install "numba-cuda[cu13]"`: its wheels hold the whole compiler, from NVVM to the assembler.  Each kernel
is compiled for each architecture as it would be at its first launch, and assembled to a cubin.  `spill_bytes` counts
everything a thread keeps in local memory: spilled registers, and arrays that did not become registers.

results/warp_float32_sm_90.ptx, which notebook 05 reads, is `--ptx --arch sm_90 --dtype float32 --kernel warp`.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

# NVIDIA's Python package is called `cuda` too: this folder must not come before it.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]

ARCHITECTURES = ("sm_75", "sm_80", "sm_90", "sm_120")
DTYPES = ("float32", "float64", "float16", "bfloat16")
BY_ELEMENT = "each element by itself, whatever the alignment"
VECTOR = re.compile(r"(?:ld|st)\.global(?:\.\w+)*?\.(?:v4\.[a-z]32|v2\.[a-z]64)\b")


class Kernel(NamedTuple):
    """One kernel to compile."""

    name: str
    dtype: str
    build: Any  # (whether the device has the conversions of compute capability 8.0) -> Python function
    signature: Any  # () -> Numba signature
    threads: int
    scalar_by_design: str = ""  # why there is no vector access
    architectures: tuple[str, ...] = ARCHITECTURES  # that it is used on


def kernels() -> list[Kernel]:
    """Every kernel of the backend for every dtype: as usual, forward only, ragged, with all options, and more."""
    return [kernel for dtype in DTYPES for kernel in _kernels(dtype)]


def _kernels(dtype: str) -> Iterator[Kernel]:
    from xent_numba.backends.cuda import launch, plan
    from xent_numba.backends.cuda.regimes import labels as regime_labels
    from xent_numba.backends.cuda.row.spec import ITEMSIZE, STATISTICS, Spec, signature

    vector_width = 16 // ITEMSIZE[dtype]
    grad = Spec(dtype, labels="int64", ignore=1, output="grad", rows=True)
    forward = Spec(dtype, labels="int64", ignore=1, rows=True)
    ragged = Spec(dtype, labels="int64", ignore=1, output="grad", rows=True, aligned=False)
    strided = Spec(dtype, labels="int64", ignore=1, output="grad", rows=True, unit_stride=False, two_row_strides=True)
    options: Any = {
        "weight": "float32", "sample_weight": "float32", "smoothing": True, "softcap": True, "z_loss": True,
        "rows": True,
    }  # fmt: skip
    everything = Spec(dtype, labels="int64", ignore=2, output="grad", **options)
    distribution = Spec(dtype, distribution=dtype, output="grad", **options)
    saved = Spec(dtype, labels="int64", ignore=1, output="grad", saved_lse="float32", grad_output="float32")
    softmax = Spec(dtype, output="softmax")
    deferred = Spec(dtype, labels="int64", ignore=1, rows=True, z_loss=True, device_scales=True)
    focal = replace(grad, focal=True, weight="float32", sample_weight="float32", z_loss=True)
    variants = {
        "": grad, " forward": forward, " ragged": ragged, " all options": everything, " distribution": distribution,
        " saved lse": saved, " softmax": softmax, " deferred": deferred, " focal": focal,
    }  # fmt: skip

    def kernel(
        built: str, suffix: str, spec: Any, threads: int, vectors: int = 0, *, extra: tuple[str, ...] = (),
        scalar: str = "", on: Any = ARCHITECTURES,
    ) -> Kernel:  # fmt: skip
        name = f"{built} {threads}×{vectors * vector_width}{suffix}" if built == "block" else built + suffix

        def build(sm_80: bool) -> Any:
            return launch.build(built, replace(spec, sm_80=sm_80), threads, vectors)

        return Kernel(name, dtype, build, lambda: signature(spec, extra), threads, scalar, on)

    for suffix, spec in variants.items():
        if suffix != " ragged":
            yield kernel("tile", suffix, spec, plan.TILE_THREADS)
        threads, before_sm_80 = plan.WARP_THREADS, replace(spec, sm_80=False)
        vectors = min(plan.most_vectors(spec, threads, (8, 0)), plan.WARP_CLASSES // (32 * vector_width))
        yield kernel("warp", suffix, spec, threads, vectors)
        vectors, fewer = plan.most_vectors(spec, 512, (8, 0)), plan.most_vectors(before_sm_80, 512, (7, 5))
        yield kernel("block", suffix, spec, 512, vectors, on=ARCHITECTURES[vectors != fewer :])
        if vectors != fewer:
            yield kernel("block", suffix, before_sm_80, 512, fewer, on=("sm_75",))
        vectors = plan.most_vectors(spec, 1024, (9, 0))
        if vectors:
            yield kernel("block", suffix, spec, 1024, vectors, on=("sm_90", "sm_120"))
        yield kernel("online", suffix, spec, plan.ONLINE_THREADS)
    threads = plan.ONLINE_THREADS
    yield kernel("online", " strided", strided, threads, scalar="classes do not lie side by side")
    yield kernel(
        "columns", "", strided, plan.COLUMN_THREADS, scalar="a warp reads side by side what each thread reads by itself"
    )
    if dtype != "float64":
        mixed = Spec(dtype, distribution="float64", output="grad", unit_stride=False, two_row_strides=True, **options)
        yield kernel(
            "online", " float64 distribution", mixed, threads, scalar="computed in float64, stored in fewer bits"
        )
    element: Any = {"unit_stride": False, "two_row_strides": True}
    labelled = Spec(dtype, labels="int64", ignore=1, **element)
    second = {"output": "hvp", "second": dtype}
    from_top = {
        " statistics": replace(labelled, statistics=STATISTICS),
        " argmax": Spec(dtype, statistics=("argmax",), **element),
        " hvp": replace(labelled, **second),
        " focal hvp": replace(labelled, focal=True, softcap=True, weight="float32", **second),
        " hvp all options": replace(everything, rows=False, **second, **element),
        " hvp of a float64 vector": replace(labelled, output="hvp", second="float64"),
        " diag": replace(labelled, output="grad and diag"),
        " focal diag": replace(labelled, focal=True, softcap=True, weight="float32", output="grad and diag"),
        " diag all options": replace(distribution, rows=False, output="grad and diag", **element),
    }
    for suffix, spec in from_top.items():
        yield kernel("online", suffix, spec, plan.SWEEP_THREADS, scalar=BY_ELEMENT)
        yield kernel("columns", suffix, spec, plan.COLUMN_THREADS, scalar=BY_ELEMENT)
    distilled = Spec(dtype, second=dtype, output="grad", rows=True, distillation=True, **element)
    shard = {"labels": "uint8", "ignore": 1, "weight": "float64", "smoothing": True, "softcap": True, **element}
    in_float64 = {
        " distillation": distilled,
        " distillation loss": replace(distilled, output=""),
        " shard": Spec(dtype, distribution=dtype, shard="statistics", **shard),
        " shard gradient": Spec(dtype, distribution=dtype, shard="gradient", output="grad", **shard),
    }
    for suffix, spec in in_float64.items():
        yield kernel("online", suffix + " in float64", spec, plan.SWEEP_THREADS, scalar=BY_ELEMENT)
        yield kernel("columns", suffix + " in float64", spec, plan.COLUMN_THREADS, scalar=BY_ELEMENT)
    for suffix, spec in {"": grad, " ragged": ragged, " all options": everything}.items():
        yield kernel("split statistics", suffix, spec, threads, extra=("parts", "segment_classes"))
        yield kernel("split output", suffix, spec, threads, extra=("results", "segment_classes"))
    yield kernel(
        "split epilogue", "", grad, 32, extra=("parts", "results", "segments"),
        scalar="merges four numbers per segment of a row",
    )  # fmt: skip
    yield from _label_kernels(dtype, regime_labels, plan.SCAN_THREADS)


def _label_kernels(dtype: str, labels: Any, threads: int) -> Iterator[Kernel]:
    """The kernels for whole arrays."""
    from xent_numba.backends.cuda.row.spec import Spec, signature

    spec = Spec(dtype, labels="int64", ignore=1, weight=dtype, sample_weight=dtype)
    result = "float64" if dtype == "float64" else "float32"
    table = (
        (
            "labels scan", lambda: labels.build_scan(spec, threads), lambda: signature(spec, ("parts",)), threads,
            "a thread per row reads its label",
        ),
        (
            "labels scan merge", lambda: labels.build_scan_merge(threads), lambda: _integers(4), threads,
            "merges the numbers of some blocks",
        ),
        ("labels peek", lambda: labels.build_peek("int64"), lambda: _integers(2), 32, "reads one number"),
        (
            "labels quotient", lambda: labels.build_quotient(result, result, threads), lambda: _integers(4, 1), threads,
            "reads one number per row",
        ),
        (
            "labels sum", lambda: labels.build_sum(dtype, threads), lambda: _integers(4), threads,
            "reads one number per row",
        ),
        ("labels peek weight", lambda: labels.build_peek(dtype), lambda: _integers(2), 32, "reads one number"),
    )  # fmt: skip
    for name, build, types, threads_, scalar in table:
        yield Kernel(name, dtype, lambda sm_80, build=build: build(), types, threads_, scalar)


def _integers(count: int, floats: int = 0) -> Any:
    """The signature of a kernel that takes integers, then numbers."""
    from xent_numba.backends.cuda.hw.numba_private import types

    return types.void(*[types.int64] * count, *[types.float64] * floats)


@contextmanager
def pretended_device(capability: tuple[int, int]) -> Iterator[None]:
    """Device functions ask for the current device while they compile; give them one."""
    import numba.cuda.dispatcher as dispatcher

    original = dispatcher.get_current_device
    dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=capability)
    try:
        yield
    finally:
        dispatcher.get_current_device = original


@lru_cache(maxsize=2)
def _function(kernel: Kernel, sm_80: bool) -> Any:
    """The same function for architectures that need no other: Numba then infers its types once."""
    return kernel.build(sm_80)


def compile_kernel(kernel: Kernel, arch: str) -> tuple[dict[str, Any], str]:
    """One row of the table, and the PTX."""
    from cuda.core import Linker, LinkerOptions, ObjectCode
    from numba import cuda

    digits = arch.removeprefix("sm_")
    capability = (int(digits[:-1]), int(digits[-1]))
    with pretended_device(capability):
        ptx, _ = cuda.compile_ptx(
            _function(kernel, capability >= (8, 0)), kernel.signature(), cc=capability, launch_bounds=kernel.threads
        )  # the defaults of a launch: no fastmath
    linker = Linker(ObjectCode.from_ptx(ptx.encode()), options=LinkerOptions(arch=arch, ptxas_options=["-v"]))
    linker.link("cubin")
    log = linker.get_info_log() or ""
    row: dict[str, Any] = {
        "kernel": kernel.name,
        "dtype": kernel.dtype,
        "arch": arch,
        "registers": _sum(r"Used (\d+) registers", log),
        "spill_bytes": _sum(r"(\d+) bytes (?:stack frame|spill stores|spill loads)", log),
        "vector_accesses": len(VECTOR.findall(ptx)),
    }
    if kernel.scalar_by_design:
        row["scalar_by_design"] = kernel.scalar_by_design
    if not row["registers"]:
        raise RuntimeError(f"the assembler did not report registers for {kernel.name}: {log!r}")
    return row, ptx


def readable(ptx: str) -> str:
    """PTX without what Numba declares for Python's sake, and without its names."""
    lines = [line.rstrip() for line in ptx.splitlines() if not line.startswith(".common")]
    return re.sub(r"_Z\w{40,}?(_param_\d+)?\b", r"kernel\1", "\n".join(lines)).strip()


def _sum(pattern: str, text: str) -> int:
    return sum(int(number) for number in re.findall(pattern, text))


def main() -> int:
    """Print the table, or a list of objects."""
    parser = argparse.ArgumentParser(description="Compile the CUDA kernels and print what became of them.")
    parser.add_argument("--json", action="store_true", help="a list of objects instead of the table")
    parser.add_argument("--ptx", action="store_true", help="the PTX of the first kernel chosen instead of the table")
    parser.add_argument("--arch", action="append", help="only this architecture, like sm_90")
    parser.add_argument("--dtype", action="append", choices=DTYPES, help="only this dtype")
    parser.add_argument("--kernel", action="append", help="only kernels whose name starts with this")
    chosen = parser.parse_args()
    try:
        selected = [
            kernel
            for kernel in kernels()
            if kernel.dtype in (chosen.dtype or DTYPES)
            and any(kernel.name.startswith(start) for start in chosen.kernel or [""])
        ]
        if chosen.ptx:
            print(readable(compile_kernel(selected[0], (chosen.arch or ARCHITECTURES)[0])[1]))
            return 0
        rows = []
        for kernel in selected:
            others = [arch for arch in ARCHITECTURES if arch not in kernel.architectures]
            for arch in chosen.arch or kernel.architectures:
                if arch in others:
                    continue
                rows.append(compile_kernel(kernel, arch)[0])
                if not chosen.json:
                    _print_row(rows[-1], header=len(rows) == 1)
    except ImportError as error:
        print(f'{error}; install the compiler with: pip install "numba-cuda[cu13]"', file=sys.stderr)
        return 2
    if chosen.json:
        print(json.dumps(rows, indent=1, ensure_ascii=False))
    return 0


def _print_row(row: dict[str, Any], *, header: bool) -> None:
    names = ("kernel", "dtype", "arch", "registers", "spill_bytes", "vector_accesses")
    if header:
        print("{:<28} {:<9} {:<6} {:>9} {:>11} {:>15}".format(*names))
    line = "{:<28} {:<9} {:<6} {:>9} {:>11} {:>15}".format(*(row[name] for name in names))
    note = f"  scalar by design: {row['scalar_by_design']}" if "scalar_by_design" in row else ""
    print(line + note, flush=True)


if __name__ == "__main__":
    sys.exit(main())
