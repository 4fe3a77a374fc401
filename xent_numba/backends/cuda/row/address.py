"""Where the rows of one kernel lie in memory, and how a vector of them is fetched and put back.

A thread holds vectors of `lanes` consecutive classes.  Rows that start on 16 bytes and are a multiple of them long
(`Spec.whole`) need nothing else.  For others class 0 is placed where it lies within its 16 bytes: the first vector
then begins before the row and the last ends after it, and exactly these two are read and written lane by lane.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

from xent_numba.backends.cuda.hw import intrinsics as hw
from xent_numba.backends.cuda.hw.access import LOAD_LABEL, Access, access, scalar_access
from xent_numba.backends.cuda.row.spec import ITEMSIZE, Spec


class Rows(NamedTuple):
    """Geometry of one spec as device functions; `a` is the kernel's argument tuple, all strides are in bytes."""

    access: Access
    logits: Any  # (a, row) -> address of class 0
    out: Any  # likewise, of the result
    distribution: Any
    label: Any  # (a, row) -> class index
    shift: Any  # address of class 0 -> classes between the 16-byte boundary before it and it
    x_step: Any  # (a) -> bytes from class to class of the logits, a constant where it can be
    g_step: Any  # likewise, of the result
    fetch: Any  # (a, address of the first class, the first class, registers, at) -> None; only where it has a class
    fetch_target: Any  # (a, base of the distribution's row, first class, registers) -> None
    target_access: Access
    put: Any  # (a, address of the first class, the first class, values, same alignment as the logits) -> None
    fill: Any  # (a, base, zero value, first class, step) -> None: this thread's share of a row


@cache
def rows(spec: Spec) -> Rows:
    """The device functions for `spec`."""
    whole = spec.whole or not spec.unit
    own = access(spec.dtype) if spec.unit else scalar_access(spec.dtype)
    # A distribution of another dtype or alignment is read element by element, which the L1 cache makes up for.
    paired = spec.unit and spec.whole and spec.distribution == spec.dtype
    target = own if paired else scalar_access(spec.distribution or spec.dtype)
    x_step, g_step, q_step = _steps(spec)
    return Rows(
        own,
        hw.device(_ADDRESS["logits", spec.outer]),
        hw.device(_ADDRESS["out", spec.outer]) if spec.store else None,
        hw.device(_ADDRESS["distribution", spec.outer]) if spec.distribution else None,
        _label(spec) if spec.labels else None,
        _shift(own, whole),
        x_step,
        g_step,
        _fetch(own, whole),
        _fetch_target(own.lanes, target, paired, whole, q_step) if spec.distribution else None,
        target,
        _put(own, whole, g_step) if spec.store else None,
        _fill(own, g_step) if spec.store else None,
    )


def _steps(spec: Spec) -> tuple[Any, Any, Any]:
    """Bytes from class to class, of the logits, the result and the distribution: constants where they can be."""
    size = ITEMSIZE[spec.dtype]
    q_size = ITEMSIZE[spec.distribution] if spec.distribution else size
    if not spec.unit:
        return (
            hw.device(lambda a: a.x_class),
            hw.device(lambda a: a.g_class),
            hw.device(lambda a: a.q_class),
        )
    constant = hw.device(lambda a: size)
    return constant, constant, hw.device(lambda a: q_size)


# (array, whether its rows have two strides) -> the address of class 0 of a row
_ADDRESS: dict[tuple[str, bool], Any] = {
    ("logits", False): lambda a, row: a.logits + row * a.x_row,
    ("logits", True): lambda a, row: a.logits + row // a.inner * a.x_outer + row % a.inner * a.x_row,
    ("out", False): lambda a, row: a.out + row * a.g_row,
    ("out", True): lambda a, row: a.out + row // a.inner * a.g_outer + row % a.inner * a.g_row,
    ("distribution", False): lambda a, row: a.distribution + row * a.q_row,
    ("distribution", True): lambda a, row: a.distribution + row // a.inner * a.q_outer + row % a.inner * a.q_row,
}


def _label(spec: Spec) -> Any:
    load = getattr(hw, LOAD_LABEL[spec.labels])
    if spec.outer:
        return hw.device(lambda a, row: hw.i64(load(a.labels + row // a.inner * a.l_outer + row % a.inner * a.l_row)))
    return hw.device(lambda a, row: hw.i64(load(a.labels + row * a.l_row)))


def _shift(own: Access, whole: bool) -> Any:
    size, mask = own.size, own.lanes - 1
    if whole:
        return hw.device(lambda base: 0)
    return hw.device(lambda base: (base // size) & mask)


def _fetch(own: Access, whole: bool) -> Any:
    lanes, load_vector, load_part = own.lanes, own.load_vector, own.load_part

    @hw.device
    def fetch_whole(a: Any, place: Any, first: Any, registers: Any, at: Any) -> None:
        load_vector(place, registers, at)

    @hw.device
    def fetch(a: Any, place: Any, first: Any, registers: Any, at: Any) -> None:
        if first >= 0 and first + lanes <= a.n_classes:
            load_vector(place, registers, at)
        else:
            load_part(place, registers, at, -first, a.n_classes - first)

    return fetch_whole if whole else fetch


def _fetch_target(lanes: int, target: Access, paired: bool, whole: bool, q_step: Any) -> Any:
    load, load_vector = target.load, target.load_vector

    @hw.device
    def fetch_paired(a: Any, base: Any, first: Any, registers: Any) -> None:
        load_vector(base + first * q_step(a), registers, 0)

    @hw.device
    def fetch(a: Any, base: Any, first: Any, registers: Any) -> None:
        for k in range(lanes):
            if whole or 0 <= first + k < a.n_classes:
                registers[k] = load(base + (first + k) * q_step(a))

    return fetch_paired if paired else fetch


def _put(own: Access, whole: bool, g_step: Any) -> Any:
    lanes, store, store_vector = own.lanes, own.store, own.store_vector

    @hw.device
    def put_whole(a: Any, place: Any, first: Any, values: Any, same: Any) -> None:
        store_vector(place, values)

    @hw.device
    def put(a: Any, place: Any, first: Any, values: Any, same: Any) -> None:
        if same and first >= 0 and first + lanes <= a.n_classes:
            store_vector(place, values)
        else:
            for k in range(lanes):
                if 0 <= first + k < a.n_classes:
                    store(place + k * g_step(a), values[k])

    return put_whole if whole else put


def _fill(own: Access, g_step: Any) -> Any:
    store = own.store

    @hw.device
    def fill(a: Any, base: Any, value: Any, first: Any, step: Any) -> None:
        for j in range(first, a.n_classes, step):
            store(base + j * g_step(a), value)

    return fill
