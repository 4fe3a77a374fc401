"""The notebooks as they are committed: executed, free of traces of a machine, described, and true to their own style.

What they say is checked by running them: python -m pytest --nbval notebooks
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="notebooks need what pip install '.[test]' installs")

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
MACHINE = re.compile(
    r"(?<![\w.])/(home|root|tmp|usr|opt|var|mnt|Users|private|work)/|[A-Z]:\\|site-packages|0x[0-9a-f]{6,}"
)
TAIL = re.compile(r"\d\.\d{9,}")  # of a float that nobody rounded
CODE_LINES = 15  # of a cell


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture
def notebook(path):
    return nbformat.read(path, as_version=4)


@pytest.fixture(scope="module")
def build():
    spec = importlib.util.spec_from_file_location("build", FOLDER / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def sections(notebook):
    """From each heading to the next, but for the title's: lists of cells."""
    found = []
    for cell in notebook.cells[1:]:
        if cell.source.startswith("## "):
            found.append([])
        if found:
            found[-1].append(cell)
    return found


def printed(cell):
    texts = (output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.outputs)
    return "".join(texts)


def test_there_are_notebooks(build):
    assert build.names() == NOTEBOOKS
    assert NOTEBOOKS[0].name == "01_forward_and_backward.ipynb"


def test_every_cell_was_executed_in_order(notebook):
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))  # nbval compares nothing where a count is missing


def test_it_is_stored_as_build_stores_it(build, path, notebook):
    """Ids, metadata, kernelspec, alternative texts."""
    text = path.read_text(encoding="utf-8")
    assert nbformat.writes(build.normalise(notebook)) + "\n" == text, "run: python notebooks/build.py"
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"


def test_nothing_but_results_came_out(notebook):
    for cell in code_cells(notebook):
        for output in cell.outputs:
            assert output.output_type in {"stream", "display_data"}, cell.source
            assert output.get("name") != "stderr", output.text
            assert "widget" not in str(output.get("data", {}).keys())


def test_what_prints_has_printed(notebook):
    for cell in code_cells(notebook):
        if "print(" in cell.source:
            assert printed(cell).strip(), cell.source
        if "plt.show()" in cell.source:
            assert any("image/png" in output.get("data", {}) for output in cell.outputs), cell.source


def test_no_trace_of_a_machine(path, notebook):
    for cell in notebook.cells:
        text = cell.source + (printed(cell) if cell.cell_type == "code" else "")
        assert not MACHINE.search(text), text
    assert str(Path.home()) not in path.read_text(encoding="utf-8")


def test_numbers_are_rounded(notebook):
    for cell in code_cells(notebook):
        assert not TAIL.search(printed(cell)), printed(cell)


def test_every_figure_is_described(build, notebook):
    number = 0
    for cell, below in zip(notebook.cells, [*notebook.cells[1:], None], strict=True):
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                number += 1
                assert len(output.metadata["image/png"]["alt"]) > 60
                assert build.FIGURE.match(below.source)
                assert below.source.startswith(f"*Figure {number}. ")


def test_a_section_claims_and_proves(notebook):
    """But for those that only say what the example is, or define the check that the next ones use."""
    for cells in sections(notebook):
        code = [cell for cell in cells if cell.cell_type == "code"]
        title = cells[0].source.splitlines()[0]
        assert code, title
        assert "| shape |" in cells[0].source, title
        if title not in {"## The example", "## How each option is checked"}:
            proofs = r"^ *(assert |equal\(|check\(|plt\.show\(\))"
            assert any(re.search(proofs, cell.source, re.MULTILINE) for cell in code), title
            assert any(printed(cell) for cell in code), title


def test_symbols_come_first(notebook):
    assert notebook.cells[0].source.startswith("# ")
    assert "| symbol |" in notebook.cells[0].source


def test_code_is_short(notebook):
    for cell in code_cells(notebook):
        assert sum(bool(line.strip()) for line in cell.source.splitlines()) <= CODE_LINES, cell.source


def test_random_numbers_are_seeded(notebook):
    for cell in code_cells(notebook):
        assert not re.search(r"default_rng\(\)|np\.random\.(?!default_rng\()", cell.source)


def test_only_timings_are_not_compared(notebook):
    for cell in code_cells(notebook):
        tags = cell.metadata.get("tags", [])
        assert set(tags) <= {"nbval-ignore-output"}
        assert not tags or "perf_counter" in cell.source
        assert "NBVAL" not in cell.source.upper()


def test_mathematics_is_closed_and_links_lead_somewhere(notebook):
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            assert cell.source.count("$$") % 2 == 0
            assert cell.source.replace("$$", "").count("$") % 2 == 0
            for target in re.findall(r"\]\(([^)]+)\)", cell.source):
                assert (FOLDER / target).exists(), target


def test_pages(build, tmp_path):
    """Figures and formulas are in them, and nothing is left to load or to run."""
    pytest.importorskip("nbconvert", reason="pages need what pip install '.[test]' installs")
    pytest.importorskip("latex2mathml", reason="pages need what pip install '.[test]' installs")
    build.pages(tmp_path)
    index = (tmp_path / "index.html").read_text(encoding="utf-8")
    for path in NOTEBOOKS:
        page = (tmp_path / f"{path.stem}.html").read_text(encoding="utf-8")
        assert f'href="{path.stem}.html"' in index
        assert page.count("<img") == page.count('alt="Figure') > 0
        text = "".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown")
        assert page.count("<math") == len(re.findall(r"\$\$.+?\$\$|\$.+?\$", text, re.DOTALL)) > 0
        assert not re.search(r"<script|(?:src|href)=\"https?:", page)


@pytest.mark.parametrize(
    ("formula", "markup"),
    [
        (r"T \ln p", '<mi>T</mi><mspace width="0.167em" /><mi>ln</mi><mspace width="0.167em" /><mi>p</mi>'),
        (r"\ln(x)", '<mi>ln</mi><mo stretchy="false">&#x00028;</mo><mi>x</mi>'),
        (r"\lvert d \rvert", '<mo stretchy="true" fence="true" form="prefix">&#x0007C;</mo><mi>d</mi>'),
        (r"-\infty", "<mo>&#x02212;</mo><mi>&#x0221E;</mi>"),
        (r"e^{m'}", "<msup><mi>e</mi><mrow><mrow><mi>m</mi><mi>&#x02032;</mi></mrow></mrow></msup>"),
        (r"\max_j x_j", "<munder><mo>max</mo><mi>j</mi></munder>"),
    ],
)
def test_formulas_as_tex_sets_them(build, formula, markup):
    pytest.importorskip("latex2mathml", reason="pages need what pip install '.[test]' installs")
    assert markup in build.mathml(formula)
