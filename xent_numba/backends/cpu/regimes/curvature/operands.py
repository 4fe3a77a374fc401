"""The arguments of the kernels of second derivatives."""

from __future__ import annotations

from typing import Any, NamedTuple

from numba import types

from xent_numba.backends.cpu.compile.inline import inline, optional, specialize
from xent_numba.backends.cpu.row.measures import Measures
from xent_numba.backends.cpu.row.operands import row_pointer, vtype_of
from xent_numba.backends.cpu.row.transform import Softcap, is_instance_type
from xent_numba.backends.cpu.simd.load_store import pointer
from xent_numba.backends.cpu.simd.vector import zero_float64_vector

_LOOK_AHEAD = 1 << 12  # classes: twice through the first-level cache, the second time for their exponentials


class SecondOrder(NamedTuple):
    """What a call has besides its `Operands`, whose `grad` is the gradient or the Hessian-vector product."""

    vector: Any  # (A, B, C), or None where the diagonal is asked for
    diag: Any  # (A, B, C) where the diagonal of the Hessian is written, or None
    scale: float  # what multiplies every second derivative, including logit_scale² where there is no softcap
    bend: float  # f'' / (f f'), see `row.curvature`; 0 without a softcap, or where it is to be left out


@inline
def second_order_vtype(operands: Any, second: Any) -> Any:
    """A vector of the type in which a call is computed: float64 for a float64 vector too."""
    return _vtype(_pointer(second.vector), operands)


@optional
def _pointer(array: Any) -> Any:
    """The address of an array; None for None."""
    return pointer(array)


@specialize
def _vtype(v: Any, operands: Any) -> Any:
    """A vector of the arithmetic, for a pointer to the vector of the call, or None."""
    if not isinstance(v, types.NoneType) and v.dtype == types.float64:
        return lambda v, operands: zero_float64_vector()
    return lambda v, operands: vtype_of(operands)


@specialize
def top_of(transform: Any) -> Any:
    """The field `top` of a row: the maximum is found first, unless every logit is costly, as with a softcap."""
    if is_instance_type(transform, Softcap):
        return lambda transform: True
    return lambda transform: _LOOK_AHEAD


@optional
def measures_of(vector: Any, a: int, b: int) -> Any:
    """The `Measures` of row (a, b) for a Hessian-vector product; None for None."""
    return Measures(None, row_pointer(vector, a, b))
