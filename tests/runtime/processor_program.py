"""What a processor may lack: every float16 converted, exponentials, and a row of float16.

Run by `test_processors.py` in processes for which Numba compiles as for another processor.  The kernels are tiny, as a
process compiles them anew.
"""

from __future__ import annotations

import mpmath
import numpy as np

import xent_numba as xn
from xent_numba.backends.cpu.compile.kernel import kernel
from xent_numba.backends.cpu.simd import math
from xent_numba.backends.cpu.simd.exp_shifted import exp_scaled_difference
from xent_numba.backends.cpu.simd.load_store import load, load_n, pointer, store, store_n
from xent_numba.backends.cpu.simd.vector import lanes_of, splat, zero_vector


@kernel
def convert_all(source, out, computed):
    """Load the elements of an array to vectors of the dtype in which `computed` is, and store them to another."""
    p, q, vtype = pointer(source), pointer(out), zero_vector(pointer(computed))
    i, lanes = 0, lanes_of(vtype)
    while i + lanes <= source.size:
        store(q, i, load(p, i, vtype))
        i += lanes
    store_n(q, i, source.size - i, load_n(p, i, source.size - i, vtype))


@kernel
def exp_all(d, out):
    """The exponential of each element; their number is that of whole vectors."""
    vtype = zero_vector(pointer(d))
    for i in range(0, d.size, lanes_of(vtype)):
        store(pointer(out), i, math.exp(load(pointer(d), i, vtype)))


@kernel
def exp_scaled_all(x, c, s, out):
    """2^64 · exp(s (x − c)) of each element; their number is that of whole vectors."""
    vtype = zero_vector(pointer(x))
    for i in range(0, x.size, lanes_of(vtype)):
        store(pointer(out), i, exp_scaled_difference(load(pointer(x), i, vtype), splat(c, vtype), s))


def converted(array, dtype):
    """The array in another dtype, by the kernel."""
    out = np.empty(array.size, dtype)
    source, result = (a.view(np.uint16) if a.dtype == np.float16 else a for a in (array, out))
    wider = source if source.dtype == np.float64 else result
    convert_all((source.dtype, result.dtype), source, result, wider)
    return out


def check_conversions():
    """Every float16 to wider floats; what lies on, or beside, the middle of two float16 back."""
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    for dtype in (np.float32, np.float64):
        found = converted(every[:-3], dtype)
        np.testing.assert_array_equal(found, every[:-3].astype(dtype))
        np.testing.assert_array_equal(np.signbit(found), np.signbit(every[:-3]))
    finite = np.unique(every[np.isfinite(every)].astype(np.float64))
    middles = (finite[1:] + finite[:-1]) / 2
    others = [65519.996, 65520, 65536, 1e30, np.inf, np.nan, 2.0**-25, 2.0**-126, 1e-45, 0.0]
    values = np.concatenate([finite, middles, others, np.negative(others)])
    for dtype in (np.float32, np.float64):
        x = values.astype(dtype)
        for y in (x, np.nextafter(x, dtype(np.inf)), np.nextafter(x, dtype(-np.inf))):
            found, right = converted(y, np.float16), y.astype(np.float16)
            np.testing.assert_array_equal(found, right)
            np.testing.assert_array_equal(np.signbit(found), np.signbit(right))


def check_exponentials():
    """The bound that the docstrings of `math` and `exp_avx512` give."""
    d = np.linspace(-87, 0, 1 << 16).astype(np.float32)
    e = np.empty_like(d)
    exp_all("exp", d, e)
    right = np.exp(d.astype(np.float64))
    ulps = np.abs(e - right) / np.spacing(right.astype(np.float32))
    assert (ulps <= 1.2 - d / 20).all(), ulps.max()


def check_products():
    """In float64, the rounding of a product with a logit_scale must not show in its exponential."""
    x, c, s = np.linspace(-1700, 3, 256), 3.7, 0.37
    e = np.empty_like(x)
    exp_scaled_all("products", x, c, s, e)
    with mpmath.workdps(30):
        right = [mpmath.mpf(2) ** 64 * mpmath.exp(mpmath.mpf(s) * (mpmath.mpf(v) - mpmath.mpf(c))) for v in x.tolist()]
        worst = max(abs(float(found) / exact - 1) for found, exact in zip(e, right, strict=True))
    assert worst < 2 * np.finfo(np.float64).eps, worst


def check_a_row():
    """Numbers that are right in float16, whatever computes them."""
    x = np.array([[0, 1, 2], [0, 0, -np.inf]], np.float16)
    right = x - np.log(np.exp(x.astype(np.float64)).sum(axis=1, keepdims=True))
    np.testing.assert_array_equal(xn.log_softmax(x, backend="cpu"), right.astype(np.float16))


if __name__ == "__main__":
    with np.errstate(all="ignore"):
        check_conversions()
        check_exponentials()
        check_products()
        check_a_row()
