"""The scalar options of a loss: checked when first seen, then found again in a cache.

`make_options` runs on every call, so its usual cost is that of an `lru_cache` hit.  The cache is typed, because 1, 1.0
and True are equal and have the same hash, but are not equally valid.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, SupportsFloat, cast

import numpy as np

from xent_numba.prepare.tensors import refuse_gradient

REDUCTIONS = ("mean", "sum", "none")
DEFAULT_IGNORE_INDEX = -100
_CONSTANT = (int, float, str, tuple, np.generic, type(None))  # types of values that never change


@dataclass(frozen=True, slots=True)
class Options:
    """The validated scalar options.  The docstring of `xent_numba.cross_entropy` says what each means."""

    axis: int
    ignore_index: int | tuple[int, ...] | None  # as given, for messages
    ignore: tuple[int, ...]  # the same without repetitions, as far as int64 can hold the values
    ignore_beyond: tuple[int, ...]  # the values that only a uint64 label can equal
    label_smoothing: float
    reduction: str
    logit_scale: float
    softcap: float | None  # None also for an infinite cap, which caps nothing
    z_loss: float
    n_threads: int | None
    focal_gamma: float
    is_plain: bool  # no smoothing, logit_scale, softcap or focal_gamma, and no class is ignored; a z-loss is allowed


def make_options(
    axis: object = -1,
    ignore_index: object = DEFAULT_IGNORE_INDEX,
    label_smoothing: object = 0.0,
    reduction: object = "mean",
    logit_scale: object = 1.0,
    softcap: object = None,
    z_loss: object = 0.0,
    n_threads: object = None,
    focal_gamma: object = 0.0,  # the last, for those who have no such option
) -> Options:
    """Validated options; TypeError or ValueError names the option, its value and what it may be."""
    if ignore_index.__class__ is not int and ignore_index is not None:
        # A typed cache does not look inside tuples: (1, True) would find what is cached for (1, 1).
        ignore_index = _ignore_index(ignore_index)
    try:
        return _cached(
            axis, ignore_index, label_smoothing, reduction, logit_scale, softcap, z_loss, n_threads, focal_gamma
        )
    except TypeError:  # a value that may change, like a 0-d array, or one of the wrong type
        return _build(
            axis, ignore_index, label_smoothing, reduction, logit_scale, softcap, z_loss, n_threads, focal_gamma
        )


def class_range(class_offset: object, n_classes: object) -> tuple[int, int]:
    """The first class of a shard and the number of all classes, as integers that are possible by themselves."""
    first, count = _integer("class_offset", class_offset), _integer("n_classes", n_classes)
    if count < 1:
        raise ValueError(f"n_classes = {n_classes!r} must be at least 1")
    if not 0 <= first < count:
        raise ValueError(f"class_offset = {class_offset!r} must be one of the {count} classes, 0 to {count - 1}")
    return first, count


def _build(
    axis: object,
    ignore_index: object,
    label_smoothing: object,
    reduction: object,
    logit_scale: object,
    softcap: object,
    z_loss: object,
    n_threads: object,
    focal_gamma: object,
) -> Options:
    """`make_options` without the cache."""
    ignored = _ignore_index(ignore_index)
    distinct = () if ignored is None else (ignored,) if isinstance(ignored, int) else tuple(dict.fromkeys(ignored))
    epsilon = _real("label_smoothing", label_smoothing)
    if not 0.0 <= epsilon <= 1.0:
        raise ValueError(f"label_smoothing = {label_smoothing!r} must lie between 0 and 1")
    scale = _real("logit_scale", logit_scale)
    if not math.isfinite(scale):
        raise ValueError(f"logit_scale = {logit_scale!r} must be finite")
    z = _real("z_loss", z_loss)
    if not 0.0 <= z < math.inf:
        raise ValueError(f"z_loss = {z_loss!r} must be finite and not negative")
    gamma = _real("focal_gamma", focal_gamma)
    if not 0.0 <= gamma < math.inf:
        raise ValueError(f"focal_gamma = {focal_gamma!r} must be finite and not negative")
    if gamma and epsilon:
        raise ValueError(
            f"focal_gamma = {focal_gamma!r} cannot be combined with label_smoothing = {label_smoothing!r}: in "
            "(1 - p)^gamma, p is the probability of one class, and smoothing brings in all others"
        )
    ignore = tuple(value for value in distinct if -(2**63) <= value < 2**63)
    class_axis, how, cap = _integer("axis", axis), _reduction(reduction), _softcap(softcap)
    return Options(
        axis=class_axis,
        ignore_index=ignored,
        ignore=ignore,
        ignore_beyond=tuple(value for value in distinct if 2**63 <= value < 2**64),
        label_smoothing=epsilon,
        reduction=how,
        logit_scale=scale,
        softcap=cap,
        z_loss=z,
        n_threads=as_count("n_threads", n_threads, "all threads"),
        focal_gamma=gamma,
        is_plain=scale == 1.0 and cap is None and not epsilon and not gamma and all(value < 0 for value in ignore),
    )


@lru_cache(maxsize=512, typed=True)
def _cached(*values: object) -> Options:
    """`_build`, remembered; TypeError for a value that may change later, as a tensor, whose hash is its identity."""
    if not all(isinstance(value, _CONSTANT) for value in values):
        raise TypeError
    return _build(*values)


def as_temperature(value: object) -> float:
    """A finite temperature above 0."""
    temperature = _real("temperature", value)
    if not 0.0 < temperature < math.inf:
        raise ValueError(f"temperature = {value!r} must be finite and greater than 0")
    return temperature


def as_count(name: str, value: object, none: str) -> int | None:
    """An integer of at least 1, or None, which stands for what `none` says."""
    if value is None:
        return None
    count = _integer(name, value)
    if count < 1:
        raise ValueError(f"{name} = {value!r} must be at least 1, or None for {none}")
    return count


def as_names(argument: str, names: tuple[Any, ...], choices: tuple[str, ...]) -> tuple[str, ...]:
    """The names that an argument lists, once it is certain that each is one of the choices and is there once."""
    for i, name in enumerate(names):
        if not isinstance(name, str) or name not in choices:
            raise ValueError(f"{argument}[{i}] = {name!r} is unknown; choose from {', '.join(map(repr, choices))}")
        if name in names[:i]:
            first = f"{argument}[{names.index(name)}]"
            raise ValueError(f"{argument}[{i}] = {name!r} is there already, as {first}; name it once")
    return names


def as_flag(name: str, value: object) -> bool:
    """True or False; TypeError for anything else, as for a number that was meant for another option."""
    if isinstance(value, (bool, np.bool)):
        return bool(value)
    raise TypeError(f"{name} = {value!r} must be True or False, not {type(value).__name__}")


def _reduction(value: object) -> str:
    """One of `REDUCTIONS`."""
    if isinstance(value, str) and value in REDUCTIONS:
        return str(value)
    raise ValueError(f"reduction = {value!r} is unknown; choose one of 'mean', 'sum' or 'none'")


def _softcap(value: object) -> float | None:
    """A finite cap above 0, or None for none."""
    if value is None:
        return None
    cap = _real("softcap", value)
    if not cap > 0.0:
        raise ValueError(f"softcap = {value!r} must be greater than 0, or None for no cap")
    return None if cap == math.inf else cap


def _ignore_index(value: object) -> int | tuple[int, ...] | None:
    """One integer, a tuple of several, or None."""
    return None if value is None else as_integers("ignore_index", value, " (or several integers, or None)")


def as_integers(name: str, value: object, also: str) -> int | tuple[int, ...]:
    """One integer, or a tuple of several; `also` says in the error what else would be accepted."""
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes)) and getattr(value, "ndim", None) != 0:
        return tuple(_integer(name, item) for item in value)
    return _integer(name, value, also)


def _integer(name: str, value: object, also: str = "") -> int:
    """An int from any integer but a bool; `also` says in the error what else would be accepted."""
    if not isinstance(value, (bool, np.bool)):
        try:
            return operator.index(value)  # type: ignore[arg-type]
        except TypeError:
            pass
    raise TypeError(f"{name} = {value!r} must be an integer{also}, not {type(value).__name__}")


def _real(name: str, value: object) -> float:
    """A float from any real number but a bool; ±inf for integers beyond the range of float64."""
    refuse_gradient(value, name)
    unfit = isinstance(value, (bool, np.bool, str, bytes, complex, np.complexfloating))
    if not unfit and getattr(value, "ndim", 0) == 0:
        try:
            return float(cast(SupportsFloat, value))
        except OverflowError:
            return math.inf if value > 0 else -math.inf  # type: ignore[operator]
        except (TypeError, ValueError):
            pass
    raise TypeError(f"{name} = {value!r} must be a real number, not {type(value).__name__}")
