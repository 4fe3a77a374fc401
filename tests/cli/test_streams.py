"""Standard output and error that are closed or full, as a shell passes them on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.cli import command, environment

pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")

LOSS = "loss logits.npy target.npy"
FULL = "xent-numba: error: standard output: No space left on device\n"
CLOSED = "xent-numba: error: standard output: Bad file descriptor\n"
USAGE = "xent-numba: error: unrecognized arguments: --bad (see xent-numba --help)\n"


@pytest.mark.parametrize(
    ("arguments", "redirection", "status", "out", "err"),
    [
        (LOSS, "2>&-", 0, "0.6931471805599453\n", ""),
        (f"{LOSS} --bad", "", 2, "", USAGE),
        (f"{LOSS} --bad", "2>&-", 2, "", ""),
        (f"{LOSS} --axis 9", "2>/dev/full", 2, "", ""),
        (LOSS, ">/dev/full", 2, "", FULL),
        (LOSS, ">&-", 2, "", CLOSED),
        (LOSS, ">&- 2>&-", 2, "", ""),
        (f"{LOSS} --json", ">/dev/full", 2, "", FULL),
        (f"{LOSS} --reduction none --rows rows.npy", ">&-", 0, "", ""),  # prints nothing
        ("evaluate logits.npy target.npy", ">/dev/full", 2, "", FULL),
        ("loss --help", ">/dev/full", 2, "", FULL),
        ("--version", ">/dev/full", 2, "", FULL),
        ("info", ">/dev/full", 2, "", FULL),
        ("", ">&-", 2, "", CLOSED),
    ],
)
@pytest.mark.parametrize("unbuffered", ["", pytest.param("1", marks=pytest.mark.rare)])
def test_a_stream_that_fails(
    arguments: str, redirection: str, status: int, out: str, err: str, unbuffered: str, tmp_path: Path
) -> None:
    np.save(tmp_path / "logits.npy", np.zeros((4, 2)))
    np.save(tmp_path / "target.npy", np.zeros(4, int))
    line = f"exec '{sys.executable}' {' '.join(command(arguments)[1:])} {redirection}"
    where = {**environment(), "PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(["sh", "-c", line], cwd=tmp_path, env=where, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (status, out, err)
    assert os.path.exists(tmp_path / "rows.npy") == ("rows" in arguments)
