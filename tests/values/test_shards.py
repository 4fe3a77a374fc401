"""Shards of the classes, added in any order, against the whole; and to the accuracy law against the exact result."""

from __future__ import annotations

import math
import pickle
from itertools import pairwise

import numpy as np
import pytest

import xent_numba as xn
from tests.support.exact import exact_rows, excess
from tests.support.palette import row_excess
from tests.values.test_accuracy import KINDS

LAYOUTS = [
    ((6,), 0),
    ((5, 1), 1),
    ((3, 7), 1),
    ((4, 12), 1),
    ((12, 4), 0),
    ((2, 9, 3), 1),
    ((2, 3, 8), 2),
    ((3, 300), 1),
    ((600, 3), 0),
]
N_CASES = 120
COSTLY = ["numpy", pytest.param("cpu", marks=pytest.mark.rare)]  # of tests that would compile many kernels


def cut(array, axis, start, stop):
    """Some of the classes."""
    index = [slice(None)] * array.ndim
    index[axis] = slice(start, stop)
    return array[tuple(index)]


def random_options(rng, shape, axis):
    """Options of every kind, a target, and logits with an edge now and then."""
    c, rows = shape[axis], shape[:axis] + shape[axis + 1 :]
    x = rng.normal(scale=rng.choice([0.1, 3.0, 40.0]), size=shape) + rng.choice([0.0, 0.0, 1e3])
    if rng.random() < 0.3:
        x[rng.random(shape) < 0.3] = -math.inf
    options = {}
    kind = rng.integers(4)
    if kind == 0:
        y = np.exp(rng.normal(size=shape)) * (rng.random(shape) < 0.8)
    elif kind == 1:
        y = np.moveaxis(np.eye(c, dtype=rng.choice([bool, np.int32, np.uint8]))[rng.integers(c, size=rows)], -1, axis)
    else:
        y = rng.integers(0, c, rows)
        if rng.random() < 0.5:
            options["ignore_index"] = int(rng.choice([-1, 0, 255]))
            y = np.where(rng.random(rows) < 0.3, options["ignore_index"], y)
    if rng.random() < 0.5:
        options["weight"] = rng.random(c) * (rng.random(c) < 0.8) * rng.choice([1.0, 1.0, 1e-200, 1e250])
    if rng.random() < 0.4:
        options["sample_weight"] = rng.random(rows) * (rng.random(rows) < 0.8)
    if rng.random() < 0.4:
        options["label_smoothing"] = float(rng.choice([0.1, 0.7, 1.0]))
    if rng.random() < 0.4:
        options["logit_scale"] = float(rng.choice([0.3, -2.0, 1e-3]))
    if rng.random() < 0.3:
        options["softcap"] = float(rng.choice([5.0, 50.0]))
        if options.get("label_smoothing") == 1.0:  # all logits may be at the cap, and T p − t then nothing but rounding
            options["label_smoothing"] = 0.9
    if rng.random() < 0.3:
        options["z_loss"] = 0.01
    if kind > 1 and "label_smoothing" not in options and rng.random() < 0.4:
        options["focal_gamma"] = float(rng.choice([0.5, 2.0]))
    return x, y, options


def parts_of(x, y, axis, cuts, options):
    """The parts of the shards between the cuts."""
    classes, parts = x.shape[axis], []
    for a, b in pairwise(cuts):
        own = dict(options, axis=axis)
        if "weight" in own:
            own["weight"] = own["weight"][a:b]
        target = cut(y, axis, a, b) if y.ndim == x.ndim else y
        parts.append(xn.partial_cross_entropy(cut(x, axis, a, b), target, class_offset=a, n_classes=classes, **own))
    return parts


def added(parts, rng):
    """All parts in a random order, in random groups."""
    parts = [parts[i] for i in rng.permutation(len(parts))]
    while len(parts) > 1:
        i, j = rng.choice(len(parts), 2, replace=False)
        both = parts[i] + parts[j]
        parts = [part for k, part in enumerate(parts) if k not in (i, j)] + [both]
    return parts[0]


def gradient(whole, x, y, axis, cuts, **options):
    """The gradients of all shards side by side."""
    return np.concatenate(
        [
            whole.grad(cut(x, axis, a, b), cut(y, axis, a, b) if y.ndim == x.ndim else y, class_offset=a, **options)
            for a, b in pairwise(cuts)
        ],
        axis=axis,
    )


def random_cuts(rng, classes):
    return [0, *sorted(rng.choice(np.arange(1, classes), rng.integers(0, min(classes, 6)), replace=False)), classes]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("backend", COSTLY, indirect=True)
