"""Conversions, layouts, memory and messages: all that happens before a backend computes anything."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

import xent_numba as xn
from tests.support.logits import random_logits
from xent_numba.backends.reference import BACKEND
from xent_numba.prepare.layout import canonical, merged_axes, overlaps_itself
from xent_numba.prepare.loss import Wanted, prepare
from xent_numba.prepare.options import make_options

A = np.array([[2.0, 1.0, 0.1], [0.1, 2.0, 1.9]])
Y = np.array([1, 0])
Q = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
bfloat16 = pytest.importorskip("ml_dtypes").bfloat16


@pytest.fixture(autouse=True)
def _on_numpy():
    with xn.use_backend("numpy"):
        yield


def prepared(logits, target, weight=None, sample_weight=None, *, want_grad=True, lse=None, grad_output=None, **options):
    inputs = (logits, target, weight, sample_weight, lse, grad_output)
    return prepare(BACKEND, make_options(**options), inputs, Wanted(rows=True, grad=want_grad, out_name="out"))


LAYOUTS = {
    "2-D": ((6, 5), lambda x: x, 1),
    "2-D, axis 0": ((5, 6), lambda x: x, 0),
    "1-D": ((5,), lambda x: x, 0),
    "Fortran": ((3, 4, 5), lambda x: np.asfortranarray(x), 2),
    "NCHW": ((2, 5, 3, 4), lambda x: x, 1),
    "NC": ((2, 5, 1, 1), lambda x: x, 1),
    "channels last, seen first": ((2, 3, 4, 5), lambda x: np.moveaxis(x, -1, 1), 1),
    "reversed": ((6, 5), lambda x: x[::-1, ::-1], 1),
    "reversed 3-D": ((2, 6, 5), lambda x: x[:, ::-1], 2),
    "every second": ((12, 10), lambda x: x[::2, ::2], 1),
    "broadcast rows": ((1, 5), lambda x: np.broadcast_to(x, (7, 5)), 1),
    "broadcast classes": ((7, 1), lambda x: np.broadcast_to(x, (7, 5)), 1),
    "read-only": ((6, 5), lambda x: np.lib.stride_tricks.as_strided(x, writeable=False), 1),
    "transposed 3-D": ((4, 3, 5), lambda x: x.transpose(1, 0, 2), 2),
    "odd 5-D slice": ((4, 6, 4, 6, 5), lambda x: x[::2, ::3, 1:3, ::2], 4),
    "odd 5-D, class axis inside": ((4, 6, 5, 4, 6), lambda x: x[::2, 1:4, :, ::-2, ::2], 2),
}


@pytest.fixture(params=LAYOUTS)
def layout(request, rng):
    shape, view, axis = LAYOUTS[request.param]
    return view(random_logits(rng, shape, offsets=False, masked=False)), axis


def test_every_layout_gives_the_result_of_a_contiguous_copy(layout, backend, rng):
    x, axis = layout
    rows = x.shape[:axis] + x.shape[axis + 1 :]
    y = rng.integers(0, x.shape[axis], rows)
    s = rng.random(rows)
    flat = np.ascontiguousarray(np.moveaxis(x, axis, -1)).reshape(-1, x.shape[axis])
    before = x.copy()
    for reduction in ("mean", "none"):
        options = {"reduction": reduction, "label_smoothing": 0.1}
        loss, grad = xn.cross_entropy_and_grad(x, y, axis=axis, sample_weight=s, **options)
        loss_flat, grad_flat = xn.cross_entropy_and_grad(flat, y.reshape(-1), sample_weight=s.reshape(-1), **options)
        np.testing.assert_allclose(loss, np.reshape(loss_flat, np.shape(loss)), rtol=1e-13)
        np.testing.assert_allclose(np.moveaxis(grad, axis, -1).reshape(flat.shape), grad_flat, rtol=1e-13, atol=1e-300)
        assert grad.shape == x.shape
    q = rng.random(x.shape)
    q_flat = np.moveaxis(q, axis, -1).reshape(flat.shape)
    loss, grad = xn.cross_entropy_and_grad(x, q, axis=axis)
    loss_flat, grad_flat = xn.cross_entropy_and_grad(flat, q_flat)
    np.testing.assert_allclose(loss, loss_flat, rtol=1e-13)
    np.testing.assert_allclose(np.moveaxis(grad, axis, -1).reshape(flat.shape), grad_flat, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(
        np.moveaxis(xn.softmax(x, axis=axis), axis, -1).reshape(flat.shape), xn.softmax(flat), rtol=1e-13
    )
    np.testing.assert_allclose(np.ravel(xn.logsumexp(x, axis=axis)), xn.logsumexp(flat), rtol=1e-13)
    np.testing.assert_array_equal(x, before)


def test_no_layout_is_copied(layout):
    x, axis = layout
    labels = np.zeros(x.shape[:axis] + x.shape[axis + 1 :], np.int64)
    call = prepared(x, labels, axis=axis, reduction="none")
    n_rows = 0
    for problem, rows, grad, *_ in call.slabs:
        assert np.may_share_memory(problem.logits, x)
        assert problem.logits.ndim == 3
        assert problem.logits.shape == grad.shape
        assert problem.labels.shape == rows.shape == problem.logits.shape[:2]
        assert np.may_share_memory(grad, call.grad)
        assert np.may_share_memory(rows, call.rows)
        n_rows += rows.size
    assert n_rows == labels.size


def test_usual_layouts_are_one_slab(layout, request):
    x, axis = layout
    labels = np.zeros(x.shape[:axis] + x.shape[axis + 1 :], np.int64)
    assert (len(prepared(x, labels, axis=axis).slabs) == 1) == ("5-D" not in request.node.name)


def test_rows_of_slabs_are_in_c_order():
    x = np.arange(4 * 6 * 4 * 6 * 1.0).reshape(4, 6, 4, 6, 1)[::2, ::3, 1:3, ::2]
    seen = np.concatenate([slab.problem.logits.ravel() for slab in prepared(x, np.zeros(x.shape[:-1], int)).slabs])
    np.testing.assert_array_equal(seen, x.ravel())


def test_preparing_needs_memory_for_rows_only():
    x = np.zeros((400, 50, 3, 200), np.float32)[:, ::2]
    labels = np.zeros((400, 25, 3), np.int16)
    tracemalloc.start()
    prepared(x, labels, want_grad=False, reduction="none")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < x.nbytes / 10  # labels as int64, a loss each, and what the scan of the labels needs


@pytest.mark.parametrize(
    ("shape", "strides", "merged"),
    [
        ((), [()], ()),
        ((1, 1), [(8, 8)], ()),
        ((2, 3), [(24, 8)], (6,)),
        ((2, 3), [(24, 8), (8, 16)], (2, 3)),
        ((2, 1, 3), [(24, 999, 8)], (6,)),
        ((2, 3), [(0, 0)], (6,)),
        ((2, 3), [(0, 8)], (2, 3)),
        ((2, 3), [(-24, -8)], (6,)),
        ((2, 3, 4), [(200, 32, 8)], (2, 12)),
    ],
)
def test_merged_axes(shape, strides, merged):
    assert merged_axes(shape, strides) == merged


def test_canonical_puts_all_rows_into_b_where_it_can():
    layout = canonical(1, np.zeros((2, 5, 3)), None)
    assert layout[:3] == ((), 2, 3)
    assert layout.views[0].shape == (2, 3, 5)
    assert layout.views[1] is None
    assert canonical(2, np.zeros((2, 3, 5)))[:3] == ((), 1, 6)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, bfloat16])
def test_floating_logits_keep_their_dtype(dtype, backend):
    loss, grad = xn.cross_entropy_and_grad(A.astype(dtype), Y)
    assert grad.dtype == dtype
    assert type(loss) is (np.float64 if dtype is np.float64 else np.float32)
    np.testing.assert_allclose(float(loss), 2.0185, rtol=0.01)
    assert xn.cross_entropy(A.astype(dtype), Y, reduction="none").dtype == type(loss)
    assert xn.softmax(A.astype(dtype)).dtype == dtype
    assert xn.logsumexp(A.astype(dtype)).dtype == type(loss)


@pytest.mark.parametrize("logits", [[[1, 2], [3, 5]], np.array([[1, 2], [3, 5]], np.int8), ((1.0, 2), (3, 5))])
def test_lists_and_integers_become_float64(logits):
    loss, grad = xn.cross_entropy_and_grad(logits, [0, 1])
    assert grad.dtype == np.float64
    assert loss == xn.cross_entropy(np.array(logits, float), np.array([0, 1]))


@pytest.mark.parametrize("dtype", "bhilqBHILQ")
def test_every_integer_dtype_is_a_label(dtype, backend):
    assert xn.cross_entropy(A, Y.astype(dtype)) == xn.cross_entropy(A, Y)
    assert xn.cross_entropy(A, Y.astype(np.dtype(dtype).newbyteorder())) == xn.cross_entropy(A, Y)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, bfloat16])
def test_a_floating_distribution_is_a_view(dtype):
    q = Q.astype(dtype)
    (slab,) = prepared(A, q).slabs
    assert slab.problem.labels is None
    assert np.shares_memory(slab.problem.distribution, q)


@pytest.mark.parametrize("dtype", [">f4", ">f8", np.longdouble])
def test_other_distributions_are_converted(dtype, backend):
    q = np.array(Q, dtype)
    assert xn.cross_entropy(A, q) == xn.cross_entropy(A, Q)
    (slab,) = prepared(A.astype(np.float32), q).slabs
    assert slab.problem.distribution.dtype in (np.float32, np.float64)
    assert slab.problem.distribution.dtype.isnative


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64])
def test_one_hot_integers_become_class_indices(dtype, backend):
    q = np.array(Q, dtype)
    assert xn.cross_entropy(A, q) == xn.cross_entropy(A, Y)
    np.testing.assert_allclose(xn.cross_entropy(A, q), xn.cross_entropy(A, Q), rtol=1e-15)
    call = prepared(A, q, weight=[1, 2, 4])
    (slab,) = call.slabs
    assert slab.problem.distribution is None
    assert slab.problem.labels.tolist() == [Y.tolist()]
    assert call.denominator == len(Y)  # as of the distribution, so without the class weights


def test_the_lean_path_gives_the_same_problem():
    for options in ({}, {"reduction": "sum"}, {"reduction": "none"}, {"z_loss": 0.5, "label_smoothing": 0.1}):
        (lean,) = prepared(A, Y, **options).slabs
        (long,) = prepared(A.tolist(), Y, **options).slabs
        for name, one, other in zip(lean.problem._fields, lean.problem, long.problem, strict=True):
            if isinstance(one, np.ndarray):
                np.testing.assert_array_equal(one, other, err_msg=name)
            else:
                assert one == other, name
        assert (lean.rows is None) == (long.rows is None)
        assert lean.grad.shape == long.grad.shape


def test_denominators():
    w, s = np.array([1.0, 2.0, 4.0]), np.array([3.0, 5.0])
    (slab,) = prepared(A, Y, weight=w, sample_weight=s, z_loss=0.5).slabs
    assert slab.problem.denominator == 2 * 3 + 1 * 5
    assert slab.problem.z_coefficient == 0.5 * 11 / 8
    assert slab.problem.grad_scale == 1 / 11
    (slab,) = prepared(A, Q, weight=w, sample_weight=s).slabs
    assert slab.problem.denominator == 8
    (slab,) = prepared(A, Y, weight=w, sample_weight=s, reduction="sum", grad_output=3).slabs
    assert (slab.problem.denominator, slab.problem.grad_scale) == (1, 3)
    assert prepared(A, [0, -100], weight=w).denominator == 1


@pytest.mark.parametrize("factor", [1e-320, 1e-200, 1e200, 1e308])
def test_a_mean_does_not_depend_on_the_size_of_the_weights(factor, backend):
    w = np.array([0.25, 0.5, 1.0])
    s = np.array([0.5, 1.0])
    for options, extreme in (
        ({"weight": w}, {"weight": w * factor}),
        ({"sample_weight": s}, {"sample_weight": s * factor}),
    ):
        expected = xn.cross_entropy_and_grad(A, Y, z_loss=0.1, **options)
        found = xn.cross_entropy_and_grad(A, Y, z_loss=0.1, **extreme)
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-3 if factor < 1e-300 else 1e-14)
        np.testing.assert_allclose(found[1], expected[1], rtol=1e-3 if factor < 1e-300 else 1e-14)


BAD_LABELS = [
    ([1, 3], {}, "target[1] = 3 is out of range for 3 classes (ignore_index = -100)"),
    ([-1, 3], {}, "target[0] = -1 is out of range for 3 classes (ignore_index = -100)"),
    ([-100, -1], {"ignore_index": None}, "target[0] = -100 is out of range for 3 classes (ignore_index = None)"),
    ([0, 7], {"ignore_index": (0, -1)}, "target[1] = 7 is out of range for 3 classes (ignore_index = (0, -1))"),
    (np.array([2**64 - 100, 0], np.uint64), {},
     "target[0] = 18446744073709551516 is out of range for 3 classes (ignore_index = -100)"),
    (np.array([255, 0], np.uint8), {}, "target[0] = 255 is out of range for 3 classes (ignore_index = -100)"),
]  # fmt: skip


@pytest.mark.parametrize(("target", "options", "message"), BAD_LABELS)
def test_bad_labels(target, options, message, backend):
    out = np.full_like(A, 7.0)
    for logits in (A, A.astype(np.float32)):
        for call in (xn.cross_entropy, xn.cross_entropy_and_grad, xn.cross_entropy_grad):
            with pytest.raises(IndexError) as caught:
                call(logits, np.asarray(target), **options)
            assert str(caught.value) == message
    with pytest.raises(IndexError):
        xn.cross_entropy_and_grad(A, target, grad_out=out, **options)
    assert (out == 7.0).all()


def test_the_first_bad_label_is_the_first_in_c_order(backend):
    target = np.zeros((4, 5), np.int64).T
    target[3, 1] = 9
    target[2, 3] = 8
    with pytest.raises(IndexError, match=r"target\[2, 3\] = 8 is out of range for 2 classes"):
        xn.cross_entropy(np.zeros((5, 4, 2)), target)
    with pytest.raises(IndexError, match=r"target\[\(\)\] = 2 is out of range"):
        xn.cross_entropy([0.0, 1.0], 2)


def test_uint64_beyond_int64_can_be_ignored(backend):
    target = np.array([1, 2**64 - 1], np.uint64)
    assert xn.cross_entropy(A, target, ignore_index=(2**64 - 1, -1, -2)) == xn.cross_entropy(A[:1], Y[:1])


RANGE = "finite and not negative"
ERRORS = [
    (([[True]], [0]), {}, TypeError, "logits have dtype bool; they must be float64, float32"),
    (([[1j]], [0]), {}, TypeError, "logits have dtype complex128"),
    (([[None, 1.0]], [0]), {}, TypeError, r"logits have dtype object; .*: convert with logits.astype\(float\)"),
    ((np.array([[1.0]], np.longdouble), [0]), {}, TypeError, "logits have dtype"),
    ((np.array([["a"]]), [0]), {}, TypeError, "logits have dtype"),
    ((A.astype(A.dtype.newbyteorder()), Y), {}, TypeError, r"byte order.*astype\(logits.dtype.newbyteorder\('='\)\)"),
    (([[1.0], [1.0, 2.0]], Y), {}, ValueError, "logits cannot be read as an array"),
    ((np.ma.array(A), Y), {}, TypeError, "logits is a masked array"),
    ((1.0, 0), {}, ValueError, "logits are a single number"),
    ((np.zeros((2, 0)), Y), {}, ValueError, r"logits of shape \(2, 0\) have no classes along axis 1"),
    ((A, Y), {"axis": 2}, ValueError, r"axis = 2 is out of range for logits of shape \(2, 3\)"),
    ((A, Y), {"axis": -3}, IndexError, "axis = -3 is out of range"),
    ((A, [0, 1, 2]), {}, ValueError, r"target of shape \(3,\) does not fit logits of shape \(2, 3\) with axis = 1"),
    ((A, [[0], [1]]), {}, ValueError, r"class indices have shape \(2,\), a distribution .* has shape \(2, 3\)"),
    ((A, [0.0, 1.0]), {}, TypeError, r"dtype float64; class indices are integers.*target.astype\(np.int64\)"),
    ((A, [True, False]), {}, TypeError, "dtype bool; class indices are integers"),
    ((A, Q.astype(object)), {}, TypeError, r"target has dtype object; .* convert with target.astype\(float\)"),
    ((A, Q + 0j), {}, TypeError, "target has dtype complex128; a distribution"),
    ((A, Q), {"ignore_index": 1}, ValueError, "ignore_index = 1 needs class indices"),
    ((A, Q), {"ignore_index": None}, ValueError, "ignore_index = None needs class indices"),
    ((A, Q), {"focal_gamma": 2}, ValueError, r"focal_gamma = 2.0 needs class indices: .* target.argmax\(axis=-1\)"),
    ((A, Y), {"weight": [1, 2]}, ValueError, r"weight has shape \(2,\); it must have shape \(3,\): one per class"),
    ((A, Y), {"weight": [1, np.nan, 2]}, ValueError, rf"weight\[1\] = nan must be {RANGE}"),
    ((A, Y), {"weight": [1, 2, -1]}, ValueError, rf"weight\[2\] = -1.0 must be {RANGE}"),
    ((A, Y), {"weight": [np.inf, 2, 1]}, ValueError, rf"weight\[0\] = inf must be {RANGE}"),
    ((A, Y), {"weight": [1j, 2, 1]}, TypeError, "weight has dtype complex128; it must be real numbers$"),
    ((A, Y), {"weight": [None, 2, 1]}, TypeError, r"dtype object; .*: convert with weight.astype\(float\)$"),
    ((A, Y), {"sample_weight": [1, 2, 3]}, ValueError, r"sample_weight has shape \(3,\); it must have shape \(2,\)"),
    ((A, Q), {"sample_weight": [1, -2]}, ValueError, rf"sample_weight\[1\] = -2.0 must be {RANGE}"),
    ((A, Y), {"reduction": "avg"}, ValueError, "choose one of 'mean', 'sum' or 'none'"),
]


@pytest.mark.parametrize(("arguments", "options", "error", "text"), ERRORS)
def test_errors(arguments, options, error, text, backend):
    for call in (xn.cross_entropy, xn.cross_entropy_and_grad, xn.cross_entropy_grad):
        with pytest.raises(error, match=text):
            call(*arguments, **options)


def test_errors_of_gradient_inputs(backend):
    with pytest.raises(ValueError, match=r"lse has shape \(3,\); it must have shape \(2,\)"):
        xn.cross_entropy_grad(A, Y, lse=[1, 2, 3])
    with pytest.raises(ValueError, match=r"grad_output has shape \(2,\); it must have shape \(\): one number"):
        xn.cross_entropy_grad(A, Y, grad_output=[1, 2])
    with pytest.raises(ValueError, match=r"grad_output has shape \(3,\); it must have shape \(2,\)"):
        xn.cross_entropy_grad(A, Y, grad_output=[1, 2, 3], reduction="none")
    with pytest.raises(ValueError, match="grad_output cannot be read as an array"):
        xn.cross_entropy_grad(A, Y, grad_output=[[1], [1, 2]], reduction="none")
    with pytest.raises(RuntimeError, match="backward needs a loss first"):
        xn.CrossEntropyLoss().backward()
    with pytest.raises(ValueError, match="choose one of"):
        xn.CrossEntropyLoss(reduction="avg")


def bad_outs():
    read_only = np.zeros((2, 3))
    read_only.flags.writeable = False
    return [
        ([[0.0] * 3] * 2, TypeError, "grad_out must be a NumPy array to write to, not list"),
        (np.zeros((3, 2)), ValueError, r"grad_out has shape \(3, 2\) and dtype float64; it must have shape \(2, 3\)"),
        (np.zeros((2, 3), np.float32), ValueError, "dtype float32; it must have shape .* and float64"),
        (np.zeros((2, 3), ">f8"), ValueError, "it must have shape"),
        (read_only, ValueError, "grad_out is read-only"),
        (np.lib.stride_tricks.as_strided(np.zeros(3), (2, 3), (0, 8)), ValueError, "share memory with each other"),
    ]


@pytest.mark.parametrize(("out", "error", "text"), bad_outs())
def test_unfit_outs(out, error, text, backend):
    with pytest.raises(error, match=text):
        xn.cross_entropy_and_grad(A, Y, grad_out=out)
    with pytest.raises(error, match=text.replace("grad_out", "out")):
        xn.cross_entropy_grad(A, Y, out=out)
    with pytest.raises(error, match=text.replace("grad_out", "out")):
        xn.softmax(A, out=out)


def test_overlapping_outs(backend):
    memory = np.zeros(30)
    x = memory[:6].reshape(2, 3)
    original = memory.copy()
    for out in (memory[1:7].reshape(2, 3), memory[3:9].reshape(2, 3), x[::-1], x[:, ::-1]):
        with pytest.raises(ValueError, match="grad_out shares memory with the logits without being exactly"):
            xn.cross_entropy_and_grad(x, Y, grad_out=out)
        with pytest.raises(ValueError, match="out shares memory with the logits"):
            xn.log_softmax(x, out=out)
    for other in ({"sample_weight": memory[10:12]}, {"weight": memory[12:15]}):
        with pytest.raises(ValueError, match="grad_out shares memory with another input"):
            xn.cross_entropy_and_grad(x, Y, grad_out=memory[10:16].reshape(2, 3), **other)
    q = memory[10:16].reshape(2, 3)
    with pytest.raises(ValueError, match="grad_out shares memory with another input"):
        xn.cross_entropy_and_grad(x, q, grad_out=q)
    with pytest.raises(ValueError, match="grad_out shares memory with another input"):
        xn.cross_entropy_and_grad(x, x, grad_out=x)
    with pytest.raises(ValueError, match="out shares memory with another input"):
        xn.cross_entropy_grad(x, Y, lse=memory[10:12], out=q)
    with pytest.raises(ValueError, match="out shares memory with the logits"):
        xn.logsumexp(x, out=memory[5:7])
    labels = memory[20:22].view(np.int64)
    with pytest.raises(ValueError, match="grad_out shares memory with another input"):
        xn.cross_entropy_and_grad(x, labels, grad_out=memory[18:24].reshape(2, 3))
    np.testing.assert_array_equal(memory, original)


def test_interleaved_memory_does_not_overlap(backend):
    memory = np.zeros((2, 6))
    memory[:, ::2] = A
    loss, grad = xn.cross_entropy_and_grad(memory[:, ::2], Y, grad_out=memory[:, 1::2])
    assert np.shares_memory(grad, memory)
    expected = xn.cross_entropy_and_grad(A, Y)
    assert loss == expected[0]
    np.testing.assert_array_equal(memory[:, 1::2], expected[1])
    np.testing.assert_array_equal(memory[:, ::2], A)


@pytest.mark.parametrize("view", [lambda x: x, lambda x: x[:], lambda x: x.T.T])
def test_in_place(view, backend):
    x = A.copy()
    expected = xn.cross_entropy_and_grad(A, Y)
    out = view(x)
    loss, grad = xn.cross_entropy_and_grad(x, Y, grad_out=out)
    assert grad is out
    assert loss == expected[0]
    np.testing.assert_array_equal(x, expected[1])
    for function in (xn.softmax, xn.log_softmax):
        x = A.copy()
        out = view(x)
        assert function(x, out=out) is out
        np.testing.assert_array_equal(x, function(A))


def test_in_place_in_slabs(backend, rng):
    x = rng.normal(size=(4, 6, 4, 6, 5))[::2, ::3, 1:3, ::2]
    y = rng.integers(0, 5, x.shape[:-1])
    expected = xn.cross_entropy_and_grad(x.copy(), y)
    loss, _ = xn.cross_entropy_and_grad(x, y, grad_out=x)
    np.testing.assert_allclose(loss, expected[0], rtol=1e-14)
    np.testing.assert_allclose(x, expected[1], rtol=1e-14)


def test_overlaps_itself():
    strided = np.lib.stride_tricks
    assert not overlaps_itself(np.zeros((3, 4))[::-1, ::2])
    assert not overlaps_itself(np.zeros((3, 1, 4)).T)
    assert overlaps_itself(np.broadcast_to(np.zeros(4), (3, 4)))
    assert overlaps_itself(strided.sliding_window_view(np.zeros(5), 2))


def test_memory_mapped_files(tmp_path, backend):
    np.save(tmp_path / "x.npy", A)
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    out = np.lib.format.open_memmap(tmp_path / "g.npy", "w+", A.dtype, A.shape)
    loss, grad = xn.cross_entropy_and_grad(x, Y, grad_out=out)
    assert grad is out
    assert loss == xn.cross_entropy(A, Y)
    np.testing.assert_array_equal(np.asarray(out), xn.cross_entropy_grad(A, Y))
    assert type(xn.cross_entropy_grad(x, Y)) is np.ndarray


def test_device_arrays_are_named():
    class Device:
        __cuda_array_interface__ = {}  # noqa: RUF012

    with pytest.raises(TypeError, match="logits are on a GPU, which backend 'numpy' cannot read"):
        xn.cross_entropy(Device(), Y, backend="numpy")


def test_device_arrays_that_do_not_let_themselves_be_read_are_named(backend):
    class NeedsGradient:
        """Like a CUDA tensor of PyTorch that requires a gradient."""

        @property
        def __cuda_array_interface__(self):
            raise RuntimeError("Can't get __cuda_array_interface__ on Variable that requires grad.")

        def __dlpack_device__(self):
            return 2, 0

    for name, argument in (("target", {}), ("weight", {"target": Y}), ("sample_weight", {"target": Y})):
        with pytest.raises(
            TypeError, match=f"^{name} is on a GPU, which this backend cannot read; copy it to the host"
        ):
            xn.cross_entropy(A, **argument, **{name: NeedsGradient()})
