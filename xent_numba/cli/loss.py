"""The command `xent-numba loss`: loss and gradient of arrays in files."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from xent_numba.backends.registry import select
from xent_numba.cli import blocks, files
from xent_numba.cli.arguments import options_of
from xent_numba.cli.arrays import open_array
from xent_numba.cli.errors import UserError, naming, naming_files
from xent_numba.cli.progress import Progress
from xent_numba.cli.report import json_numbers
from xent_numba.cli.signals import terminable
from xent_numba.cli.streams import write
from xent_numba.prepare.loss import Wanted, prepare
from xent_numba.prepare.options import make_options

if TYPE_CHECKING:
    import argparse

    from xent_numba.cli.blocks import Loss

PRINT_ROWS = 4096  # losses that are printed at a time


class Report(NamedTuple):
    """What is printed at the end."""

    loss: Loss
    denominator: float
    shape: tuple[int, ...]
    axis: int
    dtype: str
    backend: str


def run(arguments: argparse.Namespace) -> None:
    """Compute the loss, write the files that were asked for, and print the loss."""
    if arguments.rows is not None and arguments.reduction != "none":
        raise UserError(f"--rows {arguments.rows} needs --reduction none, not --reduction {arguments.reduction}")
    inputs = {name: getattr(arguments, name) for name in ("logits", "target", "weight", "sample_weight")}
    files.check_outputs({"--grad": arguments.grad, "--rows": arguments.rows}, inputs.values())
    with terminable(), files.replacing(arguments.grad) as grad, files.replacing(arguments.rows) as rows:
        report = _compute(arguments, inputs, grad, rows)
    _show(report, arguments)


def _compute(
    arguments: argparse.Namespace,
    inputs: dict[str, str | None],
    grad_path: str | None,
    rows_path: str | None,
) -> Report:
    """Compute the loss.  On return, the outputs are complete in their temporary files and no longer mapped."""
    logits, target, weight, sample_weight = (None if path is None else open_array(path) for path in inputs.values())
    assert logits is not None
    assert target is not None
    grad = None
    if grad_path is not None:
        with naming(arguments.grad):
            grad = files.new_array_like(grad_path, logits)
    with naming_files(inputs):
        options = make_options(**options_of(arguments))
        backend = select(arguments.backend)
        wanted = Wanted(rows=True, grad=grad is not None, out_name="grad")
        prepared = prepare(backend, options, (logits, target, weight, sample_weight, None, None), wanted, grad)
    with Progress(logits.nbytes) as progress:
        loss = blocks.run(backend, prepared, arguments.block_bytes, progress.advance)
    if grad is not None:
        with naming(arguments.grad):
            grad.flush()
    if rows_path is not None:
        with naming(arguments.rows):
            files.save(rows_path, loss)
    return Report(loss, prepared.denominator, logits.shape, options.axis % logits.ndim, str(logits.dtype), backend.name)


def _show(report: Report, arguments: argparse.Namespace) -> None:
    """Print the loss, or a line for each row, or the JSON object."""
    loss = report.loss
    if arguments.json:
        found = {
            "loss": None if arguments.rows is not None else json_numbers(loss),
            "reduction": arguments.reduction,
            "denominator": report.denominator,
            "shape": report.shape,
            "axis": report.axis,
            "dtype": report.dtype,
            "backend": report.backend,
            "grad": arguments.grad,
            "rows": arguments.rows,
        }
        write([json.dumps(found, allow_nan=False)])
    elif arguments.rows is None:
        values = np.ravel(loss)
        starts = range(0, values.size, PRINT_ROWS)
        write("\n".join(map(str, values[start : start + PRINT_ROWS])) for start in starts)
