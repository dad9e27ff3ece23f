"""What reaches a terminal: text from files is shown, and can neither steer the terminal nor fail to be written.

Rows, ids, file names, settings and other packages' errors may hold anything: escape sequences, characters that reorder
what stands around them, line feeds that would begin a line of their own. Whoever makes a line of such text passes it
through :func:`~siftune._common.text.one_line`; and whatever is printed while a command runs goes through
:class:`Shown`, so that nothing depends on that alone.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from siftune._common.text import visible


class Shown:
    """A text stream that spells out what a terminal would obey, and what the stream's encoding does not have."""

    def __init__(self, stream: Any):
        self.raw = stream

    def write(self, text: str) -> int:
        self.raw.write(encodable(visible(text), getattr(self.raw, "encoding", None)))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)


def encodable(text: str, encoding: str | None) -> str:
    """``text`` with characters that an encoding lacks as escapes (``\\\\u2713``)."""
    if text.isascii():
        return text
    name = encoding or "utf-8"
    try:
        return text.encode(name, "backslashreplace").decode(name)
    except LookupError:  # an encoding of which Python knows nothing
        return text.encode("ascii", "backslashreplace").decode("ascii")


@contextmanager
def protected() -> Iterator[None]:
    """Standard output and standard error of the block are :class:`Shown`."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_shown(stream) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def _shown(stream: Any) -> Any:
    return stream if stream is None or isinstance(stream, Shown) else Shown(stream)


def unprotected(stream: Any) -> Any:
    """The stream itself, for what makes colours and moves the cursor on purpose, of text that was made visible."""
    return stream.raw if isinstance(stream, Shown) else stream
