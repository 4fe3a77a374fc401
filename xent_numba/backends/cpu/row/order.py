"""The order of the classes of a row: which one is the largest, and how many are larger than the label's.

Logits are compared by their keys, the logits as given times the sign of logit_scale, never by f(x): f is strictly
increasing but for that sign, and rounding would make ties.  NaN is larger than any number, as it is for np.argmax.  The
vector code that finds argmax and rank passes over NaN; a row that has one is given to `exact_order`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from xent_numba.backends.cpu.compile.inline import inline, specialize
from xent_numba.backends.cpu.row.transform import Sign, Softcap, is_instance_type
from xent_numba.backends.cpu.simd.cast import bitcast_to_float, bitcast_to_int
from xent_numba.backends.cpu.simd.load_store import load, load_n
from xent_numba.backends.cpu.simd.reduce import extract_lane
from xent_numba.backends.cpu.simd.vector import select, splat


@specialize
def key_of(x: Any, transform: Any) -> Any:
    """The keys of logits."""
    if is_instance_type(transform, Sign):
        return lambda x, transform: x * splat(transform.sign, x)
    if is_instance_type(transform, Softcap):
        return lambda x, transform: x * splat(math.copysign(1.0, transform.scale), x)
    return lambda x, transform: x


@inline
def load_keys(p: Any, i: int, transform: Any, vtype: Any) -> Any:
    """The keys of a vector of logits from p[i] on."""
    return key_of(load(p, i, vtype), transform)


@inline
def load_keys_n(p: Any, i: int, count: int, transform: Any, vtype: Any) -> Any:
    """The keys of the `count` logits from p[i] on; NaN in the other lanes, which no comparison finds."""
    return key_of(load_n(p, i, count, splat(math.nan, vtype)), transform)


@inline
def load_key(p: Any, i: int, transform: Any, vtype: Any) -> Any:
    """The key of the one logit p[i], a scalar."""
    return extract_lane(load_keys_n(p, i, 1, transform, vtype), 0)


@inline
def next_smaller(x: Any) -> Any:
    """The largest numbers below finite x, in each lane."""
    bits = bitcast_to_int(x)
    one, zero = splat(1, bits), splat(0.0, x)
    below = bitcast_to_float(select(x > zero, bits - one, bits + one), x)
    return select(x == zero, zero - bitcast_to_float(one, x), below)


@inline
def exact_order(p: Any, class_stride: int, classes: int, transform: Any, y: int, vtype: Any) -> Any:
    """(argmax, rank of class y, whether a logit is NaN) of a row with any logits.  Where y is −1, the rank is not one.

    Class j of the row is p[j · class_stride].
    """
    own = load_key(p, max(y, 0) * class_stride, transform, vtype)
    own_is_nan = own != own
    top, top_class, nans, ahead = own, np.int64(-1), np.int64(0), np.int64(0)
    for j in range(classes):
        x = load_key(p, j * class_stride, transform, vtype)
        is_nan = x != x
        if top_class < 0 or (top == top and (is_nan or x > top)):
            top, top_class = x, np.int64(j)
        if is_nan:
            nans += 1
        larger = x > own or (is_nan and not own_is_nan)
        equal = x == own or (is_nan and own_is_nan)
        if larger or (equal and j < y):
            ahead += 1
    return top_class, 1 + ahead, nans > 0
