"""The accuracy law on adversarial rows: error over bound below 1 for every loss and gradient element, at any length.

`pytest -s` prints the worst of each kind of row.
"""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest

import xent_numba as xn
from tests.support.exact import exact_rows
from tests.support.exact import excess as law
from tests.support.palette import DIGITS, distinct, exact_row, excess, pair, row_excess

bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
DTYPES = [np.float32, np.float64, np.float16, bfloat16]
# 16-bit logits are read, then treated as float32.
DTYPES_RARELY_16_BIT = [*DTYPES[:2], *(pytest.param(dtype, marks=pytest.mark.rare) for dtype in DTYPES[2:])]
# Around the widths of vectors, the 16 vectors of a block, the tiles of short rows, and the segments of long ones.
LENGTHS = [2, 3, 7, 8, 9, 15, 16, 17, 63, 64, 65, 127, 128, 129, 255, 256, 257, 511, 512, 513, 4095, 4096, 4097]
SEGMENTS = [65535, 65536, 65537, 100_000, 131_073]
COLORS = 40  # distinct values in a row


def palette(rng, n, values):
    """A row of n classes with the given values in random order, each as often as another."""
    return rng.permutation(np.resize(np.asarray(values), n))


def others_equal(rng, n, loss):
    """One value in all classes but the target, so far below it that this is the loss: errors do not average out."""
    gap = -math.log(math.expm1(loss) / (n - 1))
    row = np.full(n, rng.uniform(-3, 3))
    row[rng.integers(n)] += gap
    return row


def with_top(rng, n, gap):
    """Random others, and one class above all of them by about `gap`."""
    row = palette(rng, n, rng.normal(size=COLORS))
    row[rng.integers(n)] = row.max() + gap
    return row


def masked(rng, n):
    row = palette(rng, n, rng.normal(scale=4, size=COLORS))
    row[rng.random(n) < 0.5] = -math.inf
    row[rng.integers(n)] = 2.5
    return row


def steps(n, span):
    """Ascending: every block raises the maximum."""
    return np.floor(np.arange(n) * (min(COLORS, n) / n)) * (span / COLORS)


KINDS = {
    "normal": lambda rng, n: palette(rng, n, rng.normal(scale=3, size=COLORS)),
    "wide": lambda rng, n: palette(rng, n, rng.normal(scale=40, size=COLORS)),
    "nearly tied": lambda rng, n: palette(rng, n, 1 + 1e-3 * rng.random(COLORS) * rng.choice([1e-3, 1, 1e-12])),
    "tied": lambda rng, n: np.full(n, rng.normal()),
    "confident 12": lambda rng, n: with_top(rng, n, 12),
    "confident 40": lambda rng, n: with_top(rng, n, 40),
    "confident 80": lambda rng, n: with_top(rng, n, 80),
    "confident 300": lambda rng, n: with_top(rng, n, 300),
    "offset 1e5": lambda rng, n: 1e5 + palette(rng, n, rng.normal(scale=3, size=COLORS)),
    "offset -1e5": lambda rng, n: -1e5 + palette(rng, n, rng.normal(scale=3, size=COLORS)),
    "offset 1e8": lambda rng, n: 1e8 + 8 * palette(rng, n, rng.integers(0, 9, COLORS)),
    "masked": masked,
    "ascending": lambda rng, n: steps(n, 30.0),
    "ascending a little": lambda rng, n: 1 + steps(n, 1e-9),
    "ascending far": lambda rng, n: steps(n, 1000.0),
    "descending": lambda rng, n: steps(n, 30.0)[::-1].copy(),
    # |ln v| near the powers of 2, and v just below one, where a unit in the last place is largest beside it
    **{
        f"others equal {v}": (lambda rng, n, v=v: others_equal(rng, n, v))
        for v in (0.0156, 0.0624, 0.1249, 0.2499, 0.4999, 0.999, 1.99)
    },
}
FAR = {"offset 1e5", "offset -1e5", "offset 1e8", "confident 300", "ascending far", "wide"}


def targets(row, rng):
    """The edges of the row, of a vector, a tile, a block and a segment; the maximum; anywhere.  Where finite."""
    n = row.size
    some = {0, n - 1, 15, 16, 127, 128, 255, 256, 65535, 65536, int(np.argmax(row)), int(rng.integers(n))}
    return [y for y in sorted(some) if y < n and row[y] > -math.inf]