def test_any_shards_of_any_options_equal_the_whole(dtype, backend, rng):
    tolerance = 2e-5 if dtype is np.float32 else 1e-12
    for case in range(N_CASES):
        shape, axis = LAYOUTS[rng.integers(len(LAYOUTS))]
        x, y, options = random_options(rng, shape, axis)
        x, cuts = x.astype(dtype), random_cuts(rng, shape[axis])
        reduction = str(rng.choice(["mean", "sum", "none"]))
        whole = added(parts_of(x, y, axis, cuts, options), rng)
        loss, grad = xn.cross_entropy_and_grad(x, y, axis=axis, reduction=reduction, backend="numpy", **options)
        found = whole.loss(reduction)
        assert found.dtype == loss.dtype
        assert np.shape(found) == np.shape(loss)
        message = str((case, shape, axis, cuts, reduction, options, y.dtype))
        np.testing.assert_allclose(found, loss, rtol=tolerance, atol=tolerance, err_msg=message)
        largest = np.max(np.abs(grad), initial=0.0, where=np.isfinite(grad))
        found = gradient(whole, x, y, axis, cuts, reduction=reduction)
        assert found.dtype == grad.dtype
        np.testing.assert_allclose(found, grad, rtol=tolerance, atol=tolerance * largest, err_msg=message)
        if not options.keys() & {"logit_scale", "softcap", "ignore_index"} and y.ndim == x.ndim:
            lse = xn.logsumexp(x, axis=axis, backend="numpy")
            np.testing.assert_allclose(whole.logsumexp, lse, rtol=tolerance, atol=tolerance, err_msg=message)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_accuracy_law(dtype, backend, rng):
    """Wherever the label and the maximum are; shards of one class too, in any order."""
    worst = {}
    for kind, make in KINDS.items():
        for n, cuts in ((17, [0, 1, 9, 17]), (64, list(range(65))), (600, [0, 1, 299, 600])):
            x = make(rng, n).astype(dtype)[None]
            finite = np.flatnonzero(x[0] > -math.inf)
            for y in {int(np.argmax(x)), int(rng.choice(finite)), int(finite[-1])}:
                target = np.array([y])
                whole = added(parts_of(x, target, 1, cuts, {}), rng)
                grad = gradient(whole, x, target, 1, cuts, reduction="sum")[0]
                worst[kind, n, y] = row_excess(x[0], y, whole.loss("none")[0], grad)
    print(f"{backend} {np.dtype(dtype).name}: {max(worst.values()):.2f}")
    assert max(worst.values()) < 1, {key: value for key, value in worst.items() if value >= 1}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_one_hot_distribution_keeps_the_digits_of_its_class(dtype, backend, rng):
    for kind in ("confident 12", "confident 40", "confident 300", "tied", "others equal 0.1249"):
        x = KINDS[kind](rng, 40).astype(dtype)[None]
        for y in (int(np.argmax(x)), 0, 39):
            for q in (np.eye(40, dtype=dtype)[[y]], np.eye(40, dtype=np.uint8)[[y]]):
                for cuts in ([0, 20, 40], list(range(41))):
                    whole = added(parts_of(x, q, 1, cuts, {}), rng)
                    grad = gradient(whole, x, q, 1, cuts, reduction="sum")[0]
                    assert row_excess(x[0], y, whole.loss("none")[0], grad) < 1, (kind, y, cuts)


