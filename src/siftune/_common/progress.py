"""Progress bars with an estimate of the time left, on stderr, silent where stderr is not a terminal.

Where there is no terminal (CI, a log file) a plain line is printed at most every 20 seconds, so that a log still
shows that the work goes on and how long it will take.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from siftune._common.terminal import encodable, unprotected
from siftune._common.text import one_line

_silent = False
_warnings_only = False


def silence() -> None:
    """No more bars and lines from this process: a worker's would run into those of the process that shows them."""
    global _silent
    _silent = True


@contextmanager
def quiet() -> Iterator[None]:
    """No bars and lines inside: for work that a bar outside stands for. Silence stays silence."""
    global _silent
    before, _silent = _silent, True
    try:
        yield
    finally:
        _silent = before


@contextmanager
def warnings_only(asked: bool = True) -> Iterator[None]:
    """Inside, where it is asked for, no bars and no lines but warnings."""
    global _warnings_only
    before, _warnings_only = _warnings_only, asked or _warnings_only
    try:
        yield
    finally:
        _warnings_only = before


def log(message: str) -> None:
    """One line of what is going on, to stderr; results go to stdout and to files."""
    if not _silent and (message.startswith("warning: ") or not _warnings_only):
        print(encodable(one_line(message), getattr(sys.stderr, "encoding", None)), file=sys.stderr, flush=True)


def about(seconds: float) -> str:
    """An estimate in words: ``about 40 s``, ``about 12 min``, ``about 1.5 h``."""
    if seconds < 90:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 5400 else f"about {seconds / 3600:,.1f} h"


def pace(rate: float, unit: str) -> str:
    """A speed in words that fit it: ``1,200 tokens/s``, ``2.5 rows/s``, ``12 s a step``, ``3 min a step``.

    Args:
        rate: units in a second, above 0.
        unit: in the plural.
    """
    if rate >= 0.95:
        return f"{rate:,.0f} {unit}/s" if rate >= 9.5 else f"{rate:.1f} {unit}/s"
    seconds, one = 1 / rate, unit.removesuffix("s")
    if seconds < 9.5:
        return f"{seconds:.1f} s a {one}"
    return f"{seconds:.0f} s a {one}" if seconds < 90 else f"{seconds / 60:,.0f} min a {one}"


class Bar:
    """A running bar: call :meth:`advance` with the units done."""

    def __init__(self, title: str, total: float, unit: str):
        self.title, self.total, self.unit = title, total, unit
        self.done = 0.0
        self._skipped = 0.0
        self._start = self._last = time.monotonic()
        self._rich: tuple[Any, Any] | None = None

    def skip(self, units: float) -> None:
        """Units that were already done before this run: they count as done but not towards the speed."""
        self._skipped += units
        self.advance(units)

    def advance(self, units: float = 1.0) -> None:
        self.done += units
        if self._rich is not None:
            self._rich[0].update(self._rich[1], completed=self.done)
            return
        now = time.monotonic()
        if now - self._last >= 20:
            self._last = now
            rate = (self.done - self._skipped) / max(now - self._start, 1e-9)
            left = (self.total - self.done) / rate if rate > 0 else float("inf")
            speed = f", {pace(rate, self.unit)}, {about(left)} left" if rate > 0 else ""
            log(f"{self.title}: {self.done:,.0f} of {self.total:,.0f} {self.unit}{speed}")


@contextmanager
def bar(title: str, total: float, unit: str = "rows") -> Iterator[Bar]:
    """A progress bar for ``total`` units of work.

    Example:
        >>> with bar("features", 300) as progress:
        ...     progress.advance(300)
    """
    state = Bar(title, total, unit)
    if _silent or _warnings_only or not sys.stderr.isatty():
        yield state
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,.0f}/{task.total:,.0f} "
               + unit), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=unprotected(sys.stderr)), transient=False) as rich:
        state._rich = (rich, rich.add_task(escape(one_line(title)), total=total))
        yield state
