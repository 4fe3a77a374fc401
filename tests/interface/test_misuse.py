"""Calls written as for other libraries: each error says what to write here instead, in these words."""

from __future__ import annotations

import inspect
import pickle

import numpy as np
import pytest

import xent_numba as xn

A = np.array([[2.0, 1.0, 0.1], [0.1, 2.0, 1.9]])
Y = np.array([1, 0])
LOSS, BOTH, GRAD, OBJECT = xn.cross_entropy, xn.cross_entropy_and_grad, xn.cross_entropy_grad, xn.CrossEntropyLoss
FUNCTIONS = [LOSS, BOTH, GRAD, xn.softmax, xn.log_softmax, xn.logsumexp, xn.row_statistics, xn.evaluate]
BY_NAME = "pass the rest by name, as in"
SWAPPED = "; the arguments may be swapped: the logits come first, then the target"

KEYWORDS = [
    (lambda: LOSS(A, Y, dim=1), "cross_entropy() has no argument 'dim' (write axis=1)"),
    (lambda: xn.softmax(A, dim=-1), "softmax() has no argument 'dim' (write axis=-1)"),
    (lambda: LOSS(input=A, target=Y), "cross_entropy() has no argument 'input' (write logits=...)"),
    (lambda: BOTH(A, labels=Y), "cross_entropy_and_grad() has no argument 'labels' (write target=...)"),
    (
        lambda: LOSS(y_true=Y, y_pred=A),
        "cross_entropy() has no argument 'y_true' (write target=...) and no argument 'y_pred' (write logits=...)",
    ),
    (lambda: OBJECT(class_weight=[1, 2, 3]), "CrossEntropyLoss() has no argument 'class_weight' (write weight=...)"),
    (
        lambda: LOSS(A, Y, size_average=False),
        "cross_entropy() has no argument 'size_average' (write reduction='mean', 'sum' or 'none')",
    ),
    (
        lambda: LOSS(A, Y, temperature=2.0),
        "cross_entropy() has no argument 'temperature' (write logit_scale=1 / temperature)",
    ),
    (
        lambda: LOSS(A, Y, from_logits=True),
        "cross_entropy() has no argument 'from_logits' (logits are always unnormalised; in place of probabilities p, "
        "pass np.log(p))",
    ),
    (
        lambda: LOSS(A, Y, where=[True, False]),
        "cross_entropy() has no argument 'where' (leave rows out with a sample_weight of 0, and classes with logits of "
        "-inf)",
    ),
    (
        lambda: xn.logsumexp(A, keepdims=True),
        "logsumexp() has no argument 'keepdims' (restore the axis afterwards: np.expand_dims(result, axis))",
    ),
    (
        lambda: xn.softmax(A, dtype=np.float64),
        "softmax() has no argument 'dtype' (convert the logits first: logits.astype(dtype))",
    ),
    (lambda: BOTH(A, Y, out=A), "cross_entropy_and_grad() has no argument 'out' (write grad_out=...)"),
    (lambda: GRAD(A, Y, grad_out=A), "cross_entropy_grad() has no argument 'grad_out' (write out=...)"),
    (
        lambda: LOSS(A, Y, grad_out=A),
        "cross_entropy() has no argument 'grad_out' (cross_entropy_and_grad computes the gradient)",
    ),
    (
        lambda: BOTH(A, Y, lse=[1, 2]),
        "cross_entropy_and_grad() has no argument 'lse' (cross_entropy_grad takes it)",
    ),
    (
        lambda: OBJECT().backward(gradient=2),
        "CrossEntropyLoss.backward() has no argument 'gradient' (write grad_output=2)",
    ),
    (
        lambda: OBJECT(logits=A),
        "CrossEntropyLoss() has no argument 'logits' (the object takes the arrays: CrossEntropyLoss()(logits, target))",
    ),
    (
        lambda: xn.softmax(A, labels=Y, dim=1),  # a hint only where the function has what it speaks of
        "softmax() has no argument 'labels' and no argument 'dim' (write axis=1); it takes logits, axis, out, backend, "
        "n_threads",
    ),
]
POSITIONS = [
    (lambda: LOSS(A, Y, np.ones(3)), f"cross_entropy() takes logits and target by position; {BY_NAME} weight=..."),
    (lambda: LOSS(A, Y, 1), f"cross_entropy() takes logits and target by position; {BY_NAME} axis=1"),
    (lambda: xn.softmax(A, 1), f"softmax() takes logits by position; {BY_NAME} axis=1"),
    (lambda: LOSS(A, Y, "sum"), f"cross_entropy() takes logits and target by position; {BY_NAME} reduction='sum'"),
    (
        lambda: OBJECT(A, Y),
        "CrossEntropyLoss() takes its options by name, as in weight=...; the object takes the arrays: "
        "CrossEntropyLoss()(logits, target)",
    ),
    (
        lambda: OBJECT()(A, Y, np.ones(2)),
        f"CrossEntropyLoss.__call__() takes logits and target by position; {BY_NAME} sample_weight=...",
    ),
    (
        lambda: OBJECT().backward(1.0, A),
        f"CrossEntropyLoss.backward() takes grad_output by position; {BY_NAME} out=...",
    ),
]


