"""Memory of large results: used again when nobody holds it, and never before."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading

import numpy as np
import pytest

import xent_numba as xn
from xent_numba import results

LARGE = (64, 1 << 16)


@pytest.fixture(autouse=True)
def nothing_waits():
    results._waiting.clear()
    yield
    gc.collect()
    results._waiting.clear()


def address(array):
    return array.__array_interface__["data"][0]


@pytest.mark.parametrize("function", [xn.softmax, lambda x: xn.cross_entropy_and_grad(x, np.zeros(len(x), int))[1]])
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
    monkeypatch.setattr(results, "KEEP", 2 * x.nbytes + 1000)
    held = [xn.softmax(x) for _ in range(5)]
    del held
    assert len(results._waiting) == 2
    monkeypatch.setattr(results, "KEEP", 0)
    assert results.empty_like(x).base is None


def test_of_the_kind_of_the_logits():
    x = np.zeros(LARGE, np.float32)
    for array in (x.T, x[:, ::2], np.zeros((300, 70_000), np.float16), np.zeros((70, 1 << 15))):
        made = results.empty_like(array)
        like = np.empty_like(array)
        assert (made.shape, made.dtype, made.strides) == (like.shape, like.dtype, like.strides)
        assert made.flags.writeable


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


def test_the_variable_turns_it_off(monkeypatch):
    program = "import numpy as np; from xent_numba.results import empty_like; print(empty_like(np.zeros(1 << 24)).base)"
    for value in ("0", "not a number"):
        monkeypatch.setenv(results.VARIABLE, value)
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert (done.stdout == "None\n") == (value == "0")
