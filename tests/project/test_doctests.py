"""The examples in the docstrings."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import pkgutil

import pytest

import xent_numba as xn

MODULES = ["xent_numba"] + [
    module.name for module in pkgutil.walk_packages(xn.__path__, "xent_numba.") if not module.name.endswith("__main__")
]
PUBLIC = [name for name in xn.__all__ if not name.startswith("_")]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name: str) -> None:
    if name.startswith("xent_numba.backends.cuda") and importlib.util.find_spec("numba_cuda") is None:
        pytest.skip("its kernels need numba-cuda")
    module = importlib.import_module(name)
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_are_documented(name: str) -> None:
    assert (getattr(xn, name).__doc__ or "").strip()
