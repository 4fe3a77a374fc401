"""The versions that this release was tested with; `.ci/versions` runs the core tests with each of them.

Pairs of the lowest and the newest version.  Anything between them is expected to work; anything newer is tried, and the
self-test of the cpu backend decides.
"""

from __future__ import annotations

NUMBA = ("0.62.1", "0.68.1")
NUMPY = ("2.1.0", "2.4.6")
PYTHON = ("3.11", "3.11")
