"""How much escapes the notebooks?  Break the library, or a number they show, and see whether they notice.

    python tests/mutations.py                    # everything; a quarter of an hour on two cores
    python tests/mutations.py numbers            # only the numbers in the outputs
    python tests/mutations.py "numpy: sign"      # only the mutants whose names begin so
    python tests/mutations.py --list

A mutant is a copy of the package with a small change, put before the real one on the path of the notebooks' kernels.
It is caught when nbval fails in at least one notebook.  A number is caught when nbval, holding the outputs that a
notebook has just produced against the committed ones with a digit of that number changed, finds a difference.
"""

from __future__ import annotations

import argparse
import copy
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NUMBER = re.compile(r"\d+(?:\.\d+)?")

Edits = tuple[tuple[str, str, str], ...]  # file, what stands there (once), what shall


@dataclass(frozen=True)
class Mutant:
    """A way to be wrong."""

    name: str
    edits: Edits = ()
    appended: str = ""  # to xent_numba/__init__.py
    backend: str = "numpy"


# ---------------------------------------------------------------- every public result × 1.001
SCALE = """

def _more(result):
    if result.ndim == 0:
        return type(result)(result * 1.001)
    result *= 1.001
    return result
"""
FUNCTION = """
_whole_{name} = {name}
def {name}(*args, **options):
    result = _whole_{name}(*args, **options)
    return {result}
"""
METHOD = """
_whole = CrossEntropyLoss.{name}
def _scaled(self, *args, **options):
    return _more(_whole(self, *args, **options))
CrossEntropyLoss.{name} = _scaled
"""


def scaled(label: str, name: str, result: str = "_more(result)") -> Mutant:
    """A mutant whose function returns 1.001 times what it should."""
    return Mutant(f"scaled: {label}", appended=SCALE + FUNCTION.format(name=name, result=result))


SCALED = (
    scaled("softmax", "softmax"),
    scaled("log_softmax", "log_softmax"),
    scaled("logsumexp", "logsumexp"),
    scaled("cross_entropy", "cross_entropy"),
    scaled("cross_entropy_grad", "cross_entropy_grad"),
    scaled("loss of cross_entropy_and_grad", "cross_entropy_and_grad", "(_more(result[0]), result[1])"),
    scaled("gradient of cross_entropy_and_grad", "cross_entropy_and_grad", "(result[0], _more(result[1]))"),
    Mutant("scaled: CrossEntropyLoss()", appended=SCALE + METHOD.format(name="__call__")),
    Mutant("scaled: CrossEntropyLoss().backward", appended=SCALE + METHOD.format(name="backward")),
)

# ---------------------------------------------------------------- what any backend does
PROBLEM, LEAN = "problem.py", "1.0 / denominator, options.n_threads"
SHARED = (
    Mutant("mean: gradient without 1/N", ((PROBLEM, LEAN, "1.0, options.n_threads"), (PROBLEM, "scale / d1", "scale"))),
    Mutant("mean: loss without 1/N", (("reduction.py", "value / denominator if", "value if"),)),
    Mutant("mean: by samples, not weights", ((PROBLEM, "found.weight_sum, found.s", "found.sample_sum, found.s"),)),
    Mutant("mean: z-loss by weights", ((PROBLEM, "options.z_loss * (d1 / d2)", "options.z_loss"),)),
    Mutant("upstream gradient ignored", ((PROBLEM, "scale / d1", "1.0 / d1"),)),
)

# ---------------------------------------------------------------- the reference backend
REFERENCE = "backends/reference.py"


def reference(name: str, *edits: tuple[str, str]) -> Mutant:
    """A mutant of the numpy backend."""
    return Mutant(f"numpy: {name}", tuple((REFERENCE, old, new) for old, new in edits))


