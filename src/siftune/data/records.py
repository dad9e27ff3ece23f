"""One stream of records from every kind of source, with the place of each and its original text.

A reader yields :class:`RawRecord`; it never interprets what a record means. What makes a whole file unreadable is
a :class:`~siftune._common.errors.DataError`, what spoils one record is its ``problem``. Every reader takes time that
is linear in the file.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from siftune._common.errors import DataError, at
from siftune.data.columns import Format
from siftune.data.delimited import read_csv
from siftune.data.hub import read_dataset
from siftune.data.limits import FLAG, Limits
from siftune.data.opening import Line, lines
from siftune.data.problems import BadRow
from siftune.data.raw import RawRecord, as_line, utf8_hint
from siftune.data.sources import Source

TYPED = ("parquet", "saved", "hub")
"""Kinds of sources whose columns have types, so that a missing value is a null."""

_NO_LIMIT = 2**62
_SPARED = 64_000_000  # as for compressed text


def read_records(source: Source, limits: Limits, named: Format | None = None) -> Iterator[RawRecord]:
    """The records of a file in their order.

    Args:
        source: What to read.
        limits: What is too large.
        named: Columns that the user named, by which a CSV file's delimiter can be told.

    Raises:
        DataError: the file cannot be opened or is damaged as a whole.
    """
    if source.kind == "jsonl":
        yield from _read_jsonl(source.path, limits)
    elif source.kind == "json":
        yield from _read_json(source.path, limits)
    elif source.kind == "csv":
        yield from read_csv(source.path, limits, named)
    elif source.kind == "parquet":
        yield from _read_parquet(source.path, limits)
    else:
        yield from read_dataset(source)


def _read_jsonl(path: Path, limits: Limits) -> Iterator[RawRecord]:
    """JSON lines, or an array of records under that name."""
    whole = _array_called_jsonl(path, limits)
    return iter(whole) if whole is not None else _parse_lines(path, lines(path, limits), limits)


_OPENS_ARRAY = re.compile(rb"\s*\[\s*(?:\{|\Z)")


def _array_called_jsonl(path: Path, limits: Limits) -> list[RawRecord] | None:
    found = lines(path, limits)
    try:
        first = next((line.data for line in found if line.data.strip()), b"")
    finally:
        found.close()  # pyright: ignore[reportAttributeAccessIssue]
    if not _OPENS_ARRAY.match(first[:1000]):
        return None
    text = _whole_text(path, limits)
    try:
        return list(_parse_array(path, text, _skip(text, 0)))
    except DataError:
        try:
            json.loads(first)
        except (ValueError, RecursionError):
            raise
        return None  # each line is an array of its own


def _parse_lines(path: Path, found: Iterable[Line], limits: Limits) -> Iterator[RawRecord]:
    for number, line in enumerate(found, 1):
        where, size = at(path, number), len(line.data)
        if not line.whole:
            yield RawRecord(where, "", problem=limits.exceeded("line", "the line is longer than"), size=limits.line)
            continue
        if not line.data.strip():
            continue
        content = line.data.removesuffix(b"\n").removesuffix(b"\r")
        try:
            raw = content.decode("utf-8")
        except UnicodeDecodeError as error:
            problem = BadRow("not-utf8", f"byte {content[error.start]:#04x} at byte offset {line.offset + error.start}")
            yield RawRecord(where, content.decode("utf-8", "backslashreplace"), problem=problem, size=size)
            continue
        try:
            yield RawRecord(where, raw, json.loads(raw), size=size)
        except (ValueError, RecursionError) as error:
            yield RawRecord(where, raw, problem=BadRow("broken-json", _json_detail(error)), size=size)


def _json_detail(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg}, column {error.colno}"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def _whole_text(path: Path, limits: Limits) -> str:
    data = b"".join(line.data for line in lines(path, dataclasses.replace(limits, line=_NO_LIMIT)))
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path.name} is not UTF-8", where=at(path, line),
                        why=f"byte {data[error.start]:#04x} at byte offset {error.start}",
                        hint=utf8_hint(path)) from error


def _read_json(path: Path, limits: Limits) -> Iterator[RawRecord]:
    """An array of records, an object with the array under ``data``, or JSON lines under the name ``.json``."""
    text = _whole_text(path, limits)
    start = _array_start(text)
    if start is not None:
        return _parse_array(path, text, start)
    return _parse_object(path, text) or _parse_lines(path, lines(path, limits), limits)


_SPACE = re.compile(r"[ \t\r\n]*")
_LINE_BREAKS = re.compile(r"[\r\n]+")
_DECODER = json.JSONDecoder()


def _one_line(text: str) -> str:
    """JSON text without its line breaks; none can stand inside a JSON string, so they only lay it out."""
    if "\n" not in text and "\r" not in text:
        return text
    return " ".join(filter(None, (line.strip(" \t") for line in _LINE_BREAKS.split(text))))


def _skip(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


def _array_start(text: str) -> int | None:
    """Where the array of records begins, or ``None`` where the file holds none, as a file of JSON lines."""
    position = _skip(text, 0)
    if text.startswith("[", position):
        return position
    if not text.startswith("{", position):
        return None
    found, position = None, _skip(text, position + 1)
    try:
        while text.startswith('"', position):
            key, position = _DECODER.raw_decode(text, position)
            position = _skip(text, position)
            if not text.startswith(":", position):
                return None
            value_at = _skip(text, position + 1)
            value, position = _DECODER.raw_decode(text, value_at)
            if key == "data" and isinstance(value, list):
                found = value_at
            position = _skip(text, position)
            position = _skip(text, position + 1) if text.startswith(",", position) else position
    except (ValueError, RecursionError):
        return None
    # A second value after the first object makes it a file of JSON lines.
    return found if _skip(text, position + 1) == len(text) else None


def _parse_object(path: Path, text: str) -> Iterator[RawRecord] | None:
    """A file that is one object and nothing else: one record."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return iter([RawRecord(f"{path}:row 1", _one_line(text.strip()), value, size=len(text))])


