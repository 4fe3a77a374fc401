"""The arguments of a call, and what its fields need: known when a kernel is compiled, as the others are None.

A row leaves a class out of its sum of exponentials: a `Top` where entropy or logsumexp are wanted, so that log S keeps
its digits where S is nearly 1; else the label's, as a loss does.  Without any of the three float fields, nothing is
summed at all.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from numba import types

from xent_numba.backends.cpu.compile.inline import inline, optional, specialize
from xent_numba.backends.cpu.row.measures import Measures
from xent_numba.backends.cpu.row.transform import Softcap, is_instance_type
from xent_numba.backends.cpu.simd.cast import promote
from xent_numba.backends.cpu.simd.load_store import pointer
from xent_numba.backends.cpu.simd.vector import zero_float64_vector, zero_vector


class StatisticsOperands(NamedTuple):
    """The arguments of a call: N = A·B rows of C classes."""

    logits: Any  # (A, B, C), of any strides
    labels: Any  # (N,), or None
    ignored_classes: Any  # (K,) int64, the classes that are ignored
    transform: Any  # `Sign`, `Softcap` or None
    scale: Any  # |logit_scale|, or None where it is 1 or part of the softcap
    log_prob: Any  # this and what follows: (N,), or None where the field is not wanted
    entropy: Any
    argmax: Any
    rank: Any
    logsumexp: Any


@specialize
def _compute_type(logits: Any, transform: Any) -> Any:
    """A vector of the arithmetic for a pointer to logits and a transform: float64 for a softcap."""
    if is_instance_type(transform, Softcap):
        return lambda logits, transform: zero_float64_vector()
    return lambda logits, transform: zero_vector(logits)


@inline
def vtype_of(operands: Any) -> Any:
    """A vector of the type in which a call is computed (its value has no meaning)."""
    return _compute_type(pointer(operands.logits), operands.transform)


@specialize
def either(a: Any, b: Any) -> Any:
    """True, or None where both are None."""
    if isinstance(a, types.NoneType) and isinstance(b, types.NoneType):
        return lambda a, b: None
    return lambda a, b: True


@specialize
def unless(a: Any, b: Any) -> Any:
    """True where b is not None but a is, else None."""
    if isinstance(a, types.NoneType) and not isinstance(b, types.NoneType):
        return lambda a, b: True
    return lambda a, b: None


@inline
def sums_wanted(operands: Any) -> Any:
    """True where exponentials have to be summed, else None."""
    return either(operands.log_prob, top_wanted(operands))


@inline
def order_wanted(operands: Any) -> Any:
    """True where the order of the classes is wanted, else None."""
    return either(operands.argmax, operands.rank)


@inline
def top_wanted(operands: Any) -> Any:
    """The field `top` of a `RowInput`: True where log S must be exact whatever the label is, else None."""
    return either(operands.entropy, operands.logsumexp)


@optional
def measures_wanted(entropy: Any) -> Any:
    """The `Measures` of rows whose entropy is wanted; None for None."""
    return Measures(True, None)


@optional
def promoted(x: Any) -> Any:
    """The values in float64; None for None."""
    return promote(x)


@inline
def store_value(out: Any, i: int, value: Any) -> None:
    """out[i] = value, if the field is wanted."""
    if out is not None:
        out[i] = value


@inline
def store_ignored(operands: Any, i: int) -> None:
    """The fields of an ignored row."""
    store_value(operands.log_prob, i, 0.0)
    store_value(operands.entropy, i, 0.0)
    store_value(operands.argmax, i, -1)
    store_value(operands.rank, i, 0)
    store_value(operands.logsumexp, i, 0.0)
