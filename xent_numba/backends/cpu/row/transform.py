"""The transform of the logits, z = s · f(x), for logit_scale and softcap.

f is one of

    None       f(x) = x
    Sign       f(x) = ±x, the sign of logit_scale
    Softcap    f(x) = cap · tanh(scale · x / cap), where `scale` is logit_scale

and s, named `scale` everywhere, is |logit_scale| where it is not 1 and there is no softcap, else None.  s multiplies
not f(x) but differences f(x) − max f(x), because s · f(x) would be rounded where the difference is exact.  An option
that is off is None, and the machine code of a call has no instructions for it (see `compile.inline`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import types

from xent_numba.backends.cpu.compile.inline import inline, specialize
from xent_numba.backends.cpu.simd.cast import demote, promote
from xent_numba.backends.cpu.simd.load_store import first_n_or, load, load_n
from xent_numba.backends.cpu.simd.math import exp, tanh
from xent_numba.backends.cpu.simd.reduce import extract_lane
from xent_numba.backends.cpu.simd.vector import select, splat


class Sign(NamedTuple):
    """f(x) = ±x, the sign of logit_scale; its size is the separate `scale`."""

    sign: float


class Softcap(NamedTuple):
    """f(x) = cap · tanh(scale · x / cap)."""

    scale: float
    cap: float


@specialize
def apply_transform(x: Any, transform: Any) -> Any:
    """f(x) of each lane."""
    if is_instance_type(transform, Sign):
        return lambda x, transform: x * splat(transform.sign, x)
    if is_instance_type(transform, Softcap):
        return lambda x, transform: _softcap(x, transform)
    return lambda x, transform: x


@specialize
def chain_rule(g: Any, x: Any, transform: Any) -> Any:
    """g · f'(x) for the logits x as given.  Without a softcap f' is part of `Operands.grad_scale`, not of this."""
    if is_instance_type(transform, Softcap):
        return lambda g, x, transform: g * _softcap_derivative(x, transform)
    return lambda g, x, transform: g


def is_instance_type(value: Any, kind: type) -> bool:
    """Whether a Numba type is that of this class of named tuples."""
    return isinstance(value, types.NamedTuple | types.NamedUniTuple) and value.instance_class is kind


@inline
def _softcap(x: Any, softcap: Any) -> Any:
    """cap · tanh(scale · x / cap), computed in float64."""
    promoted = promote(x)
    u = promoted * splat(softcap.scale / softcap.cap, promoted)
    return demote(splat(softcap.cap, promoted) * tanh(u), x)


@inline
def _softcap_derivative(x: Any, softcap: Any) -> Any:
    """scale · (1 − tanh²u) with u = scale · x / cap, as scale · 4E / (1 + E)² with E = exp(−2|u|).

    The second form has no cancellation where tanh u is nearly 1.
    """
    promoted = promote(x)
    u = promoted * splat(softcap.scale / softcap.cap, promoted)
    u = select(u < splat(0.0, u), u, splat(0.0, u) - u)
    e = exp(u + u)
    one = splat(1.0, u) + e
    return demote(splat(4.0 * softcap.scale, u) * e / (one * one), x)


@inline
def load_logits(p: Any, i: Any, transform: Any, vtype: Any) -> Any:
    """f of a vector of logits from p[i] on."""
    return apply_transform(load(p, i, vtype), transform)


@inline
def load_logits_n(p: Any, i: Any, count: Any, transform: Any, fill: Any) -> Any:
    """f of the first `count` logits from p[i] on; the other lanes are those of `fill`."""
    if transform is None:
        return load_n(p, i, count, fill)
    return first_n_or(apply_transform(load_n(p, i, count, splat(0.0, fill)), transform), count, fill)


@inline
def load_logit(p: Any, i: Any, transform: Any, vtype: Any) -> Any:
    """f of the one logit p[i], as a float64 scalar."""
    return np.float64(extract_lane(load_logits_n(p, i, 1, transform, vtype), 0))


@inline
def scale_or_one(scale: Any) -> Any:
    """scale, or 1 for None."""
    if scale is None:
        return 1.0
    return scale
