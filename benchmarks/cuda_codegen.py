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
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

# NVIDIA's Python package is called `cuda` too: this folder must not come before it.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]

ARCHITECTURES = ("sm_80", "sm_90")
DTYPES = ("float32", "float64", "float16", "bfloat16")
VECTOR = re.compile(r"(?:ld|st)\.global(?:\.\w+)*?\.(?:v4\.[a-z]32|v2\.[a-z]64)\b")


class Kernel(NamedTuple):
    """One kernel to compile."""

    name: str
    dtype: str
    build: Any  # () -> Python function
    signature: Any  # () -> Numba signature
    threads: int
    scalar_by_design: str = ""  # why there is no vector access
    architectures: tuple[str, ...] = ARCHITECTURES  # that it is used on


def kernels() -> list[Kernel]:
    """Every kernel of the backend for every dtype: as usual, forward only, ragged, with all options, and more."""
    return [kernel for dtype in DTYPES for kernel in _kernels(dtype)]


def _kernels(dtype: str) -> Iterator[Kernel]:
    from xent_numba.backends.cuda import plan as dispatch
    from xent_numba.backends.cuda.regimes import block, columns, online, split, tile, warp
    from xent_numba.backends.cuda.regimes import labels as scan
    from xent_numba.backends.cuda.row.spec import ITEMSIZE, Spec, signature

    lanes = 16 // ITEMSIZE[dtype]
    grad = Spec(dtype, labels="int64", ignore=1, store="grad", rows=True)
    forward = Spec(dtype, labels="int64", ignore=1, rows=True)
    ragged = Spec(dtype, labels="int64", ignore=1, store="grad", rows=True, whole=False)
    strided = Spec(dtype, labels="int64", ignore=1, store="grad", rows=True, unit=False, outer=True)
    options: Any = {
        "weight": "float32", "sample_weight": "float32", "smoothing": True, "softcap": True, "z_loss": True,
        "rows": True,
    }  # fmt: skip
    everything = Spec(dtype, labels="int64", ignore=2, store="grad", **options)
    distribution = Spec(dtype, distribution=dtype, store="grad", **options)
    saved = Spec(dtype, labels="int64", ignore=1, store="grad", saved_lse="float32", grad_output="float32")
    softmax = Spec(dtype, store="softmax")
    deferred = Spec(dtype, labels="int64", ignore=1, rows=True, z_loss=True, device_scales=True)
    variants = {
        "": grad, " forward": forward, " ragged": ragged, " all options": everything, " distribution": distribution,
        " saved lse": saved, " softmax": softmax, " deferred": deferred,
    }  # fmt: skip

    def kernel(
        name: str, build: Any, spec: Any, threads: int, *extra: str, scalar: str = "", on: Any = ARCHITECTURES
    ) -> Kernel:
        return Kernel(name, dtype, build, lambda: signature(spec, extra), threads, scalar, on)

    one_row = "a thread per row reads its label and writes its loss"
    for suffix, spec in variants.items():
        if suffix != " ragged":
            threads = dispatch.TILE_THREADS
            yield kernel(f"tile{suffix}", lambda s=spec, t=threads: tile.build(s, t), spec, threads)
        threads = warp.WARPS * 32
        vectors = min(dispatch.most_vectors(spec, threads, (8, 0)), dispatch.WARP_CLASSES // (32 * lanes))
        yield kernel(f"warp{suffix}", lambda s=spec, v=vectors: warp.build(s, v), spec, threads)
        vectors = dispatch.most_vectors(spec, 512, (8, 0))
        name = f"block 512×{vectors * lanes}{suffix}"
        yield kernel(name, lambda s=spec, v=vectors: block.build(s, 512, v), spec, 512)
        vectors = dispatch.most_vectors(spec, 1024, (9, 0))
        if vectors:
            name = f"block 1024×{vectors * lanes}{suffix}"
            yield kernel(name, lambda s=spec, v=vectors: block.build(s, 1024, v), spec, 1024, on=("sm_90",))
        threads = dispatch.ONLINE_THREADS
        yield kernel(f"online{suffix}", lambda s=spec, t=threads: online.build(s, t), spec, threads)
    yield kernel(
        "online strided", lambda: online.build(strided, threads), strided, threads,
        scalar="classes do not lie side by side",
    )  # fmt: skip
    yield kernel(
        "columns", lambda: columns.build(strided, dispatch.COLUMN_THREADS), strided, dispatch.COLUMN_THREADS,
        scalar="a warp reads side by side what each thread reads by itself",
    )  # fmt: skip
    if dtype != "float64":
        mixed = Spec(dtype, distribution="float64", store="grad", unit=False, outer=True, **options)
        yield kernel(
            "online float64 distribution", lambda: online.build(mixed, threads), mixed, threads,
            scalar="computed in float64, stored in fewer bits",
        )  # fmt: skip
    for suffix, spec in {"": grad, " ragged": ragged, " all options": everything}.items():
        partial = kernel(
            f"split partial{suffix}", lambda s=spec: split.build_partial(s, threads), spec, threads, "parts", "length"
        )
        yield partial
        store = kernel(
            f"split store{suffix}", lambda s=spec: split.build_store(s, threads), spec, threads, "results", "length"
        )
        yield store
    yield kernel(
        "split finish", lambda: split.build_finish(grad), grad, 32, "parts", "results", "slices",
        scalar="merges four numbers per slice of a row",
    )  # fmt: skip
    labels = Spec(dtype, labels="int64", ignore=1, weight=dtype, sample_weight=dtype)
    yield kernel("scan labels", lambda: scan.build_labels(labels), labels, scan.THREADS, "parts", scalar=one_row)
    yield Kernel(
        "scan labels finish", dtype, scan.build_labels_finish, lambda: _integers(4), scan.THREADS,
        "merges the numbers of some blocks",
    )  # fmt: skip
    yield Kernel(
        "scan peek", dtype, lambda: scan.build_peek("int64"), lambda: _integers(2), 32, "reads one number",
    )  # fmt: skip
    result = "float64" if dtype == "float64" else "float32"
    yield Kernel(
        "scan scalar", dtype, lambda: scan.build_scalar(result, result), lambda: _integers(4, 1), scan.THREADS,
        "reads one number per row",
    )  # fmt: skip
    yield Kernel(
        "scan sum", dtype, lambda: scan.build_sum(dtype), lambda: _integers(4), scan.THREADS,
        "reads one number per row",
    )  # fmt: skip


def _integers(count: int, floats: int = 0) -> Any:
    """The signature of a kernel that takes integers, then numbers."""
    from xent_numba.backends.cuda.hw.intrinsics import types

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
def _function(kernel: Kernel) -> Any:
    """The same function for each architecture: Numba then infers its types once."""
    return kernel.build()


def compile_kernel(kernel: Kernel, arch: str) -> tuple[dict[str, Any], str]:
    """One row of the table, and the PTX."""
    from cuda.core import Linker, LinkerOptions, ObjectCode
    from numba import cuda

    digits = arch.removeprefix("sm_")
    capability = (int(digits[:-1]), int(digits[-1]))
    with pretended_device(capability):
        ptx, _ = cuda.compile_ptx(
            _function(kernel), kernel.signature(), cc=capability, launch_bounds=kernel.threads
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
            for arch in chosen.arch or kernel.architectures:
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
