"""The files of a run folder as those read them who did not write them: tables and lines, checked for what they hold."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from siftune._common.errors import DataError, at, first_line
from siftune._common.reading import validated

if TYPE_CHECKING:
    import pyarrow as pa

AGAIN = "run `siftune select` again with the same --output-dir: finished work is reused"


class _Line(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)


class _Said(_Line):
    role: str
    content: str


class TargetLine(_Line):
    """A line of ``targets.jsonl``."""

    id: str
    subtask: str | None = None
    messages: list[_Said] = []
    best_similarity: float | None = None
    selected: int | None = None


class NearLine(_Line):
    """A line of ``rejected_sample.jsonl``; its ``row`` is the record, whatever that is."""

    id: str
    rank: int | None = None
    score: float | None = None
    nearest_target: str | None = None


class DroppedLine(_Line):
    """A line of ``dropped.jsonl``."""

    id: str
    source: str
    where: str
    reason: str
    detail: str


_LINES: Mapping[str, type[BaseModel]] = {
    "selected.jsonl": _Line, "targets.jsonl": TargetLine, "rejected_sample.jsonl": NearLine,
    "dropped.jsonl": DroppedLine}
_TEXTS = frozenset({"id", "source", "group", "nearest_target", "constraint"})
_FLAGS = frozenset({"selected"})
_EVERYWHERE = frozenset({"id", "source", "tokens", "selected"})
"""Columns that have a value in every row; in both tables."""


def read_values(path: Path, limit: int | None = None) -> list[Any]:
    """The first ``limit`` values of a JSONL file (all of them by default).

    Raises:
        DataError: a line is not JSON, told with its number, or the file cannot be read.
    """
    return [value for _, value in islice(_numbered(path), limit)]


def read_records(path: Path, limit: int | None = None) -> list[dict[str, Any]]:
    """As :func:`read_values`, of a file whose lines siftune writes: JSON objects with the fields that it gives them.

    Raises:
        DataError: a line is not JSON, or its fields are not what siftune writes; told with its number.
    """
    form, found = _LINES[path.name], []
    for number, value in islice(_numbered(path), limit):
        validated(value, path, form, AGAIN, line=number)
        found.append(value)
    return found


def read_table(path: Path, needs: Sequence[str], also: Sequence[str] | None = None) -> pa.Table:
    """A Parquet table that has the columns ``needs``, and in each column what siftune writes there.

    Args:
        path: of the table.
        needs: names of columns.
        also: those that are read where they are there; all by default.

    Raises:
        DataError: it is no such file, a column is missing, or one holds texts where numbers should be or the reverse.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        there = pq.read_schema(path).names
        wanted = there if also is None else [name for name in (*needs, *also) if name in there]
        table = pq.read_table(path, columns=wanted, memory_map=False).select(wanted)
        table.validate(full=True)
    except (pa.ArrowException, OSError, KeyError) as error:  # pyarrow's word for a damaged page is OSError
        raise DataError(f"{path.name} is not a Parquet file", where=str(path), why=first_line(error),
                        hint=AGAIN) from error
    lacking = [column for column in needs if column not in there]
    if lacking:
        raise DataError(f"{path.name} lacks the column {lacking[0]!r}", where=str(path),
                        why=f"It has {', '.join(there)}.", hint=AGAIN)
    for field in table.schema:
        told, holds = _kind(field.name)
        if not pa.types.is_null(field.type) and not holds(field.type):
            raise DataError(f"{path.name} is not as siftune writes it", where=str(path),
                            why=f"its column {field.name!r} holds {field.type}, not {told}", hint=AGAIN)
        if field.name in _EVERYWHERE and table[field.name].null_count:
            raise DataError(f"{path.name} is not as siftune writes it", where=str(path),
                            why=f"its column {field.name!r} lacks values", hint=AGAIN)
    return table


def _kind(column: str) -> tuple[str, Callable[[Any], bool]]:
    import pyarrow as pa

    if column in _TEXTS:
        return "texts", lambda kind: pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if column in _FLAGS:
        return "true and false", pa.types.is_boolean
    return "numbers", lambda kind: pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _numbered(path: Path) -> Iterator[tuple[int, Any]]:
    number = 0
    try:
        with path.open("rb") as stream:  # split at newlines alone, never at U+2028 inside a row
            for number, raw in enumerate(stream, 1):
                if raw.strip():
                    yield number, json.loads(raw.decode("utf-8-sig" if number == 1 else "utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path.name} holds a line that is not JSON", where=at(path, number), why=first_line(error),
                        hint=AGAIN) from error
    except OSError as error:
        raise DataError(f"cannot read {path.name}", where=str(path), why=error.strerror, hint=AGAIN) from error
