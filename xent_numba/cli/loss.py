"""The command `xent-numba loss`: loss and gradient of arrays in files."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import sys
import threading
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from xent_numba.backends.registry import select
from xent_numba.cli import blocks, files
from xent_numba.cli.arguments import options_of
from xent_numba.cli.errors import UserError, is_compiler_failure, naming
from xent_numba.cli.progress import Progress
from xent_numba.cli.streams import write
from xent_numba.prepare.loss import Wanted, prepare
from xent_numba.prepare.options import make_options

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from types import FrameType
    from typing import Any

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
    with _terminable(), files.replacing(arguments.grad) as grad, files.replacing(arguments.rows) as rows:
        report = _compute(arguments, inputs, grad, rows)
    _show(report, arguments)


def _compute(
    arguments: argparse.Namespace,
    inputs: dict[str, str | None],
    grad_path: str | None,
    rows_path: str | None,
) -> Report:
    """Compute the loss.  On return, the outputs are complete in their temporary files and no longer mapped."""
    logits, target, weight, sample_weight = (
        None if path is None else files.open_array(path) for path in inputs.values()
    )
    assert logits is not None
    assert target is not None
    grad = None
    if grad_path is not None:
        with naming(arguments.grad):
            grad = files.new_array_like(grad_path, logits)
    with _naming_files(inputs):
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


@contextlib.contextmanager
def _naming_files(inputs: dict[str, str | None]) -> Iterator[None]:
    """Turn an error about an argument of the library into one about the file that holds it."""
    try:
        yield
    except (TypeError, ValueError, IndexError, RuntimeError) as error:
        if is_compiler_failure(error):
            raise
        message = str(error)
        # A RuntimeError is about the backend, and may quote names of Numba.
        words = [] if isinstance(error, RuntimeError) else re.findall(r"\w+", message)
        named = [name for name in words if inputs.get(name) is not None]
        paths = [str(inputs[name]) for name in dict.fromkeys(named)]
        raise UserError(": ".join((*([", ".join(paths)] if paths else []), message))) from error


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM and a closed terminal unwind the stack, so that temporary files are removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {}
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:  # not where it is ignored, as under nohup
            before[number] = signal.signal(number, _end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(number: int, frame: FrameType | None) -> None:
    """A signal handler that ends the program with the exit status a shell would report."""
    sys.exit(128 + number)


def _show(report: Report, arguments: argparse.Namespace) -> None:
    """Print the loss, or a line for each row, or the JSON object."""
    loss = report.loss
    if arguments.json:
        found = {
            "loss": None if arguments.rows is not None else _json_numbers(loss),
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


def _json_numbers(loss: Loss) -> object:
    """A loss, or a list of losses, as JSON can hold them."""
    if isinstance(loss, np.ndarray):
        return [_json_number(value) for value in loss.ravel()]
    return _json_number(loss)


def _json_number(value: np.floating[Any]) -> float | str:
    """A number, or its name where it is not finite."""
    if np.isfinite(value):
        return float(str(value))  # the shortest decimal of a float32, not the longer one of the same number in float64
    return "NaN" if np.isnan(value) else "Infinity" if value > 0 else "-Infinity"
