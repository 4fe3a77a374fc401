"""The command line.  `main` turns what went wrong into one line and an exit status; the commands do the rest."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from xent_numba.cli.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

MISTAKE = 2  # as argparse has it
INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
NO_READER = 141  # 128 + SIGPIPE


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program with `arguments` (default: those of the process) and return its exit status."""
    try:
        _run(arguments)
        sys.stdout.flush()
    except UserError as error:
        print(f"xent-numba: error: {error}", file=sys.stderr)
        return MISTAKE
    except MemoryError as error:
        print(f"xent-numba: error: not enough memory{f': {error}' if str(error) else ''}", file=sys.stderr)
        return MISTAKE
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output has had enough.  What is still buffered must not raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NO_READER
    return 0


def _run(arguments: Sequence[str] | None) -> None:
    from xent_numba.cli.arguments import build_parser

    parsed = build_parser().parse_args(arguments)
    if parsed.version:
        from xent_numba._version import __version__

        print(__version__)
    elif parsed.command == "info":
        from xent_numba import show_config

        show_config()
    elif parsed.command == "loss":
        from xent_numba.cli import loss

        loss.run(parsed)
    else:
        from xent_numba.cli import example

        for line in example.report():
            print(line, flush=True)
