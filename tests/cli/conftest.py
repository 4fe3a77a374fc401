"""Fixtures of the command line's tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.cli import write_data


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """The files of `write_data`, in the current directory."""
    monkeypatch.chdir(tmp_path)
    return write_data(tmp_path)
