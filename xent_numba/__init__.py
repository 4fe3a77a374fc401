"""Softmax cross-entropy and its gradient for NumPy arrays: stable, fused, and compiled with Numba when first used.

>>> import xent_numba as xn
>>> loss, grad = xn.cross_entropy_and_grad([[2.0, 1.0, 0.1], [0.1, 2.0, 1.9]], [1, 0])
>>> print(f"{loss:.3f}")
2.019

Importing this package imports NumPy and nothing else: a backend is imported by the first call that needs it.
"""

# Where things are, from the outside inwards:
#
# functions/                   the public functions and classes: signatures, docstrings, a few lines of glue
# prepare/                     arguments checked and brought into canonical form
# backends/                    the protocol, the registry, and the backends: numpy (reference), cpu and cuda
# sharding/                    shards of the classes: their parts made, compared and merged, and what follows from them
# linear/                      the linear head: chunks of rows, and matrix products before and after the loss
# compute                      a prepared loss: the backend fills every slab, and its partial sums are reduced
# reduction                    from partial sums to the reduced loss, in a fixed order
# config                       show_config, and why a shape is computed the way it is
# results                      memory of earlier results, reused for large new ones
# tested                       the versions of Python, Numba and NumPy that were tested
# devices                      recognising arrays that are on a GPU
# forks, interrupts            what a fork or Ctrl-C must not break
# cli/                         the command line
#
# CONTRIBUTING.md follows a call through these and has recipes for common changes.

from xent_numba import forks  # noqa: F401 - first, so that it notices every fork from here on
from xent_numba._version import __version__
from xent_numba.backends.registry import available_backends, get_backend, set_backend, use_backend
from xent_numba.config import show_config
from xent_numba.functions.curvature import cross_entropy_grad_and_hessian_diag, cross_entropy_hvp
from xent_numba.functions.distillation import distillation_loss, distillation_loss_and_grad
from xent_numba.functions.evaluation import Evaluation, evaluate
from xent_numba.functions.gradient import cross_entropy_grad
from xent_numba.functions.layer import CrossEntropyLoss
from xent_numba.functions.linear import (
    LinearCrossEntropyGrad,
    linear_cross_entropy,
    linear_cross_entropy_and_grad,
)
from xent_numba.functions.linear_curvature import LinearCrossEntropyHvp, linear_cross_entropy_hvp
from xent_numba.functions.loss import cross_entropy, cross_entropy_and_grad
from xent_numba.functions.parts import PartialCrossEntropy
from xent_numba.functions.probabilities import log_softmax, logsumexp, softmax
from xent_numba.functions.shards import partial_cross_entropy
from xent_numba.functions.statistics import RowStatistics, row_statistics

__all__ = [
    "CrossEntropyLoss",
    "Evaluation",
    "LinearCrossEntropyGrad",
    "LinearCrossEntropyHvp",
    "PartialCrossEntropy",
    "RowStatistics",
    "__version__",
    "available_backends",
    "cross_entropy",
    "cross_entropy_and_grad",
    "cross_entropy_grad",
    "cross_entropy_grad_and_hessian_diag",
    "cross_entropy_hvp",
    "distillation_loss",
    "distillation_loss_and_grad",
    "evaluate",
    "get_backend",
    "linear_cross_entropy",
    "linear_cross_entropy_and_grad",
    "linear_cross_entropy_hvp",
    "log_softmax",
    "logsumexp",
    "partial_cross_entropy",
    "row_statistics",
    "set_backend",
    "show_config",
    "softmax",
    "use_backend",
]


def __dir__() -> list[str]:
    """The public names, for completion and `dir`; the modules are found all the same."""
    return list(__all__)
