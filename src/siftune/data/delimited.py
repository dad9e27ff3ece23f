"""CSV files: the delimiter read off the header, pandas' index column, cells that stay the text they are."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from siftune._common.errors import DataError, at
from siftune.data.columns import FORMATS, Format
from siftune.data.limits import Limits
from siftune.data.opening import lines, without_compression
from siftune.data.problems import BadRow
from siftune.data.raw import RawRecord, as_line, utf8_hint

DELIMITERS = (",", ";", "\t")
INDEX = "Unnamed: 0"
"""What pandas calls the column of the index that it wrote without a name."""


def read_csv(path: Path, limits: Limits, named: Format | None = None) -> Iterator[RawRecord]:
    """Rows of a CSV file with a header; every cell stays the text it is.

    Args:
        path: The file, comma-, semicolon- or tab-separated: what makes a known format of the header.
        limits: What is too large.
        named: Columns that the user named, which count as a format.

    Raises:
        DataError: the file is damaged as a whole, or its header is.
    """
    read = _Decoded(path, limits)
    before = csv.field_size_limit(min(limits.line, 2**31 - 1))  # the default refuses cells above 128 kB
    try:
        first = next(read, None)
        if first is None:
            return
        read.put_back(first)
        delimiter = "\t" if without_compression(path.name).endswith(".tsv") else _delimiter(first, named)
        reader = csv.reader(read, strict=True, delimiter=delimiter)
        header = next(reader, None)
        if header is None:
            return
        if read.problem:
            if read.problem.reason == "over-limit":
                raise DataError("the CSV header is too long", where=at(path, 1), why=read.problem.detail,
                                hint="check that this is a CSV file")
            raise DataError("the CSV header is not UTF-8", where=at(path, 1), why=read.problem.detail,
                            hint=utf8_hint(path))
        if len(header) > 1 and not header[0].strip() and INDEX not in header:
            header[0] = INDEX
        _check_header(path, header)
        yield from _records(path, reader, read, header, limits)
    except csv.Error as error:
        # Known by its words alone.
        if "field larger than field limit" in str(error):
            raise DataError(f"a cell of {path.name} is larger than {limits.line:,} bytes", where=at(path, read.count),
                            hint="check for a quote that is never closed, or raise it with --limit line=...") from error
        raise DataError(f"{path.name} is not a valid CSV file", where=at(path, read.count), why=str(error),
                        hint="write it again with quotes around cells that hold commas, quotes or line breaks"
                        ) from error
    finally:
        csv.field_size_limit(before)


def _records(path: Path, reader: Iterator[list[str]], read: _Decoded, header: list[str],
             limits: Limits) -> Iterator[RawRecord]:
    line = read.count + 1
    while True:
        start, size_before = line, read.size
        cells = next(reader, None)
        if cells is None:
            return
        line, size = read.count + 1, read.size - size_before
        problem, read.problem = read.problem, None
        if not cells and problem is None:
            continue
        if size > limits.line:
            yield RawRecord(at(path, start), "", problem=limits.exceeded("line", "the row is longer than"), size=size)
            continue
        raw = as_line(dict(zip(header, cells, strict=False)))
        if problem is None and len(cells) != len(header):
            problem = BadRow("broken-csv", f"{len(cells)} cells where the header has {len(header)}")
        if problem is not None:
            yield RawRecord(at(path, start), raw, problem=problem, size=size)
        else:
            yield RawRecord(at(path, start), raw, dict(zip(header, cells, strict=True)), size=size)


def _delimiter(first: str, named: Format | None) -> str:
    """The delimiter that makes a known format of the header, or else the most columns; a comma where it does not
    matter."""
    formats = [*([named] if named else []), *FORMATS.values()]
    headers = {delimiter: _cells(first, delimiter) for delimiter in DELIMITERS}
    for delimiter, header in headers.items():
        if any(one.fits(dict.fromkeys(header, "")) for one in formats):
            return delimiter
    return max(DELIMITERS, key=lambda delimiter: len(headers[delimiter]))


def _cells(line: str, delimiter: str) -> Sequence[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return []


class _Decoded:
    """The decoded lines of a file, counting lines and bytes; ``problem`` is the first since it was last cleared."""

    def __init__(self, path: Path, limits: Limits):
        self._lines, self._limits = lines(path, limits), limits
        self._waiting: list[str] = []
        self.problem: BadRow | None = None
        self.count = self.size = 0

    def put_back(self, line: str) -> None:
        self._waiting.append(line)

    def __iter__(self) -> _Decoded:
        return self

    def __next__(self) -> str:
        if self._waiting:
            return self._waiting.pop()
        line = next(self._lines)
        self.count += 1
        self.size += len(line.data)
        if not line.whole:
            self.problem = self.problem or self._limits.exceeded("line", "the line is longer than")
            return "\n"
        try:
            return line.data.decode("utf-8")
        except UnicodeDecodeError as error:
            detail = f"byte {line.data[error.start]:#04x} at byte offset {line.offset + error.start}"
            self.problem = self.problem or BadRow("not-utf8", detail)
            return line.data.decode("utf-8", "backslashreplace")


def _check_header(path: Path, header: list[str]) -> None:
    if any(not name.strip() for name in header):
        raise DataError("a column of the CSV header has no name", where=at(path, 1),
                        why=f"header: {', '.join(map(repr, header[:12]))}", hint="name every column in the first line")
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise DataError(f"the CSV header names the column {twice!r} twice", where=at(path, 1),
                        hint="give every column its own name")
