"""The README's table of edges is what running this library and PyTorch gives."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from tests.support.edge_cases import TABLE

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
    """The half of it that needs no PyTorch; and the numbers are those that the edges state."""
    _, inside, _ = edges["section"]((ROOT / "README.md").read_text(encoding="utf-8"))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in inside.splitlines()[2:]]
    assert [row[0] for row in rows] == [edge.name for edge in TABLE]
    for row, edge in zip(rows, TABLE, strict=True):
        assert (row[1], row[3]) == edges["here"](edge) == edges["stated"](edge), edge.name
