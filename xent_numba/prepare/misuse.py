"""Calls that cannot be right, as users of other libraries write them: the error says what to write here instead.

`explain_misuse` decorates the public functions, for arguments of another name or too many by position;
`raise_if_swapped` is for the target passed first.

To add a name that another library uses: in `_NAMES`, where an argument here has the same meaning, else in `_ADVICE`, or
in `_HEAD_ADVICE` for the functions of a linear head.
"""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from typing import Any, ParamSpec, TypeVar

    P = ParamSpec("P")
    R = TypeVar("R")

# An argument here -> what other libraries call it.
_NAMES = {
    "logits": ("input", "inputs", "x", "a", "scores", "y_pred", "y_score"),
    "logits_shard": ("logits",),
    "input": ("_input", "inputs", "x", "X", "e", "features", "embeddings", "hidden", "hidden_states"),
    "linear_weight": ("lin_weight", "w", "W", "c", "coef", "kernel"),
    "linear_bias": ("bias", "lin_bias", "b", "intercept"),
    "batch_chunk_size": ("chunk_size", "batch_size"),
    "target": ("targets", "label", "labels", "y", "y_true"),
    "student_logits": ("logits", "student", "student_output"),
    "teacher_logits": ("target", "teacher", "teacher_output"),
    "axis": ("dim",),
    "temperature": ("T", "tau", "temp"),
    "weight": ("weights", "class_weight", "class_weights"),
    "sample_weight": ("sample_weights",),
    "ignore_index": ("ignored_index", "ignore_class"),
    "label_smoothing": ("smoothing",),
    "softcap": ("soft_cap", "logit_softcap"),
    "z_loss": ("lse_square_scale",),
    "n_threads": ("num_threads", "n_jobs"),
    "lse": ("precomputed_lse",),
    "grad_output": ("gradient",),
    "vector": ("v", "vectors", "tangent", "tangents"),
    "grad_out": ("out",),
    "out": ("grad_out",),
}
_OBJECT = "CrossEntropyLoss()(logits, target)"  # of the one class here

# An argument of another library -> the argument that a function must have for the advice to apply, and the advice.
_REDUCTION = ("reduction", "write reduction='mean', 'sum' or 'none'")
_MASK = ("target", "leave rows out with a sample_weight of 0, and classes with logits of -inf")
_EXPAND = ("logits", "restore the axis afterwards: np.expand_dims(result, axis)")
_ADVICE = {
    "logits": ("axis", f"the object takes the arrays: {_OBJECT}"),
    "target": ("reduction", f"the object takes the arrays: {_OBJECT}"),
    "grad_out": ("target", "cross_entropy_and_grad computes the gradient"),
    "grad_output": ("target", "cross_entropy_grad takes it"),
    "lse": ("target", "cross_entropy_grad takes it"),
    "reduction": ("n_classes", "the methods loss and grad of the result take it"),
    "reduce": _REDUCTION,
    "size_average": _REDUCTION,
    "normalize": _REDUCTION,
    "temperature": ("logit_scale", "write logit_scale=1 / temperature"),
    "logit_scale": ("temperature", "write temperature=1 / logit_scale"),
    "log_target": ("teacher_logits", "teacher_logits may be log-probabilities, if the temperature is 1"),
    "from_logits": ("logits", "logits are always unnormalised; in place of probabilities p, pass np.log(p)"),
    "where": _MASK,
    "mask": _MASK,
    "dtype": ("logits", "convert the logits first: logits.astype(dtype)"),
    "keepdim": _EXPAND,
    "keepdims": _EXPAND,
}
_GRADIENTS = "linear_cross_entropy_and_grad takes input_grad_out, linear_weight_grad_out and linear_bias_grad_out"
_LAST = "there is no choice: the last axis of input is the features"
_HEAD_ADVICE = {  # the same for the functions of a linear head
    "logits": "here they are input @ linear_weight.T + linear_bias; cross_entropy takes them as they are",
    "axis": _LAST,
    "dim": _LAST,
    "options": "of these, there is batch_chunk_size alone, an argument by itself",
    "grad_out": _GRADIENTS,
    "out": _GRADIENTS,
    "grad_output": "multiply the gradients by it",
    "lse": "it is not needed: the gradients come with the loss",
    "where": "leave rows out with a sample_weight of 0, and classes with a linear_bias of -inf",
    "mask": "leave rows out with a sample_weight of 0, and classes with a linear_bias of -inf",
}


