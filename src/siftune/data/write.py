"""Writing rows back as they came, and the list of what was left out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from siftune._common.files import write_lines
from siftune.data.rows import Dropped, Row, column

_SOME = 4096  # rows at a time


def write_rows(path: str | Path, rows: Iterable[Row]) -> None:
    """The original records, one line each, in the order given.

    Raises:
        SiftuneError: the operating system refused the write.
    """
    write_lines(path, _raw(rows) if isinstance(rows, Sequence) else (row.raw for row in rows))


def _raw(rows: Sequence[Row]) -> Iterator[str]:
    for start in range(0, len(rows), _SOME):
        yield from column(rows[start : start + _SOME], "raw")


def write_dropped(path: str | Path, dropped: Iterable[Dropped]) -> None:
    """One JSON object for each row left out: ``id``, ``source``, ``where``, ``reason``, ``detail``.

    Raises:
        SiftuneError: the operating system refused the write.
    """
    # Escaped, since a detail may quote what no encoding can write.
    write_lines(path, (json.dumps(asdict(row), ensure_ascii=True) for row in dropped))