@pytest.mark.parametrize(
    "options", [{"logit_scale": 0.37}, {"logit_scale": -3.0}, {"softcap": 30.0, "logit_scale": 2.0}]
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("backend", COSTLY, indirect=True)
def test_transforms(options, dtype, backend, rng):
    """The law for the logits before the transform; in float64, z of a softcap has been rounded by itself besides."""
    worst = 0.0
    for n, cuts in ((2, [0, 1, 2]), (40, [0, 13, 40])):
        for kind in ("normal", "wide", "nearly tied", "confident 12"):
            x = KINDS[kind](rng, n).astype(dtype)[None]
            for y in {0, int(np.argmax(x)), int(np.argmin(x))}:
                loss, grad = exact_rows(x, [y], **options)
                whole = added(parts_of(x, np.array([y]), 1, cuts, options), rng)
                found = gradient(whole, x, np.array([y]), 1, cuts, reduction="sum")
                if "softcap" in options and dtype is np.float64:
                    np.testing.assert_allclose(whole.loss("none")[0], float(loss[0]), rtol=2e-14, atol=1e-15)
                    np.testing.assert_allclose(found[0], grad[0].astype(float), rtol=2e-13, atol=1e-15)
                else:
                    worst = max(worst, excess(whole.loss("none"), loss, dtype), excess(found, grad, dtype))
    assert worst < 1


def test_edges(backend):
    inf, nan = math.inf, math.nan
    rows = {
        (0.0, -inf, -inf, -inf): (0.0, [0, 0, 0, 0]),
        (-inf, -inf, 0.0, 0.0): (inf, [-1, 0, 0.5, 0.5]),
        (-inf, -inf, -inf, -inf): (nan, [nan] * 4),
        (0.0, 0.0, inf, 0.0): (nan, [nan] * 4),
        (0.0, nan, 0.0, 0.0): (nan, [nan] * 4),
        (0.0, nan, inf, 0.0): (nan, [nan] * 4),
        (1e308, -1e308, 0.0, 1e308): (math.log(2), [-0.5, 0, 0, 0.5]),
    }
    for row, (loss, grad) in rows.items():
        x, y = np.array([row]), np.array([0])
        for cuts in ([0, 4], [0, 2, 4], [0, 1, 2, 3, 4]):
            parts = parts_of(x, y, 1, cuts, {})
            for ordered in (parts, parts[::-1]):
                whole = sum(ordered[1:], ordered[0])
                np.testing.assert_allclose(whole.loss(), loss)
                np.testing.assert_allclose(whole.logsumexp, xn.logsumexp(x, backend="numpy"))
                np.testing.assert_allclose(gradient(whole, x, y, 1, cuts), [grad])


def test_rows_that_are_ignored_are_never_read(backend):
    x = np.array([[math.nan, math.nan, 1.0, math.inf], [0.0, 1.0, 2.0, 3.0]])
    y = np.array([2, 3])
    whole = sum(parts_of(x, y, 1, [0, 2, 4], {"ignore_index": 2}))
    np.testing.assert_allclose(whole.loss(), xn.cross_entropy(x, y, ignore_index=2, backend="numpy"))
    grad = gradient(whole, x, y, 1, [0, 2, 4])
    assert not grad[0].any()
    assert whole.logsumexp[0] == 0.0
    nothing = sum(parts_of(x, np.array([-100, -100]), 1, [0, 2, 4], {}))
    assert math.isnan(nothing.loss())
    assert not gradient(nothing, x, np.array([-100, -100]), 1, [0, 2, 4]).any()


def test_no_rows(backend):
    x, y = np.zeros((0, 4), np.float32), np.zeros(0, int)
    whole = sum(parts_of(x, y, 1, [0, 2, 4], {}))
    assert math.isnan(whole.loss())
    assert whole.loss("sum") == 0.0
    assert whole.loss("none").shape == (0,)
    assert whole.grad(x[:, :2], y).shape == (0, 2)
    assert xn.PartialCrossEntropy.from_array(whole.to_array(), whole).loss("sum") == 0.0


def test_an_all_reduce_of_arrays(backend, rng):
    """As by an operation of MPI that adds two buffers, in an order that is not known beforehand."""
    x, y = rng.normal(size=(9, 30)), rng.integers(0, 30, 9)
    options = {"weight": rng.random(30), "label_smoothing": 0.1, "sample_weight": rng.random(9)}
    cuts = [0, 7, 8, 21, 30]
    parts = parts_of(x, y, 1, cuts, options)
    for order in ([0, 1, 2, 3], [3, 0, 2, 1]):
        for rank, own in enumerate(parts):
            buffers = [parts[i].to_array() for i in order]
            assert {(buffer.dtype, buffer.shape[0]) for buffer in buffers} == {(np.dtype(np.float64), 9)}
            while len(buffers) > 1:
                one, other = (xn.PartialCrossEntropy.from_array(buffer, own) for buffer in buffers[:2])
                buffers[:2] = [(one + other).to_array()]
            whole = xn.PartialCrossEntropy.from_array(buffers[0], like=own)
            loss, grad = xn.cross_entropy_and_grad(x, y, backend="numpy", **options)
            a, b = cuts[rank : rank + 2]
            np.testing.assert_allclose(whole.loss(), loss, rtol=1e-14)
            np.testing.assert_allclose(whole.grad(x[:, a:b], y, class_offset=a), grad[:, a:b], rtol=1e-13, atol=1e-17)


def test_a_part_can_be_pickled(backend, rng):
    x, y = rng.normal(size=(4, 10)).astype(np.float32), rng.integers(0, 10, 4)
    parts = parts_of(x, y, 1, [0, 5, 10], {"weight": np.arange(10.0), "label_smoothing": 0.2})
    copies = [pickle.loads(pickle.dumps(part)) for part in parts]
    whole, copied = sum(parts), sum(copies)
    assert whole.loss() == copied.loss()
    np.testing.assert_array_equal(gradient(whole, x, y, 1, [0, 5, 10]), gradient(copied, x, y, 1, [0, 5, 10]))
    assert repr(copied) == "<PartialCrossEntropy of the classes 0 to 9 of 10, rows (4,)>"


def test_the_gradient_of_rows_and_in_place(backend, rng):
    x, y = rng.normal(size=(6, 20)).astype(np.float32), rng.integers(0, 20, 6)
    whole = sum(parts_of(x, y, 1, [0, 8, 20], {"softcap": 3.0}))
    upstream = rng.normal(size=6)
    expected = xn.cross_entropy_grad(x, y, softcap=3.0, reduction="none", grad_output=upstream, backend="numpy")
    # The shards of a gradient need not be those of the parts.
    found = whole.grad(x[:, 2:12], y, class_offset=2, reduction="none", grad_output=upstream)
    np.testing.assert_allclose(found, expected[:, 2:12], rtol=1e-5, atol=1e-7)
    shard = x[:, 8:]
    assert whole.grad(shard, y, class_offset=8, reduction="none", grad_output=upstream, out=shard) is shard
    np.testing.assert_allclose(shard, expected[:, 8:], rtol=1e-5, atol=1e-7)


def test_misaligned_logits(backend, rng):
    records = np.zeros((5, 12), np.dtype([("tag", np.uint8), ("x", np.float64)], align=False))
    records["x"] = rng.normal(size=(5, 12))
    x, y = records["x"], rng.integers(0, 12, 5)
    assert not x.flags.aligned
    whole = sum(parts_of(x, y, 1, [0, 5, 12], {}))
    loss, grad = xn.cross_entropy_and_grad(x.copy(), y, backend="numpy")
    np.testing.assert_allclose(whole.loss(), loss, rtol=1e-14)
    np.testing.assert_allclose(gradient(whole, x, y, 1, [0, 5, 12]), grad, rtol=1e-13)


@pytest.mark.parametrize("shape", [(300, 700), (1500, 60)])
def test_the_same_bits_for_any_number_of_threads(shape, rng):
    """Also for a row alone; by the kernels for long rows, and by those that have a row in each lane."""
    x, y = rng.normal(size=shape).astype(np.float32), rng.integers(0, shape[1], shape[0])
    cuts = [0, shape[1] // 2 - 3, shape[1]]
    found = []
    with xn.use_backend("cpu"):
        for n_threads in (1, 2, None):
            whole = sum(parts_of(x, y, 1, cuts, {"n_threads": n_threads}))
            found.append((whole.to_array(), gradient(whole, x, y, 1, cuts, reduction="sum", n_threads=n_threads)))
        alone = sum(parts_of(x[77:78], y[77:78], 1, cuts, {}))
        np.testing.assert_array_equal(alone.to_array(), found[0][0][77:78])
        np.testing.assert_array_equal(gradient(alone, x[77:78], y[77:78], 1, cuts, reduction="sum"), found[0][1][77:78])
    for numbers, grad in found[1:]:
        np.testing.assert_array_equal(numbers, found[0][0])
        np.testing.assert_array_equal(grad, found[0][1])


def test_factors_that_the_kernels_cannot_hold(rng):
    """Rows with extreme sample weights, by the reference; the others have the bits that they have without them."""
    x, y = rng.normal(size=(6, 600)).astype(np.float32), rng.integers(0, 600, 6)
    ordinary, extreme = np.ones(6), np.array([1.0, 1e-36, 1.0, 1e33, 0.0, 1.0])
    with xn.use_backend("cpu"):
        grads = []
        for s in (ordinary, extreme):
            whole = sum(parts_of(x, y, 1, [0, 280, 600], {"sample_weight": s}))
            grads.append(gradient(whole, x, y, 1, [0, 280, 600], reduction="sum"))
    np.testing.assert_array_equal(grads[0][[0, 2, 5]], grads[1][[0, 2, 5]])
    expected = xn.cross_entropy_and_grad(x, y, sample_weight=extreme, reduction="sum", backend="numpy")[1]
    np.testing.assert_allclose(grads[1], expected, rtol=1e-6)


@pytest.mark.rare
@pytest.mark.parametrize("n", [65_537, 131_073])
def test_the_accuracy_law_of_several_segments(n, backend, rng):
    for kind in ("normal", "confident 12", "nearly tied", "masked", "others equal 0.1249", "ascending"):
        x = KINDS[kind](rng, n).astype(np.float32)[None]
        y = np.array([int(np.argmax(x))])
        whole = added(parts_of(x, y, 1, [0, 40_000, n - 1, n], {}), rng)
        grad = gradient(whole, x, y, 1, [0, 40_000, n - 1, n], reduction="sum")[0]
        assert row_excess(x[0], y[0], whole.loss("none")[0], grad) < 1, kind


def test_many_parts_add_up_no_errors(rng):
    """A maximum that rises by a little with each of a thousand parts."""
    for step in (1e-9, 1e-3, 0.1):
        x, y = step * np.arange(1000.0)[None], np.array([3])
        with xn.use_backend("numpy"):
            parts = parts_of(x, y, 1, list(range(1001)), {})
            for ordered in (parts, parts[::-1], [parts[i] for i in rng.permutation(1000)]):
                assert row_excess(x[0], 3, sum(ordered).loss("none")[0], None) < 0.5
