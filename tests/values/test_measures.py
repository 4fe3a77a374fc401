"""The sums that the cpu backend's rows can be asked for beside that of their exponentials, and outputs of any formula.

Nothing public stands between: the kernels of this file ask for both sums and write p_j (v_j − ⟨p, v⟩).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import mpmath
import numpy as np
import pytest

from xent_numba.backends.cpu.compile.inline import inline
from xent_numba.backends.cpu.compile.kernel import kernel, signature_key
from xent_numba.backends.cpu.regimes.long.epilogue import top_sum
from xent_numba.backends.cpu.regimes.long.gradient import ELEMENTS, RowOutput, scaled_shift, write_gradient
from xent_numba.backends.cpu.regimes.long.statistics import statistics
from xent_numba.backends.cpu.regimes.staging import flush_tail
from xent_numba.backends.cpu.row.measures import Measures
from xent_numba.backends.cpu.row.operands import RowInput, row_pointer
from xent_numba.backends.cpu.simd.load_store import advance, load_part, pointer, stack_buffer
from xent_numba.backends.cpu.simd.vector import splat, zero_vector

DIGITS = 60
ULP = {np.float32: 2.0**-23, np.float64: 2.0**-52}


# ------------------------------------------------------------------------------------------------ kernels
class Centred(NamedTuple):
    """The coefficients of p_j ((v_j − v_top) − mean), with p_j = factor · e_j."""

    shift: Any
    keep_residual: bool
    at_target: float
    factor: float
    at_top: float
    mean: float
    v: Any


def _centred(coefficients, e, x, i, count, row):
    v = load_part(coefficients.v, i, count, e) - splat(coefficients.at_top, e)
    return e * splat(coefficients.factor, e) * (v - splat(coefficients.mean, e))


ELEMENTS[Centred] = _centred


@inline
def _long_row(row, out, streaming, found, i, vtype):
    stats = statistics(row, None, vtype)
    total, log_s = top_sum(stats, row.scale, vtype)
    measured = stats.measured
    found[i, 0], found[i, 1], found[i, 2] = log_s + measured.gap / total, measured.at_top, measured.stream / total
    centre = stats.row_max if stats.row_max > -math.inf else 0.0
    shift, factor, keep_residual = scaled_shift(centre, 1.0 / total, row.scale, vtype)
    mean = measured.stream / total
    coefficients = Centred(shift, keep_residual, 0.0, factor, measured.at_top, mean, row.measures.stream)
    output = RowOutput(out, stack_buffer(vtype, 2), streaming)
    carry = write_gradient(row, output, 0, row.classes, coefficients, 0, vtype)
    flush_tail(output.staging, carry, advance(out, row.classes), vtype)


@kernel
def long_rows(logits, vectors, out, found, streaming):
    """Entropy, v_top and ⟨p, v⟩ − v_top of the rows of (1, N, C) arrays in found (N, 3), and p_j (v_j − ⟨p, v⟩)."""
    vtype = zero_vector(pointer(logits))
    for i in range(logits.shape[1]):
        measures = Measures(True, row_pointer(vectors, 0, i))
        row = RowInput(row_pointer(logits, 0, i), logits.shape[2], -1, None, None, None, True, measures)
        _long_row(row, row_pointer(out, 0, i), streaming, found, i, vtype)


def run(compute, x, v, *rest):
    """The results of a kernel for logits x (N, C) and vectors v (N, C)."""
    out, found = np.full_like(x, 7), np.zeros((len(x), 3))
    args = x[None], v[None], out[None], found, *rest
    compute(signature_key(args), *args)
    return found, out


# ------------------------------------------------------------------------------------------------ what they are held to
def exact(x, v):
    """Entropy, ⟨p, v⟩ and p_j (v_j − ⟨p, v⟩) of one row."""
    with mpmath.workdps(DIGITS):
        x, v = [mpmath.mpf(float(a)) for a in x], [mpmath.mpf(float(a)) for a in v]
        top = max(x)
        e = [mpmath.exp(a - top) for a in x]
        total = mpmath.fsum(e)
        p = [a / total for a in e]
        others = mpmath.fsum(a for j, a in enumerate(e) if j != x.index(top))
        entropy = mpmath.log1p(others) + mpmath.fsum(a * (top - b) for a, b in zip(e, x, strict=True) if a) / total
        mean = mpmath.fsum(a * b for a, b in zip(p, v, strict=True))
        return entropy, mean, [a * (b - mean) for a, b in zip(p, v, strict=True)]


def rows(dtype, classes, rng):
    """Rows on which such sums go wrong, by name."""
    x = rng.normal(size=classes)
    confident, late = x - 70.0, x - 70.0
    confident[3], late[-2] = 0.0, 0.0
    steep = np.linspace(-500.0, 500.0, classes)
    holes = x.copy()
    holes[::3], holes[: classes // 2] = -np.inf, -np.inf
    tied = np.minimum(3.0 * x, 1.0)
    made = {
        "ordinary": x,
        "wide": 30.0 * x,
        "confident": confident,
        "confident at the end": late,
        "ties at the maximum": tied,
        "all equal": np.full(classes, 0.7),
        "−inf": holes,
        "a new shift in every block": steep,
        "slightly increasing": np.linspace(0.0, 5.0, classes),
        "decreasing": -steep,
        "far from 0": 1e4 + 2.0 * x,
    }
    return list(made), np.array(list(made.values())).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("classes", [300, 1037])
def test_sums_and_outputs(dtype, classes):
    rng = np.random.default_rng(classes)
    names, x = rows(dtype, classes, rng)
    v = rng.normal(size=x.shape).astype(dtype)
    found, out = run(long_rows, x, v, False)
    for i, name in enumerate(names):
        entropy, mean, centred = exact(x[i], v[i])
        error = abs(found[i, 0] - entropy) / entropy / ULP[dtype]
        assert error < 8 + abs(math.log(entropy)), (name, "entropy", float(error))
        size = float(np.abs(v[i]).max())
        worst = float(abs(found[i, 1] + found[i, 2] - mean)) / size / ULP[dtype]
        print(dtype.__name__, classes, name, float(error), worst, max(float(abs(o-c)/(abs(c)+1e-30))/ULP[dtype] for o,c in zip(out[i],centred)))
