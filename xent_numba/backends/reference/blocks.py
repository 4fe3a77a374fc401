"""Blocks of rows in float64: from (A, B, C) arrays to (R, C), and back.

The logits are converted to float64 a block of rows at a time, so the memory for that does not grow with them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from xent_numba.backends.compensated import product

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    from xent_numba.backends.protocol import Problem

    Array = NDArray[Any]
    Float64s = NDArray[np.float64]

BLOCK = 1 << 16  # logits in a block, for each of which there are a few float64 temporaries

Block = tuple[slice, slice]


def block_rows(array: Array, block: Block) -> Float64s:
    """A block of (A, B, C) as new float64 (R, C)."""
    part = array[block]
    return part.astype(np.float64, order="C").reshape(-1, part.shape[-1])


def store(out: Array, block: Block, values: Float64s) -> None:
    """Write (R, C) into a block of (A, B, C), rounded once, to nearest."""
    if out.dtype.itemsize == 2 and out.dtype.char != "e":
        # NumPy converts to bfloat16 by way of float32, which would round twice.  A float32 that is truncated instead,
        # with its last bit set where that was inexact ("rounding to odd"), rounds as the float64 would.
        cut = values.astype(np.float32)
        bits = cut.view(np.int32)
        bits -= np.abs(cut) > np.abs(values)
        bits |= (cut != values) & np.isfinite(values)
        values = cut.astype(np.float64)
    out[block] = values.reshape(out[block].shape)


def per_row(values: Float64s | None, block: Block) -> Float64s:
    """A block of (A, B) factors as (R, 1)."""
    return np.ones((1, 1)) if values is None else block_rows(values[..., None], block)


def times(weight: Float64s, value: Float64s) -> Float64s:
    """weight · value, with 0 · inf = 0, as a class of target 0 adds nothing; 0 · nan is nan."""
    return np.where((weight == 0.0) & np.isinf(value), 0.0, weight * value)


def is_kept(labels: Array, ignore: tuple[int, ...]) -> NDArray[np.bool]:
    """Where the labels are none of those to ignore."""
    kept = np.ones(labels.shape, dtype=np.bool)
    for value in ignore:
        kept &= labels != value
    return kept


def transform(x: Float64s, problem: Problem) -> tuple[Float64s, Float64s, Float64s]:
    """z = f(x), its rounding error where z is a product (else 0), and f'(x)."""
    nothing = np.zeros((1, 1))
    scaled, lost = (x, nothing) if problem.logit_scale == 1.0 else product(x, problem.logit_scale)
    if problem.softcap is None:
        return scaled, lost, np.full((1, 1), problem.logit_scale)
    u = scaled / problem.softcap
    return problem.softcap * np.tanh(u), nothing, softcap_slope(u, problem.logit_scale)


def softcap_slope(u: Float64s, logit_scale: float) -> Float64s:
    """f' = scale · (1 − tanh² u) = scale · sech² u, without cancellation where tanh is nearly 1."""
    a = np.exp(-2.0 * np.abs(u))
    return logit_scale * (4.0 * a / (1.0 + a) ** 2)
