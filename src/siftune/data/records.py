"""One stream of records from every kind of source, with the place of each and its original text.

A reader yields :class:`RawRecord`; it never interprets what a record means. What makes a whole file unreadable is
a :class:`~siftune._common.errors.DataError`, what spoils one record is its ``problem``.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from siftune._common.errors import DataError, at
from siftune.data.hub import read_dataset
from siftune.data.problems import BadRow
from siftune.data.raw import RawRecord, as_line
from siftune.data.sources import Source

_BOM = b"\xef\xbb\xbf"
_UTF8_HINT = "iconv -f latin1 -t utf-8 {name} > {name}.utf8 (if it is Latin-1)"


def read_records(source: Source) -> Iterator[RawRecord]:
    """The records of a file in their order.

    Raises:
        DataError: the file cannot be opened or is damaged as a whole.
    """
    readers = {"jsonl": _read_jsonl, "json": _read_json, "csv": _read_csv, "parquet": _read_parquet}
    if source.kind in readers:
        yield from readers[source.kind](source.path)
    else:
        yield from read_dataset(source)


def utf8_hint(path: str | Path) -> str:
    return "convert the file: " + _UTF8_HINT.format(name=Path(path).name)


def _lines(path: Path) -> Iterator[bytes]:
    """The lines of a plain or compressed file with their line ends, streamed."""
    try:
        with _open(path) as file:
            yield from file
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path.name} is not a complete gzip file", where=str(path), why=str(error),
                        hint=f"check it with: gzip -t {path.name}") from error
    except OSError as error:
        raise DataError(f"cannot read {path.name}", where=str(path), why=error.strerror or str(error)) from error


def _open(path: Path) -> IO[bytes] | gzip.GzipFile:
    return gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb")


def _read_jsonl(path: Path) -> Iterator[RawRecord]:
    return _parse_lines(path, _lines(path))


def _parse_lines(path: Path, lines: Iterable[bytes]) -> Iterator[RawRecord]:
    offset = 0
    for number, line in enumerate(lines, 1):
        start, offset = offset, offset + len(line)
        if number == 1 and line.startswith(_BOM):
            line, start = line[len(_BOM):], len(_BOM)
        if not line.strip():
            continue
        where = at(path, number)
        content = line.removesuffix(b"\n").removesuffix(b"\r")
        try:
            raw = content.decode("utf-8")
        except UnicodeDecodeError as error:
            problem = BadRow("not-utf8", f"byte {content[error.start]:#04x} at byte offset {start + error.start}")
            yield RawRecord(where, content.decode("utf-8", "backslashreplace"), problem=problem, size=len(line))
            continue
        try:
            yield RawRecord(where, raw, json.loads(raw), size=len(line))
        except (ValueError, RecursionError) as error:
            yield RawRecord(where, raw, problem=BadRow("broken-json", _json_detail(error)), size=len(line))


def _json_detail(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg}, column {error.colno}"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def _read_json(path: Path) -> Iterator[RawRecord]:
    """An array of records, an object with the array under ``data``, or JSONL under the name ``.json``."""
    lines = list(_lines(path))
    data = b"".join(lines).removeprefix(_BOM)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path.name} is not UTF-8", where=at(path, line),
                        why=f"byte {data[error.start]:#04x} at byte offset {error.start}",
                        hint=utf8_hint(path)) from error
    start = _array_start(text)
    if start is not None:
        return _parse_array(path, text, start)
    return _parse_object(path, text) or _parse_lines(path, lines)


def _one_line(text: str) -> str:
    """JSON text without its line breaks; none can stand inside a JSON string, so they only lay it out."""
    return _LINE_BREAK.sub(" ", text)


_SPACE = re.compile(r"[ \t\r\n]*")
_LINE_BREAK = re.compile(r"[ \t]*[\r\n][ \t\r\n]*")
_DECODER = json.JSONDecoder()


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


def _read_csv(path: Path) -> Iterator[RawRecord]:
    """Rows of a CSV file with a header; every cell stays the text it is."""
    spoilt: list[str] = []  # what is not UTF-8 in the lines of the record at hand
    read = _Counted(path, spoilt)
    limit = csv.field_size_limit(2**31 - 1)  # the default refuses cells above 128 kB
    try:
        reader = csv.reader(read, strict=True)
        header = next(reader, None)
        if header is None:
            return
        if spoilt:
            raise DataError("the CSV header is not UTF-8", where=at(path, 1), why=spoilt[0], hint=utf8_hint(path))
        header[0] = header[0].removeprefix("\ufeff")
        _check_header(path, header)
        first = reader.line_num + 1
        while True:
            start, size_before = first, read.size
            cells = next(reader, None)
            if cells is None:
                return
            first, size = reader.line_num + 1, read.size - size_before
            if not cells:
                continue
            raw = as_line(dict(zip(header, cells, strict=False)))
            if spoilt:
                problem = BadRow("not-utf8", spoilt[0])
                spoilt.clear()
            elif len(cells) != len(header):
                problem = BadRow("broken-csv", f"{len(cells)} cells where the header has {len(header)}")
            else:
                yield RawRecord(at(path, start), raw, dict(zip(header, cells, strict=True)), size=size)
                continue
            yield RawRecord(at(path, start), raw, problem=problem, size=size)
    except csv.Error as error:
        raise DataError(f"{path.name} is not a valid CSV file", where=at(path, read.lines), why=str(error),
                        hint="write it again with quotes around cells that hold commas, quotes or line breaks"
                        ) from error
    finally:
        csv.field_size_limit(limit)


class _Counted:
    """The decoded lines of a file, counting lines and bytes and remembering lines that are not UTF-8."""

    def __init__(self, path: Path, spoilt: list[str]):
        self._lines, self._spoilt = _lines(path), spoilt
        self.lines = self.size = 0

    def __iter__(self) -> _Counted:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.lines += 1
        start, self.size = self.size, self.size + len(line)
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError as error:
            self._spoilt.append(f"byte {line[error.start]:#04x} at byte offset {start + error.start}")
            return line.decode("utf-8", "backslashreplace")


def _check_header(path: Path, header: list[str]) -> None:
    if any(not name.strip() for name in header):
        raise DataError("a column of the CSV header has no name", where=at(path, 1), why=f"header: {header}",
                        hint="name every column in the first line")
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise DataError(f"the CSV header names the column {twice!r} twice", where=at(path, 1),
                        hint="give every column its own name")


def _read_parquet(path: Path) -> Iterator[RawRecord]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=1024):
                size = batch.nbytes // max(batch.num_rows, 1)
                for record in batch.to_pylist():
                    number += 1
                    yield RawRecord(f"{path}:row {number}", as_line(record), record, size=size)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path.name} is not a readable Parquet file", where=str(path), why=str(error).split("\n")[0],
                        hint="check that the file was copied whole and that its name matches its kind") from error
