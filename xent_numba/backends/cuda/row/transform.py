"""The exponential, and the transform z = f(x) of the logits: a logit_scale, a softcap, or nothing."""

from __future__ import annotations

from typing import Any

import numpy as np

from xent_numba.backends.cuda.hw import intrinsics as hw
from xent_numba.backends.cuda.row.spec import Spec

_LOG2_E = hw.f32(1.4426950408889634)


def exp_function(spec: Spec) -> Any:
    """(d) -> e^d for d ≤ 0, in the arithmetic of the spec."""
    return hw.exp if spec.float64 else _exp_by_ex2


@hw.device
def _exp_by_ex2(d: Any) -> Any:
    """e^d in float32 by the hardware's 2^x."""
    # d = x − max was rounded before it is scaled: one fma for both would round max · log2(e) instead.
    return hw.ex2(d * _LOG2_E)


def exp_term(spec: Spec, real: Any, exp: Any) -> Any:
    """(z, row_max) -> e^(z − row_max)."""
    one, inf = real(1), real(np.inf)
    if spec.lse:  # +inf − +inf must not look like the NaN of a NaN logit
        return hw.device(lambda z, row_max: one if z == inf else exp(z - row_max))
    return hw.device(lambda z, row_max: exp(z - row_max))


def summand(spec: Spec, real: Any, exp_term: Any) -> Any:
    """(z, row_max, left_out) -> (e^(z − row_max), a row's summand of a class; left_out).

    With a dense target the first class that has the maximum is left out: its summand is 0, and left_out becomes 1.
    """
    if not spec.dense:
        return hw.device(lambda z, row_max, left_out: (exp_term(z, row_max), left_out))
    one, zero = real(1), real(0)

    @hw.device
    def by_branch(z: Any, row_max: Any, left_out: Any) -> Any:
        if left_out == zero and z == row_max:
            return zero, one
        return exp_term(z, row_max), left_out

    @hw.device
    def by_selection(z: Any, row_max: Any, left_out: Any) -> Any:
        term = exp_term(z, row_max)
        is_first = (left_out == zero) & (z == row_max)
        return (zero if is_first else term), (one if is_first else left_out)

    # The float64 exponential is long, so a branch costs little there, and saves registers that are scarce.
    return by_branch if spec.float64 else by_selection


def transform_functions(spec: Spec, real: Any, exp: Any) -> tuple[Any, Any]:
    """(args, x) -> f(x) and (args, x) -> f'(x)."""
    one, two, four = real(1), real(2), real(4)
    if spec.softcap:

        @hw.device
        def softcap(args: Any, x: Any) -> Any:
            return real(args.softcap) * hw.tanh(real(args.scale_over_cap) * x)

        @hw.device
        def softcap_derivative(args: Any, x: Any) -> Any:
            # sech² by exponentials: 1 − tanh² has no digits left where tanh is close to 1
            e = exp(-two * abs(real(args.scale_over_cap) * x))
            return real(args.logit_scale) * four * e / ((one + e) * (one + e))

        return softcap, softcap_derivative
    if spec.scaled:
        return hw.device(lambda args, x: real(args.logit_scale) * x), hw.device(lambda args, x: real(args.logit_scale))
    return hw.device(lambda args, x: x), hw.device(lambda args, x: one)