NUMPY = (
    reference("sign of the target in the loss", ("target.w, (stats.top - z_y)", "target.w, (z_y - stats.top)")),
    reference("sign of the target in the gradient", ("at_target = 0.0 - target.w", "at_target = target.w")),
    reference("sign of a distribution in the loss", ("target.t, (stats.top - z)", "target.t, (z - stats.top)")),
    reference("sign of a distribution in the gradient", ("* p - target.t", "* p + target.t")),
    reference(
        "no subtraction of the maximum",
        ("top = np.max(z, axis=1, keepdims=True)", "top = np.zeros_like(z[:, :1])"),
        ("np.log1p(_sum(others))", "np.log(_sum(exps))"),
    ),
    reference("no log1p", ("np.log1p(_sum(others))", "np.log(_sum(exps))")),
    reference(
        "p − 1 at the target",
        ("target.w * (_sum(others) / stats.sums)",
         "target.w * (1.0 - np.take_along_axis(p, target.y, axis=1))"),
    ),
    reference("0 · inf", ("return np.where((weight == 0.0) & np.isinf(value), 0.0, weight * value)",
                          "return weight * value")),
    reference("smoothing without 1/C", ("epsilon / c * w, (len", "epsilon * w, (len")),
    reference("smoothing keeps the target whole", ("(1.0 - epsilon) * w[y]", "w[y]")),
    reference("class weights forgotten in smoothing", ("np.tile(epsilon / c * w, ", "np.tile(epsilon / c + 0 * w, ")),
    reference("z-loss gradient without 2", ("2.0 * problem.z_coefficient", "problem.z_coefficient")),
    reference("softcap's slope forgotten", ("4.0 * a / (1.0 + a) ** 2", "1.0 + 0.0 * a")),
    reference("scale's slope forgotten", ("np.full((1, 1), problem.logit_scale)", "np.ones((1, 1))")),
    reference("ignored rows count", ("kept &= labels != value", "pass")),
    reference("T forgotten", ("np.sum(target.t, axis=1, keepdims=True) * p - target.t", "p - target.t")),
)  # fmt: skip

# ---------------------------------------------------------------- the cpu backend
FINISH, COLUMNS = "backends/cpu/finish.py", "backends/cpu/columns.py"


def compiled(name: str, *edits: tuple[str, str, str]) -> Mutant:
    """A mutant of the cpu backend."""
    return Mutant(f"cpu: {name}", edits, backend="cpu")


CPU = (
    compiled("sign of the target in the loss", (FINISH, "(scaled(row.top - x_y, s)", "(scaled(x_y - row.top, s)")),
    compiled(
        "sign of the target in the gradient",
        (FINISH, "slope * e_y - hard * row.rest", "slope * e_y + hard * row.rest"),
    ),
    compiled("sign of a distribution in the gradient", (COLUMNS, "return g - k * dense", "return g + k * dense")),
    compiled("no subtraction of the maximum", (COLUMNS, "return maximum(even, odd)", "return splat(0.0, even)")),
    compiled("no log1p", (FINISH, "q = select(x_y == row.top, row.rest, q)", "pass")),
    compiled("z-loss gradient without 2", (FINISH, "splat(2.0 * z, lse)", "splat(z, lse)")),
)  # fmt: skip

MUTANTS = (*SCALED, *SHARED, *NUMPY, *CPU)


def plant(mutant: Mutant, folder: Path) -> None:
    """Copy the package to `folder`, changed.  A change that finds nothing to change is an error, not a survivor."""
    package = folder / "xent_numba"
    shutil.copytree(ROOT / "xent_numba", package, ignore=shutil.ignore_patterns("__pycache__"))
    for file, old, new in mutant.edits:
        text = (package / file).read_text(encoding="utf-8")
        if text.count(old) != 1:
            raise SystemExit(f"{mutant.name}: {file} has {old!r} {text.count(old)} times; this script must follow it")
        (package / file).write_text(text.replace(old, new), encoding="utf-8")
    with (package / "__init__.py").open("a", encoding="utf-8") as init:
        init.write(mutant.appended)


def nbval(notebook: Path, *options: str, path: Path = ROOT, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run one notebook under nbval against the package in `path`."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--nbval", *options, str(notebook)],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, **variables, "PYTHONPATH": os.pathsep.join([str(path), str(ROOT / "tests")])},
    )  # fmt: skip


