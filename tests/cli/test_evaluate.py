"""`xent-numba evaluate`: the numbers of the library, from files of every kind, and one line where files do not fit."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import xent_numba as xn
from tests.support.cli import command, environment
from xent_numba.cli import arguments, arrays, main, progress

FIELDS = ("log_prob", "entropy", "argmax", "rank", "logsumexp")


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, np.ndarray]]:
    """Logits, labels and weights of 3 sequences of 5 places and 7 classes, each also in NAME.npy of this folder."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(3)
    target = rng.integers(0, 7, (3, 5))
    target[1, 2] = -100
    found = {
        "logits": rng.normal(scale=2, size=(3, 5, 7)).astype(np.float32),
        "target": target,
        "weight": rng.uniform(0, 2, (3, 5)),
        "first": np.array([[0, 1, 2, 3, 4]]),
    }
    found["half"] = found["logits"].astype(np.float16)
    found["channels"] = np.ascontiguousarray(np.moveaxis(found["logits"], -1, 1))
    found["bad"] = np.where(np.arange(15).reshape(3, 5) == 7, 9, target)
    for name, array in found.items():
        np.save(f"{name}.npy", array)
    with xn.use_backend("numpy"):
        yield found


def evaluated(line: str, capsys: pytest.CaptureFixture[str]) -> xn.Evaluation:
    """What the command prints with --json."""
    assert main(["evaluate", *line.split(), "--json"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    found = json.loads(printed.out)
    accuracy = {int(k): value for k, value in found["accuracy"].items()}
    return xn.Evaluation(**{**{name: found[name] for name in xn.Evaluation._fields}, "accuracy": accuracy})


def close(found: xn.Evaluation, expected: xn.Evaluation) -> None:
    for name in ("loss", "perplexity", "bits", "entropy"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-14), name
    assert found.accuracy == pytest.approx(expected.accuracy, rel=1e-14)
    assert found.n_rows == expected.n_rows


CASES: dict[str, tuple[str, dict[str, object]]] = {
    "plain": ("logits.npy target.npy", {}),
    "float16": ("half.npy target.npy", {"logits": "half"}),
    "axis": ("channels.npy target.npy --axis 1", {"logits": "channels", "axis": 1}),
    "top-k": ("logits.npy target.npy --top-k 3 7", {"top_k": (3, 7)}),
    "weight": ("logits.npy target.npy --sample-weight weight.npy", {"sample_weight": "weight"}),
    "ignore": ("logits.npy target.npy --ignore-index -100 --ignore-index 2", {"ignore_index": (-100, 2)}),
    "scale": ("logits.npy target.npy --logit-scale 0.5 --softcap 2", {"logit_scale": 0.5, "softcap": 2.0}),
    "threads": ("logits.npy target.npy --n-threads 1", {"n_threads": 1}),
}


@pytest.mark.parametrize("block_bytes", [1, 150, arguments.BLOCK_BYTES])
@pytest.mark.parametrize("case", CASES)
def test_the_numbers_are_those_of_the_library(
    case: str, block_bytes: int, data: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    line, given = CASES[case]
    options = {"logits": "logits", "target": "target", **given}
    expected = xn.evaluate(**{key: data[value] if isinstance(value, str) else value for key, value in options.items()})
    close(evaluated(f"{line} --block-bytes {block_bytes}", capsys), expected)


def test_what_is_printed(data: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]) -> None:
    assert main("evaluate logits.npy target.npy".split()) == 0
    printed = [re.split(r"  +", line) for line in capsys.readouterr().out.splitlines()]
    found = xn.evaluate(data["logits"], data["target"])
    names = ["loss", "perplexity", "bits", "entropy", "top-1 accuracy", "top-5 accuracy", "rows"]
    values = [found.loss, found.perplexity, found.bits, found.entropy, *found.accuracy.values(), found.n_rows]
    assert printed == [[name, f"{value:.6g}"] for name, value in zip(names, values, strict=True)]


def test_json(data: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]) -> None:
    assert main("evaluate logits.npy target.npy half.npy target.npy --json".split()) == 0
    found = json.loads(capsys.readouterr().out)
    named = re.findall(r"with the keys ([\w, \n]+)\.", arguments._EVALUATE_END)[0]
    assert list(found) == re.findall(r"\b(?!and\b)\w+", named)
    shard = {"logits": "logits.npy", "target": "target.npy", "shape": [3, 5, 7], "axis": 2, "dtype": "float32"}
    assert found["shards"] == [shard, {**shard, "logits": "half.npy", "dtype": "float16"}]
    assert (found["backend"], found["rows"], found["shift"]) == ("numpy", None, False)
    np.save("unlikely.npy", np.array([[0.0, -np.inf]]))
    np.save("one.npy", [1])
    assert main("evaluate unlikely.npy one.npy --json".split()) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["loss"], found["perplexity"], found["accuracy"]) == ("Infinity", "Infinity", {"1": 0.0})
    assert main("evaluate unlikely.npy one.npy --json --ignore-index 1".split()) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["loss"], found["accuracy"], found["n_rows"]) == ("NaN", {"1": "NaN"}, 0)


