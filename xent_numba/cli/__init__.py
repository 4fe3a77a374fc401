"""The command line: `xent-numba`, or `python -m xent_numba`.

arguments   the parser: every command and option, with its help
example     without a command: the worked example on every backend, and a comparison of speed
info        the command `info`: what is installed and runs here, and how a shape would be computed
loss        the command `loss`: loss and gradient of arrays in files
evaluate    the command `evaluate`: perplexity and accuracy of arrays in files
shards      the files of logits and labels that `evaluate` reads together
blocks      a prepared call computed a block of rows at a time, so that files may be larger than memory
arrays      arrays to read: `.npy` files, as memory maps, and arrays in files that hold several
archives    those files: `.npz` and `.safetensors`
files       files to write: a temporary file that replaces the target when complete
progress    the progress bar
report      numbers in JSON
signals     signals that end a command
errors      what is shown as one line without a traceback: a `UserError`, and a failure of Numba
streams     standard output and error: closed, full, or left by their reader

To add a command: a subparser in `arguments.build_parser`, a module with a function `run`, and a branch in `_run` below.
To add an option of the loss: a line in `arguments._add_loss_arguments` and its name in `arguments.options_of`.
To read another format of files: a branch in `arrays.open_array`, and a function in `archives`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xent_numba.cli import streams
from xent_numba.cli.errors import UserError, compiler_failure

if TYPE_CHECKING:
    from collections.abc import Sequence

MISTAKE = 2  # the exit status that argparse uses
FAILURE = 3  # of a backend's compiler, with files and options that are right
INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
NO_READER = 141  # 128 + SIGPIPE


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program with `arguments` (default: those of the process) and return its exit status."""
    streams.open_closed()
    try:
        with streams.flushed(), streams.warnings_in_a_line():
            _run(arguments)
    except UserError as error:
        streams.complain(str(error))
        return MISTAKE
    except MemoryError as error:
        streams.complain(f"not enough memory{f': {error}' if str(error) else ''}")
        return MISTAKE
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return NO_READER
    except Exception as error:
        failure = compiler_failure(error, arguments)
        if failure is None:
            raise
        streams.complain(failure)
        return FAILURE
    return 0


def _run(arguments: Sequence[str] | None) -> None:
    """Parse the arguments and run the command; imports only what that command needs."""
    from xent_numba.cli.arguments import build_parser

    parsed = build_parser().parse_args(arguments)
    if parsed.version:
        from xent_numba._version import __version__

        streams.write([__version__])
    elif parsed.command == "info":
        from xent_numba.cli import info

        info.run(parsed)
    elif parsed.command == "loss":
        from xent_numba.cli import loss

        loss.run(parsed)
    elif parsed.command == "evaluate":
        from xent_numba.cli import evaluate

        evaluate.run(parsed)
    else:
        from xent_numba.cli import example

        streams.write(example.report())
