"""The counterpart of `loss` for `row_statistics`: fields to fill, class indices or none, nothing to reduce."""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from xent_numba.backends.protocol import Problem, RowFields
from xent_numba.prepare.aligned import aligned_blocks, is_aligned
from xent_numba.prepare.denominators import scan
from xent_numba.prepare.inputs import as_logits
from xent_numba.prepare.layout import canonical, row_shape
from xent_numba.prepare.misuse import raise_if_swapped
from xent_numba.prepare.options import as_names
from xent_numba.prepare.target import as_labels, as_target
from xent_numba.reduction import loss_dtype

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from numpy.typing import NDArray

    from xent_numba.backends.protocol import Backend
    from xent_numba.prepare.options import Options

    Array = NDArray[Any]
    Slab = tuple[Problem, RowFields]

FIELDS = RowFields._fields
OF_TARGET = ("log_prob", "rank")  # the fields that need a target
_INTEGERS = ("argmax", "rank")


class PreparedStatistics(NamedTuple):
    """A call ready to run."""

    slabs: Iterable[Slab]  # a backend must fill one before it asks for the next
    fields: RowFields  # the results, in the shape of class indices
    n_classes: int


def check_fields(fields: object, has_target: bool) -> tuple[str, ...]:
    """The names of the fields, once it is certain that each is known, is named once and can be computed."""
    if isinstance(fields, (tuple, list)):
        with suppress(TypeError):  # an element that cannot be hashed, and is no name either
            return _cached(tuple(fields), has_target)
    return _checked(fields, has_target)


@lru_cache(maxsize=128)
def _cached(fields: tuple[Any, ...], has_target: bool) -> tuple[str, ...]:
    """`_checked`, remembered."""
    return _checked(fields, has_target)


def _checked(fields: object, has_target: bool) -> tuple[str, ...]:
    """`check_fields` without the cache."""
    if isinstance(fields, str):
        raise TypeError(f"fields = {fields!r} must be a sequence of names; write fields=({fields!r},)")
    try:
        names: tuple[Any, ...] = tuple(fields)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(
            f"fields = {fields!r} must be a sequence of names among {', '.join(map(repr, FIELDS))}"
        ) from None
    as_names("fields", names, FIELDS)
    needy = [name for name in names if name in OF_TARGET]
    if needy and not has_target:
        others = tuple(name for name in names if name not in OF_TARGET)
        raise ValueError(
            f"{' and '.join(needy)} {'needs' if len(needy) == 1 else 'need'} a target, and none is given; pass class "
            f"indices as the second argument" + (f", or fields={others}" if others else "")
        )
    return names


def prepare_statistics(
    backend: Backend, options: Options, logits: Any, target: Any, names: tuple[str, ...]
) -> PreparedStatistics:
    """Validate a call and bring it into canonical form; `names` are the fields, from `check_fields`."""
    try:
        x, axis = as_logits(logits, options.axis)
        given = None if target is None else as_target(target, x, axis, may_be_dense=False)[0]
    except (TypeError, ValueError) as error:
        raise_if_swapped(error, logits, target)
        raise
    shape = row_shape(x.shape, axis)
    labels, ignore = None, options.ignore
    if given is not None:
        labels, ignore = as_labels(given, options.ignore, options.ignore_beyond)
        if labels.size:
            scan(backend, options, (given, labels, None, None), ignore, x.shape[axis])
    dtype = loss_dtype(x.dtype)
    results = RowFields(
        *[None if name not in names else np.empty(shape, np.intp if name in _INTEGERS else dtype) for name in FIELDS]
    )
    slabs = _slabs(options, x, axis, labels, ignore, results) if names and x.size else ()
    return PreparedStatistics(slabs, results, x.shape[axis])


def _slabs(
    options: Options, x: Array, axis: int, labels: Array | None, ignore: tuple[int, ...], results: RowFields
) -> Iterable[Slab]:
    """The call as (A, B, C) views; misaligned logits are copied, a block of rows at a time."""
    shared = options.label_smoothing, options.logit_scale, options.softcap, 0.0, 0.0, 1.0, 1.0, options.n_threads, False
    by_row = (labels, *results)
    if x.ndim == 2 and axis == 1 and x.flags.aligned:  # as nearly always
        y, *fields = [None if array is None else array[None] for array in by_row]
        return ((Problem(x[None], y, None, None, None, ignore, *shared), RowFields(*fields)),)
    layout = canonical(axis, x)
    parts = [None if array is None else array.reshape(-1, layout.a, layout.b) for array in by_row]
    slabs = []
    for i, (view,) in enumerate(layout.slabs()):
        y, *fields = [None if part is None else part[i] for part in parts]
        slabs.append((Problem(view, y, None, None, None, ignore, *shared), RowFields(*fields)))
    return slabs if is_aligned(x) else _aligned(slabs)


def _aligned(slabs: Iterable[Slab]) -> Iterator[Slab]:
    """Aligned copies of blocks of rows.  One must be filled before the next, as its results are copied back then."""
    for problem, fields in slabs:
        for _, (x, labels), found in aligned_blocks((problem.logits, problem.labels), fields):
            yield problem._replace(logits=x, labels=labels), RowFields(*found)