# Several files


def test_shards_are_the_rows_of_one_data_set(data: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]) -> None:
    weight = data["weight"] * 2.0**1000  # which is scaled alike in all shards
    for i in range(3):
        np.save(f"x{i}.npy", data["logits"][i : i + 1])
        np.save(f"y{i}.npy", data["target"][i : i + 1])
        np.save(f"s{i}.npy", weight[i : i + 1] if i != 1 else weight[i : i + 1] * 0)
    weight[1] = 0
    close(evaluated("x0.npy y0.npy x1.npy y1.npy x2.npy y2.npy", capsys), xn.evaluate(data["logits"], data["target"]))
    weights = "--sample-weight s2.npy --sample-weight s0.npy --sample-weight s1.npy"
    found = evaluated(f"x2.npy y2.npy x0.npy y0.npy x1.npy y1.npy {weights} --rows rows.npz", capsys)
    close(found, xn.evaluate(data["logits"], data["target"], sample_weight=weight))
    order = [2, 0, 1]
    rows = xn.row_statistics(data["logits"][order], data["target"][order])
    check_rows("rows.npz", rows)


@pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")
def test_more_files_than_a_process_may_have_open_at_first(data: dict[str, np.ndarray]) -> None:
    limit = "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (40, 400));"
    program = limit + "from xent_numba.cli import main; sys.exit(main(sys.argv[1:]))"
    line = [sys.executable, "-c", program, "evaluate", *["logits.npy", "target.npy"] * 60]
    done = subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == f"rows            {60 * 14}"


def check_rows(path: str, expected: xn.RowStatistics) -> None:
    """Whether an archive holds these fields, to the bit."""
    with np.load(path) as written:
        assert sorted(written) == sorted(FIELDS)
        for name in FIELDS:
            np.testing.assert_array_equal(written[name], getattr(expected, name), strict=True)


# The next token


@pytest.mark.parametrize("case", ["logits.npy", "channels.npy --axis 1", "sequence.npy"])
def test_shift_scores_the_next_label(
    case: str, data: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    logits, target, weight = data["logits"], data["target"], data["weight"]
    if "sequence" in case:
        logits, target, weight = logits[1], target[1], weight[1]
        for name, array in (("sequence", logits), ("target", target), ("weight", weight)):
            np.save(f"{name}.npy", array)
    name, *options = case.split()
    line = " ".join([name, "target.npy", *options, "--shift --block-bytes 60"])
    close(evaluated(f"{line} --rows rows.npz", capsys), xn.evaluate(logits[..., :-1, :], target[..., 1:]))
    check_rows("rows.npz", xn.row_statistics(logits[..., :-1, :], target[..., 1:]))
    weighted = evaluated(f"{line} --sample-weight weight.npy", capsys)
    close(weighted, xn.evaluate(logits[..., :-1, :], target[..., 1:], sample_weight=weight[..., 1:]))


def test_shift_of_single_tokens_scores_nothing(data: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]) -> None:
    np.save("short.npy", data["logits"][:, :1])
    np.save("labels.npy", data["target"][:, :1])
    assert main("evaluate short.npy labels.npy --shift".split()) == 0
    assert "rows            0\n" in capsys.readouterr().out


# Arrays in other files


