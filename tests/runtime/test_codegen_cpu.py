"""The machine code of the regimes `long` and `packed`, with AVX-512: whole vectors, no calls, stores past the caches.

Instructions are counted, never timed: what costs the speed of the bench shows here first.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# In a process of its own without a cache: what was loaded from disk has no assembly to look at.
PROGRAM = """
import json
import numpy as np
import xent_numba as xn
from xent_numba.backends.cpu.regimes import entry

x, y = np.zeros((5, 1000), np.float32), np.zeros(5, np.int64)
found = {}
xn.cross_entropy(x, y, backend="cpu")
(found["loss"],) = entry.run_long.inspect_asm().values()
(signature,) = entry.run_long.signatures
xn.cross_entropy_and_grad(x, y, backend="cpu")
found["loss and gradient"] = next(t for s, t in entry.run_long.inspect_asm().items() if s != signature)
xn.cross_entropy_and_grad(x[:, :100].copy(), y, backend="cpu")
(found["packed"],) = entry.run_packed.inspect_asm().values()
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def assembly() -> dict[str, list[str]]:
    """The instructions of each kernel."""
    binding = pytest.importorskip("llvmlite.binding")
    if not binding.get_host_cpu_features().get("avx512f"):
        pytest.skip("this processor has no AVX-512")
    env = {**os.environ, "XENT_NUMBA_CACHE_DIR": "", "PYTHONPATH": str(ROOT)}
    for name in ("XENT_NUMBA_BACKEND", "NUMBA_BOUNDSCHECK", "NUMBA_OPT"):
        env.pop(name, None)
    for name in ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "NUMBA_ENABLE_AVX"):
        env.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, check=True, timeout=240
    )
    instruction = re.compile(r"^\t([a-z]\w*)(?:\t(.*))?$")
    found = {}
    for name, text in json.loads(done.stdout).items():
        lines = (instruction.match(line.split("#")[0].rstrip()) for line in text.splitlines())
        found[name] = [f"{line[1]} {line[2] or ''}" for line in lines if line]
    return found


KERNELS = ["loss", "loss and gradient", "packed"]


@pytest.mark.parametrize("kernel", KERNELS)
def test_vectors_are_512_bits_wide(kernel: str, assembly: dict[str, list[str]]) -> None:
    code = assembly[kernel]
    wide = [line for line in code if re.match(r"vf(n?)m(add|sub)\w*ps .*%zmm", line)]
    narrow = [line for line in code if re.match(r"vf(n?)m(add|sub)\w*ps ", line) and "%zmm" not in line]
    assert len(wide) >= 20
    assert len(narrow) <= len(wide) // 4, narrow


@pytest.mark.parametrize("kernel", KERNELS)
def test_nothing_is_called_by_the_way(kernel: str, assembly: dict[str, list[str]]) -> None:
    """No exp or log of a C library, and nothing else with a name."""
    code = assembly[kernel]
    named = [
        line
        for line in code
        if re.match(r"(call|jmp|movabs)\w* .*\$?\b_*(exp2?|expm1|log2?|log1p|pow|tanh|fma)f?\b", line)
    ]
    assert named == []
    # exp is computed in line: a shift brings the power of two to the exponent
    assert any(line.startswith("vpslld $19") for line in code)


def test_only_gradients_are_stored_past_the_caches(assembly: dict[str, list[str]]) -> None:
    streamed = [line for line in assembly["loss and gradient"] if line.startswith("vmovntps")]
    assert streamed
    assert all("%zmm" in line for line in streamed)
    assert not any(line.startswith("vmovnt") for line in assembly["loss"])
