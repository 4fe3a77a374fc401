"""The arguments of the functions of a linear head: which are refused, and what is said about them."""

from __future__ import annotations

import numpy as np
import pytest

import xent_numba as xn

LOSS, BOTH, HVP = xn.linear_cross_entropy, xn.linear_cross_entropy_and_grad, xn.linear_cross_entropy_hvp
X = np.arange(24.0).reshape(6, 4) / 10
W = np.arange(12.0).reshape(3, 4) / 7
Y = np.array([0, 2, 1, 1, 0, 2])
B = np.array([0.5, 0.0, -0.5])
ALL = "'input', 'linear_weight', 'linear_bias'"
FLOATS = "float64, float32, float16 or bfloat16 (or integers, which become float64)"


@pytest.fixture(autouse=True)
def _on_numpy():
    with xn.use_backend("numpy"):
        yield


def message_of(kind, call, *arguments, **options):
    """The message of the exception that a call raises."""
    with pytest.raises(kind) as caught:
        call(*arguments, **options)
    assert caught.type is kind
    return str(caught.value)


def each(kind, *arguments, **options):
    """The message of an error that all three functions raise in the same words."""
    one, two = (message_of(kind, call, *arguments, **options) for call in (LOSS, BOTH))
    assert one == two == message_of(kind, HVP, *arguments, arguments[1], **options)
    return one


def test_shapes_of_input_and_weight():
    fit = "input of shape {} does not fit linear_weight of shape {}: the last axis of both is the features, and there "
    fit += "are {} of them in input and {} in linear_weight"
    other = "; for a weight of shape (features, classes), pass linear_weight.T; for logits, call cross_entropy"
    assert each(ValueError, X, W[:, :3], Y) == fit.format("(6, 4)", "(3, 3)", 4, 3)
    assert each(ValueError, X, W.T, Y) == fit.format("(6, 4)", "(4, 3)", 4, 3) + other
    assert each(ValueError, X @ W.T, W, Y) == fit.format("(6, 3)", "(3, 4)", 3, 4) + other
    assert each(ValueError, X, W[0], Y) == "linear_weight has shape (4,); it must have two axes, (classes, features)"
    assert each(ValueError, X, W[:0], Y) == "linear_weight of shape (0, 4) has no classes along its first axis"
    assert each(ValueError, 1.0, W, Y) == "input is a single number; it needs at least one axis, the features"


def test_shapes_of_targets():
    fit = "target of shape {} does not fit input of shape {} and linear_weight of shape (3, 4): class indices have "
    fit += "shape {}, a distribution over the classes has shape {}"
    assert each(ValueError, X, W, Y[:5]) == fit.format("(5,)", "(6, 4)", "(6,)", "(6, 3)")
    assert each(ValueError, X, W, Y[:, None]) == fit.format("(6, 1)", "(6, 4)", "(6,)", "(6, 3)")
    assert each(ValueError, X.reshape(2, 3, 4), W, Y) == fit.format("(6,)", "(2, 3, 4)", "(2, 3)", "(2, 3, 3)")
    assert each(ValueError, X[0], W, Y) == fit.format("(6,)", "(4,)", "()", "(3,)")


def test_arguments_in_another_order():
    assert each(ValueError, W, X, Y) == (
        "target of shape (6,) does not fit input of shape (3, 4) and linear_weight of shape (6, 4): class indices have "
        "shape (3,), a distribution over the classes has shape (3, 6); input and linear_weight may be swapped"
    )
    assert each(ValueError, W, X, np.ones((6, 3))).endswith("(3, 6); input and linear_weight may be swapped")
    assert each(ValueError, X, Y, W) == (
        "linear_weight has shape (6,); it must have two axes, (classes, features); linear_weight and target may be "
        "swapped"
    )
    assert each(ValueError, X.reshape(2, 3, 4), Y.reshape(2, 3), W).endswith(
        "4 of them in input and 3 in linear_weight; linear_weight and target may be swapped"
    )


def test_shapes_of_the_rest():
    assert each(ValueError, X, W, Y, linear_bias=B[:2]) == (
        "linear_bias has shape (2,); it must have shape (3,): one per class, as linear_weight has them"
    )
    assert each(ValueError, X, W, Y, weight=X[0]) == "weight has shape (4,); it must have shape (3,): one per class"
    assert each(ValueError, X, W, Y, sample_weight=B).startswith(
        "sample_weight has shape (3,); it must have shape (6,)"
    )
    assert message_of(ValueError, HVP, X, W, Y, W[0]) == (
        "vector has shape (4,); it must have shape (3, 4): that of linear_weight"
    )
    assert message_of(ValueError, HVP, X, W, Y, W, linear_bias=B, bias_vector=B[:2]) == (
        "bias_vector has shape (2,); it must have shape (3,): that of linear_bias"
    )
    assert message_of(ValueError, HVP, X, W, Y, W, bias_vector=B) == "bias_vector is given, but there is no linear_bias"