@pytest.mark.parametrize(("call", "message"), KEYWORDS + POSITIONS, ids=lambda value: "" if callable(value) else value)
def test_arguments_that_a_function_does_not_have(call, message):
    with pytest.raises(TypeError) as caught:
        call()
    assert str(caught.value) == message


LAST = "there is no choice: the last axis of input is the features"
GRADIENTS = "linear_cross_entropy_and_grad takes input_grad_out, linear_weight_grad_out and linear_bias_grad_out"
OF_A_HEAD = [
    ({"axis": 1}, f"'axis' ({LAST})"),
    ({"dim": -1}, f"'dim' ({LAST})"),
    ({"bias": [1, 2]}, "'bias' (write linear_bias=...)"),
    ({"chunk_size": 8}, "'chunk_size' (write batch_chunk_size=8)"),
    ({"options": Y}, "'options' (of these, there is batch_chunk_size alone, an argument by itself)"),
    (
        {"logits": A},
        "'logits' (here they are input @ linear_weight.T + linear_bias; cross_entropy takes them as they are)",
    ),
    (
        {"_input": A, "lin_weight": A},
        "'_input' (write input=...) and no argument 'lin_weight' (write linear_weight=...)",
    ),
    (
        {"e": A, "c": A, "targets": Y},
        "'e' (write input=...) and no argument 'c' (write linear_weight=...) and no argument 'targets' (write "
        "target=...)",
    ),
    ({"inputs": A}, "'inputs' (write input=...)"),
    ({"hidden": A}, "'hidden' (write input=...)"),
    ({"class_weight": Y}, "'class_weight' (write weight=...)"),
    ({"temperature": 2}, "'temperature' (write logit_scale=1 / temperature)"),
    (
        {"mask": Y},
        "'mask' (leave rows out with a sample_weight of 0, and classes with a linear_bias of -inf)",
    ),
    ({"grad_out": A}, f"'grad_out' ({GRADIENTS})"),
    ({"grad_output": 2.0}, "'grad_output' (multiply the gradients by it)"),
]


@pytest.mark.parametrize(("arguments", "found"), OF_A_HEAD, ids=lambda value: value if isinstance(value, str) else "")
def test_arguments_that_a_linear_head_does_not_have(arguments, found):
    for call in (xn.linear_cross_entropy, xn.linear_cross_entropy_and_grad):
        with pytest.raises(TypeError) as caught:
            call(**arguments)
        assert str(caught.value) == f"{call.__name__}() has no argument {found}"


def test_more_arrays_by_position_than_a_linear_head_takes():
    for surplus, hint in ((Y, "linear_bias=..."), ("sum", "reduction='sum'"), (1024, "batch_chunk_size=1024")):
        with pytest.raises(TypeError) as caught:
            xn.linear_cross_entropy(A, A, Y, surplus)
        takes = "linear_cross_entropy() takes input, linear_weight and target by position"
        assert str(caught.value) == f"{takes}; {BY_NAME} {hint}"
    with pytest.raises(TypeError, match=r"^linear_cross_entropy\(\) missing 1 required positional argument: 'target'$"):
        xn.linear_cross_entropy(A, Y)


def test_a_missing_argument_is_reported_by_python():
    with pytest.raises(TypeError, match=r"^cross_entropy\(\) missing 1 required positional argument: 'target'"):
        LOSS(A)
    with pytest.raises(TypeError, match="multiple values for argument 'target'"):
        LOSS(A, Y, target=Y)


