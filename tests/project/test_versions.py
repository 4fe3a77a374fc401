"""The versions that were tested: said in the same way by the table, the metadata, the README and CI."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from xent_numba import tested

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def numbers(version: str) -> tuple[int, ...]:
    """A version as numbers that compare, without zeros at the end: 2.2 and 2.2.0 are the same."""
    found = [int(part) for part in version.removesuffix("t").split(".")]
    while found[-1] == 0:
        found.pop()
    return tuple(found)


def test_the_table_leads_from_the_lowest_versions_to_the_newest() -> None:
    pythons, numbas, numpys = zip(*tested.TABLE, strict=True)
    for ends, column in ((tested.PYTHON, pythons), (tested.NUMBA, numbas), (tested.NUMPY, numpys)):
        plain = [version for version in column if not version.endswith("t")]
        assert ends == (min(plain, key=numbers), max(plain, key=numbers))


def test_what_may_be_installed_begins_with_what_was_tested() -> None:
    bounds = dict(line.split(">=") for line in PROJECT["dependencies"])
    assert numbers(bounds["numba"]) == numbers(tested.NUMBA[0])
    assert numbers(bounds["numpy"]) == numbers(tested.NUMPY[0])
    assert PROJECT["requires-python"] == f">={tested.PYTHON[0]}"


def test_classifiers_name_the_pythons_of_the_table() -> None:
    pythons = {row[0] for row in tested.TABLE}
    claimed = set(re.findall(r"^Programming Language :: Python :: (3\.\d+)$", "\n".join(PROJECT["classifiers"]), re.M))
    assert claimed == {version.removesuffix("t") for version in pythons}
    free_threading = any("Free Threading" in line for line in PROJECT["classifiers"])
    assert free_threading == any(version.endswith("t") for version in pythons)


def test_the_readme_has_the_same_table() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.partition("### Tested versions\n")[2].partition("\n#")[0]
    rows = re.findall(r"^\| (3\.\d+t?) \| ([\d.]+) \| ([\d.]+) \|$", section, re.MULTILINE)
    assert rows == list(tested.TABLE)


def test_ci_runs_the_table_and_skips_nothing_that_it_cannot_install() -> None:
    ci = ROOT / ".ci" / "run"
    if not ci.exists():
        pytest.skip("not in a source distribution")
    text = ci.read_text(encoding="utf-8")
    for step in ("versions", "packaging"):
        assert re.search(rf"^ +\.ci/{step}$", text, re.MULTILINE)
    assert "for layer in omp workqueue tbb" in text
    assert "for processor in x86-64 haswell" in text
    assert re.search(r"^ +tests/tools/arm64.sh$", text, re.MULTILINE)
    assert "SKIPPED" not in text
    assert re.search(r"^ +python -m pip install \"\$TORCH\"$", text, re.MULTILINE)