@pytest.mark.parametrize("name", ["input", "linear_weight", "linear_bias", "vector", "bias_vector"])
def test_dtypes(name):
    def call(change):
        arguments = {"input": X, "linear_weight": W, "linear_bias": B, "vector": W, "bias_vector": B}
        arguments[name] = change(arguments[name])
        if not name.endswith("vector"):
            found = message_of(TypeError, BOTH, target=Y, **dict(list(arguments.items())[:3]))
            assert found == message_of(TypeError, LOSS, target=Y, **dict(list(arguments.items())[:3]))
        return message_of(TypeError, HVP, target=Y, **arguments)

    assert call(lambda a: a > 0) == f"{name} has dtype bool; it must be {FLOATS}"
    assert call(lambda a: a + 0j) == f"{name} has dtype complex128; it must be {FLOATS}"
    assert call(lambda a: a.astype(np.longdouble)).startswith(f"{name} has dtype float128; it must be float64")
    assert call(lambda a: a.astype(object)).endswith(f"convert with {name}.astype(float)")
    assert call(lambda a: a.astype(">f8")) == (
        f"{name} has dtype '>f8', which is not in this machine's byte order; convert it with "
        f"{name}.astype({name}.dtype.newbyteorder('='))"
    )
    masked = f"{name} is a masked array, whose mask would be lost; pass {name}.filled(...)"
    rows = " and mark the rows to leave out with ignore_index or a sample_weight of 0"
    assert call(np.ma.masked_array) == masked + (rows if name == "input" else "")  # the others have no rows


def test_labels():
    for labels, place in ((Y + 1, "[1] = 3"), (-Y, "[1] = -2")):
        assert each(IndexError, X, W, labels) == (f"target{place} is out of range for 3 classes (ignore_index = -100)")
    x, y = X.reshape(2, 3, 4), Y.reshape(2, 3) * 2
    assert each(IndexError, x, W, y, ignore_index=2) == (
        "target[0, 1] = 4 is out of range for 3 classes (ignore_index = 2)"
    )
    assert each(TypeError, X, W, Y + 0.5) == (
        "target has the shape of class indices but dtype float64, and target[0] = 0.5; class indices are integers: "
        "pass probabilities of the classes as a distribution of shape (6, 3)"
    )
    assert each(ValueError, X, W, np.eye(6, 3, dtype=int)).startswith("target")
    assert each(ValueError, X, W, np.ones((6, 3)), ignore_index=0).startswith("ignore_index = 0 needs class indices")
    assert each(ValueError, X, W, np.ones((6, 3)), focal_gamma=1).endswith("pass target.argmax(axis=-1)")


def test_nothing_is_written_before_an_error():
    outs = {
        name: np.full(shape, 7.0) for name, shape in (("input_grad_out", (6, 4)), ("linear_weight_grad_out", (3, 4)))
    }
    message_of(IndexError, BOTH, X, W, [0, 1, 2, 0, 1, 3], **outs)
    message_of(ValueError, BOTH, X, W, Y, linear_bias_grad_out=B, **outs)
    assert all((out == 7.0).all() for out in outs.values())


def test_sparse_arguments():
    sparse = pytest.importorskip("scipy.sparse")
    message = "input is a {}-D sparse matrix in {} format; it must be a 2-D one in CSR format: pass {}"
    for form in ("coo", "csc", "bsr", "lil", "dok", "dia"):
        x = sparse.csr_array(X).asformat(form)
        assert each(TypeError, x, W, Y) == message.format(2, form.upper(), "input.tocsr()")
        assert np.isfinite(LOSS(x.tocsr(), W, Y))
    row = sparse.coo_array(X[0])
    assert each(TypeError, row, W, Y[0]) == message.format(1, "COO", "input.reshape(-1, input.shape[-1]).tocsr()")
    assert np.isfinite(LOSS(row.reshape(-1, row.shape[-1]).tocsr(), W, Y[:1]))
    assert each(TypeError, sparse.csr_array(X + 1j), W, Y) == (
        "input has dtype complex128; a sparse matrix must be real numbers"
    )
    x = sparse.csr_array(X)
    assert each(ValueError, x[:, :3], W, Y).startswith(
        "input of shape (6, 3) does not fit linear_weight of shape (3, 4)"
    )
    for name, value in (("linear_weight", W), ("linear_bias", B[None]), ("target", np.eye(6, 3)), ("weight", B[None])):
        arguments = {"input": X, "linear_weight": W, "target": Y, name: sparse.csr_array(value)}
        for call in (LOSS, BOTH):
            found = message_of(TypeError, call, **arguments)
            assert found == f"{name} is a sparse matrix; only input can be one: pass {name}.toarray()"
    for options in ({"vector": x[:3]}, {"vector": W, "bias_vector": sparse.csr_array(B[None]), "linear_bias": B}):
        found = message_of(TypeError, HVP, X, W, Y, **options)
        assert found.endswith("_vector.toarray()" if "bias_vector" in options else " pass vector.toarray()")


