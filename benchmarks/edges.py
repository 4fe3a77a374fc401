"""How each edge is handled here and in PyTorch, found out by running both: the table in the README.

python benchmarks/edges.py          prints it
python benchmarks/edges.py --write  puts it into README.md, between its markers
"""

from __future__ import annotations

import argparse
import math
import warnings
from pathlib import Path

import numpy as np

import xent_numba as xn

README = Path(__file__).parents[1] / "README.md"
BEGIN = "<!-- edges: written by python benchmarks/edges.py --write -->"
END = "<!-- edges: end -->"

INF, NAN = math.inf, math.nan
F32 = np.float32
# What it is, logits, target, options; one row unless it says otherwise
CASES = [
    ("−inf at a class that is not the target", [[0.0, -INF, 0.0]], [0], {}),
    ("−inf at the target", [[0.0, -INF, 0.0]], [1], {}),
    ("−inf, class index as a distribution", [[0.0, -INF, 0.0]], [[1.0, 0.0, 0.0]], {}),
    ("−inf, smoothing, no weight on that class", [[0.0, -INF]], [0], {"label_smoothing": 0.1, "weight": [1.0, 0.0]}),
    ("−inf, smoothing", [[0.0, -INF]], [0], {"label_smoothing": 0.1}),
    ("−inf at a target of weight 0, sum", [[0.0, -INF]], [1], {"weight": [1.0, 0.0], "reduction": "sum"}),
    ("−inf everywhere", [[-INF, -INF]], [0], {}),
    ("+inf at the target", [[INF, 0.0]], [0], {}),
    ("NaN anywhere", [[NAN, 0.0]], [1], {}),
    ("NaN in an ignored row of two", [[NAN, 0.0], [0.0, 0.0]], [-100, 1], {}),
    ("all rows ignored, mean", [[1.0, 2.0]], [-100], {}),
    ("all rows ignored, sum", [[1.0, 2.0]], [-100], {"reduction": "sum"}),
    ("all weights 0, mean", [[1.0, 2.0]], [0], {"weight": [0.0, 0.0]}),
    ("no rows, mean", np.zeros((0, 2)), np.zeros(0, int), {}),
    ("no rows, sum", np.zeros((0, 2)), np.zeros(0, int), {"reduction": "sum"}),
    ("one class", [[3.0]], [0], {}),
    ("[20, 0, 0] in float32", F32([[20, 0, 0]]), [0], {}),
    ("[40, 0] in float64", [[40.0, 0.0]], [0], {}),
    ("[1e8, 1e8] in float32", F32([[1e8, 1e8]]), [0], {}),
    ("[-200, -300] in float32", F32([[-200, -300]]), [1], {}),
    ("a label beyond the classes", [[1.0, 2.0]], [2], {}),
    ("a negative label", [[1.0, 2.0]], [-1], {}),
    ("a distribution of integers", [[1.0, 2.0]], [[0, 1]], {}),
    ("a distribution that sums to 2", [[0.0, 0.0]], [[1.0, 1.0]], {}),
    ("int32 labels", [[0.0, 0.0]], np.array([1], np.int32), {}),
    ("a negative class weight", [[0.0, 0.0]], [0], {"weight": [-1.0, 1.0]}),
    ("smoothing above 1", [[0.0, 0.0]], [0], {"label_smoothing": 1.5}),
    ("no classes", np.zeros((2, 0)), [0, 0], {}),
]


def number(value: float) -> str:
    """Seven digits, with one sign for zero."""
    return f"{value + 0.0:.7g}".replace("-", "−") if value == value else "nan"


def outcome(loss: float, grad: np.ndarray) -> tuple[str, str]:
    """Loss and gradient as text."""
    return number(loss), "(empty)" if grad.size == 0 else ", ".join(number(v) for v in grad.ravel().tolist())


def here(logits, target, options) -> tuple[str, str]:
    """What this library answers, which is the same on every backend."""
    answers = set()
    for backend in ("numpy", "cpu"):
        try:
            answers.add(outcome(*xn.cross_entropy_and_grad(logits, target, backend=backend, **options)))
        except (ValueError, TypeError, IndexError) as error:
            answers.add((type(error).__name__, "–"))
    if len(answers) > 1:
        raise AssertionError(f"the backends differ: {answers}")
    return answers.pop()


def there(logits, target, options) -> tuple[str, str]:
    """What torch.nn.functional.cross_entropy answers."""
    import torch

    options = dict(options)
    x = torch.tensor(np.asarray(logits), requires_grad=True)
    if "weight" in options:
        options["weight"] = torch.tensor(options["weight"], dtype=x.dtype)
    y = torch.tensor(np.asarray(target))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loss = torch.nn.functional.cross_entropy(x, y, **options)
            loss.backward()
    except (ValueError, TypeError, IndexError, RuntimeError) as error:
        return type(error).__name__, "–"
    return outcome(loss.item(), x.grad.numpy())


def table() -> str:
    """The table in Markdown."""
    lines = [
        "| | loss here | in PyTorch | gradient here | in PyTorch |",
        "|---|---|---|---|---|",
    ]
    for name, logits, target, options in CASES:
        (loss, grad), (other_loss, other_grad) = here(logits, target, options), there(logits, target, options)
        shown = [name, loss, mark(other_loss, loss), grad, mark(other_grad, grad)]
        lines.append("| " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"


def mark(other: str, own: str) -> str:
    """PyTorch's answer, or that it is the same."""
    return "same" if other == own else f"**{other}**"


def section(text: str) -> tuple[str, str, str]:
    """A README before, between and after the markers."""
    before, rest = text.split(BEGIN + "\n")
    inside, after = rest.split(END)
    return before, inside, after


def main() -> None:
    """Print the table, or write it."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--write", action="store_true", help="into README.md instead of printing it")
    made = table()
    if not arguments.parse_args().write:
        print(made)
        return
    before, _, after = section(README.read_text(encoding="utf-8"))
    README.write_text(f"{before}{BEGIN}\n{made}{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
