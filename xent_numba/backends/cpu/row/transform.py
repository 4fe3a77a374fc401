"""The transform z = f(x) of the logits: nothing, the sign of a logit_scale, or a softcap.

f is None, `Sign` (logit_scale) or `Softcap` (softcap).  The size s of a logit_scale is not applied to x but to x − max:
s·x would be rounded where x − max is exact.  An option that is off is None, and Numba drops its branch before it
compiles: the machine code of a call has only the instructions of its options.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from numba import types

from xent_numba.backends.cpu.compile.inline import inline, specialize
from xent_numba.backends.cpu.simd.cast import demote, promote
from xent_numba.backends.cpu.simd.load_store import first_n_or, load, load_n
from xent_numba.backends.cpu.simd.math import exp, tanh
from xent_numba.backends.cpu.simd.vector import select, splat


class Sign(NamedTuple):
    """f(x) = ±x, the sign of logit_scale; its size is a separate s."""

    sign: float


class Softcap(NamedTuple):
    """f(x) = cap · tanh(scale · x / cap)."""

    scale: float
    cap: float


@specialize
def apply_transform(x: Any, f: Any) -> Any:
    """f(x) of each lane."""
    if is_instance_type(f, Sign):
        return lambda x, f: x * splat(f.sign, x)
    if is_instance_type(f, Softcap):
        return lambda x, f: _softcap(x, f)
    return lambda x, f: x


@specialize
def chain_rule(g: Any, x: Any, f: Any) -> Any:
    """g · f'(x), for the logits x as given.  A logit_scale without softcap is in the factors of g already."""
    if is_instance_type(f, Softcap):
        return lambda g, x, f: g * _softcap_derivative(x, f)
    return lambda g, x, f: g


def is_instance_type(value: Any, kind: type) -> bool:
    """Whether the type of an argument is this named tuple."""
    return isinstance(value, types.NamedTuple | types.NamedUniTuple) and value.instance_class is kind


@inline
def _softcap(x: Any, f: Any) -> Any:
    promoted = promote(x)
    u = promoted * splat(f.scale / f.cap, promoted)
    return demote(splat(f.cap, promoted) * tanh(u), x)


@inline
def _softcap_derivative(x: Any, f: Any) -> Any:
    # scale · (1 − tanh²u), as 4E / (1 + E)² with E = exp(−2|u|): exact where tanh is nearly 1
    promoted = promote(x)
    u = promoted * splat(f.scale / f.cap, promoted)
    u = select(u < splat(0.0, u), u, splat(0.0, u) - u)
    e = exp(u + u)
    one = splat(1.0, u) + e
    return demote(splat(4.0 * f.scale, u) * e / (one * one), x)


@inline
def load_logits(p: Any, i: Any, f: Any, vtype: Any) -> Any:
    """f of the lanes from p[i] on."""
    return apply_transform(load(p, i, vtype), f)


@inline
def load_logits_n(p: Any, i: Any, count: Any, f: Any, fill: Any) -> Any:
    """f of the first `count` lanes from p[i] on; the others are those of `load_tile`."""
    if f is None:
        return load_n(p, i, count, fill)
    return first_n_or(apply_transform(load_n(p, i, count, splat(0.0, fill)), f), count, fill)


@inline
def scale_or_one(s: Any) -> Any:
    """s, or 1 where s is None."""
    if s is None:
        return 1.0
    return s