def test_members_of_archives(data: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]) -> None:
    np.savez("stored.npz", logits=data["logits"], labels=data["target"], fortran=np.asfortranarray(data["logits"]))
    np.savez_compressed("small.npz", logits=data["logits"], labels=data["target"])
    expected = xn.evaluate(data["logits"], data["target"])
    close(evaluated("stored.npz:logits stored.npz:labels --block-bytes 60", capsys), expected)
    close(evaluated("small.npz:logits small.npz:labels", capsys), expected)
    close(evaluated("stored.npz:fortran target.npy", capsys), expected)
    assert main("loss stored.npz:logits small.npz:labels --grad grad.npy".split()) == 0
    assert float(capsys.readouterr().out) == pytest.approx(expected.loss, rel=1e-6)
    assert np.load("grad.npy").shape == (3, 5, 7)
    os.rename("logits.npy", "stored.npz:logits")  # a file of that very name comes first
    close(evaluated("stored.npz:logits stored.npz:labels", capsys), expected)
    os.rename("small.npz", "stored.npz:v.npz")  # of several files whose names begin so, the longest is meant
    close(evaluated("stored.npz:v.npz:logits stored.npz:v.npz:labels", capsys), expected)


def test_members_that_are_not_compressed_are_mapped(tmp_path: Path) -> None:
    path = str(tmp_path / "large.npz")
    np.savez(path, x=np.zeros((1000, 1000)), empty=np.zeros((0, 3)), one=np.float32(2))
    tracemalloc.start()
    try:
        array = arrays.open_array(f"{path}:x")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < array.nbytes / 8
    assert array.shape == (1000, 1000)
    assert not array.any()
    assert not array.flags.writeable
    assert arrays.open_array(f"{path}:empty").shape == (0, 3)
    assert arrays.open_array(f"{path}:one") == np.float32(2)


