"""No kernel touches memory outside the arrays: they lie right before and right behind pages that must not be touched.

The kernels work on raw pointers with whole vectors, so this runs in a process of its own, which a wrong access ends.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("ml_dtypes")

PROGRAM = '''
import ctypes, itertools, mmap, sys
import ml_dtypes
import numpy as np
import xent_numba as xn

PAGE = mmap.PAGESIZE
SHORT = sys.argv[1] == "16 bits"
mprotect = ctypes.CDLL(None, use_errno=True).mprotect
kept = []

def guarded(values, end):
    """A copy that begins right behind, or ends right before, a page without access; writes outside are found there."""
    values = np.ascontiguousarray(values)
    size = -(-max(values.nbytes, 1) // PAGE) * PAGE
    memory = mmap.mmap(-1, size + 2 * PAGE)
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for page in (base, base + PAGE + size):
        if mprotect(ctypes.c_void_p(page), PAGE, 0):
            raise OSError(ctypes.get_errno(), "mprotect")
    kept.append(memory)
    inner = np.frombuffer(memory, np.uint8, size, PAGE)
    inner[:] = 0xA5
    at = size - values.nbytes if end else 0
    view = inner[at:at + values.nbytes].view(values.dtype).reshape(values.shape)
    view[...] = values
    outside = inner[:at] if end else inner[values.nbytes:]
    return view, outside

def check(shape, dtype, end, kind, axis, rng):
    x, around_x = guarded(rng.normal(size=shape).astype(dtype), end)
    out, around = guarded(np.zeros(shape, dtype), end)
    c = shape[axis]
    rows = shape[:axis] + shape[axis + 1:]
    options = {"axis": axis}
    y = rng.integers(0, c, rows)
    y.flat[-1] = c - 1  # what is written last, and what is written first
    y.flat[0] = 0
    target = guarded(y, end)[0]
    if kind == "distribution":
        target = guarded(rng.random(shape).astype(dtype), end)[0]
    elif kind == "smoothed":
        options |= {"label_smoothing": 0.1, "weight": guarded(rng.random(c), end)[0]}
    elif kind == "transformed":
        options |= {"softcap": 9.0, "logit_scale": -0.7, "z_loss": 0.1}
    elif kind == "scaled":
        options |= {"logit_scale": 0.7, "sample_weight": guarded(rng.random(rows), end)[0]}
    xn.cross_entropy(x, target, **options)
    _, grad = xn.cross_entropy_and_grad(x, target, grad_out=out, **options)
    same = target.astype(float) if kind == "distribution" else target
    expected = xn.cross_entropy_grad(x.astype(float), same, backend="numpy", **options)
    tolerance = {8: 1e-12, 4: 1e-5, 2: 1e-2}[x.itemsize]
    near = np.allclose(grad.astype(float), expected, rtol=tolerance, atol=tolerance * abs(expected).max())
    assert near, (shape, dtype, end, kind)
    if kind == "index":
        lse = guarded(np.asarray(xn.logsumexp(x, axis=axis), np.float64), end)[0]
        xn.cross_entropy_grad(x, target, lse=lse, out=out, **options)
        for function in (xn.softmax, xn.log_softmax):
            function(x, axis=axis, out=out)
        few, around_few = guarded(np.zeros(rows, lse.dtype if x.itemsize == 8 else np.float32), end)
        xn.logsumexp(x, axis=axis, out=few)
        assert (around_few == 0xA5).all(), (shape, dtype, end, "logsumexp written outside")
    assert (around == 0xA5).all() and (around_x == 0xA5).all(), (shape, dtype, end, kind, "written outside")
    xn.cross_entropy_and_grad(x, target, grad_out=x, **options)

rng = np.random.default_rng(0)
lengths = [1, 7, 8, 9, 15, 16, 17, 33, 255, 256, 257, 258, 513, 1025, 4097]
for dtype in (np.float16, ml_dtypes.bfloat16) if SHORT else (np.float32, np.float64):
    for end, c, rows in itertools.product((False, True), lengths, (1, 3, 17)):
        check((rows, c), dtype, end, "index", 1, rng)
    if dtype in (np.float32, ml_dtypes.bfloat16):
        for end, c in itertools.product((False, True), (1, 5, 17, 300)):
            check((c, 19), dtype, end, "index", 0, rng)
if SHORT:
    for kind, end, c in itertools.product(("smoothed", "distribution"), (False, True), (17, 1030)):
        check((19, c), np.float16, end, kind, 1, rng)
    print("untouched")
    sys.exit()
for kind, end, c in itertools.product(("smoothed", "distribution"), (False, True), (3, 16, 17, 257, 1030)):
    check((5, c), np.float32, end, kind, 1, rng)
for kind, end, c in itertools.product(("smoothed", "scaled"), (False, True), (33, 100, 255)):
    check((33, c), np.float32, end, kind, 1, rng)
for end in (False, True):
    check((16_500, 255), np.float32, end, "index", 1, rng)  # streamed, from 16 MiB on
for kind, end, c in itertools.product(("transformed", "scaled"), (False, True), (3, 17, 257)):
    check((19, c), np.float32, end, kind, 1, rng)
for end in (False, True):
    check((2, 65540), np.float32, end, "distribution", 1, rng)
for end, c in itertools.product((False, True), (65537, 131_090)):
    check((2, c), np.float32, end, "index", 1, rng)
    check((3, 2_100_000 + c), np.float32, end, "index", 1, rng)  # streamed, from 16 MiB on
print("untouched")
'''


@pytest.mark.skipif(sys.platform == "win32", reason="mprotect is POSIX")
@pytest.mark.parametrize("logits", ["32 and 64 bits", pytest.param("16 bits", marks=pytest.mark.rare)])
def test_nothing_is_touched_outside_the_arrays(logits):
    pytest.importorskip("numba")
    command = [sys.executable, "-c", PROGRAM, logits]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == "untouched\n"
