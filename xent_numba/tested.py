"""The versions that this release was tested with.  `.ci/versions` runs the core tests with each row of the table.

Anything between the lowest and the newest version is expected to work.  Of anything newer, the self-test of the cpu
backend decides whether it can be used.  To move on to a newer version, change its rows here, run `.ci/versions`, and
copy the table to the README.
"""

from __future__ import annotations

TABLE = (  # Python (t: free-threaded), Numba, NumPy; the lowest versions first, the newest last
    ("3.11", "0.62.1", "2.1.2"),
    ("3.11", "0.68.1", "2.4.6"),
    ("3.12", "0.68.1", "2.5.5"),
    ("3.13", "0.68.1", "2.5.5"),
    ("3.14t", "0.68.1", "2.5.5"),
    ("3.14", "0.68.1", "2.5.5"),
)

# The lowest and the newest of each.
NUMBA = (TABLE[0][1], TABLE[-1][1])
NUMPY = (TABLE[0][2], TABLE[-1][2])
PYTHON = (TABLE[0][0], TABLE[-1][0])
