"""What type checkers find in `typing_program.py`, and whether it is so when that program runs."""

from __future__ import annotations

import importlib.util
import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args, get_origin

import numpy as np
import pytest

import xent_numba as xn
from tests.project import typing_program

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "tests" / "project" / "typing_program.py"
CHECKERS = {
    "mypy": ["mypy", "--strict", "--cache-dir", os.devnull],
    "pyright": ["pyright", "--pythonpath", sys.executable],
}


def is_a(value: Any, claim: Any) -> bool:
    """Whether a value is of a type that `typing_program.py` claims: exactly, not of a subclass."""
    if claim is Any or claim is None:
        return claim is Any or value is None
    kind, arguments = get_origin(claim) or claim, get_args(claim)
    if type(value) is not kind:
        return False
    if kind is tuple:
        return all(is_a(*pair) for pair in zip(value, arguments, strict=True))
    if kind is list:
        return all(is_a(one, arguments[0]) for one in value)
    if kind is np.ndarray:
        (dtype,) = get_args(arguments[1])
        return dtype is Any or value.dtype == dtype
    return True


def test_results_have_the_types_that_checkers_find(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def check(value: object, claim: object) -> None:
        seen.append(claim)
        assert is_a(value, claim), f"{value!r} is not a {claim}"

    monkeypatch.setattr(typing_program, "assert_type", check)
    with xn.use_backend("numpy"):
        for function in vars(typing_program).values():
            if inspect.isfunction(function) and not inspect.signature(function).parameters:
                function()
    assert len(seen) > 30


@pytest.mark.rare
@pytest.mark.parametrize("checker", CHECKERS)
def test_type_checkers_agree_with_the_program(checker: str) -> None:
    if importlib.util.find_spec(checker) is None:
        pytest.skip(f"{checker} is not installed: pip install '.[lint]'")
    command = [sys.executable, "-m", *CHECKERS[checker], str(PROGRAM)]
    env = {**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}  # such as that there is a newer version
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
