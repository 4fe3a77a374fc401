"""Compiled functions on disk: used by the next process, and never in the way, whatever state the disk is in."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TIMEOUT = 240  # of a machine that does much else
OFF = ("XENT_NUMBA_CACHE_DIR", "NUMBA_CACHE_DIR", "XDG_CACHE_HOME", "XENT_NUMBA_BACKEND", "NUMBA_BOUNDSCHECK")

# One kernel, quick to compile; everything that Python has to warn of is an error, and the tests see what is printed.
PROGRAM = """
import json
import numpy as np
import xent_numba as xn
value = xn.logsumexp(np.linspace(-3, 3, 600).reshape(2, 300), backend="cpu")
from xent_numba.backends.cpu import selftest
from xent_numba.backends.cpu.compile import cache
from xent_numba.backends.cpu.regimes import softmax
hits = sum(softmax.softmax_long.stats.cache_hits.values())
directory = cache.directory()
found = {"value": value.tolist(), "hits": hits, "directory": directory and str(directory)}
print(json.dumps(found | {"tested": len(selftest._row.overloads)}))
"""
# The same by a kernel of its own, compiled in a tenth of the time: for what happens to any kernel.
SMALL = """
import json
import math
import numpy as np
from xent_numba.backends.cpu.compile import cache
from xent_numba.backends.cpu.compile.kernel import kernel

@kernel
def logsumexp(row):
    total = 0.0
    for x in row:
        total += math.exp(x)
    return math.log(total)

value = [logsumexp("a row", row) for row in np.linspace(-3, 3, 600).reshape(2, 300)]
hits = sum(logsumexp.stats.cache_hits.values())
directory = cache.directory()
print(json.dumps({"value": value, "hits": hits, "directory": directory and str(directory)}))
"""
VALUES = [4.55269049, 7.55769884]  # of −3 … 0 and of 0 … 3, by SciPy


def start(home: Path, program: str = PROGRAM, *, install: Path = ROOT, **environment: str | None) -> subprocess.Popen:
    env = {name: value for name, value in os.environ.items() if name not in OFF}
    env |= {"HOME": str(home), "PYTHONPATH": str(install), "PYTHONDONTWRITEBYTECODE": "1"}
    for name, value in environment.items():
        env.pop(name, None)
        if value is not None:
            env[name] = value
    command = [sys.executable, "-W", "error", "-c", program]
    return subprocess.Popen(command, cwd=home, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def outcome(process: subprocess.Popen) -> dict:
    """What it found, once the result is seen to be right and nothing else was printed."""
    with process:  # which waits for it and closes its pipes
        try:
            out, errors = process.communicate(timeout=TIMEOUT)
        finally:
            process.kill()
    assert (process.returncode, errors) == (0, "")
    found = json.loads(out)
    assert found["value"] == pytest.approx(VALUES, abs=1e-6)
    return found


def run(home: Path, program: str = PROGRAM, *, install: Path = ROOT, **environment: str | None) -> dict:
    return outcome(start(home, program, install=install, **environment))


def files(directory: Path | str) -> list[Path]:
    """Compiled functions in a cache, which has nothing else in it but notes of self-tests that have passed."""
    everything = sorted(Path(directory).rglob("*"))
    kept = [path for path in everything if path.is_file() and (path.suffix != ".passed" or path.stat().st_size)]
    assert all(path.suffix == ".nbc" for path in kept), kept
    return kept


@pytest.fixture(scope="module")
def warm(tmp_path_factory) -> Path:
    """A directory with the kernel of `PROGRAM` in it, to be copied and damaged."""
    home = tmp_path_factory.mktemp("warm")
    found = run(home, XENT_NUMBA_CACHE_DIR=str(home / "cache"))
    assert (found["hits"], found["tested"]) == (0, 1)
    assert len(files(found["directory"])) == 1
    return home / "cache"


@pytest.fixture
def copy(warm: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(warm, tmp_path / "cache"))


def test_the_second_process_compiles_nothing(copy: Path, tmp_path: Path) -> None:
    before = [(path, path.stat().st_mtime_ns) for path in files(copy)]
    found = run(tmp_path, XENT_NUMBA_CACHE_DIR=str(copy))
    assert (found["hits"], found["tested"]) == (1, 0)
    assert [(path, path.stat().st_mtime_ns) for path in files(copy)] == before


@pytest.mark.skipif(sys.platform != "linux", reason="where the user's cache is differs")
def test_on_by_default_in_the_users_cache(copy: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(copy, home / ".cache")
    found = run(home)
    assert found["directory"] == str(home / ".cache" / "xent_numba")
    assert found["hits"] == 1


def test_the_directory_is_made_for_its_user_alone(warm: Path) -> None:
    if os.name == "nt":
        pytest.skip("Windows has no permission bits")
    assert stat.S_IMODE((warm / "xent_numba").stat().st_mode) == 0o700


READ_ONLY = """
import errno, tempfile
def refuse(*args, **kwargs):
    raise OSError(errno.EROFS, "Read-only file system")
