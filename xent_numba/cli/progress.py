"""A progress bar on standard error, for jobs that take longer than a second."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, Self

PATIENCE = 1.0  # seconds before anything is shown
INTERVAL = 0.1  # seconds between two lines of the plain bar


class Progress:
    """Counts the bytes done, and shows them on a terminal after the first second; with tqdm if that is installed.

    >>> with Progress(total=10) as progress:
    ...     progress.advance(10)
    """

    def __init__(self, total: int) -> None:
        """`total` is the number of bytes in all."""
        self._total = total
        self._done = 0
        self._start = self._shown = time.perf_counter()
        self._terminal = sys.stderr.isatty()
        self._tqdm: Any = None
        self._plain = False

    def __enter__(self) -> Self:
        """Start counting."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the bar."""
        if self._tqdm is not None:
            self._tqdm.close()
        elif self._plain:
            print(file=sys.stderr)

    def advance(self, n_bytes: int) -> None:
        """Count `n_bytes` more, and update the bar if it is time to."""
        self._done += n_bytes
        if not self._terminal:
            return
        now = time.perf_counter()
        if self._tqdm is not None:
            self._tqdm.update(n_bytes)
        elif self._plain:
            if now - self._shown >= INTERVAL or self._done >= self._total:
                self._shown = now
                self._draw(now)
        elif now - self._start >= PATIENCE and self._done < self._total:
            self._open(now)

    def _open(self, now: float) -> None:
        """Show the bar for the first time."""
        try:
            from tqdm import tqdm
        except ImportError:
            self._plain = True
            self._draw(now)
        else:
            self._tqdm = tqdm(
                total=self._total, initial=self._done, unit="B", unit_scale=True, dynamic_ncols=True, file=sys.stderr
            )

    def _draw(self, now: float) -> None:
        """Write the line of the plain bar."""
        rate = self._done / (now - self._start)
        left = (self._total - self._done) / rate
        share = self._done / self._total
        bar = "#" * round(30 * share)
        print(
            f"\r{share:4.0%} |{bar:<30}| {self._done / 1e9:.2f} of {self._total / 1e9:.2f} GB, "
            f"{rate / 1e9:.2f} GB/s, {left:.0f} s left ",
            end="",
            file=sys.stderr,
            flush=True,
        )
