"""The focal factor q^γ of a label's weight, where q = 1 − p is the probability of all classes but the label's.

With L = −log p and r = p L / q, which is between 0 and 1, the factor in the loss is q^γ, and in the gradient
φ = q^γ (1 + γ r); `backends.reference.focal` derives them.  Neither p nor q is computed as 1 minus the other.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from xent_numba.backends.cuda.hw import intrinsics as hw
from xent_numba.backends.cuda.row.spec import Spec


def focal_function(spec: Spec, real: Any) -> Any:
    """(args, p, q, L) -> (q^γ, φ) in the type `real`; 0 where q is 0 or not normal, NaN where it is NaN."""
    zero, half, one = real(0), real(0.5), real(1)
    least = real(np.finfo(np.float64 if spec.float64 else np.float32).tiny)

    @hw.device
    def focal_factors(args: Any, p: Any, q: Any, nll: Any) -> Any:
        if q < least:
            return zero, zero
        gamma = real(args.focal_gamma)
        log_q = hw.log1p(-p) if p < half else hw.log(q)
        power = hw.exp(gamma * log_q)
        r = p * nll / q if p > zero else zero
        return power, power * (one + gamma * r)

    return focal_factors
