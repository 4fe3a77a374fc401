"""The kernels on processors that lack what the one at hand has: x86-64 without F16C, FMA and AVX, and ARM.

Numba compiles for another processor where its environment variables name one, and an older x86-64 can be named
anywhere.  Of ARM there is an emulator: `tests/tools/arm64.sh`.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.tools import smoke

ROOT = Path(__file__).parents[2]
X86 = pytest.mark.skipif(platform.machine() not in {"x86_64", "AMD64"}, reason="names of x86-64 processors")


@X86
@pytest.mark.parametrize(
    "environment",
    [
        {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": ""},
        pytest.param({"NUMBA_CPU_NAME": "ivybridge", "NUMBA_CPU_FEATURES": ""}, marks=pytest.mark.rare),
        pytest.param({"NUMBA_ENABLE_AVX": "0"}, marks=pytest.mark.rare),
    ],
    ids=str,
)
def test_what_a_processor_may_lack(environment, tmp_path):
    """Where an instruction is missing, the process would end in a segmentation fault, or in the compiler."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("NUMBA_CPU_", "NUMBA_ENABLE_AVX"))}
    env |= {"XENT_NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT), **environment}
    command = [sys.executable, "-m", "tests.runtime.processor_program"]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, (done.returncode, done.stderr)


def test_the_smoke_test_has_every_regime_and_dtype():
    """Of the losses; a call with options that no kernel supports would have another regime."""
    losses = [case for case in smoke.CASES if case.what not in smoke.FUNCTIONS]
    assert [smoke.regime(case) for case in smoke.CASES] == [case.regime for case in smoke.CASES]
    assert {case.regime for case in losses} == {"long", "split", "packed", "lanes"}
    assert {np.dtype(case.dtype).name for case in losses} == {"float32", "float64", "float16", "bfloat16"}
    assert {case.what for case in smoke.CASES} == {"labels", "distribution", *smoke.FUNCTIONS}


@pytest.mark.rare
@pytest.mark.parametrize("case", smoke.CASES, ids=str)
def test_smoke(case):
    assert smoke.worst(case) < 1
