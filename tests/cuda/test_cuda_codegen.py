"""The real compiler, without a GPU: kernels assemble, keep their rows in registers, and access memory by 128 bits.

By default the kernels of every regime and dtype for sm_80 and sm_90, their variants for sm_90, and some kernels for
sm_75 and sm_120; XENT_CODEGEN=all compiles the whole table of benchmarks/cuda_codegen.py.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "cuda_codegen.py"
KEYS = {"kernel", "dtype", "arch", "registers", "spill_bytes", "vector_accesses"}

for _needed in ("numba_cuda", "cuda.core", "nvidia"):
    try:
        _found = importlib.util.find_spec(_needed)
    except ModuleNotFoundError:
        _found = None
    if _found is None:
        pytest.skip(f"needs {_needed}: pip install 'numba-cuda[cu13]'", allow_module_level=True)
if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
    pytest.skip("the simulator does not compile", allow_module_level=True)

_spec = importlib.util.spec_from_file_location("cuda_codegen", SCRIPT)
assert _spec
assert _spec.loader
codegen = importlib.util.module_from_spec(_spec)
sys.modules["cuda_codegen"] = codegen
_spec.loader.exec_module(codegen)

KERNELS = codegen.kernels()
OFTEN = ("tile", "warp", "block 512", "online", "split", "columns", "labels")
RARELY = ("options", "distribution", "lse", "softmax", "forward", "ragged", "deferred", "focal")
SWEPT = ("online statistics", "online hvp all options", "columns diag all options", "online distillation in float64")
SAMPLED = {"sm_75": {"bfloat16", "float16"}, "sm_120": {"float32"}}  # what the oldest and the newest are compiled for
ADDED_BY_SM_80 = ("cvt.rn.bf16", "cvt.rn.f16x2", "cp.async", "redux.sync", "mbarrier", "L2::")


def chosen():
    """(kernel, architecture) pairs to compile."""
    for kernel in KERNELS:
        by_element = kernel.scalar_by_design == codegen.BY_ELEMENT
        common = kernel.name.startswith(OFTEN) and not kernel.name.endswith(RARELY) and not by_element
        for arch in kernel.architectures:
            extra = arch == "sm_90" and (kernel.dtype == "float32" or kernel.name.endswith("all options"))
            usual = common
            if arch in SAMPLED:
                usual = common and kernel.dtype in SAMPLED[arch] and not kernel.name.startswith(("split", "labels"))
            if os.environ.get("XENT_CODEGEN") == "all" or usual or extra:
                rare = by_element and (kernel.dtype != "float32" or kernel.name not in SWEPT)
                marks = pytest.mark.rare if rare and os.environ.get("XENT_CODEGEN") != "all" else ()
                yield pytest.param(
                    kernel, arch, marks=marks, id=f"{kernel.name}-{kernel.dtype}-{arch}".replace(" ", "_")
                )


@pytest.mark.parametrize(("kernel", "arch"), list(chosen()))
def test_no_spills_and_vector_accesses(kernel, arch):
    row, ptx = codegen.compile_kernel(kernel, arch)
    assert row["registers"] <= 65536 // kernel.threads
    assert row["spill_bytes"] == 0
    assert row["vector_accesses"] > 0 or kernel.scalar_by_design
    assert not re.search(r"\b(?:atom|red)\.", ptx)  # no atomics at all, so no order of sums left to chance
    if arch == "sm_75":
        assert not any(instruction in ptx for instruction in ADDED_BY_SM_80)
    elif kernel.dtype == "bfloat16" and kernel.name in ("tile", "warp", "online", "columns"):
        assert "cvt.rn.bf16" in ptx
    if kernel.dtype != "float64" and "float64" not in kernel.name:
        assert not re.search(r"\bdiv\.\w*\.?f64|sqrt\.\w*\.?f64", ptx) or kernel.name.startswith("labels")


def test_rounding_to_bfloat16_without_an_instruction_for_it():
    """The integer arithmetic for sm_75, compiled for the processor here."""
    import ml_dtypes
    import numba
    from numba.extending import intrinsic

    from xent_numba.backends.cuda.hw.intrinsics import _to_bfloat_by_bits

    def generate(context, builder, signature, args):
        return _to_bfloat_by_bits(builder, args[0])

    to_bits = intrinsic(lambda typing_context, value: (numba.types.uint16(numba.types.float32), generate))

    @numba.njit
    def convert(values, bits):
        for i in range(values.size):
            bits[i] = to_bits(values[i])

    upper = np.arange(2**16, dtype=np.uint32)[:, None] << 16
    values = (upper | np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)).view(np.float32).reshape(-1)
    bits = np.empty(values.size, np.uint16)
    convert(values, bits)
    with np.errstate(all="ignore"):
        exact = values.astype(ml_dtypes.bfloat16)
    is_nan = np.isnan(values)
    assert np.array_equal(bits[~is_nan], exact.view(np.uint16)[~is_nan])
    assert np.all(bits[is_nan] == 0x7FFF)


def test_every_regime_and_dtype_is_there():
    for dtype in codegen.DTYPES:
        names = {kernel.name.split()[0] for kernel in KERNELS if kernel.dtype == dtype}
        assert names == {"tile", "warp", "block", "online", "split", "columns", "labels"}


def test_the_usual_kernels_are_compiled_for_two_architectures():
    """By default, in every dtype; the name of a variant must not take one of them out."""
    usual = {"tile", "warp", "online", "columns", "split statistics", "split output", "split epilogue"}
    compiled = {
        (kernel.name, kernel.dtype, arch) for kernel, arch in (case.values for case in chosen() if not case.marks)
    }
    assert {
        (name, dtype, arch) for name in usual for dtype in codegen.DTYPES for arch in ("sm_80", "sm_90")
    } <= compiled


def test_the_stored_ptx_is_that_of_today():
    """Notebook 05 reads it; other versions of the compiler may choose other registers, but not other accesses."""
    stored = (SCRIPT.parent / "results" / "warp_float32_sm_90.ptx").read_text(encoding="utf-8")
    (kernel,) = (kernel for kernel in KERNELS if (kernel.name, kernel.dtype) == ("warp", "float32"))
    _, ptx = codegen.compile_kernel(kernel, "sm_90")
    for instruction in ("ld.global", "st.global", "shfl.sync", "ex2.approx", "bar.sync", "atom.", "ld.local"):
        assert stored.count(instruction) == ptx.count(instruction), instruction
    assert "/" not in re.sub(r"//.*", "", stored)


def test_the_script_prints_json():
    command = [sys.executable, str(SCRIPT), "--json", "--arch", "sm_90", "--dtype", "float32", "--kernel", "split"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    rows = json.loads(done.stdout)
    assert rows
    for row in rows:
        assert KEYS <= set(row) <= KEYS | {"scalar_by_design"}
        assert all(isinstance(row[key], int) for key in ("registers", "spill_bytes", "vector_accesses"))


def test_a_small_grid_is_no_reason_to_warn():
    from xent_numba.backends.cuda.hw import intrinsics as hw

    def kernel(n):
        pass

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hw.configure(hw.jit_kernel(kernel, 32), 1, 32)


def test_a_first_launch_is_not_interrupted():
    """It may compile the kernel; the launches after it only queue it."""
    from xent_numba.backends.cuda.hw import intrinsics as hw

    reached = []

    def launch(*args):
        signal.raise_signal(signal.SIGINT)
        reached.append(args)

    class Kernel:
        def __getitem__(self, shape):
            return launch

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        launches = [hw.configure(Kernel(), 1, 32)] * 2
        for number, one in enumerate(launches):
            with pytest.raises(KeyboardInterrupt):
                one(number)
    finally:
        signal.signal(signal.SIGINT, before)
    assert reached == [(0,)]


def test_what_is_compiled_is_what_a_launch_asks_for():
    """Numba types the arguments of a call by their values: those must be the types that were compiled here."""
    from numba.cuda.typing.typeof import typeof

    from xent_numba.backends.cuda.row.operands import Operand, Operands, kernel_arguments
    from xent_numba.backends.cuda.row.spec import SHARD_COEFFICIENTS, SHARD_STATISTICS, signature

    logits, labels = Operand("float32", 2**47, 0, 64, 4), Operand("int32", 2**47, 0, 4)
    factors = dict.fromkeys(("weight", "sample_weight", "grad_output", "saved_lse"), Operand("float64", 16))
    options = {"label_smoothing": 0.1, "logit_scale": 2.0, "softcap": 3.0, "z_coefficient": 0.1}
    several = {"ignore": (1, 2), "ignore_list": 64}
    calls = [
        Operands((1, 5, 16), logits, labels=labels, rows=16),
        Operands((1, 5, 16), logits, "grad", logits, labels, ignore=(-100,), rows=16),
        Operands((1, 5, 16), logits, "grad", logits, labels, **factors, **several, **options),
        Operands(
            (1, 5, 16), logits, "grad", logits, labels, z_coefficient=0.1, focal_gamma=2.0, device_scales=2**47, rows=16
        ),
        Operands((1, 5, 16), logits, labels=labels, by_row={"rank": 16, "entropy": 32}, logit_scale=2.0),
        Operands((2, 5, 16), logits, "hvp", logits, labels, second=logits, softcap=3.0, focal_gamma=2.0),
        Operands((2, 5, 16), logits, "grad and diag", logits, labels, second_out=logits, weight=factors["weight"]),
        Operands((1, 5, 16), logits, "grad", logits, second=logits, temperature=2.0, rows=16),
        Operands((1, 5, 16), logits, shard="statistics", by_row=dict.fromkeys(SHARD_STATISTICS, 16)),
        Operands((1, 5, 16), logits, "grad", logits, shard="gradient", by_row=dict.fromkeys(SHARD_COEFFICIENTS, 16)),
    ]
    for operands in calls:
        spec, arguments = kernel_arguments(operands)
        assert typeof(arguments) == signature(spec).args[0]
