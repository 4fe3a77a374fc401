"""The distillation losses: against 100 digits and PyTorch, where rows are nearly equal, and at every edge."""

from __future__ import annotations

import itertools
import math

import mpmath
import numpy as np
import pytest

import xent_numba as xn
from tests.support.exact import ulps

INF, NAN = math.inf, math.nan
FLOATS = [np.float32, np.float64]
DIGITS = 100


def exact(student, teacher, temperature=1.0):
    """The KL of each row and its gradient for the student, with so many digits."""
    with mpmath.workdps(DIGITS):
        mp, tau = mpmath.mpf, mpmath.mpf(temperature)
        losses, grads = [], np.zeros(student.shape, object)
        for i, rows in enumerate(zip(teacher, student, strict=True)):
            probabilities, logarithms = [], []
            for row in rows:
                x = [mp(float(v)) / tau for v in row]
                top = max(x)
                lse = top + mpmath.log(mpmath.fsum(mpmath.exp(v - top) for v in x))
                logarithms.append([v - lse for v in x])
                probabilities.append([mpmath.exp(v - lse) for v in x])
            (p, q), (log_p, log_q) = probabilities, logarithms
            losses.append(mpmath.fsum(p[j] * (log_p[j] - log_q[j]) for j in range(len(p)) if p[j] != 0))
            for j in range(len(p)):
                grads[i, j] = (q[j] - p[j]) / tau
        return losses, grads


def rows_of(dtype, shape=(6, 37), scale=2.0, seed=0):
    """Logits of a student and a teacher."""
    rng = np.random.default_rng(seed)
    return tuple(rng.normal(scale=scale, size=shape).astype(dtype) for _ in range(2))


def loss_and_grad(student, teacher, **options):
    """Both, after a check that the loss alone has the same bits; in float32, for which its kernels are compiled."""
    loss, grad = xn.distillation_loss_and_grad(student, teacher, **options)
    if loss.dtype == np.float32:
        np.testing.assert_array_equal(xn.distillation_loss(student, teacher, **options), loss, strict=True)
    return loss, grad


def check(student, teacher, bound=8.0, **options):
    """Losses within `bound` + |ln KL| ulp of the exact ones, gradients within as many of the larger probability."""
    temperature = options.get("temperature", 1.0)
    losses, grads = exact(student.astype(np.float64), teacher.astype(np.float64), temperature)
    precision = np.result_type(np.float32, student.dtype)
    found, grad = loss_and_grad(student, teacher, reduction="none", **options)
    for value, truth in zip(found, losses, strict=True):
        assert value >= 0
        if truth < mpmath.mpf(10) ** (10 - DIGITS):
            assert value == 0
        elif truth > np.finfo(precision).tiny:
            assert ulps(value, truth, precision) <= bound + abs(float(mpmath.log(truth))), (value, truth)
    p, q = (xn.softmax(x.astype(np.float64) / temperature, backend="numpy") for x in (teacher, student))
    most = np.maximum(p, q) / temperature
    error = np.abs(grad.astype(np.float64) - grads.astype(np.float64))
    allowed = np.finfo(grad.dtype).eps * (bound + np.abs(np.log(most))) * most + np.finfo(grad.dtype).smallest_normal
    assert (error <= allowed).all()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("classes", [1, 2, 37, 400])
def test_values(classes, dtype, backend):
    for scale in (0.01, 1.0, 30.0):
        check(*rows_of(dtype, (3, classes), scale))
    if dtype == np.float32 or classes < 400:  # a kernel less to compile
        check(*rows_of(dtype, (3, classes)), temperature=4.0)
        check(*rows_of(dtype, (3, classes)), temperature=0.125)


@pytest.mark.parametrize("size", [1e-2, 1e-4, 1e-8, 1e-15])
@pytest.mark.parametrize("classes", [3, 300])
def test_nearly_equal_rows_have_all_their_digits(classes, size, backend):
    """The KL goes down to 1e-30; logits near 0 let neighbouring rows be so close."""
    rng = np.random.default_rng(classes)
    apart = rng.normal(scale=size, size=(3, classes))
    for dtype in FLOATS:
        check(np.zeros((3, classes), dtype), apart.astype(dtype))
        check(apart.astype(dtype), np.zeros((3, classes), dtype))
    leading = apart.copy()
    leading[:, 1] = 3.0
    student = np.zeros((3, classes))
    student[:, 1] = 3.0
    check(student, leading)
    check(student.astype(np.float32), leading.astype(np.float32))
    check(student + 0.0, leading + np.array([[0.5], [-8.0], [1e3]]))


