"""The parser of the command line: commands, options and their help."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, NoReturn

from xent_numba.cli.errors import UserError
from xent_numba.cli.streams import complain, write
from xent_numba.prepare.options import REDUCTIONS

if TYPE_CHECKING:
    from typing import Any

    from _typeshed import SupportsWrite

BLOCK_BYTES = 128 << 20  # of logits in a block: enough to keep all threads busy, few enough to react to Ctrl-C

DTYPES = ("float64", "float32", "float16", "bfloat16")

_INFO = """\
Versions, backends and threads.  With --shape, instead: how each backend would compute the loss and gradient of
C-contiguous logits of that shape, and why.  The plan is that of a loss with class indices (or a distribution, with
--distribution) and without other options.
"""

_ARRAYS = """\
In place of a .npy file, FILE.npz:NAME or FILE.safetensors:NAME names an array of another file.  All are memory-mapped
and read in blocks, so they may be larger than memory; only compressed members of .npz files are read as a whole.
"""

_LOSS = f"""\
Softmax cross-entropy of the logits in LOGITS.npy, of any number of dimensions, with the targets in TARGETS.npy:
class indices (the shape of the logits without the class axis) or a distribution (the shape of the logits).
Prints the loss; with --reduction none one loss per line, in C order.

{_ARRAYS}
OUT.npy is created, or replaced, only once it is complete.
"""

_EVALUATE = f"""\
How well logits predict class indices: the mean of the cross-entropy in nats and in bits, its exponential (the
perplexity), the top-k accuracies, and the mean entropy of the predicted probabilities in nats, in one pass over the
logits.
Several pairs of files are taken as parts of one data set, whose rows may differ in number, not in their classes.

{_ARRAYS}
With --shift, the logits at each place of a sequence are those of the next place's label: logits[:, :-1] is scored
against target[:, 1:], for logits of shape (batch, sequence, vocabulary).  In general, the sequence is the last axis of
the labels.
"""

_NOT_FINITE = """\
Numbers that are not finite, which JSON lacks, are printed as the strings "NaN", "Infinity" and "-Infinity".
"""

_STATUS = """\
Exit status: 0 on success; 2 for a mistake in the files or options, or where the output cannot be written, with one
line on standard error that says which; 3 where the compiler of a backend fails, which is no mistake of yours; 130 after
Ctrl-C; 141 where the reader of the output has closed it.
"""

_LOSS_END = f"""\
With --json, one object is printed, with the keys loss, reduction, denominator, shape, axis, dtype, backend, grad and
rows.  {_NOT_FINITE}
{_STATUS}"""

_EVALUATE_END = f"""\
With --json, one object is printed, with the keys loss, perplexity, bits, accuracy, entropy, n_rows, shards, shift,
backend and rows.  The accuracy is an object with a key for each k; n_rows counts the rows that are neither ignored nor
of weight 0; shards has an object for each pair of files, with the keys logits, target, shape, axis and dtype.
{_NOT_FINITE}
OUT.npz, which is created or replaced only once it is complete, has the arrays log_prob (of the label, in nats),
entropy, argmax (the predicted class), rank (1 where that is the label, 2 where the label comes next) and logsumexp, in
the shape of the labels that are scored; those of several pairs of files are joined along the first axis.  In ignored
rows they are 0, and argmax is -1.

{_STATUS}"""


class _Parser(argparse.ArgumentParser):
    """A parser that reports a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        """Exit with the message, without the usage."""
        complain(f"{message} (see {self.prog} --help)", self.prog)
        raise SystemExit(2)

    def print_help(self, file: SupportsWrite[str] | None = None) -> None:
        """Print the help, with an error where that fails, which argparse would ignore."""
        write([self.format_help().removesuffix("\n")])


def _ignored(text: str) -> int | None:
    """The value of --ignore-index: an integer, or None for the word none."""
    if text.lower() == "none":
        return None
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a whole number nor none") from None


def _positive(text: str) -> int:
    """An integer above 0."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return value


def _top_k(text: str) -> int:
    """One of the values of --top-k, which takes whatever follows it for one of them."""
    try:
        return _positive(text)
    except argparse.ArgumentTypeError as error:
        hint = "" if text.lstrip("-").isdecimal() else "; write the files first, then --top-k"
        raise argparse.ArgumentTypeError(f"{error}{hint}") from None


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = _Parser(
        prog="xent-numba",
        description="Stable, fused softmax cross-entropy and its gradient.  Without a command, it prints a worked "
        "example, what can run on this machine, and how fast it runs.",
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    parser.add_argument("--traceback", action="store_true", help="print the traceback where a backend fails")
    commands = parser.add_subparsers(dest="command", metavar="{loss,evaluate,info}")
    info = commands.add_parser("info", help="versions, backends and threads", description=_INFO)
    _add_info_arguments(info)
    loss = commands.add_parser(
        "loss",
        help="loss and gradient of arrays in files of any size",
        description=_LOSS,
        epilog=_LOSS_END,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_loss_arguments(loss)
    evaluate = commands.add_parser(
        "evaluate",
        help="perplexity and accuracy of arrays in files of any size",
        description=_EVALUATE,
        epilog=_EVALUATE_END,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_evaluate_arguments(evaluate)
    return parser


def _add_info_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command `info`."""
    parser.add_argument(
        "--shape", type=int, nargs="+", metavar="N", help="how logits of this shape would be computed, as in 4096 50257"
    )
    parser.add_argument("--dtype", choices=DTYPES, help="their dtype (default: float32)")
    parser.add_argument("--axis", type=int, help="the class axis (default: -1)")
    parser.add_argument("--no-grad", action="store_true", help="the loss without its gradient")
    parser.add_argument("--distribution", action="store_true", help="the target is a distribution, not class indices")