tempfile.mkstemp = tempfile.TemporaryFile = refuse
"""  # for no mode of a directory keeps root from writing


def test_a_directory_to_read_only(copy: Path, tmp_path: Path) -> None:
    (copy / "xent_numba").chmod(0o555)
    found = run(tmp_path, READ_ONLY + PROGRAM, XENT_NUMBA_CACHE_DIR=str(copy))
    (copy / "xent_numba").chmod(0o700)
    assert (found["hits"], found["directory"]) == (1, str(copy / "xent_numba"))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no permission bits")
@pytest.mark.parametrize("mode", [0o777, 0o770, 0o755])
def test_a_directory_that_others_can_write_to_is_not_trusted(mode: int, copy: Path, tmp_path: Path) -> None:
    (copy / "xent_numba").chmod(mode)
    assert run(tmp_path, XENT_NUMBA_CACHE_DIR=str(copy))["hits"] == (mode == 0o755)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no user numbers")
def test_a_directory_of_another_user_is_not_trusted_unless_of_root(copy: Path, tmp_path: Path) -> None:
    other = f"import os\nos.getuid = lambda: {os.getuid() + 1}\n"
    found = run(tmp_path, other + PROGRAM, XENT_NUMBA_CACHE_DIR=str(copy))
    assert found["hits"] == (os.getuid() == 0)


def test_half_written_files_of_long_ago_are_removed(tmp_path: Path) -> None:
    home = tmp_path / "cache" / "xent_numba"
    home.mkdir(mode=0o700, parents=True)
    old, new = home / "long-1.tmp", home / "long-2.tmp"
    for path in (old, new):
        path.write_text("")
    os.utime(old, (time.time() - 4000,) * 2)
    run(tmp_path, SMALL, XENT_NUMBA_CACHE_DIR=str(home.parent))
    assert not old.exists()
    assert new.exists()


def test_numbas_own_variable_counts_after_ours(copy: Path, tmp_path: Path) -> None:
    assert run(tmp_path, NUMBA_CACHE_DIR=str(copy), XENT_NUMBA_CACHE_DIR=None)["hits"] == 1


def test_an_empty_variable_turns_it_off(copy: Path, tmp_path: Path) -> None:
    found = run(tmp_path, SMALL, NUMBA_CACHE_DIR=str(copy), XDG_CACHE_HOME=str(copy), XENT_NUMBA_CACHE_DIR="")
    assert (found["hits"], found["directory"]) == (0, None)
    assert len(files(copy)) == 1


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    """A file stands where it should be: so that no user, not even root, can write there."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    found = run(blocked.parent, SMALL, XENT_NUMBA_CACHE_DIR=str(blocked), NUMBA_CACHE_DIR=str(tmp_path / "numba"))
    assert found["directory"] is None  # who names a directory wants that one or none
    assert sorted(tmp_path.iterdir()) == [blocked]