def test_errors_of_the_body_pass_through():
    with pytest.raises(TypeError, match=r"^axis = 1.0 must be an integer, not float$"):
        LOSS(A, Y, axis=1.0)

    class Odd:
        def __array__(self, dtype=None, copy=None):
            return len(3)

    with pytest.raises(TypeError, match="has no len"):
        LOSS(Odd(), Y)


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_a_decorated_function_looks_like_itself(function):
    parameters = inspect.signature(function).parameters
    assert next(iter(parameters)) == "logits"
    assert "axis" in parameters
    assert "args" not in parameters
    assert function.__doc__ == function.__wrapped__.__doc__
    assert f"def {function.__name__}(" in inspect.getsource(function)
    assert inspect.getmodule(function).__name__ == function.__module__
    assert pickle.loads(pickle.dumps(function)) is function
    assert str(inspect.signature(OBJECT)).startswith("(*, axis")


SWAPS = [
    (
        (Y, A), {}, ValueError,
        "target of shape (2, 3) does not fit logits of shape (2,) with axis = 0: class indices have shape (), a "
        "distribution over the classes has shape (2,)",
    ),
    ((Y, A), {"axis": 1}, IndexError, "axis = 1 is out of range for logits of shape (2,)"),
    ((1, A[0].tolist()), {}, ValueError, "logits are a single number; they need at least one axis, the classes"),
    (
        (["a", "b"], A), {}, TypeError,
        "logits have dtype <U1; they must be float64, float32, float16 or bfloat16 (or integers, which become float64)",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "options", "error", "message"), SWAPS)
def test_the_target_first(arguments, options, error, message):
    for call in (LOSS, BOTH, GRAD):
        with pytest.raises(error) as caught:
            call(*arguments, **options)
        assert str(caught.value) == message + SWAPPED


def test_other_shapes_that_do_not_fit_are_not_called_swapped():
    for logits, target in ((A, [0, 1, 2]), (A, A[:1]), (A[0], [[0], [1]]), (1.0, 0), ([[1.0], [1.0, 2.0]], A)):
        with pytest.raises(ValueError, match=r"^(?!.*swapped)"):
            LOSS(logits, target)


def test_another_axis_that_would_fit():
    """As in PyTorch, where the classes are always along axis 1."""
    with pytest.raises(ValueError, match="would fit") as caught:
        LOSS(np.zeros((2, 3, 4)), np.zeros((2, 4), int))
    assert str(caught.value) == (
        "target of shape (2, 4) does not fit logits of shape (2, 3, 4) with axis = 2: class indices have shape (2, 3), "
        "a distribution over the classes has shape (2, 3, 4); with axis=1 it would fit"
    )


class Series:
    """Categorical data as in a Series of pandas."""

    class cat:
        codes = np.array([0, 1], np.int8)

    def __array__(self, dtype=None, copy=None):
        return np.array(["a", "b"], object)


class Categorical(Series):
    """The same without an index."""

    cat = None
    codes = np.array([0, 1], np.int8)


NAMES = "number the classes by names, target = np.unique(target, return_inverse=True)"
MISSING = "mark missing labels by ignore_index, as in np.where(missing, -100, target).astype(np.int64)"
CODES = "with ignore_index=-1 if labels are missing"
WHOLE = "convert with target.astype(np.int64), or pass a distribution of shape (2, 3)"
LABELS = [
    (["cat", "dog"], "dtype <U3, and target[0] = 'cat'", NAMES),
    (np.array([b"cat", b"dog"]), "dtype |S3, and target[0] = b'cat'", NAMES),
    (np.array(["cat", 1], object), "dtype object, and target[0] = 'cat'", NAMES),
    (Series(), "dtype object, and target[0] = 'a'", f"pass the codes of the categories, target.cat.codes, {CODES}"),
    (Categorical(), "dtype object, and target[0] = 'a'", f"pass the codes of the categories, target.codes, {CODES}"),
    ([0.0, np.nan], "dtype float64, and target[1] = nan", MISSING),
    (np.array([np.nan, 0], np.float16), "dtype float16, and target[0] = nan", MISSING),
    ([1, None], "dtype object, and target[1] = None", MISSING),
    (
        [1.0, 0.3], "dtype float64, and target[1] = 0.3",
        "pass probabilities of the classes as a distribution of shape (2, 3)",
    ),
    ([1.0, 0.0], "dtype float64", WHOLE),
    (np.array([1, 0], object), "dtype object", WHOLE),
    ([True, False], "dtype bool", WHOLE),
]  # fmt: skip


@pytest.mark.parametrize(("target", "found", "remedy"), LABELS)
def test_labels_that_are_no_integers(target, found, remedy):
    with pytest.raises(TypeError) as caught:
        LOSS(A, target)
    message = f"target has the shape of class indices but {found}; class indices are integers: {remedy}"
    assert str(caught.value) == message
