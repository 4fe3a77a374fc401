"""The docstrings of the public names: in numpydoc form, complete, and the same about the same option."""

from __future__ import annotations

import ast
import inspect
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

import xent_numba as xn
from xent_numba.backends.registry import NAMES

ROOT = Path(__file__).parents[2]
METHODS = [
    "CrossEntropyLoss.__call__",
    "CrossEntropyLoss.backward",
    "PartialCrossEntropy.loss",
    "PartialCrossEntropy.grad",
    "PartialCrossEntropy.to_array",
    "PartialCrossEntropy.from_array",
]
PUBLIC = [name for name in xn.__all__ if not name.startswith("_")] + METHODS


def public(name: str) -> Any:
    """The public object of this name."""
    found: Any = xn
    for part in name.split("."):
        found = getattr(found, part)
    return found


def parameters(name: str) -> dict[str, str]:
    """The text of each parameter in the docstring, whatever its lines are broken at."""
    section = re.search(
        r"^Parameters\n-+\n(.*?)(?:\n\n|\Z)", inspect.getdoc(public(name)) or "", re.MULTILINE | re.DOTALL
    )
    entries = re.split(r"\n(?=\S)", section[1]) if section else []
    return {entry.partition(" : ")[0]: " ".join(entry.partition(" : ")[2].split()) for entry in entries}


@pytest.mark.parametrize("name", PUBLIC)
def test_the_checker_of_numpydoc_finds_nothing(name: str) -> None:
    validate = pytest.importorskip("numpydoc.validate", reason="numpydoc is not installed: pip install numpydoc")
    checks = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["numpydoc_validation"]["checks"])
    assert "all" in checks  # the others are those left out
    errors = validate.validate(f"xent_numba.{name}")["errors"]
    assert [error for error in errors if error[0] not in checks] == []


@pytest.mark.parametrize("name", PUBLIC)
def test_parameters_and_defaults_are_those_of_the_signature(name: str) -> None:
    found = inspect.signature(public(name)).parameters
    documented = parameters(name)
    assert list(documented) == [parameter for parameter in found if parameter != "self"]
    for parameter, text in documented.items():
        default = found[parameter].default
        stated = re.match(r"\S.*?default (\(.*?\)|\S+)", text)
        if stated:
            assert ast.literal_eval(stated[1]) == default, parameter
        else:
            assert default is (None if ", optional " in text else inspect.Parameter.empty), parameter


def test_an_option_is_described_in_the_same_words_everywhere() -> None:
    own = {"out", "grad_out", "vector"}  # each says of what shape it is
    labels_only = ("row_statistics", "evaluate")  # no distributions, and other results
    different = {(name, option) for name in labels_only for option in ("target", "ignore_index")}
    linear = [
        name for name in PUBLIC if name.startswith("linear_")
    ]  # without logits; and the Hessian of a linear model
    different |= {(name, "target") for name in linear} | {("linear_cross_entropy_hvp", "gauss_newton")}
    assert len({parameters(name)["target"] for name in linear}) == 1
    described: dict[str, set[str]] = {}
    for name in PUBLIC:
        if name not in METHODS and "backend" in parameters(name):
            for option, text in parameters(name).items():
                if (name, option) not in different:
                    described.setdefault(option, set()).add(text)
    assert len(described) > 14
    assert {option: texts for option, texts in described.items() if len(texts) > 1 and option not in own} == {}


def test_set_backend_lists_every_backend() -> None:
    (names,) = re.findall(r"\{(.*?)\}", parameters("set_backend")["name"])
    assert ast.literal_eval(f"({names})") == NAMES
