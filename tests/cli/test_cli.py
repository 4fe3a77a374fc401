"""The command line: as a process where that is the point, else by `main`, which is all that the process calls."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import xent_numba as xn
from tests.support.cli import command, environment, left_over
from xent_numba.cli import arguments, example, main, progress
from xent_numba.config import explain_plan

WORKED_EXAMPLE = {
    "softmax": [["0.659", "0.242", "0.099"], ["0.073", "0.487", "0.440"]],
    "losses": ["1.417", "2.620"],
    "mean": "2.019",
    "gradient": [["0.330", "-0.379", "0.049"], ["-0.464", "0.243", "0.220"]],
}


# The program without a command


def test_worked_example_by_every_backend() -> None:
    done = subprocess.run(command(), env=environment(), capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()
    table, _, rest = done.stdout.partition("backends and threads")
    numbers = re.findall(r"-?\d+\.\d{3}\b", table)
    rows = zip(WORKED_EXAMPLE["softmax"], WORKED_EXAMPLE["losses"], WORKED_EXAMPLE["gradient"], strict=True)
    expected = [number for p, loss, g in rows for number in (*p, loss, *g)] + [WORKED_EXAMPLE["mean"]]
    assert len(expected) == 15
    assert numbers == expected
    running = [name for name, answer in xn.available_backends().items() if answer]
    assert f"the same on: {', '.join(running)}\n" in table
    for name, answer in xn.available_backends().items():
        assert re.search(rf"^  {name} +", rest, re.MULTILINE), name
        assert answer or str(answer) in rest


def test_worked_example_where_a_backend_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(example, "_table", lambda backend: "right" if backend != "b" else "wrong")
    lines = list(example._worked_example(["a", "b", "c"]))
    assert lines == ["right", "the same on: a, c", "wrong", "computed on: b"]


def test_what_to_try_next_can_be_tried(data: dict[str, np.ndarray]) -> None:
    np.save("targets.npy", data["target"])
    for line, _ in example.NEXT:
        program, *words = shlex.split(line)
        assert program == "python"
        done = subprocess.run([sys.executable, *words], env=environment(), capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")


def test_worked_example_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(example, "SPEED_SHAPE", (4, 5))
    monkeypatch.setattr(example, "LOGITS", [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    text = "\n".join(example.report())
    assert "0.333 0.333 0.333" in text
    assert "1.099" in text
    assert not any(number in text for row in WORKED_EXAMPLE["gradient"] for number in row)


def test_speed_is_one_line_against_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(example, "SPEED_SHAPE", (4, 5))
    lines = [line for line in example.report() if line.startswith("speed:")]
    accelerated = bool(xn.available_backends()["cpu"])
    assert len(lines) == accelerated
    if accelerated:
        assert re.search(r"4 x 5 float32 .* plain NumPy: [\d.]+ times", lines[0])


def test_plain_numpy_of_the_speed_line_is_right() -> None:
    logits, target = np.array(example.LOGITS), np.array([1, 0])
    grad = np.empty_like(logits)
    loss = example._plain_numpy(logits, target, grad)
    expected_loss, expected_grad = xn.cross_entropy_and_grad(logits, target, backend="numpy")
    assert loss == pytest.approx(expected_loss, rel=1e-12)
    np.testing.assert_allclose(grad, expected_grad, rtol=1e-12)


def test_info_is_show_config(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    printed = capsys.readouterr().out
    xn.show_config()
    assert printed == capsys.readouterr().out


def info(line: str, capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, str]]:
    """The sections that `info` prints."""
    assert main(["info", *line.split()]) == 0
    sections: dict[str, dict[str, str]] = {}
    for printed in capsys.readouterr().out.splitlines():
        name, _, value = printed.partition(":")
        if printed.startswith("  "):
            list(sections.values())[-1][name.strip()] = value.strip()
        else:
            sections[name] = {}
    return sections


def test_info_explains_a_shape(capsys: pytest.CaptureFixture[str]) -> None:
    tracemalloc.start()
    found = info("--shape 400000000 50257", capsys)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e8
    for name, answer in xn.available_backends().items():
        if answer:
            assert found[name]["regime"]
            assert found[name]["why"]
        else:
            assert found[name] == {"available": str(answer)}


def test_plans_of_other_dtypes() -> None:
    assert explain_plan((10**7, 10**5), "int32")["numpy"] == explain_plan((10**7, 10**5), "float64")["numpy"]
    for dtype in ("complex64", "no such dtype"):
        with pytest.raises(TypeError):
            explain_plan((10**7, 10**5), dtype)


def test_axis_of_a_plan_is_checked_as_that_of_a_loss() -> None:
    for axis in (True, 1.0, "1", None):
        with pytest.raises(TypeError) as plan:
            explain_plan((4, 5), axis=axis)  # type: ignore[arg-type]
        with pytest.raises(TypeError) as loss:
            xn.cross_entropy(np.ones((4, 5)), [0] * 4, axis=axis)  # type: ignore[arg-type]
        assert str(plan.value) == str(loss.value)
    assert explain_plan((4, 5), axis=np.int64(0)) == explain_plan((4, 5), axis=0)


@pytest.mark.parametrize("shape", ["45", 45, (4.0, 5), (4, "5"), None])
def test_a_plan_needs_a_sequence_of_integers(shape: object) -> None:
    with pytest.raises(TypeError, match=re.escape(f"shape = {shape!r} must be a sequence of integers")):
        explain_plan(shape)  # type: ignore[arg-type]


def test_one_thread_does_not_share_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = pytest.importorskip("xent_numba.backends.cpu.runtime.threads")
    for count, regime in ((1, "long"), (2, "split")):
        monkeypatch.setattr(threads, "available", lambda count=count: count)
        found = explain_plan((2, 1_000_000))["cpu"]
        assert (found["regime"], found["threads"]) == (regime, count)


CPU_REGIMES = [
    ("--shape 4096 50257", "long"),
    ("--shape 50257", "long"),
    ("--shape 2 1000000", "split"),
    ("--shape 1000 100", "packed"),
    ("--shape 1000 100 --dtype float64", "lanes"),
    ("--shape 1000 100 --dtype bfloat16", "packed"),
    ("--shape 1000 100 --distribution", "lanes"),
    ("--shape 1000 10", "lanes"),
    ("--shape 8 1000 20 20 --axis 1", "lanes"),
    ("--shape 1000 20 --axis -2", "lanes"),
]


@pytest.mark.parametrize(("line", "regime"), CPU_REGIMES)
def test_info_names_the_regime_of_the_cpu(
    line: str, regime: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not xn.available_backends()["cpu"]:
        pytest.skip(str(xn.available_backends()["cpu"]))
    monkeypatch.setattr("xent_numba.backends.cpu.runtime.threads.available", lambda: 2)  # one never splits a row
    assert info(line, capsys)["cpu"]["regime"] == regime


def test_info_without_a_gradient_writes_none(capsys: pytest.CaptureFixture[str]) -> None:
    if not xn.available_backends()["cpu"]:
        pytest.skip(str(xn.available_backends()["cpu"]))
    with_gradient = info("--shape 100000 1000", capsys)["cpu"]
    without = info("--shape 100000 1000 --no-grad", capsys)["cpu"]
    assert with_gradient != without


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--dtype float64", "--dtype needs --shape"),
        ("--axis 0", "--axis needs --shape"),
        ("--no-grad", "--no-grad needs --shape"),
        ("--distribution", "--distribution needs --shape"),
        ("--shape 5 0", "--shape 5 0: logits of shape (5, 0) have no classes along axis 1"),
        ("--shape 0 5", "--shape 0 5: shape (0, 5) has no rows"),
        ("--shape 5 -1", "--shape 5 -1: shape (5, -1) has a negative size"),
        ("--shape 5 3 --axis 2", "axis = 2 is out of range for logits of shape (5, 3)"),
        ("--shape 10000000000 10000000000", "larger than any array can be"),
    ],
)
def test_info_about_a_shape_that_cannot_be(line: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", *line.split()]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize("line", ["--shape 5 3 --dtype int32", "--shape", "--shape 5.5"])
def test_info_with_arguments_that_cannot_be_read(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(["info", *line.split()])
    assert error.value.code == 2
    assert re.search(r"invalid choice: 'int32'|expected at least one|invalid int value: '5.5'", capsys.readouterr().err)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"{xn.__version__}\n"


# loss: the same answers as the library


CASES: dict[str, tuple[str, dict[str, object]]] = {
    "plain": ("logits.npy target.npy", {}),
    "float64": ("wide.npy target.npy", {"logits": "wide"}),
    "float16": ("half.npy target.npy", {"logits": "half"}),
    "fortran": ("fortran.npy target.npy", {"logits": "fortran"}),
    "integer": ("integer.npy target.npy", {"logits": "integer"}),
    "axis": ("transposed.npy target.npy --axis 0", {"logits": "transposed", "axis": 0}),
    "image": ("image.npy image_target.npy --axis 1", {"logits": "image", "target": "image_target", "axis": 1}),
    "single": ("single.npy single_target.npy", {"logits": "single", "target": "single_target"}),
    "distribution": ("wide.npy distribution.npy", {"logits": "wide", "target": "distribution"}),
    "weight": ("logits.npy target.npy --weight weight.npy", {"weight": "weight"}),
    "sample": ("logits.npy target.npy --sample-weight sample_weight.npy", {"sample_weight": "sample_weight"}),
    "ignore": ("logits.npy target.npy --ignore-index -100 --ignore-index 2", {"ignore_index": (-100, 2)}),
    "no-ignore": (
        "image.npy image_target.npy --axis 1 --ignore-index none",
        {"logits": "image", "target": "image_target", "axis": 1, "ignore_index": None},
    ),
    "smoothing": ("wide.npy target.npy --label-smoothing 0.1", {"logits": "wide", "label_smoothing": 0.1}),
    "scale": ("logits.npy target.npy --logit-scale 0.5", {"logit_scale": 0.5}),
    "softcap": ("logits.npy target.npy --softcap 20", {"softcap": 20.0}),
    "z-loss": (
        "wide.npy target.npy --z-loss 0.01 --weight weight.npy",
        {"logits": "wide", "z_loss": 0.01, "weight": "weight"},
    ),
    "focal": ("logits.npy target.npy --focal-gamma 2", {"focal_gamma": 2.0}),
    "threads": ("logits.npy target.npy --n-threads 1", {"n_threads": 1}),
}


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("block_bytes", [1, 300, arguments.BLOCK_BYTES])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.usefixtures("data")
def test_loss_and_gradient_are_those_of_the_library(
    case: str, block_bytes: int, reduction: str, data: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    line, given = CASES[case]
    given = {"logits": "logits", "target": "target", **given}
    options = {name: data[value] if isinstance(value, str) else value for name, value in given.items()}
    with xn.use_backend("numpy"):
        loss, grad = xn.cross_entropy_and_grad(**options, reduction=reduction)
        flags = ["--reduction", reduction, "--grad", "out.npy", "--block-bytes", str(block_bytes)]
        assert main(["loss", *line.split(), *flags]) == 0
    printed = np.array(capsys.readouterr().out.split(), dtype=float)
    # Blocks may group the sum otherwise, the last digits of which may then differ; rows and gradients may not.
    tolerance = 0 if reduction == "none" else 1e-12 if loss.dtype == np.float64 else 1e-6
    np.testing.assert_allclose(printed, [float(str(value)) for value in np.ravel(loss)], rtol=tolerance)
    written = np.load("out.npy")
    assert written.dtype == grad.dtype
    np.testing.assert_array_equal(written, grad)
    assert left_over(Path()) == []


@pytest.mark.parametrize("backend", ["numpy", "cpu"])
@pytest.mark.parametrize("layout", ["rows", "columns"])
def test_blocks_of_each_layout_on_each_backend(
    backend: str, layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if not xn.available_backends()[backend]:
        pytest.skip(str(xn.available_backends()[backend]))
    rng = np.random.default_rng(1)
    logits = rng.normal(scale=5, size=(9000, 11) if layout == "rows" else (11, 9000))
    axis = 1 if layout == "rows" else 0
    target = rng.integers(0, 11, 9000)
    np.save(tmp_path / "x.npy", logits)
    np.save(tmp_path / "y.npy", target)
    loss, grad = xn.cross_entropy_and_grad(logits, target, axis=axis, backend=backend)
    line = ["loss", str(tmp_path / "x.npy"), str(tmp_path / "y.npy"), "--axis", str(axis), "--backend", backend]
    assert main([*line, "--grad", str(tmp_path / "g.npy"), "--block-bytes", str(2048 * 88)]) == 0
    assert float(capsys.readouterr().out) == pytest.approx(loss, rel=1e-14)
    np.testing.assert_array_equal(np.load(tmp_path / "g.npy"), grad)


def test_gradient_keeps_the_memory_order(data: dict[str, np.ndarray]) -> None:
    assert main("loss fortran.npy target.npy --grad out.npy --backend numpy".split()) == 0
    assert np.load("out.npy").flags.fnc
    assert main("loss logits.npy target.npy --grad out.npy --backend numpy".split()) == 0
    assert np.load("out.npy").flags.c_contiguous


def test_bfloat16(
    data: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    logits = data["wide"].astype(ml_dtypes.bfloat16)
    np.save("bf.npy", logits)
    loss, grad = xn.cross_entropy_and_grad(logits, data["target"], backend="numpy")
    assert main("loss bf.npy target.npy --grad out.npy --json --backend numpy".split()) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["dtype"] == "bfloat16"
    assert found["loss"] == pytest.approx(float(loss), rel=1e-6)
    np.testing.assert_array_equal(np.load("out.npy").view(ml_dtypes.bfloat16), grad)

    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    assert main("loss bf.npy target.npy".split()) == 2
    assert re.search(r"bf\.npy.*bfloat16.*pip install ml_dtypes", capsys.readouterr().err)


@pytest.mark.usefixtures("data")
def test_rows_go_to_a_file(data: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]) -> None:
    line = "loss image.npy image_target.npy --axis 1 --reduction none --rows out.npy --backend numpy"
    assert main(line.split()) == 0
    assert capsys.readouterr().out == ""
    rows = xn.cross_entropy(data["image"], data["image_target"], axis=1, reduction="none", backend="numpy")
    written = np.load("out.npy")
    assert (written.dtype, written.shape) == (rows.dtype, (3, 5, 4))
    np.testing.assert_array_equal(written, rows)


@pytest.mark.usefixtures("data")
def test_json(data: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]) -> None:
    assert main("loss logits.npy target.npy --json --grad out.npy --weight weight.npy --backend numpy".split()) == 0
    loss = xn.cross_entropy(data["logits"], data["target"], weight=data["weight"], backend="numpy")
    kept = data["target"] >= 0
    assert json.loads(capsys.readouterr().out) == {
        "loss": float(str(loss)),
        "reduction": "mean",
        "denominator": pytest.approx(data["weight"][data["target"][kept]].sum(), rel=1e-12),
        "shape": [37, 6],
        "axis": 1,
        "dtype": "float32",
        "backend": "numpy",
        "grad": "out.npy",
        "rows": None,
    }


def test_json_has_the_keys_that_the_help_names(data: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]) -> None:
    (named,) = re.findall(r"with the keys ([\w, \n]+)\.", arguments._LOSS_END)
    assert main("loss logits.npy target.npy --json".split()) == 0
    assert list(json.loads(capsys.readouterr().out)) == re.findall(r"\b(?!and\b)\w+", named)


def test_json_has_words_for_numbers_that_are_not_finite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x, y = str(tmp_path / "x.npy"), str(tmp_path / "y.npy")
    np.save(x, [[0.0, -np.inf], [0.0, np.nan], [1.0, 1.0]])
    np.save(y, [1, 0, 0])

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    assert main(["loss", x, y, "--json", "--reduction", "none", "--backend", "numpy"]) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=refuse)["loss"]
    assert found == ["Infinity", "NaN", pytest.approx(np.log(2))]
    np.testing.assert_array_equal([float(value) for value in found[:2]], [np.inf, np.nan])
    assert main(["loss", x, y, "--json", "--backend", "numpy"]) == 0
    assert json.loads(capsys.readouterr().out, parse_constant=refuse)["loss"] == "NaN"


def test_empty_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x, y, g = (str(tmp_path / name) for name in ("x.npy", "y.npy", "g.npy"))
    np.save(x, np.zeros((0, 3)))
    np.save(y, np.zeros(0, int))
    assert main(["loss", x, y, "--grad", g]) == 0
    assert capsys.readouterr().out == "nan\n"
    assert np.load(g).shape == (0, 3)
    assert main(["loss", x, y, "--reduction", "none"]) == 0
    assert capsys.readouterr().out == ""


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    x, y, g = (str(tmp_path / name) for name in ("x.npy", "y.npy", "g.npy"))
    logits = np.lib.format.open_memmap(x, "w+", np.float32, (1000, 8000))  # 32 MB
    logits[:, 0] = 1.0
    logits.flush()
    np.save(y, np.zeros(1000, np.int64))
    tracemalloc.start()
    try:
        assert main(["loss", x, y, "--grad", g, "--backend", "numpy"]) == 0
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < logits.nbytes / 4
    assert np.load(g, mmap_mode="r")[-1, 1] > 0


# The progress bar


class Terminal:
    """A standard error that says it is a terminal."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("with_tqdm", [False, True])
def test_progress(with_tqdm: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if with_tqdm:
        pytest.importorskip("tqdm")
    else:
        monkeypatch.setitem(sys.modules, "tqdm", None)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress.Progress(100) as quick:
        quick.advance(50)
        quick.advance(50)
    assert terminal.text == ""
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    with progress.Progress(100) as slow:
        slow.advance(25)
        slow.advance(50)
        slow.advance(25)
    assert "25%" in terminal.text
    assert "100%" in terminal.text
    assert terminal.text.endswith("\n")


def test_no_progress_bar_off_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    with progress.Progress(100) as bar:
        bar.advance(25)
        bar.advance(75)
    assert capsys.readouterr().err == ""