def test_gradients_of_a_sparse_input():
    """There is none: by default, it is None; naming it is an error."""
    sparse = pytest.importorskip("scipy.sparse")
    x = sparse.csr_array(X)
    for options in ({}, {"linear_bias": B}):
        found, dense = BOTH(x, W, Y, **options), BOTH(X, W, Y, **options)
        assert found.input is None
        np.testing.assert_allclose(found.linear_weight, dense.linear_weight, rtol=1e-13)
        assert (found.linear_bias is None) == (not options)
    dense = "which is a sparse matrix: its gradient would be a dense array of shape (6, 4); write wrt="
    assert message_of(ValueError, BOTH, x, W, Y, wrt="input") == f"wrt names 'input', {dense}()"
    assert message_of(ValueError, BOTH, x, W, Y, wrt=["input", "linear_weight"]) == (
        f"wrt names 'input', {dense}('linear_weight',)"
    )
    assert message_of(ValueError, BOTH, x, W, Y, input_grad_out=np.empty((6, 4))) == (
        "input_grad_out is given, but input is a sparse matrix, of which there is no gradient"
    )
    held = x.data[:12].reshape(3, 4)
    assert message_of(ValueError, BOTH, x, W, Y, linear_weight_grad_out=held) == (
        "linear_weight_grad_out shares memory with an input; pass an array of its own"
    )


def test_wrt():
    assert message_of(ValueError, BOTH, X, W, Y, wrt="weight") == f"wrt = 'weight' is unknown; choose from {ALL}"
    assert message_of(ValueError, BOTH, X, W, Y, wrt=["bias"]) == f"wrt[0] = 'bias' is unknown; choose from {ALL}"
    assert message_of(ValueError, BOTH, X, W, Y, wrt=["input", 1]) == f"wrt[1] = 1 is unknown; choose from {ALL}"
    assert message_of(ValueError, BOTH, X, W, Y, wrt=["input", "input"]) == (
        "wrt[1] = 'input' is there already, as wrt[0]; name it once"
    )
    for wrt in (None, 0, True):
        assert message_of(TypeError, BOTH, X, W, Y, wrt=wrt) == f"wrt = {wrt!r} must be names among {ALL}"
    found = BOTH(X, W, Y, wrt="linear_weight")
    assert found.input is None
    assert found.linear_bias is None
    np.testing.assert_array_equal(found.linear_weight, BOTH(X, W, Y).linear_weight)
    assert BOTH(X, W, Y, wrt=()) == (LOSS(X, W, Y), None, None, None)
    assert BOTH(X, W, Y, wrt={"linear_bias"}).linear_bias is None  # there is no bias


@pytest.mark.parametrize("value", [0, -1])
def test_chunks_without_rows(value):
    assert each(ValueError, X, W, Y, batch_chunk_size=value) == (
        f"batch_chunk_size = {value} must be at least 1, or None for a size that is chosen by the shape"
    )


@pytest.mark.parametrize(("value", "kind"), [(1.5, "float"), (True, "bool"), ("8", "str"), ([8], "list")])
def test_chunks_that_are_no_number_of_rows(value, kind):
    assert each(TypeError, X, W, Y, batch_chunk_size=value) == (
        f"batch_chunk_size = {value!r} must be an integer, not {kind}"
    )


