"""Memory of large results: used again when nobody holds it, and never before."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import weakref

import numpy as np
import pytest

import xent_numba as xn
from xent_numba import results

LARGE = (64, 1 << 16)

recycles = pytest.mark.skipif(not results.counts_are_exact(), reason="this Python has no exact reference counts")


@pytest.fixture(autouse=True, scope="module")
def little_to_collect():
    """A garbage collection looks at what these tests make, not at all that Numba has made before: a second each."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def nothing_waits():
    results._waiting.clear()
    yield
    gc.collect()
    results._waiting.clear()


def address(array):
    return array.__array_interface__["data"][0]


@recycles
def test_padded_rows_get_it_too():
    x = np.zeros((LARGE[0], LARGE[1] + 24), np.float32)[:, 8:-16]
    first = xn.softmax(x)
    assert first.flags.c_contiguous
    place = address(first)
    del first
    assert address(xn.softmax(x)) == place
    turned = np.zeros(LARGE[::-1], np.float32).T  # np.empty_like keeps that order
    assert xn.softmax(turned).strides == turned.strides


@pytest.mark.parametrize("function", [xn.softmax, lambda x: xn.cross_entropy_and_grad(x, np.zeros(len(x), int))[1]])
@recycles
def test_the_next_result_gets_the_memory_of_the_last(function):
    x = np.zeros(LARGE, np.float32)
    first = function(x)
    place = address(first)
    assert type(first) is np.ndarray
    assert place % results.LINE == 0
    view = first[3:, 5:]
    kept = view.copy()
    del first
    second = function(x + 1)  # a view is left: its memory is not to be had
    assert address(second) != place
    np.testing.assert_array_equal(view, kept)
    del view
    assert address(function(x)) == place


@pytest.mark.parametrize(
    "view",
    [
        lambda result: result.base[:],
        lambda result: result.base.view(),
        lambda result: result.base.view(np.float32),
        lambda result: result.base.reshape(-1, 64),
        lambda result: result.base.base[1:],
        lambda result: np.asarray(result.base)[3:][1:],
        lambda result: np.broadcast_to(result.base, (2, result.base.size), subok=True),
        lambda result: np.lib.stride_tricks.as_strided(result, subok=True),
        lambda result: result.view(np.matrix)[3:][1:],
        lambda result: np.from_dlpack(result)[3:],
        lambda result: memoryview(result)[3:],
    ],
)
@recycles
def test_no_kind_of_view_loses_its_memory(view):
    x = np.zeros(LARGE, np.float32)
    place = address(xn.softmax(x))
    result = xn.softmax(x)
    assert address(result) == place
    held = view(result)
    del result
    assert address(xn.softmax(x)) != place
    del held
    gc.collect()


def test_results_held_are_each_their_own():
    x = np.zeros(LARGE, np.float32)
    held = [xn.softmax(x) for _ in range(4)]
    assert len({address(a) for a in held}) == 4
    assert not any(np.may_share_memory(a, b) for i, a in enumerate(held) for b in held[:i])


def test_no_more_than_the_limit_waits(monkeypatch):
    x = np.zeros(LARGE, np.float32)
    monkeypatch.setattr(results, "keep", lambda: 2 * x.nbytes + 1000)
    held = [xn.softmax(x) for _ in range(5)]
    del held
    assert len(results._waiting) == 2
    monkeypatch.setattr(results, "keep", lambda: 0)
    assert results.empty_like(x).base is None


def test_memory_comes_back_while_what_waits_is_added_up():
    """As by a garbage collection then, or in another thread."""
    waiting = type(results._waiting)()
    others = [np.zeros(10, np.uint8) for _ in range(5)]

    def size(memory):
        if others:
            results._take_back(others.pop(), waiting, 30, None, size)
        return memory.nbytes

    results._take_back(np.zeros(10, np.uint8), waiting, 30, None, size)
    assert 1 <= len(waiting) <= 3


def interrupted(monkeypatch, function):
    """What Python functions are called in it, the first of which gets a Ctrl-C."""
    calls = []

    def profile(frame, event, argument):
        if event == "call":
            calls.append(frame.f_code.co_name)
            if len(calls) == 1:
                raise KeyboardInterrupt

    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)  # nothing can be raised where an object ends
    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(None)
    return calls


@recycles
def test_ctrl_c_while_memory_comes_back(monkeypatch):
    """It is lost there, so that the functions called should be few; the memory is not lost."""
    x = np.zeros(LARGE, np.float32)
    held = [results.empty_like(x) for _ in range(5)]
    memory = weakref.ref(held[-1].base.base)
    assert interrupted(monkeypatch, held.pop) == ["_take_back"]
    assert memory() is None


