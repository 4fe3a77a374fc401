"""The files that `xent-numba evaluate` reads: pairs of logits and labels, each a shard of the rows."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from xent_numba.cli.arrays import open_array
from xent_numba.cli.errors import UserError, naming_files
from xent_numba.prepare.inputs import PER_ROW, as_weights, without_extremes
from xent_numba.prepare.layout import row_shape
from xent_numba.prepare.statistics import prepare_statistics
from xent_numba.prepare.target import raise_bad_label

if TYPE_CHECKING:
    import argparse
    from typing import Any, NoReturn

    from numpy.typing import NDArray

    from xent_numba.backends.protocol import Backend
    from xent_numba.prepare.options import Options
    from xent_numba.prepare.statistics import PreparedStatistics

    Array = NDArray[Any]
    Files = dict[str, str | None]  # those of logits, target and sample_weight


FILES_EACH = 3  # open at the same time for a shard
OTHER_FILES = 100  # open in the process besides, at most


class Shard(NamedTuple):
    """Some of the rows: checked, and ready to compute."""

    inputs: Files
    logits: Array  # as in the file
    axis: int  # of the classes, counted from the front
    n_bytes: int  # of the logits that are scored
    prepared: PreparedStatistics
    sample_weight: NDArray[np.float64] | None  # of the rows that are scored

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return int(self.logits.shape[self.axis])

    def described(self) -> dict[str, object]:
        """What the JSON object says of it."""
        return {
            "logits": self.inputs["logits"],
            "target": self.inputs["target"],
            "shape": self.logits.shape,
            "axis": self.axis,
            "dtype": str(self.logits.dtype),
        }


def input_files(arguments: argparse.Namespace) -> list[Files]:
    """The files of each shard; UserError where their numbers do not fit."""
    paths = [arguments.logits, arguments.target, *arguments.more]
    if len(paths) % 2:
        raise UserError(f"{paths[-1]}: there is no file of labels for these logits; give LOGITS and TARGETS in turn")
    pairs = list(zip(paths[::2], paths[1::2], strict=True))
    weights = arguments.sample_weight or [None] * len(pairs)
    if len(weights) != len(pairs):
        raise UserError(
            f"--sample-weight is given {_times(len(weights))} for {len(pairs)} files of logits; give it once for each, "
            "in their order"
        )
    return [
        {"logits": logits, "target": target, "sample_weight": weight}
        for (logits, target), weight in zip(pairs, weights, strict=True)
    ]


def _times(count: int) -> str:
    """How often, in words."""
    return "once" if count == 1 else f"{count} times"


def open_all(
    inputs: list[Files], backend: Backend, options: Options, names: tuple[str, ...], *, shift: bool
) -> list[Shard]:
    """Every shard, once all of them are known to be right; `names` are the fields to compute of each row."""
    _allow_open_files(FILES_EACH * len(inputs))
    opened: list[Shard] = []
    for paths in inputs:
        logits, target, weight = (None if path is None else open_array(path) for path in paths.values())
        assert logits is not None
        assert target is not None
        if opened:
            _check_same_classes(logits, paths, opened[0], options.axis)
        opened.append(_prepared(paths, (logits, target, weight), backend, options, names, shift))
    # Extreme weights are scaled before they are summed, those of all shards alike.
    largest = max(0.0 if one.sample_weight is None else one.sample_weight.max(initial=0.0) for one in opened)
    return [
        one if one.sample_weight is None else one._replace(sample_weight=without_extremes(one.sample_weight, largest))
        for one in opened
    ]


def _allow_open_files(count: int) -> None:
    """Raise the number of files that the process may have open, as far as the system lets it: maps count too."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if 0 <= soft < count + OTHER_FILES:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _check_same_classes(logits: Array, paths: Files, first: Shard, axis: int) -> None:
    """UserError where logits have other classes than the first ones."""
    if -logits.ndim <= axis < logits.ndim and logits.shape[axis] != first.n_classes:
        raise UserError(
            f"{paths['logits']}: {logits.shape[axis]} classes, but {first.inputs['logits']} has {first.n_classes}; the "
            "files of one data set have the same classes"
        )


def _prepared(
    paths: Files,
    arrays: tuple[Array, Array, Array | None],
    backend: Backend,
    options: Options,
    names: tuple[str, ...],
    shift: bool,
) -> Shard:
    """One shard, with every error about its arrays, which are those of logits, labels and sample weights."""
    logits, target, weight = arrays
    scored, labels = logits, target
    with naming_files(paths):
        if shift and logits.ndim < 2:
            raise ValueError(f"--shift needs a sequence of rows, and logits of shape {logits.shape} have none")
        # Arrays that do not fit stay as they are, so that the error shows the shapes in the files.
        shifted = shift and _fits(target, logits, options.axis)
        if shifted:
            sequence = max(i for i in range(logits.ndim) if i != options.axis % logits.ndim)
            scored = logits[(slice(None),) * sequence + (slice(None, -1),)]
            labels = target[..., 1:]
        try:
            prepared = prepare_statistics(backend, options, scored, labels, names)
        except IndexError as error:
            if shifted:
                _raise_shifted(error, target, logits.shape[options.axis], options)
            raise
        weights = None if weight is None else as_weights(weight, "sample_weight", target.shape, PER_ROW)
    if weights is not None and shifted:
        weights = weights[..., 1:]
    return Shard(paths, logits, options.axis % logits.ndim, scored.nbytes, prepared, weights)


def _fits(target: Array, logits: Array, axis: int) -> bool:
    """Whether labels have the shape that the logits demand."""
    return -logits.ndim <= axis < logits.ndim and target.shape == row_shape(logits.shape, axis % logits.ndim)


def _raise_shifted(error: IndexError, target: Array, n_classes: int, options: Options) -> NoReturn:
    """The error about a label of target[..., 1:] again, with its place in the file."""
    bad = (target < 0) | (target >= n_classes)
    for value in (*options.ignore, *options.ignore_beyond):
        bad &= target != value
    bad[..., 0] = False
    index = int(np.argmax(bad))
    try:
        raise_bad_label(index, int(target.reshape(-1)[index]), target.shape, n_classes, options)
    except IndexError as placed:
        raise placed from error


def check_joinable(opened: list[Shard], path: str) -> None:
    """UserError where the rows of all shards are no single array: they are joined along their first axis."""
    shapes = [shard.prepared.fields.log_prob.shape for shard in opened]  # type: ignore[union-attr]
    for shard, shape in zip(opened[1:], shapes[1:], strict=True):
        if not shape or shape[1:] != shapes[0][1:]:
            raise UserError(
                f"--rows {path}: rows of shape {shape} from {shard.inputs['target']} cannot follow those of shape "
                f"{shapes[0]} from {opened[0].inputs['target']}; evaluate these files one at a time"
            )
