"""Walking the rows: fixed groups of them, in parallel or one after the other, with the same bits either way."""

from __future__ import annotations

from typing import Any

from numba import njit, prange

from xent_numba.backends.cpu.cache import cached
from xent_numba.backends.cpu.call import call_of
from xent_numba.backends.cpu.long import long_rows
from xent_numba.backends.cpu.pieces import inline
from xent_numba.backends.cpu.wide import wide_rows


@inline
def _long(fields: Any, k: int, group: int, units: int, partials: Any) -> None:
    partials[k] = long_rows(call_of(fields), k * group, min(units, (k + 1) * group))


@inline
def _wide(fields: Any, k: int, group: int, units: int, partials: Any) -> None:
    partials[k] = wide_rows(call_of(fields), k * group, min(units, (k + 1) * group))


@cached
@njit(nogil=True, error_model="numpy", _nrt=False)
def long_serial(fields: Any, group: int, units: int, partials: Any) -> None:
    """Rows 0 … units in groups, into one partial sum a group."""
    for k in range(partials.size):
        _long(fields, k, group, units, partials)


@cached
@njit(nogil=True, error_model="numpy", _nrt=False, parallel=True)
def long_parallel(fields: Any, group: int, units: int, partials: Any) -> None:
    """As `long_serial`."""
    for k in prange(partials.size):
        _long(fields, k, group, units, partials)


@cached
@njit(nogil=True, error_model="numpy", _nrt=False)
def wide_serial(fields: Any, group: int, units: int, partials: Any) -> None:
    """Vectors of rows 0 … units in groups, into one partial sum a group."""
    for k in range(partials.size):
        _wide(fields, k, group, units, partials)


@cached
@njit(nogil=True, error_model="numpy", _nrt=False, parallel=True)
def wide_parallel(fields: Any, group: int, units: int, partials: Any) -> None:
    """As `wide_serial`."""
    for k in prange(partials.size):
        _wide(fields, k, group, units, partials)
