"""What `import xent_numba` brings along, and so what it costs: a module that is not imported takes no time.

And which names it shows.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import xent_numba as xn

ROOT = Path(__file__).parents[2]
HEAVY = {  # of the standard library: what is large, or only some calls need
    "argparse",
    "asyncio",
    "concurrent",
    "email",
    "http",
    "importlib.metadata",
    "logging",
    "multiprocessing",
    "platform",
    "socket",
    "subprocess",
    "urllib",
}

PROGRAM = """
import sys, numpy
before = set(sys.modules)
import xent_numba
import json
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def imported(tmp_path: Path) -> set[str]:
    """The modules that come with the package, other than with NumPy."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(  # outside the checkout, as a user would be
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, env=env, capture_output=True, text=True, check=True, timeout=60
    )
    return set(json.loads(done.stdout))


def test_import_brings_nothing_heavy(tmp_path: Path) -> None:
    modules = imported(tmp_path)
    assert {name.partition(".")[0] for name in modules} - set(sys.stdlib_module_names) == {"xent_numba"}
    assert {name for name in modules if {name, name.partition(".")[0]} & HEAVY} == set()
    needed = {"xent_numba.backends.protocol", "xent_numba.backends.registry"}
    assert {name for name in modules if name.startswith(("xent_numba.backends.", "xent_numba.cli"))} == needed


def test_dir_and_star_show_the_public_names_only() -> None:
    assert dir(xn) == sorted(xn.__all__)
    names: dict[str, object] = {}
    exec("from xent_numba import *", names)
    assert sorted(names.keys() - {"__builtins__"}) == sorted(xn.__all__)
    for name in dir(xn):
        assert name == "__version__" or getattr(xn, name).__module__.startswith("xent_numba."), name
