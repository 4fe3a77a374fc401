"""Tensors of PyTorch and JAX on the host, recognised without importing either library.

`np.asarray` reads most of them in place.  Here is what becomes of the rest: a bfloat16 tensor is read in place all the
same, and one that would lose its gradient is refused with what to write instead.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

    Array = NDArray[Any]

# An argument whose gradient is computed -> the function that does.
_GRADIENTS = {
    "logits": "cross_entropy_and_grad",
    "student_logits": "distillation_loss_and_grad",
    **dict.fromkeys(("input", "linear_weight", "linear_bias"), "linear_cross_entropy_and_grad"),
}


def is_tensor(value: object) -> bool:
    """Whether this is a tensor of PyTorch."""
    return _is_a(value, "torch", "Tensor")


def read_unusual(value: Any, name: str, error: Exception) -> Array:
    """The array of a value that `np.asarray` refused with `error`, or an exception that names the argument."""
    refuse_gradient(value, name)
    if is_tensor(value) and str(value.dtype) == "torch.bfloat16":
        try:
            return _bfloat16(value)
        except ImportError:
            raise TypeError(f"{name} is a bfloat16 tensor; to read it, pip install ml_dtypes") from None
        except (TypeError, RuntimeError) as other:  # not on the CPU, or sparse
            error = other
    kind = TypeError if isinstance(error, TypeError) else ValueError
    raise kind(f"{name} cannot be read as an array: {error}") from error


def refuse_gradient(value: Any, name: str) -> None:
    """TypeError for a tensor, or a list of tensors, whose automatic differentiation would end here."""
    while isinstance(value, (list, tuple)) and value:
        value = value[0]
    if getattr(value, "requires_grad", False) is True and _records_gradients():
        refused = f"{name} is a tensor that requires a gradient, which would be lost here; pass {name}.detach()"
        if name not in _GRADIENTS:
            differentiated = "student's logits" if name == "teacher_logits" else "logits"
            raise TypeError(f"{refused}; gradients are those of the {differentiated} alone") from None
        raise TypeError(
            f"{refused}, and take the gradient from {_GRADIENTS[name]}, in a torch.autograd.Function whose "
            "backward returns it"
        ) from None
    if _is_a(value, "jax", "Tracer"):
        raise TypeError(
            f"{name} is traced by JAX and has no values yet; call this function outside of jit, grad and vmap, or "
            "through jax.pure_callback"
        ) from None


def _records_gradients() -> bool:
    """Whether PyTorch records operations now: not within `torch.no_grad()`, where nothing can be lost."""
    torch = sys.modules.get("torch")
    return torch is None or bool(torch.is_grad_enabled())


def _is_a(value: object, library: str, name: str) -> bool:
    """Whether a class of this name in this library is among the classes of a value."""
    return any(kind.__name__ == name and kind.__module__.partition(".")[0] == library for kind in type(value).__mro__)


def _bfloat16(tensor: Any) -> Array:
    """A bfloat16 tensor as an array of ml_dtypes.bfloat16 on the same memory."""
    import ml_dtypes

    bits: Array = tensor.detach().view(sys.modules["torch"].int16).numpy()
    return bits.view(np.dtype(ml_dtypes.bfloat16))