def excess_of(rows, dtype, rng, axis=-1):
    """The worst error over bound of rows of one length, each at several targets, in one call."""
    x, y, known = [], [], []
    for row in rows:
        cast = row.astype(dtype)
        values = distinct(cast)
        if np.isfinite(cast.astype(np.float64)).any() and not np.isposinf(cast.astype(np.float64)).any():
            for target in targets(cast.astype(np.float64), rng):
                x.append(cast)
                y.append(target)
                known.append(values)
    x, y = np.array(x), np.array(y)
    given = np.ascontiguousarray(x.T) if axis == 0 else x
    losses, _ = xn.cross_entropy_and_grad(given, y, reduction="none", axis=axis)
    grad = xn.cross_entropy_and_grad(given, y, reduction="sum", axis=axis)[1]
    grad = grad.T if axis == 0 else grad
    return max(row_excess(x[i], y[i], losses[i], grad[i], known[i]) for i in range(y.size))


@pytest.mark.parametrize("dtype", DTYPES_RARELY_16_BIT, ids=lambda dtype: np.dtype(dtype).name)
@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_every_length(kind, dtype, backend, rng):
    if kind in FAR and dtype is np.float16:
        pytest.skip("beyond the range of float16")
    worst = {}
    # The oracle does nothing by length, and 16-bit logits are read, then treated as float32.
    for n in LENGTHS if backend != "numpy" and np.dtype(dtype).itemsize > 2 else LENGTHS[1::4]:
        rows = [KINDS[kind](rng, n) for _ in range(2 if n < 1000 else 1)]
        worst[n] = excess_of(rows, dtype, rng)
    print(f"{backend} {np.dtype(dtype).name} {kind}: {max(worst.values()):.2f}")
    assert max(worst.values()) < 1, worst


# 16-bit logits have no segments of their own: one length will do, and that rarely.
@pytest.mark.parametrize(
    ("n", "dtype"),
    [(n, dtype) for n in SEGMENTS for dtype in (np.float32, np.float64)]
    + [pytest.param(SEGMENTS[2], dtype, marks=pytest.mark.rare) for dtype in (np.float16, bfloat16)],
    ids=lambda value: str(value) if isinstance(value, int) else np.dtype(value).name,
)
def test_rows_of_several_segments(n, dtype, backend, rng):
    if backend == "numpy" and n != SEGMENTS[2]:
        pytest.skip("the oracle has no segments: one length will do")
    worst = {}
    for kind, make in KINDS.items():
        if kind not in FAR or dtype is not np.float16:
            worst[kind] = excess_of([make(rng, n)], dtype, rng)
    print(f"{backend} {np.dtype(dtype).name} {n} classes: {max(worst.values()):.2f}")
    assert max(worst.values()) < 1, worst


@pytest.mark.parametrize("dtype", DTYPES_RARELY_16_BIT, ids=lambda dtype: np.dtype(dtype).name)
def test_rows_whose_classes_are_apart(dtype, backend, rng):
    worst = {}
    for kind, make in KINDS.items():
        if kind not in FAR or dtype is not np.float16:
            for n in (5, 17, 300):
                worst[kind, n] = excess_of([make(rng, n)], dtype, rng, axis=0)
    assert max(worst.values()) < 1, worst


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_edge_of_the_range(dtype, backend):
    """Each term is below the smallest normal number, and 100 000 of them are not."""
    gap = 89.0 if dtype is np.float32 else 710.0
    x = np.zeros((1, 100_000), dtype)
    x[0, 7] = gap
    loss, _ = xn.cross_entropy_and_grad(x, [7], reduction="none")
    grad = xn.cross_entropy_and_grad(x, [7], reduction="sum")[1]
    assert row_excess(x[0], 7, loss[0], grad[0]) < 1