def test_bfloat16(data: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    logits = data["logits"].astype(ml_dtypes.bfloat16)
    expected = xn.evaluate(logits, data["target"])
    np.savez("stored.npz", logits=logits)
    np.savez_compressed("small.npz", logits=logits)
    close(evaluated("stored.npz:logits target.npy", capsys), expected)
    close(evaluated("small.npz:logits target.npy", capsys), expected)


def test_safetensors(data: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    save_file = pytest.importorskip("safetensors.numpy").save_file
    logits = data["logits"].astype(ml_dtypes.bfloat16)
    labels = data["target"].astype(np.int32)
    tensors = {"model.logits": logits, "labels": labels, "half": data["half"], "empty": np.zeros((0, 7), np.float32)}
    save_file(tensors, "scores.safetensors", metadata={"model": "none"})
    close(evaluated("scores.safetensors:model.logits scores.safetensors:labels", capsys), xn.evaluate(logits, labels))
    close(evaluated("scores.safetensors:half target.npy", capsys), xn.evaluate(data["half"], labels))
    assert arrays.open_array("scores.safetensors:empty").shape == (0, 7)
    os.rename("scores.safetensors", "scores.bin")  # known by how it begins
    close(evaluated("scores.bin:half scores.bin:labels", capsys), xn.evaluate(data["half"], labels))
    bad = [
        ("scores.bin", "a .safetensors file; name one of its arrays, as in scores.bin:"),
        ("scores.bin:logits", "a .safetensors file without an array of that name; it has "),
        ("short.safetensors:half", "not a .safetensors file that can be read ("),
        ("text.safetensors:half", "not a .safetensors file that can be read ("),
        ("odd.safetensors:x", "holds numbers of type F8_E5M2; those that can be read: F64, "),
    ]
    Path("short.safetensors").write_bytes(Path("scores.bin").read_bytes()[:-1])
    Path("text.safetensors").write_text("no tensors at all")
    save_file({"x": np.zeros((2, 3), ml_dtypes.float8_e5m2)}, "odd.safetensors")
    for path, message in bad:
        assert main(["evaluate", path, "target.npy"]) == 2
        assert capsys.readouterr().err.startswith(f"xent-numba: error: {path}: {message}")


def test_safetensors_need_their_library(
    data: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    Path("x.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    assert main("evaluate x.safetensors:logits target.npy".split()) == 2
    assert capsys.readouterr().err == (
        "xent-numba: error: x.safetensors:logits: .safetensors files need the package of that name: "
        'pip install "xent_numba[safetensors]"\n'
    )


# Mistakes


MISTAKES = [
    ("logits.npy", "the following arguments are required: TARGETS"),
    ("logits.npy target.npy half.npy", "half.npy: there is no file of labels for these logits"),
    ("nowhere.npy target.npy", "nowhere.npy: No such file"),
    (
        "archive.npz target.npy",
        "archive.npz: an .npz archive; name one of its arrays, as in archive.npz:a (it h",
    ),
    ("archive.npz:b target.npy", "archive.npz:b: an .npz archive without an array of that name; it has a, o"),
    ("archive.npz:o target.npy", "archive.npz:o: holds Python objects, not numbers"),
    ("small.npz:o target.npy", "small.npz:o: holds Python objects, not numbers"),
    ("hollow.npz target.npy", "hollow.npz: an .npz archive without any array"),
    ("broken.npz:a target.npy", "broken.npz:a: an .npz archive that cannot be read ("),
    ("cut.npz:a target.npy", "cut.npz:a: an .npz archive that cannot be read ("),
    ("cut.npz:a target.npy", "); it is damaged or incomplete\n"),
    ("text.npz:a target.npy", "text.npz:a: an .npz archive that cannot be read ("),
    ("brief.npz:a target.npy", "brief.npz:a: shorter than its header says, so it is incomplete"),
    (
        "logits.npy:x target.npy",
        "logits.npy:x: logits.npy is neither an .npz archive nor a .safetensors file; write ",
    ),
    ("nothing.npz:a target.npy", "nothing.npz:a: nothing.npz is neither an .npz archive nor a .safetensors file\n"),
    ("logits.npy first.npy", "first.npy, logits.npy: target of shape (1, 5) does not fit logits of shape (3, 5, 7)"),
    (
        "logits.npy first.npy --shift",
        "first.npy, logits.npy: target of shape (1, 5) does not fit logits of shape (3",
    ),
    ("target.npy logits.npy --shift", "does not fit logits of shape (3, 5)"),
    ("logits.npy logits.npy", "has the shape of the logits, as a distribution"),
    ("logits.npy target.npy --axis 3 --shift", "logits.npy: axis = 3 is out of range"),
    ("row.npy zero.npy --shift", "row.npy: --shift needs a sequence of rows, and logits of shape (7,) have none"),
    ("logits.npy bad.npy", "bad.npy: target[1, 2] = 9 is out of range for 7 classes (ignore_index = -100)"),
    ("logits.npy bad.npy --shift", "bad.npy: target[1, 2] = 9 is out of range for 7 classes (ignore_index = -100)"),
    ("logits.npy target.npy logits.npy bad.npy", "bad.npy: target[1, 2] = 9"),
    ("logits.npy target.npy few.npy bad.npy", "few.npy: 3 classes, but logits.npy has 7; the files of one data set"),
    ("logits.npy target.npy --top-k 1 8 7", "--top-k 8 is above the number of classes, 7; write --top-k 1 7"),
    ("logits.npy target.npy --top-k 0", "argument --top-k: '0' is not a whole number above 0 (see"),
    ("--top-k 1 logits.npy target.npy", "'logits.npy' is not a whole number above 0; write the files first, then"),
    (
        "logits.npy target.npy --sample-weight first.npy",
        "sample_weight has shape (1, 5); it must have shape (3, 5)",
    ),
    ("logits.npy target.npy logits.npy target.npy --sample-weight weight.npy", "is given once for 2 files of logits"),
    ("logits.npy target.npy --softcap 0", "softcap = 0.0 must be greater than 0"),
    ("logits.npy target.npy --backend gpu", "'gpu'"),
    ("logits.npy target.npy --reduction sum", "unrecognized arguments: --reduction"),
    ("logits.npy target.npy few.npy few_labels.npy", "few.npy: 3 classes"),
    (
        "logits.npy target.npy first_logits.npy first_labels.npy",
        "of shape (5,) from first_labels.npy cannot follow",
    ),
]


@pytest.mark.parametrize(("line", "message"), MISTAKES, ids=[line for line, _ in MISTAKES])
def test_a_mistake_is_one_line(
    line: str, message: str, data: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    objects = np.array([{}, None])
    np.savez("archive.npz", a=data["logits"], o=objects)
    np.savez_compressed("small.npz", a=data["logits"], o=objects)
    whole = Path("small.npz").read_bytes()
    Path("broken.npz").write_bytes(whole[:200] + bytes(40) + whole[240:])
    Path("cut.npz").write_bytes(whole[:-30])
    Path("nothing.npz").touch()
    with zipfile.ZipFile("hollow.npz", "w"):
        pass
    with zipfile.ZipFile("text.npz", "w") as archive:
        archive.writestr("a.npy", "no array at all")
    with zipfile.ZipFile("brief.npz", "w") as archive:
        archive.writestr("a.npy", Path("logits.npy").read_bytes()[:-1])
    few = {"few": data["logits"][..., :3], "few_labels": data["target"] * 0, "row": data["logits"][0, 0], "zero": 0}
    for name, array in {**few, "first_logits": data["logits"][0], "first_labels": data["target"][0]}.items():
        np.save(f"{name}.npy", array)
    Path("rows.npz").write_bytes(b"before")
    before = sorted(os.listdir())
    try:
        status = main(["evaluate", *line.split(), "--rows", "rows.npz"])
    except SystemExit as error:  # from argparse
        status = error.code
    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    assert err.startswith("xent-numba")
    assert message in err
    assert err.count("\n") == 1
    assert Path("rows.npz").read_bytes() == b"before"
    assert sorted(os.listdir()) == before


def test_rows_are_never_an_input(data: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]) -> None:
    np.savez("archive.npz", a=data["logits"])
    before = Path("archive.npz").read_bytes()
    assert main("evaluate archive.npz:a target.npy --rows archive.npz".split()) == 2
    assert "--rows names a file that this command uses already" in capsys.readouterr().err
    assert Path("archive.npz").read_bytes() == before


@pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")
def test_a_full_disk(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((20_000, 2), np.float32))
    np.save(tmp_path / "y.npy", np.zeros(20_000, int))
    limit = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000));"
    program = limit + "from xent_numba.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", program, *"evaluate x.npy y.npy --rows out.npz".split()],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("xent-numba: error: out.npz: ")
    assert done.stderr.count("\n") == 1
    assert sorted(os.listdir(tmp_path)) == ["x.npy", "y.npy"]


def test_ctrl_c_leaves_nothing_behind(
    data: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(self: progress.Progress, n_bytes: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(progress.Progress, "advance", interrupt)
    before = sorted(os.listdir())
    assert main("evaluate logits.npy target.npy --rows rows.npz".split()) == 130
    assert capsys.readouterr() == ("", "")
    assert sorted(os.listdir()) == before


def test_the_command_as_a_process(data: dict[str, np.ndarray]) -> None:
    line = command("evaluate", "logits.npy", "target.npy", "--shift", "--top-k", 2)
    done = subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "rows            11"


# Large files


def test_memory_does_not_grow_with_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x, y = (str(tmp_path / name) for name in ("x.npy", "y.npy"))
    logits = np.lib.format.open_memmap(x, "w+", np.float32, (1000, 5000))  # 20 MB
    logits[:, 0] = 1.0
    logits.flush()
    np.save(y, np.zeros(1000, np.int64))
    tracemalloc.start()
    try:
        assert main(["evaluate", x, y, "--backend", "numpy"]) == 0
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < logits.nbytes / 4
    loss = math.log(math.e + 4999) - 1
    assert f"loss            {loss:.6g}\n" in capsys.readouterr().out


def test_one_progress_bar_for_all_files(data: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    totals: list[int] = []
    original = progress.Progress.__init__

    def start(self: progress.Progress, total: int) -> None:
        totals.append(total)
        original(self, total)

    monkeypatch.setattr(progress.Progress, "__init__", start)
    monkeypatch.setattr(progress.Progress, "advance", lambda self, n_bytes: seen.append(n_bytes))
    line = "evaluate logits.npy target.npy half.npy target.npy --shift --block-bytes 100"
    assert main(line.split()) == 0
    assert totals == [sum(seen)] == [3 * 4 * 7 * 4 + 3 * 4 * 7 * 2]
    assert len(seen) > 6
