"""How each edge is handled here and in PyTorch, found out by running both: the table in the README.

python benchmarks/edges.py          prints it
python benchmarks/edges.py --write  puts it into README.md, between its markers
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
# Not this folder: its cuda.py would hide NVIDIA's package `cuda`.
sys.path[:] = [str(ROOT), *(entry for entry in sys.path if Path(entry or ".").resolve() != ROOT / "benchmarks")]

import xent_numba as xn  # noqa: E402
from tests.support.edge_cases import TABLE, Edge  # noqa: E402

README = ROOT / "README.md"
BEGIN = "<!-- edges: written by python benchmarks/edges.py --write -->"
END = "<!-- edges: end -->"


def number(value: float) -> str:
    """Seven digits, with one sign for zero."""
    return f"{value + 0.0:.7g}".replace("-", "−") if value == value else "nan"


def outcome(loss: float, grad: np.ndarray) -> tuple[str, str]:
    """Loss and gradient as text."""
    return number(loss), "(empty)" if grad.size == 0 else ", ".join(number(v) for v in grad.ravel().tolist())


def stated(edge: Edge) -> tuple[str, str]:
    """What the edge says is right."""
    return (edge.error.__name__, "–") if edge.error else outcome(edge.loss, np.asarray(edge.grad, np.float64))


def here(edge: Edge) -> tuple[str, str]:
    """What this library answers, which is the same on every backend."""
    answers = set()
    for backend in ("numpy", "cpu"):
        try:
            answers.add(outcome(*xn.cross_entropy_and_grad(edge.logits, edge.target, backend=backend, **edge.options)))
        except (ValueError, TypeError, IndexError) as error:
            answers.add((type(error).__name__, "–"))
    if len(answers) > 1:
        raise AssertionError(f"the backends differ: {answers}")
    return answers.pop()


def there(edge: Edge) -> tuple[str, str]:
    """What torch.nn.functional.cross_entropy answers."""
    import torch

    options = dict(edge.options)
    x = torch.tensor(np.asarray(edge.logits), requires_grad=True)
    if "weight" in options:
        options["weight"] = torch.tensor(options["weight"], dtype=x.dtype)
    y = torch.tensor(np.asarray(edge.target))
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
    for edge in TABLE:
        (loss, grad), (other_loss, other_grad) = here(edge), there(edge)
        shown = [edge.name, loss, mark(other_loss, loss), grad, mark(other_grad, grad)]
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
