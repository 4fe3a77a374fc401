"""Which backend a call gets, and what is said when it cannot run."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest

import xent_numba as xn
from xent_numba.backends import diagnosis, registry


@pytest.fixture
def fresh(monkeypatch):
    """A registry that has loaded nothing, restored afterwards."""
    monkeypatch.setattr(registry, "_ready", {})
    monkeypatch.setattr(registry, "_default", "auto")
    monkeypatch.setattr(diagnosis, "_warned", {})
    return monkeypatch


def register(monkeypatch, name, module, **attributes):
    """Let `module` be what the registry imports for `name`."""
    monkeypatch.setitem(
        registry.IMPLEMENTATIONS, name, registry.Implementation(module, f"install {name}: pip install {name}")
    )
    if attributes:
        monkeypatch.setitem(sys.modules, module, SimpleNamespace(**attributes))


def test_numpy_is_always_there():
    found = xn.available_backends()
    assert list(found) == ["numpy", "cpu", "njit", "cuda"]
    assert found["numpy"]
    assert str(found["numpy"]) == "yes"
    for answer in found.values():
        assert answer.available or answer.reason


def test_auto_falls_back_but_a_name_raises(fresh):
    stub = SimpleNamespace(why_not=lambda: "the stub never runs; use another")
    register(fresh, "cpu", "stub_cpu", BACKEND=stub)
    fresh.setattr(registry, "AUTO", ("cpu", "numpy"))
    with pytest.warns(RuntimeWarning, match="'cpu' cannot run here: the stub never runs; use another"):
        assert registry.select().name == "numpy"
    with pytest.raises(RuntimeError, match="backend 'cpu' cannot run here: the stub never runs; use another"):
        xn.cross_entropy([[0.0]], [0], backend="cpu")
    answer = xn.available_backends()["cpu"]
    assert not answer
    assert str(answer) == "no: the stub never runs; use another"


def test_what_is_missing_is_named(fresh):
    register(fresh, "cpu", "a_package_that_nobody_has")
    with pytest.raises(RuntimeError, match="a_package_that_nobody_has is not installed; install cpu: pip install cpu"):
        xn.set_backend("cpu")
    register(fresh, "cpu", "xent_numba.backends.absent")
    with pytest.raises(RuntimeError, match="does not include it"):
        xn.set_backend("cpu")
    register(fresh, "cpu", "half_written", other=1)
    with pytest.raises(RuntimeError, match="does not include it"):
        xn.set_backend("cpu")
    assert xn.get_backend() == "auto"


@pytest.mark.parametrize("name", ["", "gpu", "NumPy", None, 3, ["cpu"], np.zeros(2)], ids=repr)
def test_unknown_names_list_the_choices(name):
    match = "choose one of 'auto', 'numpy', 'cpu', 'njit' or 'cuda'"
    with pytest.raises(ValueError, match=match):
        xn.set_backend(name)
    with pytest.raises(ValueError, match=match), xn.use_backend(name):
        pass
    if name is not None:
        with pytest.raises(ValueError, match=match):
            xn.cross_entropy([[0.0]], [0], backend=name)


def test_use_backend_nests_and_is_undone_by_errors():
    before = xn.get_backend()
    with xn.use_backend("numpy"):
        assert xn.get_backend() == "numpy"
        with xn.use_backend("auto"):
            assert xn.get_backend() == "auto"
        assert xn.get_backend() == "numpy"
        with pytest.raises(IndexError), xn.use_backend("auto"):
            xn.cross_entropy([[0.0]], [1])
        assert xn.get_backend() == "numpy"
    assert xn.get_backend() == before


def test_set_backend_is_for_the_process_and_use_backend_for_the_thread(fresh):
    seen = []
    with xn.use_backend("numpy"):
        thread = threading.Thread(target=lambda: seen.append(xn.get_backend()))
        thread.start()
        thread.join()
    xn.set_backend("numpy")
    thread = threading.Thread(target=lambda: seen.append(xn.get_backend()))
    thread.start()
    thread.join()
    inherited = getattr(sys.flags, "thread_inherit_context", False)  # as on free-threaded builds
    assert seen == ["numpy" if inherited else "auto", "numpy"]


def test_asynchronous_tasks_do_not_see_each_other(fresh):
    async def inside(name):
        with xn.use_backend(name):
            await asyncio.sleep(0)
            return xn.get_backend()

    async def both():
        return await asyncio.gather(inside("numpy"), inside("auto"))

    assert asyncio.run(both()) == ["numpy", "auto"]


def python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("name", ["gpu", "cuda"])
def test_the_configuration_says_that_the_chosen_backend_cannot_run(name, fresh, capsys):
    register(fresh, "cuda", "absent_cuda_of_these_tests")
    fresh.setattr(registry, "_default", name)
    xn.show_config()
    assert f"  current: {name}\n  runs on: none: backend " in capsys.readouterr().out


def test_the_environment_sets_the_default():
    done = python("import xent_numba as xn; print(xn.get_backend())", XENT_NUMBA_BACKEND="numpy")
    assert done.stdout == "numpy\n"
    done = python("import xent_numba as xn; xn.cross_entropy([[0.0]], [0])", XENT_NUMBA_BACKEND="gpu")
    assert "backend = 'gpu' (from the environment variable XENT_NUMBA_BACKEND) is unknown" in done.stderr


def test_show_config_names_versions_and_backends(capsys):
    xn.show_config()
    shown = capsys.readouterr().out
    assert f"xent_numba: {xn.__version__}" in shown
    for name in registry.IMPLEMENTATIONS:
        assert f"\n{name}:\n  available: " in shown
