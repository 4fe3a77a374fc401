"""The transform z = f(x) of the logits: nothing, the sign of a logit_scale, or a softcap.

f is None, `Sign` (logit_scale) or `Cap` (softcap).  The size s of a logit_scale is not applied to x but to x − max:
s·x would be rounded where x − max is exact.  An option that is off is None, and Numba drops its branch before it
compiles: the machine code of a call has only the instructions of its options.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from numba import types

from xent_numba.backends.cpu.compile.inline import by_type, inline
from xent_numba.backends.cpu.simd.cast import narrow, widen
from xent_numba.backends.cpu.simd.load_store import keep, load, load_part
from xent_numba.backends.cpu.simd.math import exp, tanh
from xent_numba.backends.cpu.simd.vector import select, splat


class Sign(NamedTuple):
    """f(x) = ±x, the sign of logit_scale; its size is a separate s."""

    sign: float


class Cap(NamedTuple):
    """f(x) = cap · tanh(scale · x / cap)."""

    scale: float
    cap: float


@by_type
def transformed(x: Any, f: Any) -> Any:
    """f(x) of each lane."""
    if is_a(f, Sign):
        return lambda x, f: x * splat(f.sign, x)
    if is_a(f, Cap):
        return lambda x, f: _capped(x, f)
    return lambda x, f: x


@by_type
def sloped(g: Any, x: Any, f: Any) -> Any:
    """g · f'(x), for the logits x as given.  A logit_scale without softcap is in the factors of g already."""
    if is_a(f, Cap):
        return lambda g, x, f: g * _cap_slope(x, f)
    return lambda g, x, f: g


def is_a(value: Any, kind: type) -> bool:
    """Whether the type of an argument is this named tuple."""
    return isinstance(value, types.NamedTuple | types.NamedUniTuple) and value.instance_class is kind


@inline
def _capped(x: Any, f: Any) -> Any:
    wide = widen(x)
    u = wide * splat(f.scale / f.cap, wide)
    return narrow(splat(f.cap, wide) * tanh(u), x)


@inline
def _cap_slope(x: Any, f: Any) -> Any:
    # scale · (1 − tanh²u), as 4E / (1 + E)² with E = exp(−2|u|): exact where tanh is nearly 1
    wide = widen(x)
    u = wide * splat(f.scale / f.cap, wide)
    u = select(u < splat(0.0, u), u, splat(0.0, u) - u)
    e = exp(u + u)
    one = splat(1.0, u) + e
    return narrow(splat(4.0 * f.scale, u) * e / (one * one), x)


@inline
def logits(p: Any, i: Any, f: Any, like: Any) -> Any:
    """f of the lanes from p[i] on."""
    return transformed(load(p, i, like), f)


@inline
def logits_part(p: Any, i: Any, count: Any, f: Any, fill: Any) -> Any:
    """f of the first `count` lanes from p[i] on; the others are those of `fill`."""
    if f is None:
        return load_part(p, i, count, fill)
    return keep(transformed(load_part(p, i, count, splat(0.0, fill)), f), count, fill)


@inline
def factor(s: Any) -> Any:
    """s, or 1 where s is None."""
    if s is None:
        return 1.0
    return s