@pytest.mark.parametrize("dtype", FLOATS)
def test_neighbours_in_the_last_place(dtype, backend):
    student, _ = rows_of(dtype, (4, 50))
    teacher = student.copy()
    teacher[:, 7] = np.nextafter(teacher[:, 7], dtype(INF))
    check(student, teacher)
    check(student, (teacher * dtype(1 + 4 * np.finfo(dtype).eps)).astype(dtype))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("classes", [1, 10, 700])
def test_equal_rows_are_exactly_0(classes, dtype, backend):
    student, _ = rows_of(dtype, (5, classes))
    student[3, 0] = -INF if classes > 1 else 2.0
    loss, grad = loss_and_grad(student, student.copy(), reduction="none")
    np.testing.assert_array_equal(loss, 0)
    np.testing.assert_array_equal(grad, 0)
    student = np.round(student * 64) / 64  # so that the sum with 37.5 is exact
    for temperature in (1.0, 3.0) if dtype == np.float32 else (1.0,):
        loss, grad = loss_and_grad(student, student + dtype(37.5), reduction="none", temperature=temperature)
        np.testing.assert_array_equal(loss, 0)
        assert np.abs(grad).max() < 10 * np.finfo(dtype).eps


@pytest.mark.parametrize("dtype", FLOATS)
def test_rows_of_very_different_parts(dtype, backend):
    """Where one logit is far above the others, or a thousand neighbours are −inf, in a row of thousands."""
    student, teacher = rows_of(dtype, (6, 5000), 1.0)
    teacher[:3] = student[:3] + dtype(0.01) * teacher[:3]
    for row, size in enumerate((25.0, 45.0, 85.0, 25.0, 45.0, 85.0)):
        student[row, 4000 - row] = teacher[row, 4000 - row] = size
    teacher[4, 100] = 50.0
    check(student, teacher)
    for array in (student, teacher):
        array[:, 1000:2500] = -INF
        array[:, -1] = -INF
    both = np.ones(5000, bool)
    both[1000:2500] = both[-1] = False
    loss, grad = loss_and_grad(student, teacher, reduction="none")
    expected, slopes = loss_and_grad(student[:, both].copy(), teacher[:, both].copy(), reduction="none")
    tolerance = 8 * float(np.finfo(dtype).eps)
    np.testing.assert_allclose(loss, expected, rtol=tolerance)
    most = np.maximum(*(xn.softmax(x[:, both].astype(np.float64), backend="numpy") for x in (student, teacher)))
    assert (np.abs(grad[:, both] - slopes) <= 12 * tolerance * most + np.finfo(dtype).smallest_normal).all()
    np.testing.assert_array_equal(grad[:, ~both], 0)
    student[:, :100] = -INF
    loss, grad = loss_and_grad(student, teacher, reduction="none")
    np.testing.assert_array_equal(loss, INF)
    np.testing.assert_array_equal(loss_and_grad(student, student.copy(), reduction="none")[0], 0)


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_part_of_a_row_that_the_teacher_all_but_excludes(dtype, backend):
    """Thousands of neighbours are far less likely to the teacher than to the student, and the KL is small."""
    unlikely = [(-800, -5), (-800, -6), (-150, -8), (-90, -7), (-1e4, -1e4), (-1e4, -20), (-1e30, -1e30)]
    student, teacher = np.zeros((2, len(unlikely), 3000), dtype)
    for row, (t, s) in enumerate(unlikely):
        teacher[row, 1024:], student[row, 1024:] = t, s
    for part in (slice(None), slice(None, None, -1)):
        rows, grad = loss_and_grad(student[:, part].copy(), teacher[:, part].copy(), reduction="none")
        expected = np.log1p(1976 * np.exp(student[:, -1].astype(np.float64)) / 1024)  # all of p is at the others
        np.testing.assert_allclose(rows, expected, rtol=20 * np.finfo(dtype).eps)
        q = xn.softmax(student[:, part].astype(np.float64), backend="numpy")
        p = np.where(student[:, part] == 0, 1 / 1024, 0)
        np.testing.assert_allclose(grad, q - p, atol=np.finfo(dtype).eps / 256)
        for factor in (0.0, 1e20):
            loss, slopes = loss_and_grad(
                student[:, part].copy(), teacher[:, part].copy(), reduction="none", sample_weight=np.full(7, factor)
            )
            np.testing.assert_allclose(loss, rows * factor, rtol=1e-6)
            np.testing.assert_allclose(slopes, grad * factor, rtol=1e-5, atol=1e-10 * factor)


