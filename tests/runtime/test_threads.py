"""Nothing aborts, hangs or changes a bit, under any threading layer: threads, forks, spawned processes, Ctrl-C.

Each test is a process of its own (of a program next to this file), for an abort would take the tests with it.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAYERS = ["default", "omp", "workqueue", "tbb"]
TIMEOUT = 400  # the first of all runs compiles

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def environment(layer: str) -> dict[str, str]:
    env = {**os.environ, "NUMBA_THREADING_LAYER": layer, "PYTHONPATH": str(ROOT), "PYTHONFAULTHANDLER": "1"}
    env.pop("XENT_NUMBA_BACKEND", None)
    if int(env.get("NUMBA_NUM_THREADS", os.cpu_count() or 1)) < 2:
        env["NUMBA_NUM_THREADS"] = "2"  # a parallel loop on one core is one all the same
    return env


def run(what: str, layer: str = "default", program: str = "threading_program", backend: str = "cpu") -> str:
    """The output of one of the programs, which ended well."""
    path = Path(__file__).with_name(f"{program}.py")
    process = subprocess.Popen(
        [sys.executable, str(path), *what.split()], text=True, start_new_session=True,
        env={**environment(layer), "BACKEND": backend},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    with process:
        try:
            output, _ = process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            if hasattr(os, "killpg"):
                os.killpg(process.pid, signal.SIGKILL)  # and its children, who would keep the pipe open
            process.kill()
            output, _ = process.communicate()
            pytest.fail(f"{what} under {layer} hangs:\n{output}")
    assert process.returncode == 0, output
    assert "\ndone\n" in output, output
    return output


@pytest.fixture(scope="module")
def available() -> dict[str, str]:
    """Why a layer cannot be tested here: its name alone if it can."""
    program = "import numba; numba.get_num_threads(); print(numba.threading_layer())"
    found = {}
    for layer in LAYERS:
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment(layer), capture_output=True, text=True, timeout=TIMEOUT
        )
        found[layer] = "" if done.returncode == 0 else f"Numba finds no {layer} here"
    return found


@pytest.fixture(params=LAYERS)
def layer(request, available: dict[str, str]) -> str:
    if available[request.param]:
        pytest.skip(available[request.param])
    return request.param


@pytest.fixture(scope="module")
def bits() -> dict[str, str]:
    """What each layer computed."""
    return {}


def test_python_threads(layer: str, bits: dict[str, str]) -> None:
    output = run("threads", layer)
    if layer != "default":
        assert f"step: layer {layer}\n" in output
    (bits[layer],) = re.findall(r"^bits: (\w+)$", output, re.MULTILINE)
    assert len(set(bits.values())) == 1, "another layer, other bits"


@forks
def test_forks(layer: str) -> None:
    run("forks", layer, "forking_program")


@pytest.mark.parametrize("layer", ["default"])
def test_spawned_processes(layer: str) -> None:
    run("spawns", layer)


@forks
def test_fork_while_another_thread_compiles() -> None:
    run("compiling", program="forking_program")


@forks
@pytest.mark.parametrize("library", ["numba", "openmp"])
def test_forks_where_something_else_has_started_threads(library: str, available: dict[str, str]) -> None:
    if sys.platform != "linux" or available["omp"]:
        pytest.skip("needs GNU OpenMP")
    run(f"foreign {library}", "omp", "forking_program")
    run(library, "omp", "foreign_threads")  # what is forked imports this package, and not before


@pytest.mark.skipif(os.name == "nt", reason="Windows sends no SIGINT to one process")
@pytest.mark.parametrize("layer", ["default", "workqueue"])
def test_interrupts(layer: str) -> None:
    run("interrupts", layer)


@pytest.mark.rare
@pytest.mark.parametrize("what", ["threads", "spawns", "interrupts"])
def test_plain_kernels(what: str, layer: str) -> None:
    run(what, layer, backend="njit")


@forks
@pytest.mark.rare
def test_forks_with_plain_kernels(layer: str) -> None:
    run("forks", layer, "forking_program", "njit")
    if layer == "omp" and sys.platform == "linux":
        for library in ("numba", "openmp"):
            run(f"foreign {library}", "omp", "forking_program", "njit")
            run(library, "omp", "foreign_threads", "njit")