@pytest.mark.parametrize(
    "name", ["input_grad_out", "linear_weight_grad_out", "linear_bias_grad_out", "out", "bias_out"]
)
def test_arrays_to_write_to(name):
    like = X if name.startswith("input") else B if "bias" in name else W
    given = {"linear_bias": B.copy()}

    def call(array, **more):
        options = given | {name: array} | more
        arguments = (X, W, Y, V) if name in ("out", "bias_out") else (X, W, Y)
        return message_of(ValueError, HVP if len(arguments) == 4 else BOTH, *arguments, **options)

    V, shape = W.copy(), like.shape
    assert call(np.empty((*shape, 1))) == (
        f"{name} has shape {(*shape, 1)} and dtype float64; it must have shape {shape} and float64"
    )
    assert call(np.empty(shape, np.float32)) == (
        f"{name} has shape {shape} and dtype float32; it must have shape {shape} and float64"
    )
    frozen = np.zeros(shape)
    frozen.flags.writeable = False
    assert call(frozen) == f"{name} is read-only; pass an array that can be written to"
    assert call(np.lib.stride_tricks.as_strided(np.zeros(1), shape, (0,) * len(shape))) == (
        f"{name} has elements that share memory with each other; pass an array without overlaps"
    )
    taken = np.zeros(24)
    out = taken[: like.size].reshape(shape)
    shared = "shares memory with an input; pass an array of its own"
    assert call(out, sample_weight=taken[:6]) == f"{name} {shared}"
    given["linear_bias"] = taken[:3]
    assert call(out) == f"{name} {shared}"
    given["linear_bias"] = B
    if name in ("out", "bias_out"):
        V = taken[:12].reshape(3, 4)
        assert call(out) == f"{name} {shared}"
        V = W.copy()
        assert call(out, bias_vector=taken[:3]) == f"{name} {shared}"
        other = "bias_out" if name == "out" else "out"
    else:
        other = "linear_weight_grad_out" if name != "linear_weight_grad_out" else "linear_bias_grad_out"
    size, other_shape = (3, (3,)) if "bias" in other else (12, (3, 4))
    found = call(out, **{other: taken[:size].reshape(other_shape)})
    assert found in (
        f"{name} shares memory with {other}; pass an array of its own",
        f"{other} shares memory with {name}; pass an array of its own",
    )


def test_results_in_place_of_an_argument_are_refused():
    """Unlike logits, every argument is read until the last chunk."""
    for name, array in (("input_grad_out", X), ("linear_weight_grad_out", W), ("linear_bias_grad_out", B)):
        assert message_of(ValueError, BOTH, X, W, Y, linear_bias=B, **{name: array}) == (
            f"{name} shares memory with an input; pass an array of its own"
        )


def test_arrays_to_write_to_that_are_not_wanted():
    given = "is given, but"
    assert message_of(ValueError, BOTH, X, W, Y, wrt="input", linear_weight_grad_out=W) == (
        f"linear_weight_grad_out {given} wrt does not name 'linear_weight'"
    )
    assert message_of(ValueError, BOTH, X, W, Y, linear_bias_grad_out=B) == (
        f"linear_bias_grad_out {given} there is no linear_bias"
    )
    assert message_of(ValueError, HVP, X, W, Y, W, bias_out=B) == f"bias_out {given} there is no linear_bias"
    assert message_of(TypeError, BOTH, X, W, Y, linear_weight_grad_out=W.tolist()) == (
        "linear_weight_grad_out must be a NumPy array to write to, not list (or a CPU tensor of PyTorch)"
    )


def test_options_are_checked_as_those_of_the_loss():
    for options in (
        {"reduction": "median"}, {"label_smoothing": 2}, {"softcap": 0}, {"z_loss": -1}, {"logit_scale": np.inf},
        {"focal_gamma": -1}, {"n_threads": 0}, {"weight": [1, -1, 1]}, {"sample_weight": [np.nan] * 6},
    ):  # fmt: skip
        assert each(ValueError, X, W, Y, **options) == message_of(ValueError, xn.cross_entropy, X @ W.T, Y, **options)
    assert message_of(TypeError, HVP, X, W, Y, W, gauss_newton=1).startswith("gauss_newton = 1 must be True or False")
    assert each(ValueError, X, W, Y, backend="gpu").startswith("backend")


@pytest.mark.parametrize("name", ["input", "linear_weight", "linear_bias"])
def test_torch_tensors_that_require_a_gradient(name):
    torch = pytest.importorskip("torch")
    arguments = {"input": X, "linear_weight": W, "linear_bias": B, "target": Y}
    arguments[name] = torch.tensor(arguments[name], requires_grad=True)
    for call in (LOSS, BOTH):
        assert message_of(TypeError, call, **arguments) == (
            f"{name} is a tensor that requires a gradient, which would be lost here; pass {name}.detach(), and take "
            "the gradient from linear_cross_entropy_and_grad, in a torch.autograd.Function whose backward returns it"
        )
    with torch.no_grad():
        assert LOSS(**arguments) == LOSS(X, W, Y, linear_bias=B)
