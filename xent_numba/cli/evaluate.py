"""The command `xent-numba evaluate`: how well logits in files predict the labels in others."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from xent_numba.backends.registry import select
from xent_numba.cli import blocks, files, shards
from xent_numba.cli.arguments import options_of
from xent_numba.cli.errors import UserError, naming, naming_files
from xent_numba.cli.progress import Progress
from xent_numba.cli.report import json_numbers
from xent_numba.cli.signals import terminable
from xent_numba.cli.streams import write
from xent_numba.functions import evaluation
from xent_numba.prepare.options import make_options
from xent_numba.prepare.statistics import FIELDS

if TYPE_CHECKING:
    import argparse
    from typing import Any

    from numpy.typing import NDArray

    from xent_numba.backends.protocol import RowFields
    from xent_numba.functions.evaluation import Evaluation

TOP_K = (1, 5)  # where --top-k is not given, as far as there are so many classes


class Report(NamedTuple):
    """What is printed at the end."""

    found: Evaluation
    shards: list[dict[str, object]]  # the files of each, with shape and dtype of its logits
    backend: str


def run(arguments: argparse.Namespace) -> None:
    """Evaluate the files, write the rows if they were asked for, and print the result."""
    inputs = shards.input_files(arguments)
    files.check_outputs({"--rows": arguments.rows}, (path for shard in inputs for path in shard.values()))
    with terminable(), files.replacing(arguments.rows) as rows:
        report = _compute(arguments, inputs, rows)
    _show(report, arguments)


def _compute(arguments: argparse.Namespace, inputs: list[dict[str, str | None]], rows_path: str | None) -> Report:
    """Evaluate all shards; the rows are complete in their temporary file on return."""
    with naming_files({}):
        options = make_options(**options_of(arguments))
        backend = select(arguments.backend)
    names = evaluation.FIELDS if rows_path is None else FIELDS
    waiting = shards.open_all(inputs, backend, options, names, shift=arguments.shift)
    described = [shard.described() for shard in waiting]
    top_k = _top_k(arguments.top_k, waiting[0].n_classes)
    if rows_path is not None:
        shards.check_joinable(waiting, arguments.rows)
    lines, rows = [], []
    with Progress(sum(shard.n_bytes for shard in waiting)) as progress:
        while waiting:  # what is done is let go, as its rows take memory
            shard = waiting.pop(0)
            blocks.run_statistics(backend, shard.prepared, arguments.block_bytes, progress.advance)
            lines.append(evaluation.block_sums(shard.prepared.fields, shard.sample_weight, top_k))
            if rows_path is not None:
                rows.append(shard.prepared.fields)
    if rows_path is not None:
        with naming(arguments.rows):
            files.save(rows_path, _joined(rows))
    return Report(evaluation.summary(np.concatenate(lines), top_k), described, backend.name)


def _top_k(given: list[int] | None, n_classes: int) -> tuple[int, ...]:
    """The numbers of --top-k; UserError for one above the number of classes."""
    wanted = TOP_K if given is None else tuple(given)
    possible = tuple(k for k in wanted if k <= n_classes)
    if given is not None and possible != wanted:
        first = next(k for k in wanted if k > n_classes)
        instead = f"; write --top-k {' '.join(map(str, possible))}" if possible else ""
        raise UserError(f"--top-k {first} is above the number of classes, {n_classes}{instead}")
    return possible


def _joined(rows: list[RowFields]) -> dict[str, NDArray[Any]]:
    """The fields of all rows by name, those of several shards joined along their first axis."""
    by_name = dict(zip(FIELDS, zip(*rows, strict=True), strict=True))
    return {name: parts[0] if len(parts) == 1 else np.concatenate(parts) for name, parts in by_name.items()}


def _show(report: Report, arguments: argparse.Namespace) -> None:
    """Print the JSON object, or a line for each number."""
    found = report.found
    if arguments.json:
        written = {
            "loss": json_numbers(found.loss),
            "perplexity": json_numbers(found.perplexity),
            "bits": json_numbers(found.bits),
            "accuracy": {str(k): json_numbers(value) for k, value in found.accuracy.items()},
            "entropy": json_numbers(found.entropy),
            "n_rows": found.n_rows,
            "shards": report.shards,
            "shift": arguments.shift,
            "backend": report.backend,
            "rows": arguments.rows,
        }
        write([json.dumps(written, allow_nan=False)])
        return
    numbers = {"loss": found.loss, "perplexity": found.perplexity, "bits": found.bits, "entropy": found.entropy}
    numbers |= {f"top-{k} accuracy": value for k, value in found.accuracy.items()}
    width = max(map(len, numbers))
    lines = [f"{name:<{width}}  {value:.6g}" for name, value in numbers.items()]
    write(["\n".join([*lines, f"{'rows':<{width}}  {found.n_rows}"])])