@pytest.mark.parametrize("classes", [33, 100, 3000])
def test_the_gradient_past_the_caches_is_the_same(classes, monkeypatch):
    """Of near rows and far ones, whether or not they follow one another in memory."""
    cpu = pytest.importorskip("xent_numba.backends.cpu.distillation")
    student, teacher = rows_of(np.float32, (2, 21, classes))
    teacher[:, ::4] = student[:, ::4] + np.float32(0.01) * teacher[:, ::4]
    expected, slopes = loss_and_grad(student, teacher, axis=2, backend="cpu")
    monkeypatch.setattr(cpu, "STREAM_BYTES", 0)
    whole = np.zeros((2, 21, classes + 5), np.float32)
    for out in (np.zeros_like(student), whole[..., 3:-2]):
        loss = xn.distillation_loss_and_grad(student, teacher, axis=2, grad_out=out, n_threads=2, backend="cpu")[0]
        assert loss == expected
        np.testing.assert_array_equal(out, slopes)
    np.testing.assert_array_equal(whole[..., :3], 0)
    np.testing.assert_array_equal(whole[..., -2:], 0)


@pytest.mark.parametrize("dtype", FLOATS)
def test_never_negative(dtype, backend):
    rng = np.random.default_rng(2)
    for shift, size in itertools.product([0.0, 100.0], 10.0 ** np.arange(-20, 2)):
        student = rng.normal(size=(20, 9))
        teacher = student + shift + rng.normal(scale=size, size=(20, 9))
        loss = xn.distillation_loss(student.astype(dtype), teacher.astype(dtype), reduction="none")
        assert (loss >= 0).all()


@pytest.mark.parametrize("dtype", FLOATS)
def test_rows_far_apart(dtype, backend):
    student = np.array([[0, -200, 5], [0, 0, -3e4], [1e8, 0, 1e8], [60, 0, 0]], dtype)
    teacher = np.array([[-150, 0, 5], [0, 0, 3e4], [1e8, 1e8, 0], [0, 0, 0]], dtype)
    check(student, teacher)
    check(teacher, student)


