"""Writing rows back as they came, and the list of what was left out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from siftune._common.files import write_lines
from siftune.data.rows import Dropped, Row, column


def write_rows(path: str | Path, rows: Iterable[Row]) -> None:
    """The original records, one line each, in the order given.

    Raises:
        SiftuneError: the operating system refused the write.
    """
    write_lines(path, column(rows, "raw") if isinstance(rows, Sequence) else (row.raw for row in rows))


def write_dropped(path: str | Path, dropped: Iterable[Dropped]) -> None:
    """One JSON object for each row left out: ``id``, ``source``, ``where``, ``reason``, ``detail``.

    Raises:
        SiftuneError: the operating system refused the write.
    """
    # Escaped, since a detail may quote what no encoding can write.
    write_lines(path, (json.dumps(asdict(row), ensure_ascii=True) for row in dropped))
