"""The command `xent-numba info`: versions, backends and threads, or how logits of a given shape would be computed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xent_numba.cli.errors import UserError, is_compiler_failure
from xent_numba.cli.streams import write
from xent_numba.config import config, explain_plan, lines

if TYPE_CHECKING:
    import argparse

DEPENDENT = ("dtype", "axis", "no_grad", "distribution")  # options that mean nothing without --shape


def run(arguments: argparse.Namespace) -> None:
    """Print what the arguments ask for."""
    if arguments.shape is None:
        for name in DEPENDENT:
            value = getattr(arguments, name)
            if value is not None and value is not False:  # an axis of 0 is given, too
                raise UserError(f"--{name.replace('_', '-')} needs --shape")
        write(lines(config()))
        return
    dtype = arguments.dtype or "float32"
    axis = -1 if arguments.axis is None else arguments.axis
    if dtype == "bfloat16":
        try:
            import ml_dtypes  # noqa: F401 - NumPy knows the name of the dtype once this is imported
        except ImportError as error:
            raise UserError("--dtype bfloat16 needs ml_dtypes: pip install ml_dtypes") from error
    try:
        plans = explain_plan(
            arguments.shape, dtype, axis=axis, grad=not arguments.no_grad, distribution=arguments.distribution
        )
    except (TypeError, ValueError) as error:
        if is_compiler_failure(error):
            raise
        raise UserError(f"--shape {' '.join(map(str, arguments.shape))}: {error}") from error
    write(lines(plans))