@pytest.mark.parametrize("classes", [2, 70])
def test_differences_that_overflow_in_a_loss_that_does_not(classes, backend):
    student, teacher = np.full((2, 3, classes), -3e38, np.float32)
    student[:, 0] = teacher[2] = 3e38
    teacher[:2] = 0
    teacher[1, 0] = 10
    teacher[2, 1:] = -3e38
    expected = [6e38 * (classes - 1) / classes, 6e38 * (classes - 1) / (math.exp(10) + classes - 1), 0]
    weight = np.full(3, 0.25)
    loss, grad = loss_and_grad(student, teacher, reduction="none", sample_weight=weight)
    np.testing.assert_allclose(loss, np.multiply(expected, 0.25), rtol=1e-6)
    q, p = (xn.softmax(x.astype(np.float64), backend="numpy") for x in (student, teacher))
    np.testing.assert_allclose(grad, 0.25 * (q - p), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", FLOATS)
def test_classes_that_one_of_them_excludes(dtype, backend):
    student = np.array([[0.0, 1.0, 2.0], [0.0, -INF, 2.0], [0.0, -INF, 2.0], [-INF, -INF, 0.0]], dtype)
    teacher = np.array([[0.5, -INF, 1.0], [0.5, -INF, 1.0], [0.5, 0.0, 1.0], [-INF, -INF, -4.0]], dtype)
    loss, grad = loss_and_grad(student, teacher, reduction="none")
    expected, slopes = exact(student[:2, ::2], teacher[:2, ::2])
    q = xn.softmax(student, backend="numpy")
    p = xn.softmax(teacher, backend="numpy")
    # What the student has at the class that the teacher excludes is lost to the others.
    expected[0] -= mpmath.log(1 - mpmath.mpf(float(xn.softmax(student[0].astype(np.float64))[1])))
    np.testing.assert_allclose(loss[:2], [float(value) for value in expected], rtol=10 * np.finfo(dtype).eps)
    assert loss[2] == INF
    assert loss[3] == 0
    np.testing.assert_allclose(grad, q - p, rtol=1e-6, atol=4 * np.finfo(dtype).eps)
    np.testing.assert_allclose(grad[1, ::2], slopes[1].astype(np.float64), rtol=1e-6, atol=4 * np.finfo(dtype).eps)
    np.testing.assert_array_equal([grad[1, 1], *grad[3, :2]], 0)
    # Most of the student's probability where the teacher has none at all, or next to none.
    for excluded in (-INF, -1e4, -120.0):
        student, teacher = np.array([[0.0, -0.4]], dtype), np.array([[0.0, excluded]], dtype)
        np.testing.assert_allclose(
            loss_and_grad(student, teacher, reduction="none")[0],
            [math.log1p(math.exp(float(student[0, 1])))],
            rtol=8 * np.finfo(dtype).eps,
        )


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("classes", [10, 700])
def test_a_class_that_the_student_alone_excludes(classes, dtype, backend):
    """However unlikely it is to the teacher, even if its probability is no normal number, or 0."""
    student, teacher = np.zeros((2, 8, classes), dtype)
    student[:, 1] = -INF
    teacher[:, 1] = [-50, -100, -120, -150, -700, -740, -800, -1e6]
    loss, grad = loss_and_grad(student, teacher, reduction="none")
    np.testing.assert_array_equal(loss, INF)
    np.testing.assert_allclose(grad, 0, atol=1e-7)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("row", [[-INF, -INF], [INF, 0.0], [NAN, 0.0], [0.0, NAN], [INF, -INF], [NAN, -INF]])
def test_rows_that_are_nan(row, dtype, backend):
    fine = np.array([[1.0, 2.0], [0.0, 1.0], [1.0, 2.0]], dtype)
    odd = fine.copy()
    odd[1] = row
    for student, teacher in ((odd, fine), (fine, odd), (odd, odd.copy())):
        loss, grad = loss_and_grad(student, teacher, reduction="none")
        np.testing.assert_array_equal(np.isnan(loss), [False, True, False])
        np.testing.assert_array_equal(np.isnan(grad), [[False] * 2, [True] * 2, [False] * 2])


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("temperature", [1e-300, 1e-30, 1e-5, 1e5, 1e30, 1e200])
def test_extreme_temperatures(temperature, dtype, backend):
    student, teacher = rows_of(dtype, (3, 5))
    losses, grads = exact(student, teacher, temperature)
    precision = np.finfo(dtype)
    loss, grad = loss_and_grad(student, teacher, reduction="none", temperature=temperature)
    with np.errstate(over="ignore"):
        expected = np.array([float(value) for value in losses]).astype(dtype)
        np.testing.assert_allclose(loss, expected, rtol=200 * precision.eps, atol=2 * precision.tiny)
        expected = grads.astype(np.float64).astype(dtype)
        np.testing.assert_allclose(grad, expected, rtol=200 * precision.eps, atol=2 * precision.tiny)
    if temperature > 1:  # the limit is half the variance of the difference
        d = teacher.astype(np.float64) - student.astype(np.float64)
        loss, grad = loss_and_grad(
            student, teacher, reduction="none", temperature=temperature, temperature_squared=True
        )
        np.testing.assert_allclose(loss, d.var(axis=1) / 2, rtol=10 / temperature + 20 * precision.eps)
        limit = (d.mean(axis=1, keepdims=True) - d) / 5
        np.testing.assert_allclose(grad, limit, rtol=50 / temperature + 20 * precision.eps)


def test_the_temperature_is_a_factor_of_both(backend):
    student, teacher = rows_of(np.float64)
    loss, grad = loss_and_grad(student, teacher, temperature=4.0)
    np.testing.assert_allclose(loss_and_grad(student / 4, teacher / 4)[0], loss, rtol=1e-13)
    np.testing.assert_allclose(loss_and_grad(student / 4, teacher / 4)[1] / 4, grad, rtol=1e-13)
    squared, slopes = loss_and_grad(student, teacher, temperature=4.0, temperature_squared=True)
    np.testing.assert_allclose(squared, 16 * loss, rtol=1e-15)
    np.testing.assert_allclose(slopes, 16 * grad, rtol=1e-15)


def test_reductions_and_sample_weights(backend):
    student, teacher = rows_of(np.float64, (4, 5, 3))
    rows, grad = loss_and_grad(student, teacher, axis=1, reduction="none")
    assert rows.shape == (4, 3)
    weight = np.random.default_rng(1).random((4, 3))
    weight[1, 2] = 0
    total = weight.sum()
    for reduction, expected, factor in (
        ("none", weight * rows, weight),
        ("sum", (weight * rows).sum(), weight),
        ("mean", (weight * rows).sum() / total, weight / total),
    ):
        loss, slopes = loss_and_grad(student, teacher, axis=1, reduction=reduction, sample_weight=weight)
        np.testing.assert_allclose(loss, expected, rtol=1e-14)
        np.testing.assert_allclose(slopes, grad * factor[:, None], rtol=1e-14, atol=1e-16)
    np.testing.assert_allclose(xn.distillation_loss(student, teacher, axis=1), rows.mean(), rtol=1e-14)
    extreme = loss_and_grad(student, teacher, axis=1, sample_weight=weight * 1e-300)[0]
    np.testing.assert_allclose(extreme, (weight * rows).sum() / total, rtol=1e-13)
    loss, slopes = loss_and_grad(student, teacher, axis=1, sample_weight=np.zeros((4, 3)))
    assert math.isnan(loss)
    np.testing.assert_array_equal(slopes, 0)
    loss, slopes = loss_and_grad(student[:0], teacher[:0], axis=1)
    assert math.isnan(loss)
    assert slopes.shape == (0, 5, 3)
    assert loss_and_grad(student[:0], teacher[:0], axis=1, reduction="sum")[0] == 0
    infinite = np.array([[0.0, -INF], [0.0, 0.0]])
    loss, slopes = loss_and_grad(infinite, np.zeros((2, 2)), sample_weight=[0, 1])
    assert loss == 0
    np.testing.assert_array_equal(slopes, 0)


DTYPES = ["float64", "float32", "float16", "bfloat16"]
PAIRS = [
    pytest.param(*pair, marks=[] if pair == ("float16", "bfloat16") else pytest.mark.rare)
    for pair in itertools.product(DTYPES, DTYPES)
]


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_dtypes(one, other, backend):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    one, other = (getattr(ml_dtypes, name, None) or np.dtype(name).type for name in (one, other))
    student, teacher = rows_of(np.float64, (4, 21))
    s, t = student.astype(one), teacher.astype(other)
    loss, grad = xn.distillation_loss_and_grad(s, t, reduction="none")
    assert loss.dtype == (np.float64 if one is np.float64 else np.float32)
    assert grad.dtype == one
    s, t = s.astype(np.float64), t.astype(np.float64)
    expected, slopes = xn.distillation_loss_and_grad(s, t, reduction="none", backend="numpy")
    np.testing.assert_allclose(loss, expected, rtol=1e-14 if loss.dtype == np.float64 else 2e-6)
    tolerance = 4 * float(ml_dtypes.finfo(one).eps)
    np.testing.assert_allclose(grad.astype(np.float64), slopes, rtol=tolerance, atol=tolerance / 4)


def test_integers(backend):
    loss, grad = xn.distillation_loss_and_grad([[1, 2]], [[3, 1]])
    assert loss.dtype == grad.dtype == np.float64


def test_layouts(backend):
    """Both arrays with strides of their own, broadcast, misaligned and in place."""
    student, teacher = rows_of(np.float64, (6, 40, 3))
    expected, slopes = loss_and_grad(student, teacher, axis=1, reduction="none")

    def agrees(s, t, axis=1):
        loss, grad = loss_and_grad(s, t, axis=axis, reduction="none")
        np.testing.assert_allclose(loss, expected, rtol=1e-13)
        np.testing.assert_allclose(np.moveaxis(grad, axis, 1), slopes, rtol=1e-12, atol=1e-16)

    agrees(student, np.asfortranarray(teacher))
    agrees(np.asfortranarray(student), teacher)
    agrees(np.ascontiguousarray(student.transpose(0, 2, 1)), teacher.transpose(0, 2, 1), axis=2)
    agrees(student[::-1, ::-1][::-1, ::-1], np.repeat(teacher, 2, axis=2)[..., ::2])
    packed = np.zeros(student.shape, np.dtype([("before", "u1"), ("value", "f8")]))
    packed["value"] = teacher
    agrees(student, packed["value"])
    packed["value"] = student
    agrees(packed["value"], teacher)
    one = np.broadcast_to(teacher[:1], teacher.shape)
    np.testing.assert_allclose(
        loss_and_grad(student, one, axis=1)[0], loss_and_grad(student, one.copy(), axis=1)[0], rtol=1e-14
    )
    work = student.copy()
    loss, grad = xn.distillation_loss_and_grad(work, teacher, axis=1, reduction="none", grad_out=work)
    assert grad is work
    np.testing.assert_array_equal(loss, expected)
    np.testing.assert_array_equal(work, slopes)
    out = np.full(student.shape, NAN)
    assert xn.distillation_loss_and_grad(student, teacher, axis=1, grad_out=out)[1] is out


def test_one_class(backend):
    loss, grad = loss_and_grad(np.array([[3.0], [-1e30]], np.float32), np.array([[0.7], [2.0]], np.float32))
    assert loss == 0
    np.testing.assert_array_equal(grad, 0)


@pytest.mark.parametrize("shape", [(50, 20), (50, 100), (70, 300), (7, 5000), (7, 70_000)])
def test_the_same_bits(shape, backend):
    """For any number of threads, whatever rows stand beside a row, and in place."""
    student, teacher = rows_of(np.float32, shape)
    teacher[::2] = student[::2] + np.float32(0.05) * teacher[::2]
    rows, grad = loss_and_grad(student, teacher, reduction="none", n_threads=1)
    expected = loss_and_grad(student, teacher, n_threads=1)[0]
    for threads in (2, None):
        assert xn.distillation_loss(student, teacher, n_threads=threads) == expected
        work = student.copy()
        again = xn.distillation_loss_and_grad(work, teacher, reduction="none", n_threads=threads, grad_out=work)
        np.testing.assert_array_equal(again[0], rows)
        np.testing.assert_array_equal(work, grad)
    for part in (slice(1, 4), slice(5, None, 2)):
        again = loss_and_grad(student[part].copy(), teacher[part].copy(), reduction="none")
        np.testing.assert_array_equal(again[0], rows[part])
        np.testing.assert_array_equal(again[1], grad[part])
    apart = loss_and_grad(np.asfortranarray(student), teacher, reduction="none")
    np.testing.assert_allclose(apart[0], rows, rtol=1e-5)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("classes", [20, 100])
def test_the_same_bits_beside_rows_that_exclude_a_class(classes, dtype, backend):
    student, teacher = rows_of(dtype, (40, classes), 1.0)
    teacher = student + dtype(0.3) * teacher
    rows, grad = loss_and_grad(student, teacher, reduction="none")
    student[::8, 3] = teacher[::8, 3] = -INF
    again, slopes = loss_and_grad(student, teacher, reduction="none")
    others = np.arange(40) % 8 > 0
    np.testing.assert_array_equal(again[others], rows[others])
    np.testing.assert_array_equal(slopes[others], grad[others])


def test_one_row(backend):
    loss = xn.distillation_loss(np.zeros(3, np.float32), np.ones(3, np.float32), reduction="none")
    assert loss == 0
    assert isinstance(loss, np.float32)
    assert isinstance(xn.distillation_loss(np.zeros(3), np.ones(3)), np.float64)


def test_cross_entropy_is_entropy_plus_divergence(backend):
    student, teacher = rows_of(np.float64)
    p = xn.softmax(teacher)
    entropy = -(p * xn.log_softmax(teacher)).sum(1)
    loss, grad = loss_and_grad(student, teacher, reduction="none")
    np.testing.assert_allclose(xn.cross_entropy(student, p, reduction="none"), entropy + loss, rtol=1e-13)
    np.testing.assert_allclose(xn.cross_entropy_and_grad(student, p, reduction="sum")[1], grad, atol=1e-15)


def test_pytorch(backend):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")
    functional = torch.nn.functional
    for case in range(200):
        rng = np.random.default_rng(case)
        shape = [(1, 2), (4, 3), (7, 10), (2, 300), (3, 4, 5), (6,)][rng.integers(6)]
        axis = 0 if len(shape) == 1 else 1
        student, teacher = (rng.normal(scale=rng.choice([0.1, 3.0, 30.0]), size=shape) for _ in range(2))
        temperature = float(rng.choice([1.0, 0.3, 5.0]))
        squared, reduction = bool(rng.integers(2)), ["mean", "sum", "none"][rng.integers(3)]
        logits = torch.tensor(student, requires_grad=True)
        log_q = functional.log_softmax(logits / temperature, axis)
        log_p = functional.log_softmax(torch.tensor(teacher) / temperature, axis)
        rows = functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(axis)
        rows = rows * temperature**2 if squared else rows
        expected = {"mean": rows.mean, "sum": rows.sum, "none": lambda rows=rows: rows}[reduction]()
        expected.sum().backward()
        loss, grad = loss_and_grad(
            student, teacher, temperature=temperature, temperature_squared=squared, reduction=reduction, axis=axis
        )
        np.testing.assert_allclose(loss, expected.detach().numpy(), rtol=1e-9, atol=1e-14)
        np.testing.assert_allclose(grad, logits.grad.numpy(), rtol=1e-9, atol=1e-13)