def test_a_home_that_does_not_exist(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert run(tmp_path, SMALL, HOME=str(blocked / "home"))["directory"] is None


def test_no_home_at_all(tmp_path: Path) -> None:
    """As in a container that runs under a number without a name."""
    nobody = """
try:
    import pwd
except ImportError:
    pass
else:
    def getpwuid(uid):
        raise KeyError(uid)
    pwd.getpwuid = getpwuid
"""
    found = run(tmp_path, nobody + SMALL, HOME=None, USERPROFILE=None, LOCALAPPDATA=None)
    assert found["directory"] is None


def test_a_full_disk(tmp_path: Path) -> None:
    pytest.importorskip("resource")
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
    found = run(tmp_path, full + SMALL, XENT_NUMBA_CACHE_DIR=str(tmp_path / "cache"))
    assert found["directory"] is not None
    assert files(found["directory"]) == []


def test_a_read_only_install(copy: Path, tmp_path: Path) -> None:
    install = tmp_path / "install"
    package = shutil.copytree(ROOT / "xent_numba", install / "xent_numba", ignore=shutil.ignore_patterns("__pycache__"))
    everything = [install, *sorted(install.rglob("*"))]
    for path in reversed(everything):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        # The same sources, so what the checkout compiled serves the copy.
        assert run(tmp_path, install=install, XENT_NUMBA_CACHE_DIR=str(copy))["hits"] == 1
        assert [install, *sorted(install.rglob("*"))] == everything  # root may write anywhere, but must not here
    finally:
        for path in everything:
            if path.is_dir():
                path.chmod(0o755)
    assert package.is_dir()


@pytest.mark.parametrize("damage", ["short", "changed"])
def test_damaged_files_are_compiled_again(damage: str, copy: Path, tmp_path: Path) -> None:
    (path,) = files(copy)
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(content[:middle] + (bytes(64) + content[middle + 64 :] if damage == "changed" else b""))
    assert run(tmp_path, XENT_NUMBA_CACHE_DIR=str(copy))["hits"] == 0
    (path,) = files(copy)
    assert path.stat().st_size > middle  # and mended


def test_first_runs_at_once(tmp_path: Path) -> None:
    processes = [start(tmp_path, SMALL, XENT_NUMBA_CACHE_DIR=str(tmp_path / "cache")) for _ in range(3)]
    try:
        found = [outcome(process) for process in processes]
    finally:
        for process in processes:
            with process:
                process.kill()
    assert len({json.dumps(each["value"]) for each in found}) == 1
    assert len(files(found[0]["directory"])) == 1


@pytest.fixture
def install(tmp_path: Path) -> Path:
    """A copy of the package that a test can change."""
    skip = shutil.ignore_patterns("__pycache__")
    return Path(shutil.copytree(ROOT / "xent_numba", tmp_path / "install" / "xent_numba", ignore=skip)).parent


def spoil(install: Path) -> None:
    """Make the polynomial of exp a wrong one."""
    path = install / "xent_numba" / "backends" / "cpu" / "simd" / "math.py"
    text, count = re.subn(
        r"^_EXP_COEFFICIENTS64 = \(.*?^\)$",
        lambda found: f"{found[0]}\n_EXP_COEFFICIENTS64 = tuple(2.0 * q for q in _EXP_COEFFICIENTS64)",
        path.read_text(encoding="utf-8"),
        flags=re.MULTILINE | re.DOTALL,
    )
    assert count == 1
    path.write_text(text, encoding="utf-8")


def test_a_changed_source_of_another_file_is_seen(install: Path, copy: Path, tmp_path: Path) -> None:
    """Numba itself looks at the file of the kernel alone; here the polynomial of exp changes, files away."""
    assert run(tmp_path, install=install, XENT_NUMBA_CACHE_DIR=str(copy))["hits"] == 1
    spoil(install)
    wrong = start(tmp_path, install=install, XENT_NUMBA_CACHE_DIR=str(copy))
    out, errors = wrong.communicate(timeout=TIMEOUT)
    assert (wrong.returncode, errors) == (0, "")
    found = json.loads(out)
    assert found["hits"] == 0
    assert found["value"] != pytest.approx(VALUES, abs=1e-6)
    assert len(files(copy)) == 2


def test_the_digest_covers_the_sources_of_every_folder(install: Path) -> None:
    from xent_numba.backends.cpu.compile.cache import _BACKEND, _sources_digest

    backend = install / "xent_numba" / "backends" / "cpu"
    unchanged = _sources_digest(backend)
    assert unchanged == _sources_digest(_BACKEND)
    sources = sorted(backend.rglob("*.py"))
    assert {source.parent.name for source in sources} >= {"cpu", "compile", "regimes", "row", "runtime", "simd"}
    for source in sources:
        text = source.read_bytes()
        source.write_bytes(text + b"# changed")
        assert _sources_digest(backend) != unchanged, source
        source.write_bytes(text)
    for folder in ("regimes", "row"):
        source = next(path for path in sources if path.parent.name == folder and path.name != "__init__.py")
        moved = source.rename(backend / "runtime" / source.name)
        assert _sources_digest(backend) != unchanged, source
        moved.rename(source)
    assert _sources_digest(backend) == unchanged


def test_a_source_changed_while_the_process_runs_is_not_kept(install: Path, tmp_path: Path) -> None:
    """What it compiles is of the sources it imported; kept now, it would be taken for that of the new ones."""
    path = str(install / "xent_numba" / "backends" / "cpu" / "simd" / "math.py")
    change = f"import xent_numba.backends.cpu.backend\nwith open({path!r}, 'a') as file:\n    file.write('# changed')\n"
    found = run(tmp_path, change + SMALL, install=install, XENT_NUMBA_CACHE_DIR=str(tmp_path / "cache"))
    assert files(found["directory"]) == []
