"""The command line when something goes wrong: one line, an exit status, and no half-written file."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.support.cli import command, environment, left_over
from xent_numba.cli import files, main

POSIX = pytest.mark.skipif(os.name != "posix", reason="POSIX signals and limits")


# loss: mistakes


MISTAKES = [
    ("nowhere.npy target.npy", ["nowhere.npy", "No such file"]),
    (". target.npy", [": .:", "directory"]),
    ("text.npy target.npy", ["text.npy", "not a .npy file"]),
    ("empty.npy target.npy", ["empty.npy", "not a .npy file"]),
    ("short.npy target.npy", ["short.npy", "shorter"]),
    ("objects.npy target.npy", ["objects.npy", "Python objects"]),
    ("archive.npz target.npy", ["archive.npz", ".npz archive"]),
    ("swapped.npy target.npy", ["swapped.npy", "byte order"]),
    ("logits.npy single.npy", ["single.npy", "logits.npy", "(6,)", "(37, 6)"]),
    ("logits.npy bad.npy", ["bad.npy", "target[11] = 6", "6 classes"]),
    ("logits.npy target.npy --ignore-index none", ["target.npy", "target[4] = -100"]),
    ("logits.npy target.npy --weight target.npy", ["target.npy", "weight", "(37,)", "(6,)"]),
    ("logits.npy target.npy --weight nowhere.npy", ["nowhere.npy", "No such file"]),
    ("logits.npy target.npy --sample-weight weight.npy", ["weight.npy", "sample_weight", "(6,)", "(37,)"]),
    ("logits.npy target.npy --axis 2", ["logits.npy", "axis = 2"]),
    ("logits.npy target.npy --axis x", ["--axis", "'x'"]),
    ("logits.npy target.npy --label-smoothing 1.5", ["label_smoothing = 1.5"]),
    ("logits.npy target.npy --backend gpu", ["'gpu'", "numpy"]),
    ("logits.npy target.npy --reduction all", ["--reduction", "'all'"]),
    ("logits.npy target.npy --ignore-index one", ["--ignore-index", "'one'"]),
    ("logits.npy target.npy --ignore-index none --ignore-index 3", ["--ignore-index none"]),
    ("logits.npy target.npy --rows rows.npy", ["rows.npy", "--reduction none"]),
    ("logits.npy target.npy --grad2 out.npy", ["--grad2"]),
    ("logits.npy", ["TARGETS.npy"]),
]


@pytest.mark.parametrize(("line", "words"), MISTAKES, ids=[line for line, _ in MISTAKES])
@pytest.mark.usefixtures("data")
def test_a_mistake_is_one_line(
    line: str, words: list[str], data: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("text.npy").write_text("1.0, 2.0\n" * 20)
    Path("empty.npy").write_bytes(b"")
    Path("short.npy").write_bytes(Path("logits.npy").read_bytes()[:-1])
    np.save("objects.npy", np.array([{}, None]), allow_pickle=True)
    np.savez("archive.npz", data["logits"])
    np.save("swapped.npy", data["logits"].astype(data["logits"].dtype.newbyteorder()))
    Path("out.npy").write_bytes(b"before")
    try:
        status = main(["loss", *line.split(), "--grad", "out.npy"])
    except SystemExit as error:  # from argparse
        status = error.code
    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert err.startswith("xent-numba")
    for word in words:
        assert word in err
    assert Path("out.npy").read_bytes() == b"before"
    assert sorted(left_over(Path())) == ["archive.npz"]


def test_a_mistake_in_a_process(data: dict[str, np.ndarray]) -> None:
    line = command("loss", "logits.npy", "bad.npy", "--grad", "out.npy")
    done = subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr
        == "xent-numba: error: bad.npy: target[11] = 6 is out of range for 6 classes (ignore_index = -100)\n"
    )
    assert not Path("out.npy").exists()
    assert left_over(Path()) == []


@pytest.mark.usefixtures("data")
@pytest.mark.parametrize("output", ["--grad", "--rows"])
def test_an_output_is_never_an_input(output: str, capsys: pytest.CaptureFixture[str]) -> None:
    os.link("logits.npy", "hard.npy")
    os.symlink("target.npy", "soft.npy")
    line = ["loss", "logits.npy", "target.npy", "--reduction", "none", output]
    before = {name: Path(name).read_bytes() for name in ("logits.npy", "target.npy")}
    for name in ("logits.npy", "target.npy", "./logits.npy", "hard.npy", "soft.npy"):
        assert main([*line, name]) == 2
        assert name in capsys.readouterr().err
    assert before == {name: Path(name).read_bytes() for name in before}
    assert main("loss logits.npy target.npy --reduction none --grad new.npy --rows ./new.npy".split()) == 2


@pytest.mark.usefixtures("data")
def test_an_output_that_cannot_be(capsys: pytest.CaptureFixture[str]) -> None:
    Path("folder").mkdir()
    for name, words in (
        ("folder", "not a regular file"),
        (os.devnull, "not a regular file"),
        ("no/out.npy", "No such"),
    ):
        assert main(["loss", "logits.npy", "target.npy", "--grad", name]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith(f"xent-numba: error: {name}: ")
        assert words in err
    assert left_over(Path()) == ["folder"]


@POSIX
@pytest.mark.parametrize("output", ["--grad", "--rows"])
def test_a_full_disk(output: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((20_000, 2), np.float32))
    np.save(tmp_path / "y.npy", np.zeros(20_000, int))
    limit = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000));"
    program = limit + "from xent_numba.cli import main; sys.exit(main(sys.argv[1:]))"
    line = ["loss", "x.npy", "y.npy", "--reduction", "none", "--json", output, "out.npy"]
    done = subprocess.run(
        [sys.executable, "-c", program, *line],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("xent-numba: error: out.npy: ")
    assert done.stderr.count("\n") == 1
    assert sorted(os.listdir(tmp_path)) == ["x.npy", "y.npy"]


@POSIX
@pytest.mark.usefixtures("data")
def test_a_replaced_file_keeps_its_permissions_and_its_links() -> None:
    Path("real.npy").write_bytes(b"before")
    Path("real.npy").chmod(0o640)
    os.symlink("real.npy", "link.npy")
    assert main("loss logits.npy target.npy --grad link.npy".split()) == 0
    assert Path("link.npy").is_symlink()
    assert stat.S_IMODE(Path("real.npy").stat().st_mode) == 0o640
    assert np.load("real.npy").shape == (37, 6)


HEADER = "{{'descr': '<f8', 'fortran_order': False, 'shape': {}}}\n"
SHAPES = ("(-4, 3)", f"({2**70}, 3)", f"({2**62}, 3)", "(True, 3)", "(4, 3", "(1e400,)", "4", f"({'1,' * 70})")
NO_HEADERS = ("", "{", "[1]", "'''", "garbage \0", "'" + "a" * 20_000 + "'", "-" * 9_000 + "1")


@pytest.mark.parametrize("header", [*map(HEADER.format, SHAPES), *NO_HEADERS], ids=lambda header: ascii(header[-40:]))
@pytest.mark.usefixtures("data")
def test_a_header_that_cannot_be(header: str, capfd: pytest.CaptureFixture[str]) -> None:
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
    Path("absurd.npy").write_bytes(data + bytes(96))
    assert main(["loss", "absurd.npy", "target.npy"]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("xent-numba: error: absurd.npy: a .npy file with an invalid header (")
    assert err.count("\n") == 1
    assert len(err) < 250


# loss: interrupted


@POSIX
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("existing", [False, True])
def test_a_signal_leaves_no_half_written_output(
    number: signal.Signals, status: int, existing: bool, tmp_path: Path
) -> None:
    np.save(tmp_path / "x.npy", np.zeros((200_000, 4), np.float32))
    np.save(tmp_path / "y.npy", np.zeros(200_000, int))
    if existing:
        (tmp_path / "out.npy").write_bytes(b"before")
    # One row at a time: that takes long enough to be met in the middle.
    line = command("loss", "x.npy", "y.npy", "--grad", "out.npy", "--block-bytes", 1)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    # Ctrl-C does what it does at a terminal, even where these tests are a shell's background job, which ignores it.
    with subprocess.Popen(line, cwd=tmp_path, env=environment(), preexec_fn=_at_a_terminal, **pipes) as process:
        deadline = time.monotonic() + 60
        while not _has_begun(tmp_path) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert process.poll() is None
        assert (tmp_path / "out.npy").exists() == existing
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (status, b"", b"")
    assert sorted(os.listdir(tmp_path)) == (["out.npy"] if existing else []) + ["x.npy", "y.npy"]
    if existing:
        assert (tmp_path / "out.npy").read_bytes() == b"before"


def _at_a_terminal() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _has_begun(folder: Path) -> bool:
    """Whether the temporary file holds a part of the gradient."""
    for path in folder.glob(".out.npy.*.tmp"):
        data = path.read_bytes()[128:]
        return any(data)
    return False


@POSIX
def test_a_reader_that_leaves_early_is_no_error(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((100_000, 2)))
    np.save(tmp_path / "y.npy", np.zeros(100_000, int))
    line = command("loss", tmp_path / "x.npy", tmp_path / "y.npy", "--reduction", "none")
    with subprocess.Popen(line, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 141


def test_temporary_file_is_where_replacing_is_one_step(tmp_path: Path) -> None:
    with files.replacing(str(tmp_path / "out.npy")) as temporary:
        assert temporary is not None
        assert Path(temporary).parent == tmp_path
        assert not (tmp_path / "out.npy").exists()
    assert os.listdir(tmp_path) == ["out.npy"]
