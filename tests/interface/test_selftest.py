"""A Numba that has changed inside, or that cannot even be imported: what is found, what is said, what goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import xent_numba as xn
from xent_numba.backends import diagnosis, registry
from xent_numba.backends.cpu import selftest
from xent_numba.backends.cpu.compile import cache
from xent_numba.backends.cpu.compile.numba_private import CompileResultCacheImpl
from xent_numba.backends.cpu.runtime import parallel_for, threads
from xent_numba.cli.errors import compiler_failure, is_compiler_failure
from xent_numba.tested import NUMBA, NUMPY

ROOT = Path(__file__).parents[2]
NEXT = registry.AUTO[1]  # what "auto" takes where `cpu` cannot run
PIP = f'pip install "numba>={NUMBA[0]},<={NUMBA[1]}" "numpy>={NUMPY[0]},<={NUMPY[1]}"'

# What users see where the cpu backend cannot run: of each way to ask, the words.
SEEN = """
import contextlib, io, json, sys, warnings
import numpy as np
import xent_numba as xn
from xent_numba.cli import main

def command(*line):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(line)
    return {"status": status, "out": out.getvalue(), "err": err.getvalue()}

def error(call):
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"

def seen():
    found = {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found["loss"] = [float(xn.cross_entropy([[0.0, 0.0]], [0])) for _ in range(3)]
        xn.show_config(file=io.StringIO())
        xn.set_backend("auto")
        found["runs on"] = registry.select().name
        found["warnings"] = [[w.category.__name__, str(w.message), w.filename] for w in caught]
        found["by name"] = error(lambda: xn.cross_entropy([[0.0, 0.0]], [0], backend="cpu"))
        found["set"] = error(lambda: xn.set_backend("cpu"))
        found["use"] = error(lambda: xn.use_backend("cpu").__enter__())
        found["available"] = {name: str(answer) for name, answer in xn.available_backends().items()}
        found["info"] = command("info")
        found["plan"] = command("info", "--shape", "2", "3")
        found["file"] = command("loss", "x.npy", "y.npy", "--backend", "cpu")
    return found

np.save("x.npy", np.zeros((2, 3), np.float32))
np.save("y.npy", np.zeros(2, int))
from xent_numba.backends import registry
registry.AUTO = ("cpu", "numpy")  # which compile nothing here
"""

MISSING_NAME = """
import numba.core.caching
numba.__version__ = "0.99.0"
del numba.core.caching.CompileResultCacheImpl  # which nothing in Numba looks up by its name once it is imported
print(json.dumps(seen()))
"""

# Only for the compiler of this package: as a release would look whose own compilers know of the new argument.
CHANGED_SIGNATURE = """
import os
from numba.core.compiler import CompilerBase
from numba.core.typed_passes import NativeLowering

init = CompilerBase.__init__
def changed(self, *args):
    if type(self).__name__ == "_InlineCompiler":
        raise TypeError("CompilerBase.__init__() missing 1 required positional argument: 'target'")
    init(self, *args)

CompilerBase.__init__ = changed
found = {"changed": seen(), "notes": os.listdir("cache/xent_numba")}

# The self-test has passed, and the compiler fails later.
CompilerBase.__init__ = init
from xent_numba.backends.cpu import selftest
selftest._found.clear()
registry._ready.clear()
found["again"] = str(xn.available_backends()["cpu"])
found["files"] = os.listdir("cache/xent_numba")

def broken(self, state):
    raise TypeError("run_pass() has no argument 'logits'")

NativeLowering.run_pass = broken
found["loss"] = command("loss", "x.npy", "y.npy", "--backend", "cpu")
found["traceback"] = command("--traceback", "loss", "x.npy", "y.npy", "--backend", "cpu")
try:
    xn.softmax(np.zeros((2, 3)), backend="cpu")
except TypeError as error:
    found["notes of the error"] = error.__notes__
print(json.dumps(found))
"""


def run(program: str, folder: Path) -> dict:
    """What a program finds in a process of its own, without the cache of the tests."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "XENT_NUMBA_CACHE_DIR": str(folder / "cache")}
    env.pop("XENT_NUMBA_BACKEND", None)
    done = subprocess.run(
        [sys.executable, "-c", SEEN + program], cwd=folder, env=env, capture_output=True, text=True, timeout=240
    )
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def check_seen(found: dict, *words: str) -> None:
    """The true reason, the tested versions and the remedy, wherever a user may look, and numbers that are right."""
    words = (*words, " ".join((NUMBA[0], "to", NUMBA[1])), PIP)
    ((category, warning, where),) = found["warnings"]  # once, of six calls
    assert (category, where) == ("RuntimeWarning", "<string>")
    assert f"backend 'auto' computes with {found['runs on']!r}" in warning
    assert "slower" in warning
    assert f"XENT_NUMBA_BACKEND={found['runs on']} " in warning
    shown = [warning, found["by name"], found["set"], found["use"], found["available"]["cpu"]]
    for text in (*shown, found["info"]["out"], found["plan"]["out"], found["file"]["err"]):
        for word in words:
            assert word in text
        assert "install numba" not in text
    for text in (found["by name"], found["set"], found["use"]):
        assert text.startswith("RuntimeError: backend 'cpu' cannot run here: ")
    assert [found[name]["status"] for name in ("info", "plan", "file")] == [0, 0, 2]
    assert found["file"]["err"].count("\n") == 1
    assert ".npy" not in found["file"]["err"]
    assert found["loss"] == pytest.approx([np.log(2)] * 3)


def test_a_private_name_that_is_missing(tmp_path: Path) -> None:
    found = run(MISSING_NAME, tmp_path)
    check_seen(found, "ImportError: cannot import name 'CompileResultCacheImpl'", "numba 0.99.0")


def test_a_changed_signature_and_a_compiler_that_fails_later(tmp_path: Path) -> None:
    found = run(CHANGED_SIGNATURE, tmp_path)
    check_seen(found["changed"], "self-test", "TypeError: CompilerBase.__init__() missing 1 required", "'target'")
    assert found["notes"] == []
    assert found["again"] == "yes"
    (note,) = found["files"]
    assert note.endswith(".passed")
    for how in ("loss", "traceback"):
        assert found[how]["status"] == 3
        last = found[how]["err"].splitlines()[-1]
        assert last.startswith("xent-numba: error: backend 'cpu' failed inside Numba, which is no mistake in the files")
        for words in ("TypeError: run_pass() has no argument 'logits'", f"{NUMBA[0]} to {NUMBA[1]}", "--backend numpy"):
            assert words in last
        assert ".npy:" not in last
    assert found["loss"]["err"].count("\n") == 1
    assert found["loss"]["err"].endswith("xent-numba --traceback loss x.npy y.npy --backend cpu\n")
    assert "Traceback (most recent call last):" in found["traceback"]["err"]
    (text,) = found["notes of the error"]
    assert PIP in text


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[pytest.MonkeyPatch]:
    """A process whose self-test and whose warning are still to come, with an empty cache."""
    monkeypatch.setattr(selftest, "_found", [])
    monkeypatch.setattr(registry, "_ready", {})
    monkeypatch.setattr(diagnosis, "_warned", {})
    monkeypatch.setattr(registry, "_default", "auto")
    monkeypatch.setattr(cache, "directory", lambda: tmp_path)
    yield monkeypatch
    cache._package_digest.cache_clear()  # of versions that a test has made up


def test_wrong_results(fresh: pytest.MonkeyPatch, tmp_path: Path) -> None:
    loop = parallel_for.for_range
    fresh.setattr(parallel_for, "for_range", lambda builder, n: loop(builder, builder.sub(n, n.type(1))))
    with pytest.warns(RuntimeWarning, match=r"a kernel, compiled, computes \[84.0, 0.0\] instead of \[84.0, 596.0\]"):
        assert registry.select().name == NEXT
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", ["raises", "finds nothing"])
def test_a_cache_that_does_not_give_back_what_was_stored(how: str, fresh: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def rebuild(self: object, context: object, content: object) -> None:
        if how == "raises":
            raise AttributeError("no attribute '_rebuild'")

    fresh.setattr(CompileResultCacheImpl, "rebuild", rebuild)
    words = "AttributeError: no attribute '_rebuild'" if how == "raises" else "a compiled kernel cannot be loaded"
    with pytest.raises(RuntimeError, match=words):
        xn.set_backend("cpu")
    assert list(tmp_path.iterdir()) == []


def test_tested_once_for_each_version(fresh: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tested = []
    fresh.setattr(selftest, "_problem", lambda: tested.append(dict(cache.VERSIONS)))

    def first_call() -> None:
        cache._package_digest.cache_clear()  # as in a new process
        selftest._found.clear()
        assert selftest.why_not() is None

    for version in ("0.99.0", "0.99.0", "0.50.0", "0.99.0"):
        fresh.setitem(cache.VERSIONS, "numba", version)
        first_call()
    assert [versions["numba"] for versions in tested] == ["0.99.0", "0.50.0"]
    for where, name in ((cache, "__version__"), (cache.numba.config, "CPU_NAME"), (cache.np, "__version__")):
        fresh.setattr(where, name, "another")
        first_call()
        first_call()
    assert len(tested) == 5
    assert len(list(tmp_path.iterdir())) == 5


@pytest.mark.parametrize("where", [None, "a file"])
def test_without_a_place_to_remember_it_is_tested_in_memory(
    where: str | None, fresh: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "a file").write_text("")
    fresh.setattr(cache, "directory", lambda: where and tmp_path / where)
    for _ in range(2):
        selftest._found.clear()
        assert selftest.why_not() is None
        assert not cache.has_passed()


def test_a_private_name_that_only_the_note_of_a_pass_needs(fresh: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def target_processor() -> None:
        raise AttributeError("'JITCPUCodegen' object has no attribute 'magic_tuple'")

    fresh.setattr(cache, "target_processor", target_processor)
    with pytest.warns(RuntimeWarning, match=r"failed \(AttributeError: 'JITCPUCodegen' object has no attribute"):
        assert registry.select().name == NEXT


def test_a_cache_that_would_store_nothing(fresh: pytest.MonkeyPatch) -> None:
    """Each process would compile everything again, without a word."""
    fresh.setattr(CompileResultCacheImpl, "check_cachable", lambda self, data: False)
    assert "a compiled kernel cannot be loaded" in str(selftest.why_not())


def test_numba_that_is_told_to_compile_nothing(fresh: pytest.MonkeyPatch) -> None:
    fresh.setenv("NUMBA_DISABLE_JIT", "1")
    with pytest.warns(RuntimeWarning, match="NUMBA_DISABLE_JIT is set, so numba compiles nothing; unset it"):
        assert registry.select().name == "numpy"
    fresh.setenv("NUMBA_DISABLE_JIT", "0")
    assert xn.available_backends()["cpu"]


def test_threads_that_cannot_be_started(fresh: pytest.MonkeyPatch) -> None:
    """Results have the same bits on one thread, so the calls go on."""

    def get_num_threads() -> None:
        raise ValueError("No threading layer could be loaded.\nHINT:\nIntel TBB is required")

    logits, target = np.zeros((512, 1000), np.float32), np.zeros(512, int)
    fresh.setattr(threads, "_failed", False)
    fresh.setattr(threads, "threads_started", lambda: False)
    fresh.setattr(cache.numba, "get_num_threads", get_num_threads)
    with pytest.warns(RuntimeWarning, match="uses only one: ValueError: No threading layer could be loaded. HINT") as w:
        xn.cross_entropy(logits, target, backend="cpu")
    assert [warning.filename for warning in w] == [__file__]
    xn.cross_entropy(logits, target, backend="cpu", n_threads=2)
    assert threads.thread_count(2) == 1


def test_numba_that_cannot_be_imported(fresh: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its own words are passed on; "install numba" would be no help, except where it is not there."""
    (tmp_path / "needs_older_numpy.py").write_text('raise ImportError("Numba needs NumPy 2.4 or less. Got NumPy 2.9.")')
    (tmp_path / "needs_numba.py").write_text('raise ModuleNotFoundError("No module named \'numba\'", name="numba")')
    (tmp_path / "needs_a_part.py").write_text("import numba.core.no_such_module")
    fresh.syspath_prepend(tmp_path)
    cpu = registry.IMPLEMENTATIONS["cpu"]
    for module, words in (
        ("needs_older_numpy", f"Numba needs NumPy 2.4 or less. Got NumPy 2.9.) with numba {cache.numba.__version__}, "),
        ("needs_a_part", "No module named 'numba.core.no_such_module') with numba"),
    ):
        fresh.setitem(registry.IMPLEMENTATIONS, "cpu", replace(cpu, module=module))
        reason = str(xn.available_backends()["cpu"])
        assert words in reason
        assert PIP in reason
        assert "install numba" not in reason
    fresh.setitem(registry.IMPLEMENTATIONS, "cpu", replace(cpu, module="needs_numba"))
    with pytest.warns(RuntimeWarning, match="numba is not installed; install numba: pip install numba"):
        assert registry.select().name == NEXT


def test_whose_failure_an_error_is() -> None:
    """One from inside Numba is that of the backend that called it; the versions are those of numba only where it is."""

    def raised(*modules: str) -> Exception:
        """A TypeError in the last of functions of these modules, each called by the one before it."""
        call: dict[str, object] = {}
        for module in reversed(modules):
            body = "inner()" if call else "raise TypeError('weight')"
            names = {"__name__": module, "inner": call.get("f")}
            exec(f"def f(): {body}", names)
            call = names
        with pytest.raises(TypeError) as caught:
            call["f"]()
        return caught.value

    own = raised("xent_numba.cli.loss", "xent_numba.backends.cpu.backend", "xent_numba.backends.cpu.arguments")
    assert not is_compiler_failure(own)
    assert compiler_failure(own, []) is None
    for backend, module, others in (
        ("cpu", "numba.core.compiler", registry.AUTO[1:]),
        ("cuda", "numba.cuda.dispatcher", registry.AUTO),
    ):
        error = raised("xent_numba.cli.loss", f"xent_numba.backends.{backend}.backend", module, "__main__")
        assert is_compiler_failure(error)
        said = compiler_failure(error, ["loss", "a file.npy"])
        assert said.startswith(
            f"backend '{backend}' failed inside Numba, which is no mistake in the files or options ("
        )
        assert (PIP in said) == (backend == "cpu")
        assert f"use --backend {' or --backend '.join(others)}; " in said
        assert said.endswith("for the traceback: xent-numba --traceback loss 'a file.npy'")


def test_backends_on_numba_say_what_was_tested() -> None:
    for name in set(registry.AUTO) - {"numpy"}:
        assert registry.IMPLEMENTATIONS[name].is_tested
    for name in registry.AUTO[1:]:
        assert "times slower" in registry.IMPLEMENTATIONS[name].pace


def test_threads_test_and_warn_once(fresh: pytest.MonkeyPatch) -> None:
    tested = []

    def outcome() -> str:
        tested.append(threading.get_ident())
        return "it failed; try another"

    fresh.setattr(selftest, "_outcome", outcome)
    barrier = threading.Barrier(8)

    def first_call(_: int) -> str:
        barrier.wait(60)
        return registry.select().name

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(first_call, range(8))) == {NEXT}
    assert len(tested) == 1
    assert len(caught) == 1


@pytest.mark.parametrize("kind", [MemoryError, RecursionError])
def test_what_only_one_call_lacks_is_not_held_against_numba(
    kind: type[Exception], fresh: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    problem = selftest._problem

    def fails() -> None:
        raise kind

    fresh.setattr(selftest, "_problem", fails)
    with pytest.raises(kind):
        registry.select()
    fresh.setattr(selftest, "_problem", problem)
    assert registry.select().name == "cpu"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_warning_that_is_an_error_leaves_the_backend_usable(fresh: pytest.MonkeyPatch) -> None:
    fresh.setattr(selftest, "_outcome", lambda: "it failed; try another")
    with pytest.raises(RuntimeWarning, match="it failed"):  # as these tests run
        registry.select()
    assert registry.select().name == NEXT


@pytest.mark.skipif(os.name == "nt", reason="Windows raises no SIGINT in a process")
def test_interrupted(fresh: pytest.MonkeyPatch) -> None:
    """Ctrl-C takes effect, and the test is complete all the same."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    fresh.setattr(selftest, "_problem", lambda: signal.raise_signal(signal.SIGINT))
    try:
        with pytest.raises(KeyboardInterrupt):
            registry.select()
    finally:
        signal.signal(signal.SIGINT, before)
    assert selftest._found == [None]
    assert registry.select().name == "cpu"
