"""The arguments of the distillation losses: each error, in the words of the loss where the loss has it."""

from __future__ import annotations

import math

import numpy as np
import pytest

import xent_numba as xn

A = np.array([[2.0, 1.0, 0.1], [0.1, 2.0, 1.9]])
B = A + np.array([0.0, 0.5, 0.0])
FUNCTIONS = [xn.distillation_loss, xn.distillation_loss_and_grad]

ERRORS = [
    ((A, B[:1]), {}, ValueError,
     "teacher_logits has shape (1, 3); it must have shape (2, 3): that of student_logits"),
    ((A, B), {"temperature": 0.0}, ValueError, "temperature = 0.0 must be finite and greater than 0"),
    ((A, B), {"temperature": -2}, ValueError, "temperature = -2 must be finite and greater than 0"),
    ((A, B), {"temperature": math.inf}, ValueError, "temperature = inf must be finite and greater than 0"),
    ((A, B), {"temperature": math.nan}, ValueError, "temperature = nan must be finite and greater than 0"),
    ((A, B), {"temperature": "2"}, TypeError, "temperature = '2' must be a real number, not str"),
    ((A, B), {"temperature": True}, TypeError, "temperature = True must be a real number, not bool"),
    ((A, B), {"temperature": None}, TypeError, "temperature = None must be a real number, not NoneType"),
    ((A, B), {"temperature_squared": 4.0}, TypeError, "temperature_squared = 4.0 must be True or False, not float"),
    ((A, B), {"reduction": "batchmean"}, ValueError,
     "reduction = 'batchmean' is unknown; choose one of 'mean', 'sum' or 'none'"),
    ((A, B), {"axis": 2}, IndexError, "axis = 2 is out of range for student_logits of shape (2, 3)"),
    ((A, B), {"n_threads": 0}, ValueError, "n_threads = 0 must be at least 1, or None for all threads"),
    ((A, B), {"sample_weight": [1, -1]}, ValueError, "sample_weight[1] = -1.0 must be finite and not negative"),
    ((A, B), {"sample_weight": [1, 1, 1]}, ValueError,
     "sample_weight has shape (3,); it must have shape (2,): that of the logits without the class axis"),
    ((1.0, B), {}, ValueError, "student_logits are a single number; they need at least one axis, the classes"),
    ((A[:, :0], B), {}, ValueError, "student_logits of shape (2, 0) have no classes along axis 1"),
    ((A, B > 1), {}, TypeError,
     "teacher_logits have dtype bool; they must be float64, float32, float16 or bfloat16 (or integers, which become "
     "float64)"),
    ((A.astype(">f8"), B), {}, TypeError,
     "student_logits have dtype '>f8', which is not in this machine's byte order; convert them with "
     "student_logits.astype(student_logits.dtype.newbyteorder('='))"),
    ((A, np.ma.masked_array(B)), {}, TypeError,
     "teacher_logits is a masked array, whose mask would be lost; pass teacher_logits.filled(...) and mark the rows to "
     "leave out with ignore_index or a sample_weight of 0"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "options", "error", "message"), ERRORS, ids=lambda value: "")
def test_errors(arguments, options, error, message, backend):
    for function in FUNCTIONS:
        with pytest.raises(error) as caught:
            function(*arguments, **options)
        assert str(caught.value) == message


MISUSES = [
    (lambda f: f(A, B, 2.0), " takes student_logits and teacher_logits by position; pass the rest by name, as in "
     "temperature=2.0"),
    (lambda f: f(A, B, "sum"), " takes student_logits and teacher_logits by position; pass the rest by name, as in "
     "reduction='sum'"),
    (lambda f: f(logits=A, target=B), " has no argument 'logits' (write student_logits=...) and no argument 'target' "
     "(write teacher_logits=...)"),
    (lambda f: f(student=A, teacher=B, T=2), " has no argument 'student' (write student_logits=...) and no argument "
     "'teacher' (write teacher_logits=...) and no argument 'T' (write temperature=2)"),
    (lambda f: f(A, B, logit_scale=0.5), " has no argument 'logit_scale' (write temperature=1 / logit_scale)"),
    (lambda f: f(A, B, log_target=True), " has no argument 'log_target' (teacher_logits may be log-probabilities, if "
     "the temperature is 1)"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), MISUSES, ids=lambda value: "" if callable(value) else value)
def test_arguments_that_they_do_not_have(call, message):
    for function in FUNCTIONS:
        with pytest.raises(TypeError) as caught:
            call(function)
        assert str(caught.value) == f"{function.__name__}(){message}"


def test_results_that_cannot_be_written(backend):
    read_only = np.zeros_like(A)
    read_only.flags.writeable = False
    for out, message in (
        (read_only, "grad_out is read-only"),
        (np.zeros((2, 3), np.float32), "grad_out has shape .* and dtype float32; it must have shape .* and float64"),
        (A[:, ::-1], "grad_out shares memory with the logits without being exactly the same array"),
        (B, "grad_out shares memory with another input"),
    ):
        before = A.copy(), B.copy()
        with pytest.raises(ValueError, match=message):
            xn.distillation_loss_and_grad(A, B, grad_out=out)
        np.testing.assert_array_equal((A, B), before)


def test_a_gradient_that_would_be_lost():
    class Tensor:
        requires_grad = True

        def __array__(self, dtype=None, copy=None):
            raise RuntimeError

    with pytest.raises(TypeError, match=r"^student_logits is a tensor .* from distillation_loss_and_grad, in a torch"):
        xn.distillation_loss(Tensor(), B)
    with pytest.raises(TypeError, match=r"pass teacher_logits.detach\(\); gradients are those of the student's logits"):
        xn.distillation_loss(A, Tensor())
