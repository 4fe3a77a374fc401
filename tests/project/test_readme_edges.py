"""The README's table of edges is what running this library and PyTorch gives."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def edges():
    script = ROOT / "benchmarks" / "edges.py"
    if not script.exists():
        pytest.skip("benchmarks/ is not here")
    return runpy.run_path(str(script))


def test_the_table_is_what_both_answer(edges):
    pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")
    _, inside, _ = edges["section"]((ROOT / "README.md").read_text(encoding="utf-8"))
    assert inside == edges["table"](), "run: python benchmarks/edges.py --write"


def test_the_table_is_what_this_library_answers(edges):
    """The half of it that needs no PyTorch."""
    _, inside, _ = edges["section"]((ROOT / "README.md").read_text(encoding="utf-8"))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in inside.splitlines()[2:]]
    names = [name.replace("|", "") for name, *_ in edges["CASES"]]
    assert [row[0] for row in rows] == names
    for row, (_, logits, target, options) in zip(rows, edges["CASES"], strict=True):
        assert (row[1], row[3]) == edges["here"](logits, target, options), row[0]
