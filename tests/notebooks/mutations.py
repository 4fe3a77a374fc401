"""How much escapes the notebooks?  Break the library, or a number they show, and see whether they notice.

    python tests/notebooks/mutations.py                    # everything; half an hour on two cores
    python tests/notebooks/mutations.py numbers            # only the numbers in the outputs
    python tests/notebooks/mutations.py "numpy: sign"      # only the mutants whose names begin so
    python tests/notebooks/mutations.py --list

A mutant is a copy of the package with a small change, put before the real one on the path of the notebooks' kernels.
It is caught when nbval fails in at least one notebook; which is tried first is a matter of speed.  CUDA kernels are run
in Numba's simulator, as notebook 05 does.  A number is caught when nbval, holding the outputs that a
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

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "xent_numba"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NUMBER = re.compile(r"\d+(?:\.\d+)?")
NONSENSE = re.compile(r"NameError|SyntaxError|ImportError|TypingError|LoweringError|UnsupportedError")

Edits = tuple[tuple[str, str, str], ...]  # file, what stands there (once), what shall


@dataclass(frozen=True)
class Mutant:
    """A way to be wrong."""

    name: str
    edits: Edits = ()
    appended: str = ""  # to xent_numba/__init__.py
    backend: str = "numpy"  # XENT_NUMBA_BACKEND of the run; "auto" for "cuda", which notebook 05 asks for by itself
    first: str = "01"  # notebook to try first


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


def scaled(label: str, name: str, result: str = "_more(result)", first: str = "01") -> Mutant:
    """A mutant whose function returns 1.001 times what it should."""
    return Mutant(f"scaled: {label}", appended=SCALE + FUNCTION.format(name=name, result=result), first=first)


def scaled_field(name: str, field: str) -> Mutant:
    """The same, for one field of a named tuple that a function of the linear head returns."""
    return scaled(f"{field} of {name}", name, f"result._replace({field}=_more(result.{field}))", first="08")


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
    scaled("linear_cross_entropy", "linear_cross_entropy", first="08"),
    *(
        scaled_field("linear_cross_entropy_and_grad", field)
        for field in ("loss", "input", "linear_weight", "linear_bias")
    ),
    *(scaled_field("linear_cross_entropy_hvp", field) for field in ("linear_weight", "linear_bias")),
)

# ---------------------------------------------------------------- what any backend does
LOSS, FAST_PATH = "prepare/loss.py", "1.0 / denominator, options.n_threads"
SHARED = (
    Mutant("mean: gradient without 1/N", ((LOSS, FAST_PATH, "1.0, options.n_threads"), (LOSS, "scale / d1", "scale"))),
    Mutant("mean: loss without 1/N", (("reduction.py", "value / denominator if", "value if"),)),
    Mutant(
        "mean: by samples, not weights",
        (("prepare/denominators.py", "found.weight_sum, found.s", "found.sample_sum, found.s"),),
    ),
    Mutant("mean: z-loss by weights", ((LOSS, "options.z_loss * (d1 / d2)", "options.z_loss"),)),
    Mutant("upstream gradient ignored", ((LOSS, "scale / d1", "1.0 / d1"),)),
)

# ---------------------------------------------------------------- the linear head, on any backend
CHUNKS, PRODUCTS = "linear/chunks.py", "linear/products.py"


def linear(name: str, file: str, old: str, new: str) -> Mutant:
    """A mutant of the loop over chunks of rows, or of its matrix products."""
    return Mutant(f"linear: {name}", ((file, old, new),), first="08")


LINEAR = (
    linear(
        "ignored rows enter the products",
        CHUNKS,
        "kept, options = _kept_rows(checked.labels, checked.ignore)",
        "kept, options = None",
    ),
    linear("all rows are one chunk", CHUNKS, "return -(-n_rows // n_chunks) if", "return n_rows if"),
    linear("the direction of the bias forgotten", CHUNKS, "direction_bias, workspaces[1]", "None, workspaces[1]"),
    linear(
        "weights: the chunks before forgotten", PRODUCTS, "np.add(part, product, out=part)", "np.copyto(part, product)"
    ),
    linear("bias: the chunks before forgotten", PRODUCTS, "self._total += np.ones", "self._total = np.ones"),
)

# ---------------------------------------------------------------- the reference backend
REFERENCE = "backends/reference"


def reference(name: str, *edits: tuple[str, str], first: str = "01") -> Mutant:
    """A mutant of the numpy backend; each edit is made in the one file of its folder that has the text."""
    return Mutant(f"numpy: {name}", tuple((_file_with(old), old, new) for old, new in edits), first=first)


def _file_with(text: str) -> str:
    """The file of the numpy backend that has this text."""
    (found,) = (path for path in (PACKAGE / REFERENCE).glob("*.py") if text in path.read_text())
    return str(found.relative_to(PACKAGE))


NUMPY = (
    reference(
        "sign of the target in the loss",
        ("(weight, np.take_along_axis(below", "(weight, -np.take_along_axis(below"),
    ),
    reference("sign of the target in the gradient", ("at_target = 0.0 - weight", "at_target = weight")),
    reference("sign of a distribution in the loss", ("target.t, below", "target.t, -below")),
    reference("sign of a distribution in the gradient", ("* p - target.t", "* p + target.t")),
    reference(
        "no subtraction of the maximum",
        ("top = np.max(z, axis=1, keepdims=True)", "top = np.zeros_like(z[:, :1])"),
        ("np.log1p(others)", "np.log(sum_of(exps))"),
    ),
    reference("no log1p", ("np.log1p(others)", "np.log(sum_of(exps))")),
    reference(
        "p − 1 at the target",
        ("weight * (sum_without(stats.exps, target.y) / stats.sums)",
         "weight * (1.0 - np.take_along_axis(p, target.y, axis=1))"),
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
    reference("gradient with the loss without 1/N", ("factor * problem.grad_scale", "factor")),
    reference("gradient alone without 1/N", ("(grad_output, block) * problem.grad_scale", "(grad_output, block)")),
    reference("loss × 1.001", ("factor, block_losses(", "1.001 * factor, block_losses(")),
    reference("gradient × 1.001", ("np.where(target.kept, g * factor", "np.where(target.kept, 1.001 * g * factor")),
    reference("softmax × 1.001", ("block, stats.exps / stats.sums", "block, 1.001 * stats.exps / stats.sums")),
    reference("log_softmax × 1.001", ("block, (x - stats.top) -", "block, 1.001 * (x - stats.top) -")),
    reference("logsumexp × 1.001", ("stats.lse, stats.top).reshape", "1.001 * stats.lse, stats.top).reshape")),
    reference("T forgotten", ("g = total * p - target.t", "g = p - target.t")),
    reference("entropy without log1p", ("return stats.log_sums + 4.0", "return np.log(stats.sums) + 4.0"), first="07"),
    reference("rank: ties counted after the target", ("np.arange(key.shape[1]) < y", "np.arange(key.shape[1]) > y"),
              first="07"),
    reference("hvp without the mean of v", ("p * (above - mean_above)", "p * above"), first="07"),
    reference("Hessian diagonal: 1 − p by subtraction",
              ("np.put_along_axis(others, stats.first, stats.others / stats.sums, axis=1)", "pass"), first="07"),
    reference("focal gradient without the slope of its factor", ("power * (1.0 + gamma * ratio)", "power"), first="07"),
    reference("distillation: no form for the nearly equal", ("near = direct < FAR", "near = direct < 0.0 * FAR"),
              first="07"),
)  # fmt: skip

# ---------------------------------------------------------------- the cpu backend
ROW_EPILOGUE, LANES_TILE = "backends/cpu/row/epilogue.py", "backends/cpu/regimes/lanes/tile.py"
LANES_GRADIENT = "backends/cpu/regimes/lanes/gradient.py"
LONG_ROWS, ITEM_EPILOGUE, GRADIENT = (
    "backends/cpu/regimes/long/rows.py",
    "backends/cpu/regimes/item_epilogue.py",
    "backends/cpu/regimes/long/gradient.py",
)
SPLIT, STATISTICS = "backends/cpu/regimes/long/split.py", "backends/cpu/regimes/long/statistics.py"
LONG_ROWWISE = "backends/cpu/regimes/long/softmax.py"
PACKED_ROW, PACKED = "backends/cpu/regimes/packed/row.py", "backends/cpu/regimes/packed/rows.py"
VMATH, SHIFTED, ROWWISE = (
    "backends/cpu/simd/math.py",
    "backends/cpu/simd/exp_shifted.py",
    "backends/cpu/regimes/softmax.py",
)


def compiled(name: str, *edits: tuple[str, str, str], first: str = "01") -> Mutant:
    """A mutant of the cpu backend."""
    return Mutant(f"cpu: {name}", edits, backend="cpu", first=first)


CPU = (
    compiled("sign of the target in the loss",
             (ROW_EPILOGUE, "scaled_gap(stats.row_max, x_y, scale)", "scaled_gap(x_y, stats.row_max, scale)")),
    compiled(
        "sign of the target in the gradient",
        (ROW_EPILOGUE, "dense_factor * e_y - label_weight * stats", "dense_factor * e_y + label_weight * stats"),
    ),
    compiled("sign of a distribution in the gradient",
             (LANES_GRADIENT, "return g - k * dense", "return g + k * dense")),
    compiled("no subtraction of the maximum", (LANES_TILE, "return maximum(even, odd)", "return splat(0.0, even)")),
    compiled("no log1p", (ROW_EPILOGUE, "select(x_y == stats.row_max, stats.sum_exp_others, others)", "others")),
    compiled("z-loss gradient without 2",
             (ROW_EPILOGUE, "splat(2.0 * z_coefficient, lse)", "splat(z_coefficient, lse)")),
    compiled("loss × 1.001", (ROW_EPILOGUE, "return loss + splat(z", "return splat(1.001, loss) * loss + splat(z")),
    compiled("gradient × 1.001", (ROW_EPILOGUE, "(label_weight + dense_factor) * inverse",
                                  "splat(1.001, inverse) * (label_weight + dense_factor) * inverse")),
    compiled("softmax × 1.001", (ROWWISE, "demote(rescale / sum_exp",
                                  "demote(splat(1.001, rescale) * rescale / sum_exp")),
    compiled("log_softmax × 1.001", (ROWWISE, "vtype) - row_max) - log_sum)",
                                     "vtype) - row_max) - splat(1.001, log_sum) * log_sum)")),
    compiled("logsumexp × 1.001", (ROWWISE, "top + extract_lane(log_sum, r)",
                                    "1.001 * (top + extract_lane(log_sum, r))")),
    compiled("gradient without 1/N",
             (ITEM_EPILOGUE, "grad_output * splat(operands.grad_scale, grad_output)", "grad_output")),
    compiled("float32: no subtraction of the maximum",
             (SHIFTED, "Shift(select(inside, zero, c), select(inside, exponent, zero))", "Shift(zero, zero)"),
             first="02"),
    compiled("float64: no subtraction of the maximum",
             (SHIFTED, "lambda c, s: Shift(c, splat(0.0, c))", "lambda c, s: Shift(splat(0.0, c), splat(0.0, c))"),
             first="02"),
    compiled("exp of fewer digits", (VMATH, "    0.0013814598646664403656,", "    0.0013814,"), first="04"),
    compiled("long rows: sign of a distribution in the gradient",
             (GRADIENT, "return g - splat(u_factor, g) * dense_target_part(dense",
              "return g + splat(u_factor, g) * dense_target_part(dense"), first="04"),
    compiled("long rows: gradient without 1/N",
             (LONG_ROWS, "gradient_factor(operands, i)", "gradient_factor(operands, i) / operands.grad_scale"),
             first="04"),
    compiled("long rows: softmax × 1.001",
             (LONG_ROWWISE, "1.0 / stats.sum_exp_others", "1.001 / stats.sum_exp_others"), first="04"),
    compiled("long rows: log_softmax × 1.001",
             (LONG_ROWWISE, "splat(log_s, vtype)", "splat(1.001 * log_s, vtype)"), first="04"),
    compiled("long rows: logsumexp × 1.001",
             (LONG_ROWWISE, "row_max + _log_sum(", "1.001 * row_max + _log_sum("), first="04"),
    compiled("long rows: no rescaling", (STATISTICS, "if not nothing_yet:", "if False:"), first="04"),
    compiled("packed: the target's term twice",
             (PACKED, "store_scalar(tile, r * width + extract_lane(y, r), -math.inf)", "pass"), first="04"),
    compiled("packed: no subtraction of the maximum",
             (PACKED, "return reduce_max_each(lane_maxima, vtype)",
              "return splat(0.0, reduce_max_each(lane_maxima, vtype))"), first="04"),
    compiled("packed: gradient × 1.001",
             (PACKED_ROW, "factors.p_factor), factors), i, excluded",
              "factors.p_factor), factors) * splat(1.001, factors.p_factor), i, excluded"),
             first="04"),
    compiled("split: no rescaling",
             (STATISTICS, "rescale_one(lower_sum, lower.row_max, upper.row_max, scale, vtype)",
              "lower_sum"), first="04"),
    compiled("split: gradient without 1/N",
             (SPLIT, "gradient_factor(operands, i)", "gradient_factor(operands, i) / operands.grad_scale"), first="04"),
)  # fmt: skip

# ---------------------------------------------------------------- the cuda backend, simulated
EPILOGUE, OUTPUT = "backends/cuda/row/epilogue.py", "backends/cuda/row/output.py"
TRANSFORM, TARGET = "backends/cuda/row/transform.py", "backends/cuda/row/target.py"
REGISTERS, TILE, HELD, ONLINE = (
    "backends/cuda/regimes/registers.py",
    "backends/cuda/regimes/tile.py",
    "backends/cuda/regimes/held.py",
    "backends/cuda/regimes/online.py",
)
SEGMENTS, REDUCE = "backends/cuda/regimes/split.py", "backends/cuda/hw/reduce.py"


def simulated(name: str, *edits: tuple[str, str, str]) -> Mutant:
    """A mutant of the cuda backend."""
    return Mutant(f"cuda: {name}", edits, backend="cuda", first="05")


CUDA = (
    simulated("sign of the target in the loss",
              (EPILOGUE, "(row_max - z_y) + log_total", "(z_y - row_max) + log_total")),
    simulated("sign of the target in the gradient",
              (EPILOGUE, "inverse, -(w * sum_exp_others)", "inverse, (w * sum_exp_others)")),
    *(simulated(f"{file.split('/')[-1]}: sign of a distribution in the loss",
                (file, "target_gap += t_j * (row_max - z)", "target_gap += t_j * (z - row_max)"))
      for file in (TILE, REGISTERS)),
    simulated("online.py: sign of a distribution in the loss",
              (ONLINE, "batch_gap += t_j * (row_max - z)", "batch_gap += t_j * (z - row_max)")),
    simulated("sign of a distribution in the gradient",
              (OUTPUT, "* factors.p_factor - t_j", "* factors.p_factor + t_j")),
    simulated("tile: no subtraction of the maximum",
              (TILE, "row_max = hw.fmax(row_max, transform(args, tile[_slot(first + j)]))", "row_max = zero")),
    simulated("warp, block: no subtraction of the maximum",
              (REGISTERS, "row_max = reduce_max(row_max)", "row_max = zero")),
    simulated("held vectors: no subtraction of the maximum",
              (HELD, "row_max = hw.fmax(row_max, z)", "row_max = zero")),
    simulated("no log1p", (EPILOGUE, "hw.log1p(sum_exp_others) if z_y >= max_others else hw.log(total)",
                           "hw.log(total)")),
    simulated("gradient without 1/N",
              (EPILOGUE, "grad_scale = hw.device(lambda args: real(args.grad_scale))", "pass")),
    simulated("loss × 1.001", (EPILOGUE, "loss = w * nll", "loss = real(1.001) * w * nll")),
    simulated("loss of a distribution × 1.001", (EPILOGUE, "loss = slope * log_total + target_gap",
                                                 "loss = real(1.001) * (slope * log_total + target_gap)")),
    simulated("gradient × 1.001", (EPILOGUE, "p_factor, at_target = w * inverse,",
                                   "p_factor, at_target = real(1.001) * w * inverse,")),
    simulated("gradient from a saved lse × 1.001",
              (EPILOGUE, "(w + slope) * residual_factor * sc", "real(1.001) * (w + slope) * residual_factor * sc")),
    simulated("softmax × 1.001", (OUTPUT, "return exp(transform(args, x) - factors.row_max)",
                                  "return real(1.001) * exp(transform(args, x) - factors.row_max)")),
    simulated("log_softmax × 1.001", (OUTPUT, "return (transform(args, x) - factors.row_max) -",
                                      "return real(1.001) * (transform(args, x) - factors.row_max) - real(1.001) *")),
    simulated("logsumexp × 1.001", (EPILOGUE, "lse = row_max + hw.log(sum_exp) if",
                                    "lse = real(1.001) * (row_max + hw.log(sum_exp)) if")),
    simulated("z-loss gradient without 2", (EPILOGUE, "slope = two * z_coefficient * lse\n            loss +=",
                                            "slope = z_coefficient * lse\n            loss +=")),
    simulated("smoothing keeps the target whole", (TARGET, "(real(args.confidence) if j == y", "(real(1) if j == y")),
    simulated("softcap's slope forgotten", (TRANSFORM, "* four * e / ((one + e) * (one + e))", "* one")),
    simulated("2^x for e^x", (TRANSFORM, "hw.ex2(d * _LOG2_E)", "hw.ex2(d)")),
    simulated("a butterfly that meets one neighbour only",
              (REDUCE, "value += hw.shfl_xor(value, lane_mask)", "value += hw.shfl_xor(value, 1)")),
    simulated("a block that forgets all warps but one", (REDUCE, "a = sums[lane] if lane < warps else zero",
                                                         "a = sums[lane] if lane < 1 else zero")),
    simulated("online: no rescaling", (ONLINE, "total *= rescale", "total *= real(1)")),
    simulated("online: threads merged without rescaling",
              (ONLINE, "rescaled_sum(total, thread_max, row_max)", "rescaled_sum(total, row_max, row_max)")),
    simulated("split: segments merged without rescaling",
              (SEGMENTS, "rescaled_sum(load(part + size), segment_max, row_max)",
               "rescaled_sum(load(part + size), row_max, row_max)")),
)  # fmt: skip

MUTANTS = (*SCALED, *SHARED, *LINEAR, *NUMPY, *CPU, *CUDA)


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
        env={**os.environ, **variables, "PYTHONPATH": os.pathsep.join([str(path), str(ROOT / "tests" / "notebooks")])},
    )  # fmt: skip


def catcher(mutant: Mutant) -> str | None:
    """The first notebook that fails on a mutant, or None where it escapes."""
    with tempfile.TemporaryDirectory() as folder:
        plant(mutant, Path(folder))
        backend = "auto" if mutant.backend == "cuda" else mutant.backend
        for notebook in sorted(NOTEBOOKS, key=lambda path: not path.name.startswith(mutant.first)):
            run = nbval(notebook, path=Path(folder), XENT_NUMBA_BACKEND=backend)
            if run.returncode == 1:
                if NONSENSE.search(run.stdout):
                    raise SystemExit(f"{mutant.name}: this is no program, and proves nothing\n{run.stdout}")
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