@pytest.mark.parametrize("dtype", DTYPES_RARELY_16_BIT, ids=lambda dtype: np.dtype(dtype).name)
def test_softmax_and_its_logarithms(dtype, backend, rng):
    worst = {}
    for kind, make in KINDS.items():
        if kind in FAR and dtype is np.float16:
            continue
        for n in (3, 17, 257, 4097):
            row = make(rng, n).astype(dtype)
            x = row.astype(np.float64)
            y = int(np.argmax(x))
            loss, own, others = exact_row(row, y)
            there = x > -math.inf
            with mpmath.workdps(DIGITS):
                below = {v: mpmath.mpf(v) - mpmath.mpf(float(x[y])) - loss for v in set(x[there].tolist())}
                p = pair(1 + own if j == y else others[v] for j, v in enumerate(x.tolist()))
                log_p = pair(-loss if j == y else below[v] for j, v in enumerate(x.tolist()) if there[j])
                lse = pair([mpmath.mpf(float(x[y])) + loss])
            larger = max(abs(float(x[y])), float(loss))  # whose sum, lse, may cancel
            errors = {
                "softmax": excess(xn.softmax(row), p, dtype),
                "log_softmax": excess(xn.log_softmax(row)[there], log_p, dtype),
                "logsumexp": excess([xn.logsumexp(row)], lse, loss_dtype(dtype), larger=larger),
            }
            for name, error in errors.items():
                worst[name] = max(worst.get(name, (0.0,)), (error, kind, n))
    print(f"{backend} {np.dtype(dtype).name}: {worst}")
    assert max(error for error, *_ in worst.values()) < 1, worst


def loss_dtype(dtype):
    return np.float64 if dtype is np.float64 else np.float32


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_smoothing_and_distributions(dtype, backend, rng):
    """The law relative to the larger of T·p and t."""
    worst = 0.0
    for n in (3, 17, 40, 100, 256, 257, 1000):
        for kind in ("normal", "confident 12", "nearly tied", "offset 1e5", "others equal 0.1249"):
            row = KINDS[kind](rng, n).astype(dtype)
            y = int(rng.integers(n))
            q = rng.dirichlet(np.ones(n)).astype(dtype)
            loss, own, others = exact_row(row, y)
            for epsilon, target in ((0.1, np.array([y])), (0.0, q[None]), (0.3, q[None])):
                with mpmath.workdps(DIGITS):
                    e = mpmath.mpf(epsilon)
                    hard = q if target.ndim == 2 else np.arange(n) == y
                    t = [(1 - e) * mpmath.mpf(float(v)) + e / n for v in hard]
                    p = [others[v] if j != y else 1 + own for j, v in enumerate(row.astype(np.float64).tolist())]
                    mass = mpmath.fsum(t)
                    terms = [t[j] * (mpmath.mpf(float(row[y])) + loss - mpmath.mpf(float(row[j]))) for j in range(n)]
                    exact_loss = pair([mpmath.fsum(terms)])
                    exact_grad = pair(mass * p[j] - t[j] for j in range(n))
                    larger = np.array([float(max(mass * p[j], t[j])) for j in range(n)])
                found = xn.cross_entropy(row[None], target, reduction="none", label_smoothing=epsilon)
                grad = xn.cross_entropy_and_grad(row[None], target, reduction="sum", label_smoothing=epsilon)[1]
                worst = max(worst, excess(found, exact_loss, dtype))
                worst = max(worst, excess(grad[0], exact_grad, dtype, larger=larger))
    print(f"{backend} {np.dtype(dtype).name}: {worst:.2f}")
    assert worst < 1


@pytest.mark.parametrize(
    "options", [{"logit_scale": 0.37}, {"logit_scale": -3.0}, {"softcap": 30.0, "logit_scale": 2.0}]
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_transforms(options, dtype, backend, rng):
    """The law for the logits before the transform; in float64, z of a softcap has been rounded by itself besides."""
    worst = 0.0
    for n in (2, 17, 40):
        for kind in ("normal", "wide", "nearly tied", "offset 1e5"):
            x = KINDS[kind](rng, n).astype(dtype)[None]
            y = np.array([rng.integers(n)])
            loss, grad = exact_rows(x, y, **options)
            found = xn.cross_entropy(x, y, reduction="none", **options)
            slope = xn.cross_entropy_grad(x, y, reduction="sum", **options)
            if dtype is np.float32 or "softcap" not in options:
                errors = law(found, loss, dtype), law(slope, grad, dtype)
            else:
                z = options["softcap"]
                errors = (
                    float(abs(found[0] - loss[0]) / (4 * np.spacing(z))),
                    float(np.max(abs(slope - grad)) / 1e-13),
                )
            worst = max(worst, *errors)
    print(f"{backend} {np.dtype(dtype).name} {options}: {worst:.2f}")
    assert worst < 1
