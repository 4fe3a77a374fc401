"""Execute the notebooks in place, or make a static site of them.

    python notebooks/build.py                     # run every notebook and store its outputs in it
    python notebooks/build.py 01 06               # only those whose names begin so
    python notebooks/build.py --html build/site   # pages from the outputs as they are stored

A notebook is its own source: edit it, then run this.  What is stored is the same for the same code: execution counts
1 to n, ids by position, no trace of the machine, and each figure with the sentence below it as its alternative text.
Needs what `pip install ".[notebooks]"` installs.
"""

from __future__ import annotations

import argparse
import html
import re
import sys
from pathlib import Path

import nbformat

HERE = Path(__file__).resolve().parent
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
FIGURE = re.compile(r"\*(Figure \d+\. .+?)\*$", re.DOTALL)  # a figure's sentence: the cell below it, in italics
# How TeX sets a formula, where the converter to MathML does not do it by itself.
TEX = (
    (re.compile(r"(?<!\\left)\\(lvert|lVert)\b"), r"\\left\\\1"),  # bars as high as what they hold
    (re.compile(r"(?<!\\right)\\(rvert|rVert)\b"), r"\\right\\\1"),
    (re.compile(r"(?<=[\w})])\s*(?=\\(?:ln|log|tanh)\b)"), r"\\,"),  # thin spaces around a function
    (re.compile(r"(\\(?:ln|log|tanh)\b)\s*(?!\s*(?:[(^_]|\\left|\\sum))"), r"\1\\,"),
)
MATHML = (
    (re.compile(r"<mo>(&#x0221E;|&#x02202;)</mo>"), r"<mi>\1</mi>"),  # ∞ and ∂ are no operators
    (re.compile(r"<msup>(<mi>\w</mi><mi>&#x02032;</mi>)</msup>"), r"<mrow>\1</mrow>"),  # a prime is raised by itself
    (re.compile(r"<msub>(<mo>(?:max|min)</mo><mi>\w</mi>)</msub>"), r"<munder>\1</munder>"),
)
SCRIPT = re.compile(r"<script\b.*?</script>", re.DOTALL)
INDEX = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>xent_numba: the notebooks</title>
<style>body {{ font: 1.1rem/1.6 system-ui, sans-serif; max-width: 40rem; margin: 3rem auto; padding: 0 1rem }}</style>
<h1>xent_numba: the notebooks</h1>
<p>Softmax cross-entropy from its first equation to the kernels that compute it. Every number was computed by the code
beside it.</p>
<ol>
{entries}
</ol>
</html>
"""
STYLE = """<style>
math { font-family: "Latin Modern Math", "STIX Two Math", "Cambria Math", "DejaVu Math TeX Gyre", math }
math[display="block"] { margin: 0.8em 0 }
.highlight pre, div.output_area pre { font-size: 12px }
.rendered_html table { font-size: inherit; margin-left: 0 }
.rendered_html th, .rendered_html td { text-align: left; padding: 0.3em 1em 0.3em 0 }
</style>
"""


def names() -> list[Path]:
    """Every notebook, in the order in which they are read."""
    return sorted(HERE.glob("[0-9][0-9]_*.ipynb"))


def normalise(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Drop what differs from machine to machine and from run to run; describe the figures."""
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for position, cell in enumerate(notebook.cells):
        cell.id = f"cell-{position:02d}"
        tags = cell.metadata.get("tags")
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        for output in cell.get("outputs", []):
            if "metadata" in output:
                about = _described(notebook, position) if "image/png" in output.data else {}
                output.metadata = nbformat.from_dict(about)
            if "execution_count" in output:
                output.execution_count = cell.execution_count
    return notebook


def _described(notebook: nbformat.NotebookNode, position: int) -> dict[str, dict[str, str]]:
    below = notebook.cells[position + 1].source if position + 1 < len(notebook.cells) else ""
    sentence = FIGURE.match(below)
    if sentence is None:
        raise ValueError(f"cell {position} draws a figure; the cell below it must be its sentence: *Figure n. …*")
    return {"image/png": {"alt": re.sub(r"[$\\{}`]", "", " ".join(sentence[1].split()))}}


def execute(path: Path) -> None:
    """Run one notebook from the top in a new kernel and store it, outputs and all."""
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    client = NotebookClient(
        notebook, kernel_name="python3", timeout=600, coalesce_streams=True, resources={"metadata": {"path": str(HERE)}}
    )
    client.execute()
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                raise RuntimeError(f"{path.name} writes to stderr:\n{output.text}")
    path.write_text(nbformat.writes(normalise(notebook)) + "\n", encoding="utf-8")


def mathml(formula: str, display: str = "inline") -> str:
    """A TeX formula for browsers."""
    from latex2mathml.converter import convert

    for pattern, better in TEX:
        formula = pattern.sub(better, formula)
    markup = convert(formula, display=display)
    for pattern, better in MATHML:
        markup = pattern.sub(better, markup)
    return markup


def pages(folder: Path) -> None:
    """One page for each notebook and an index of them.  They load nothing and run nothing: formulas are MathML."""
    from nbconvert import HTMLExporter
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    class Renderer(IPythonRenderer):
        def block_math(self, body: str) -> str:
            return mathml(body, "block")

        def inline_math(self, body: str) -> str:
            return mathml(body)

    folder.mkdir(parents=True, exist_ok=True)
    exporter = HTMLExporter(template_name="classic")  # of its templates, the one with alt texts
    exporter.register_filter("markdown2html", lambda text: MarkdownWithMath(Renderer(escape=False)).render(text))
    entries = []
    for path in names():
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = cell.source.replace(".ipynb)", ".html)")
        title = notebook.cells[0].source.splitlines()[0].removeprefix("# ")
        body, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": title}})
        body = SCRIPT.sub("", body).replace("</head>", f"{STYLE}</head>", 1)  # the scripts are for widgets and MathJax
        (folder / f"{path.stem}.html").write_text(body, encoding="utf-8")
        entries.append(f'<li><a href="{path.stem}.html">{html.escape(title)}</a></li>')
    (folder / "index.html").write_text(INDEX.format(entries="\n".join(entries)), encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    """Run as the module's docstring says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("beginning", nargs="*", help="notebooks to run, by the beginning of their names; all if none")
    parser.add_argument("--html", type=Path, metavar="FOLDER", help="write pages to FOLDER instead of running anything")
    options = parser.parse_args(arguments)
    if options.html:
        pages(options.html)
        return
    chosen = [path for path in names() if not options.beginning or path.name.startswith(tuple(options.beginning))]
    if not chosen:
        parser.error(f"no notebook begins with {' or '.join(options.beginning)}")
    for path in chosen:
        print(path.name, file=sys.stderr)
        execute(path)


if __name__ == "__main__":
    main()