def explain_misuse(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a public function: arguments that do not fit its signature raise a TypeError that says what would.

    Every other exception passes through as it is, those of the function's body too.
    """

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except TypeError as error:
            if error.__traceback__ is not None and error.__traceback__.tb_next is None:  # the body was never entered
                _raise_hint(function, args, kwargs)
            raise

    return checked


def _raise_hint(function: Callable[..., object], args: Sequence[object], kwargs: Mapping[str, object]) -> None:
    """TypeError for too many arguments by position, or for one of an unknown name; nothing where neither is so."""
    from inspect import Parameter, signature  # only here, where time does not matter

    name = function.__qualname__.removesuffix(".__init__")
    parameters = {key: one for key, one in signature(function).parameters.items() if key != "self"}
    positional = [key for key, one in parameters.items() if one.kind is not Parameter.KEYWORD_ONLY]
    surplus = args[len(signature(function).parameters) - len(parameters) + len(positional) :]
    if surplus:
        # The third argument is the class weights in PyTorch, the axis in Optax, as is the second of a softmax, and the
        # temperature of a distillation; the fourth of a linear head is its bias elsewhere.
        first = "axis" if _is_number(surplus[0]) else "reduction" if isinstance(surplus[0], str) else "weight"
        before = {"axis": ("temperature", "batch_chunk_size"), "weight": ("linear_bias",)}.get(first, ())
        likely = (*before, first, "axis", "sample_weight", "out")
        rest = next(_written(key, surplus[0]) for key in likely if key in parameters)
        if positional:
            taken = " and ".join(filter(None, (", ".join(positional[:-1]), positional[-1])))
            message = f"{name}() takes {taken} by position; pass the rest by name, as in {rest}"
        else:
            message = f"{name}() takes its options by name, as in {rest}; the object takes the arrays: {_OBJECT}"
        raise TypeError(message) from None
    unknown = {key: _hint(key, value, parameters) for key, value in kwargs.items() if key not in parameters}
    if unknown:
        found = " and ".join(f"no argument {key!r}{hint and f' ({hint})'}" for key, hint in unknown.items())
        known = "" if all(unknown.values()) else f"; it takes {', '.join(parameters)}"
        raise TypeError(f"{name}() has {found}{known}") from None


def _hint(key: str, value: object, parameters: Collection[str]) -> str:
    """What to write instead of an argument that a function with these parameters does not have; "" if unknown."""
    for here, theirs in _NAMES.items():
        if key in theirs and here in parameters:
            return f"write {_written(here, value)}"
    if "linear_weight" in parameters and key in _HEAD_ADVICE:
        return _HEAD_ADVICE[key]
    needed, advice = _ADVICE.get(key, ("", ""))
    return advice if needed in parameters else ""


def _written(name: str, value: object) -> str:
    """An argument as it would be written in code; an ellipsis stands for a value that is long."""
    return f"{name}={value!r}" if _is_number(value) or isinstance(value, str) or value is None else f"{name}=..."


def _is_number(value: object) -> bool:
    """Whether this is a plain number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def raise_if_swapped(error: Exception, logits: object, target: object) -> None:
    """Raise `error` again with a hint where the first argument has the shape of class indices for the second.

    Only shapes and names of dtypes are read, so this also serves arrays on a GPU.
    """
    try:
        (first, _), (second, dtype) = _shape_and_dtype(logits), _shape_and_dtype(target)
    except Exception:  # what cannot be read as an array has no shape to compare
        return
    if "float" in dtype and any(first == second[:i] + second[i + 1 :] for i in range(len(second))):
        raise type(error)(f"{error}; the arguments may be swapped: the logits come first, then the target") from None


def _shape_and_dtype(value: Any) -> tuple[tuple[int, ...], str]:
    """The shape of an array or list, and the name of its dtype."""
    if not hasattr(value, "shape") or not hasattr(value, "dtype"):
        value = np.asarray(value)
    return tuple(value.shape), str(value.dtype)