@pytest.mark.skipif(sys.platform != "linux", reason="where memory in use is read differs")
@recycles
def test_no_memory_waits_where_it_runs_out():
    program = """
import resource
import numpy as np
from xent_numba.results import empty_like
x = np.zeros((64, 1 << 21), np.float32)
empty_like(x)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (300 << 20),) * 2)
print(empty_like(x[:40]).nbytes >> 20)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "320\n"


def test_results_that_outlive_the_module():
    program = """
import sys
import numpy as np
import xent_numba as xn
x = np.zeros((64, 1 << 16), np.float32)
for place in (sys.modules["__main__"], sys, np, xn, xn.results):
    place.kept = xn.softmax(x, backend="numpy")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_of_the_kind_of_the_logits():
    x = np.zeros(LARGE, np.float32)
    for array in (x.T, x[:, ::2], np.zeros((300, 70_000), np.float16), np.zeros((70, 1 << 15))):
        made = results.empty_like(array)
        like = np.empty_like(array)
        assert (made.shape, made.dtype, made.strides) == (like.shape, like.dtype, like.strides)
        assert made.flags.writeable


@recycles
def test_two_results_are_aligned_alike():
    x, y = np.zeros(LARGE, np.float32), np.zeros(LARGE[0], int)
    own = np.empty(x.size + 5, np.float32)[5:].reshape(x.shape)
    for wanted in ({}, {"grad_out": own}, {"diag_out": own}):
        grad, diag = xn.cross_entropy_grad_and_hessian_diag(x, y, **wanted)
        assert address(grad) % results.LINE == address(diag) % results.LINE


def test_many_threads():
    x = np.zeros((16, 1 << 18), np.float32)
    wrong = []

    def work(seed):
        for _ in range(10):
            array = results.empty_like(x)
            array[...] = seed
            if not (array == seed).all():
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@recycles
def test_the_variable(monkeypatch):
    program = "import numpy as np; from xent_numba.results import empty_like; print(empty_like(np.zeros(1 << 22)).base)"
    for value, found in (("0", "None\n"), ("33", "[")):
        monkeypatch.setenv(results.VARIABLE, value)
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert done.stdout.startswith(found)


@pytest.fixture
def unset(monkeypatch):
    """The limit as it is without the variable, worked out anew."""
    monkeypatch.delenv(results.VARIABLE, raising=False)
    results.keep.cache_clear()
    yield monkeypatch
    results.keep.cache_clear()


@pytest.mark.parametrize(("memory", "kept"), [(1 << 40, 1 << 30), (2 << 30, 1 << 28), (None, 1 << 28)])
@recycles
def test_the_default_is_a_share_of_the_memory(unset, memory, kept):
    unset.setattr(results, "usable_memory", lambda: memory)
    assert results.keep() == kept


@recycles
def test_a_limit_that_is_asked_for_is_not_reduced(unset):
    unset.setattr(results, "usable_memory", lambda: 1 << 30)
    unset.setenv(results.VARIABLE, "3000")
    assert results.keep() == 3000 << 20


def test_the_limit_of_a_container_counts(unset, tmp_path):
    everything = results.usable_memory()
    (tmp_path / "limit").write_text("12345678\n")
    (tmp_path / "unlimited").write_text("max\n")
    names = [str(tmp_path / name) for name in ("absent", "unlimited", "limit")]
    unset.setattr(results, "CGROUP_LIMITS", names)
    assert results.usable_memory() == (None if everything is None else 12345678)
    unset.delattr(os, "sysconf", raising=False)
    assert results.usable_memory() is None


def test_memory_is_kept_by_the_builds_of_python_that_have_the_lock():
    has_lock = sys.implementation.name == "cpython" and "t" not in sys.abiflags
    assert results.counts_are_exact() == has_lock
    assert has_lock or results.keep() == 0


@pytest.mark.parametrize(
    "otherwise",
    [
        "import sysconfig; sysconfig.get_config_vars()['Py_GIL_DISABLED'] = 1",
        "del sys.getrefcount; sys.implementation.name = 'pypy'",
    ],
)
def test_no_memory_is_kept_where_reference_counts_prove_nothing(otherwise, monkeypatch):
    monkeypatch.setenv(results.VARIABLE, "100")
    program = f"""
import sys
import numpy as np
{otherwise}
from xent_numba.results import empty_like, keep
print(empty_like(np.zeros(1 << 22)).base, keep())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "None 0\n"


@pytest.mark.parametrize("value", ["not a number", "1.5", "-1"])
def test_an_invalid_variable_is_refused_where_it_is_needed(monkeypatch, value):
    monkeypatch.setenv(results.VARIABLE, value)
    results.keep.cache_clear()
    results.empty_like(np.zeros(3))
    with pytest.raises(ValueError, match=rf"^XENT_NUMBA_KEEP = '{value}' must be a whole number of MiB"):
        results.empty_like(np.zeros(LARGE))
    monkeypatch.undo()
    results.keep.cache_clear()