_OPTIONS = "options, with the meaning and defaults that they have in xent_numba."


def _add_loss_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command `loss`."""
    parser.add_argument("logits", metavar="LOGITS.npy", help="float16, bfloat16, float32 or float64")
    parser.add_argument("target", metavar="TARGETS.npy", help="class indices, or a distribution")
    files = parser.add_argument_group("files")
    files.add_argument("--grad", metavar="OUT.npy", help="write the gradient with respect to the logits")
    files.add_argument(
        "--rows", metavar="OUT.npy", help="write the losses to a file instead of printing them (with --reduction none)"
    )
    files.add_argument("--weight", metavar="W.npy", help="the weight of each class")
    files.add_argument("--sample-weight", metavar="S.npy", help="the weight of each row")
    options = parser.add_argument_group(_OPTIONS + "cross_entropy")
    options.add_argument("--reduction", choices=REDUCTIONS, default="mean", help="default: mean")
    _add_axis_and_ignored(options)
    options.add_argument("--label-smoothing", type=float, default=0.0, metavar="EPS", help="between 0 and 1")
    _add_transform(options)
    options.add_argument(
        "--z-loss", type=float, default=0.0, metavar="X", help="add X * logsumexp^2 to the loss of each row"
    )
    options.add_argument(
        "--focal-gamma",
        type=float,
        default=0.0,
        metavar="X",
        help="multiply the loss of each row by (1 - p)^X, where p is the probability of its label",
    )
    _add_computation(parser)


def _add_evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command `evaluate`."""
    parser.add_argument("logits", metavar="LOGITS", help="float16, bfloat16, float32 or float64")
    parser.add_argument(
        "target", metavar="TARGETS", help="class indices, in the shape of the logits without the class axis"
    )
    parser.add_argument("more", nargs="*", default=[], metavar="LOGITS TARGETS", help="more rows of the same data set")
    files = parser.add_argument_group("files")
    files.add_argument("--rows", metavar="OUT.npz", help="write what is found in each row")
    files.add_argument(
        "--sample-weight",
        action="append",
        metavar="S.npy",
        help="the weight of each row, in the shape of the labels; once for each file of logits, in their order",
    )
    files.add_argument("--shift", action="store_true", help="score the next label of a sequence")
    options = parser.add_argument_group(_OPTIONS + "evaluate")
    options.add_argument(
        "--top-k",
        type=_top_k,
        nargs="+",
        metavar="K",
        help="the top-k accuracies to print, after the files (default: 1 5, without 5 where there are fewer classes)",
    )
    _add_axis_and_ignored(options)
    _add_transform(options)
    _add_computation(parser)


def _add_axis_and_ignored(options: argparse._ArgumentGroup) -> None:
    """--axis and --ignore-index."""
    options.add_argument("--axis", type=int, default=-1, help="the class axis (default: -1)")
    options.add_argument(
        "--ignore-index",
        type=_ignored,
        action="append",
        metavar="LABEL|none",
        help="leave out rows with this label; may be given more than once (default: -100)",
    )


def _add_transform(options: argparse._ArgumentGroup) -> None:
    """The options that transform the logits."""
    options.add_argument("--logit-scale", type=float, default=1.0, metavar="X", help="factor of the logits")
    options.add_argument("--softcap", type=float, metavar="X", help="limits the logits smoothly to (-X, X)")


def _add_computation(parser: argparse.ArgumentParser) -> None:
    """Where and how to compute, and what to print."""
    how = parser.add_argument_group("computation and output")
    how.add_argument("--backend", metavar="NAME", help="auto, numpy, cpu, njit or cuda (see xent-numba info)")
    how.add_argument("--n-threads", type=int, metavar="N", help="the largest number of threads (default: all)")
    how.add_argument("--json", action="store_true", help="print a JSON object")
    # Hidden: with small blocks, the tests need no large files.
    how.add_argument("--block-bytes", type=_positive, default=BLOCK_BYTES, help=argparse.SUPPRESS)


def options_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The scalar options that a command has, as keyword arguments of `make_options`."""
    names = ("reduction", "axis", "label_smoothing", "logit_scale", "softcap", "z_loss", "n_threads", "focal_gamma")
    options: dict[str, Any] = {name: getattr(arguments, name) for name in names if hasattr(arguments, name)}
    ignored: list[int | None] | None = arguments.ignore_index
    if ignored == [None]:
        options["ignore_index"] = None
    elif ignored is not None:
        if None in ignored:
            raise UserError("--ignore-index none cannot be combined with a label")
        options["ignore_index"] = tuple(ignored)
    return options