def _parse_array(path: Path, text: str, start: int) -> Iterator[RawRecord]:
    """The elements one by one, each with its own characters: no number is read and written again."""
    position, number = _skip(text, start + 1), 0
    while not text.startswith("]", position):
        number += 1
        try:
            value, end = _DECODER.raw_decode(text, position)
            after = _skip(text, end)
            if text.startswith(",", after):
                following = _skip(text, after + 1)
            elif text.startswith("]", after):
                following = after
            else:
                raise json.JSONDecodeError("expected ',' or ']' after the element", text, after)
        except (ValueError, RecursionError) as error:
            line = text.count("\n", 0, getattr(error, "pos", position)) + 1
            raise DataError(f"{path.name} is not valid JSON", where=at(path, line),
                            why=f"element {number} of the array: {_json_detail(error)}",
                            hint="repair it, or save one record a line as .jsonl, where only broken lines are lost"
                            ) from error
        yield RawRecord(f"{path}:row {number}", _one_line(text[position:end]), value, size=end - position)
        position = following
    if not text[:start].strip() and text[position + 1 :].strip():
        raise DataError(f"{path.name} is not valid JSON", where=at(path, text.count("\n", 0, position) + 1),
                        why="Something follows after the array's end.", hint="remove it")


def _read_parquet(path: Path, limits: Limits) -> Iterator[RawRecord]:
    import pyarrow as pa
    from pyarrow import parquet

    most = 0
    try:
        with parquet.ParquetFile(path) as file:
            twice = [name for name, count in Counter(file.schema_arrow.names).items() if count > 1]
            if twice:
                raise DataError(f"the Parquet file has the column {twice[0]!r} twice", where=str(path),
                                hint="give every column its own name")
            number = total = 0
            most = max(_SPARED, path.stat().st_size * limits.expansion)
            for batch in file.iter_batches(batch_size=1024):
                total += batch.nbytes
                if total > most:
                    raise DataError(f"{path.name} expands to more than {most:,} bytes", where=str(path),
                                    hint=f"check the file, or raise the limit with {FLAG} expansion=...")
                size = batch.nbytes // max(batch.num_rows, 1)
                for record in batch.to_pylist():
                    number += 1
                    yield RawRecord(f"{path}:row {number}", as_line(record), record, size=size)
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise DataError(f"{path.name} is not a readable Parquet file", where=str(path), why=str(error).split("\n")[0],
                        hint="check that the file was copied whole and that its name matches its kind") from error
