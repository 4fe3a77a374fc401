"""What the files around the package promise: the README above all, which readers take at its word."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import tomllib
from pathlib import Path

import numpy as np
import pytest

import xent_numba as xn

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def supported(row: str) -> set[str]:
    """The names in a row of the README's table of what is supported."""
    table = README.partition("## What is supported")[2].partition("\n#")[0]
    (cells,) = re.findall(rf"^\| {row} \| (.*) \|$", table, re.MULTILINE)
    return set(re.findall(r"`([^`]+)`", cells))


def test_the_first_two_code_blocks_are_the_two_commands() -> None:
    assert BLOCKS[0] == ("sh", "pip install . && python -m xent_numba\n")
    assert BLOCKS[1] == (
        "sh",
        'pip install ".[test]" && python -m pytest -n auto --dist loadfile --nbval tests notebooks\n',
    )


def test_ci_runs_the_commands_of_the_readme_not_copies() -> None:
    ci = ROOT / ".ci" / "run"
    if not ci.exists():
        pytest.skip("not in a source distribution")
    assert os.access(ci, os.X_OK)
    text = ci.read_text(encoding="utf-8")
    assert "README.md" in text
    (extract,) = re.findall(r"^readme\(\) .*$", text, re.MULTILINE)
    for number, (_, block) in enumerate(BLOCKS, start=1):
        program = f"{extract}\nreadme {number}"
        done = subprocess.run(["bash", "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
        assert done.stdout == block


def test_python_in_the_readme_runs_and_gives_what_its_comments_say() -> None:
    for language, block in BLOCKS:
        if language != "python":
            continue
        names: dict[str, object] = {}
        for statement in re.split(r"\n(?=\S)", block):
            exec(statement, names)
            for name, digits in re.findall(r"^(\w+) = .*# (\d+\.\d+)\.\.\.", statement):
                assert str(names[name]).startswith(digits)


def test_errors_in_the_readme_are_raised_in_these_words() -> None:
    (block,) = (block for language, block in BLOCKS if language == "pycon")
    names = {"xn": xn, "logits": np.eye(2, 3), "target": np.array([1, 0])}
    for call, error in re.findall(r"^>>> (.*)\n(.*)$", block, re.MULTILINE):
        with pytest.raises((TypeError, IndexError)) as caught:
            eval(call, names)
        assert f"{caught.type.__name__}: {caught.value}" == error


def test_supported_backends() -> None:
    assert supported("backends") <= set(xn.available_backends())
    for name in supported("backends") - {"cuda"}:
        assert xn.available_backends()[name]


def test_supported_functions_are_all_public_names() -> None:
    selector = {"set_backend", "get_backend", "use_backend", "available_backends", "show_config"}
    assert supported("functions") | selector | {"__version__"} == set(xn.__all__)


def test_supported_options_exist_and_work() -> None:
    options = supported("options")
    assert options <= set(inspect.signature(xn.cross_entropy_and_grad).parameters)
    values: dict[str, object] = {
        "axis": 1,
        "weight": [1.0, 2.0, 3.0],
        "sample_weight": [1.0, 2.0],
        "ignore_index": 0,
        "label_smoothing": 0.1,
        "reduction": "sum",
        "logit_scale": 2.0,
        "softcap": 30.0,
        "z_loss": 0.1,
        "focal_gamma": 2.0,
        "n_threads": 1,
        "grad_out": np.zeros((2, 3)),
    }
    for backend in supported("backends") - {"cuda"}:
        for name in options:
            xn.cross_entropy_and_grad(np.eye(2, 3), [1, 2], backend=backend, **{name: values[name]})


def test_supported_logits_work() -> None:
    dtypes = supported("logits") - {"axis"}
    for backend in supported("backends") - {"cuda"}:
        for name in dtypes:
            dtype = np.dtype(name) if name != "bfloat16" else pytest.importorskip("ml_dtypes").bfloat16
            loss, grad = xn.cross_entropy_and_grad(np.eye(2, 3).astype(dtype), [1, 2], backend=backend)
            assert np.isfinite(loss)
            assert grad.dtype == dtype


def test_modules_named_in_the_readme_exist() -> None:
    named = re.findall(r"`((?!xent_numba/)[\w/]+(?:\.py|/))`", README)
    assert named
    for path in named:
        folder = ROOT if path.startswith("tests/") else ROOT / "xent_numba"
        assert (folder / path).exists(), path


def meant(name: str) -> list[Path]:
    """The files or folders that CONTRIBUTING.md can mean by a path, of which it may leave out the outer folders."""
    package = ROOT / "xent_numba"
    cpu, cuda = package / "backends" / "cpu", package / "backends" / "cuda"
    places = (ROOT, package, package / "backends", cpu, cuda, cpu / "regimes", cpu / "row", cuda / "row")
    return [place / name for place in places if (place / name).exists()]


def test_files_named_in_contributing_exist() -> None:
    """Recipes that name files which have moved would lead nowhere."""
    named = set(re.findall(r"`([\w./]+(?:\.py|\.md|/))`", CONTRIBUTING))
    named |= set(re.findall(r"python ([\w/]+\.py)", CONTRIBUTING))
    assert len(named) > 40
    assert {name for name in named if not meant(name)} == set()


def test_names_in_contributing_stand_in_the_files_that_it_names_for_them() -> None:
    """Those in a table's row or an item of a list that begins with paths, and those written as `module.name`."""
    claims = set()
    for paths, text in re.findall(
        r"^(?:\| |- )((?:`[\w./]+`,? ?)+)(?:\||:)((?:.|\n(?=  ))*)", CONTRIBUTING, re.MULTILINE
    ):
        for path in re.findall(r"`([^`]+)`", paths):
            claims |= {(path, name) for name in re.findall(r"`(\w+)`", text)}
    for module, name in re.findall(r"`(?:xent_numba\.)?([a-z_.]+)\.(?!py\b|md\b|toml\b)(\w+)`", CONTRIBUTING):
        if module not in ("np", "xent_numba"):
            claims.add((module.replace(".", "/") + ".py", name))
    assert len(claims) > 40
    for path, name in sorted(claims):
        files = [file for place in meant(path) for file in ([place] if place.is_file() else place.glob("*.py"))]
        words = {word for file in files for word in (file.stem, *re.findall(r"\w+", file.read_text(encoding="utf-8")))}
        assert name in words, f"{name} in {path}"


def test_links_in_the_readme_lead_somewhere() -> None:
    links = re.findall(r"\]\(((?!https?:)[^)#]+)", README)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


def test_the_version_stands_in_one_place() -> None:
    assert "version" in PROJECT["project"]["dynamic"]
    assert PROJECT["tool"]["hatch"]["version"]["path"] == "xent_numba/_version.py"
    assert f'__version__ = "{xn.__version__}"' in (ROOT / "xent_numba/_version.py").read_text(encoding="utf-8")


def test_runtime_dependencies_are_numpy_and_numba_only() -> None:
    names = [re.split(r"[<>=!~; \[]", line)[0] for line in PROJECT["project"]["dependencies"]]
    assert sorted(names) == ["numba", "numpy"]


def test_no_extra_pulls_a_framework() -> None:
    """Only what a user asked for by name may cost gigabytes."""
    for extra, lines in PROJECT["project"]["optional-dependencies"].items():
        assert not re.search(r"\b(torch|jax|tensorflow)\b", " ".join(lines)), extra


def test_conda_environment_agrees() -> None:
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    packages = re.findall(r"^  - ([\w.-]+)", text, re.MULTILINE)
    for name in ("conda-forge", "python", "numba", "numpy", "jupyter", "nbval", "pytest", "matplotlib", "pip"):
        assert name in packages
    assert re.search(r"^  - pip:\n      - \.$", text, re.MULTILINE)
    for line in PROJECT["project"]["dependencies"]:
        assert f"  - {line}\n" in text
    for line in PROJECT["project"]["optional-dependencies"]["test"]:
        name = re.split(r"[<>=!~; \[]", line)[0]
        assert name in packages or name == "ipykernel"  # a part of jupyter


def test_conda_recipe_agrees() -> None:
    text = (ROOT / "conda" / "recipe.yaml").read_text(encoding="utf-8")
    project = PROJECT["project"]
    assert f"  version: {xn.__version__}\n" in text
    for line in (*project["dependencies"], *PROJECT["build-system"]["requires"], f"python{project['requires-python']}"):
        assert f"    - {line.replace('>=', ' >=')}\n" in text
    for name, function in project["scripts"].items():  # made anew on every system, as the package is for all
        assert f"      - {name} = {function}\n" in text
    for value in (project["license"], project["description"], project["urls"]["Repository"]):
        assert f": {value}\n" in text


def test_citation_agrees() -> None:
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    project = PROJECT["project"]
    assert f"\nversion: {xn.__version__}\n" in text
    assert f"\nlicense: {project['license']}\n" in text
    assert f'\nrepository-code: "{project["urls"]["Repository"]}"\n' in text
    assert f"  - name: {project['authors'][0]['name']}\n" in text


def test_the_readme_of_a_package_index_has_absolute_links() -> None:
    """What the build writes into the metadata, by the same substitutions."""
    hook = PROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    text = README
    for substitution in hook["substitutions"]:
        text = re.sub(substitution["pattern"], substitution["replacement"], text)
    repository = PROJECT["project"]["urls"]["Repository"]
    links = re.findall(r"(!?)\[[^\]]*\]\(([^)]+)\)", text)
    assert len(links) == len(re.findall(r"\]\(", README))
    for image, link in links:
        if image:
            assert link.startswith(repository.replace("github.com", "raw.githubusercontent.com") + "/main/")
        else:
            assert link.startswith(("https://", "#"))


def test_package_data() -> None:
    assert (ROOT / "xent_numba" / "py.typed").exists()