def catcher(mutant: Mutant) -> str | None:
    """The first notebook that fails on a mutant, or None where it escapes."""
    with tempfile.TemporaryDirectory() as folder:
        plant(mutant, Path(folder))
        for notebook in NOTEBOOKS:
            if nbval(notebook, path=Path(folder), XENT_NUMBA_BACKEND=mutant.backend).returncode == 1:
                return notebook.stem
    return None


# ---------------------------------------------------------------- numbers in outputs: as a plugin of pytest
def changed(text: str) -> list[str]:
    """The text with the last digit of one number changed, for every number in it."""
    found = []
    for match in NUMBER.finditer(text):
        last = match.end() - 1
        found.append(f"{text[:last]}{(int(text[last]) + 1) % 10}{text[last + 1 :]}")
    return found


def pytest_configure(config):  # `-p mutations` makes this module a plugin of the run that `numbers` starts
    """Have every comparison repeated with each number changed."""
    from nbval.plugin import IPyNbCell

    compare = IPyNbCell.compare_outputs

    def repeated(self, test, ref, skip_compare=None):
        caught = total = 0
        for i, output in enumerate(ref):
            where = output if "text" in output else output.get("data", {})
            for key in {"text", "text/plain"} & set(where):
                for text in changed(where[key]):
                    wrong = copy.deepcopy(ref)
                    (wrong[i] if "text" in output else wrong[i]["data"])[key] = text
                    total += 1
                    caught += not compare(self, test, wrong, skip_compare)
        config.stash[COUNTS].append((self.name, caught, total))
        return compare(self, test, ref, skip_compare)

    IPyNbCell.compare_outputs = repeated
    config.stash[COUNTS] = []


def pytest_terminal_summary(terminalreporter, config):
    """One line that `numbers` reads."""
    counts = config.stash[COUNTS]
    terminalreporter.write_line(f"NUMBERS {sum(c for _, c, _ in counts)} {sum(t for _, _, t in counts)}")


try:
    import pytest

    COUNTS = pytest.StashKey[list]()
except ImportError:
    sys.exit("this needs what pip install '.[test]' installs")


def numbers(notebook: Path) -> tuple[int, int]:
    """How many changed numbers of a notebook are caught, of how many."""
    run = nbval(notebook, "-p", "mutations")
    found = re.search(r"NUMBERS (\d+) (\d+)", run.stdout)
    if run.returncode != 0 or found is None:
        raise SystemExit(f"{notebook.name} does not pass as it is:\n{run.stdout}\n{run.stderr}")
    return int(found[1]), int(found[2])


def main() -> None:
    """Run what was asked for and print the score; exit status 1 where anything escaped."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("beginning", nargs="?", default="", help='of the names of mutants; or "numbers"')
    parser.add_argument("--list", action="store_true", help="only print the names")
    options = parser.parse_args()
    chosen = [mutant for mutant in MUTANTS if mutant.name.startswith(options.beginning)]
    if options.list:
        print(*(mutant.name for mutant in chosen), sep="\n")
        return
    caught = total = 0
    if "numbers".startswith(options.beginning):
        for notebook in NOTEBOOKS:
            found, of = numbers(notebook)
            print(f"numbers: {found} of {of} in {notebook.stem}", flush=True)
            caught, total = caught + found, total + of
    for backend in sorted({mutant.backend for mutant in chosen}):
        if failing := catcher(Mutant("no change at all", backend=backend)):
            raise SystemExit(f"{failing} does not pass as it is on {backend}: nothing can be said of mutants")
    for mutant in chosen:
        notebook = catcher(mutant)
        print(f"{mutant.name}: {f'caught by {notebook}' if notebook else 'ESCAPED'}", flush=True)
        caught, total = caught + (notebook is not None), total + 1
    print(f"score: {caught} of {total}, {caught / max(total, 1):.1%}")
    sys.exit(caught < total)


if __name__ == "__main__":
    main()
