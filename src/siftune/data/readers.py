"""Reading a pool, a target or a test set: sources in any format become rows with stable ids.

Nothing is skipped silently: a record that cannot be used is an error, or, with ``bad_rows="drop"``, is listed with
its place and the reason; a column that is not used is counted.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from siftune._common.errors import ConfigError, DataError
from siftune._common.progress import bar, log
from siftune.data import columns
from siftune.data.collect import AUTO, Fields, Read, RowCollector, SourceRows, SourceSummary, check_unique
from siftune.data.columns import Format, advice, keys_of
from siftune.data.formats import FORMATS, detect, read_conversation
from siftune.data.limits import Limits
from siftune.data.problems import BadRow, bad_rows_error
from siftune.data.raw import RawRecord, utf8_hint
from siftune.data.records import TYPED, read_records
from siftune.data.rows import Dropped, Row, content_of, hash_of
from siftune.data.sources import Source, find_sources

Role = Literal["pool", "target", "test", "existing"]
BadRows = Literal["error", "drop"]

_LARGE = 50_000_000  # bytes from which a file is worth a progress bar
_MIXED = "mixed"
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


@dataclass(slots=True)
class Reading:
    """Rows, the records left out, and what was found in each source.

    Attributes:
        advice: What to do with records in no known format, where that can be told.
    """

    rows: Sequence[Row] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    sources: list[SourceSummary] = field(default_factory=list)
    advice: str = ""

    def checked(self, role: Role, bad_rows: BadRows) -> Reading:
        """The same, where its rows can be used.

        Raises:
            DataError: records cannot be used (with ``"error"``), or none is left (with ``"drop"``).
        """
        if self.dropped and (bad_rows == "error" or not self.rows):
            total = len(self.rows) + len(self.dropped)
            raise bad_rows_error(self.dropped, total, role, _hint(self.dropped, self.advice))
        return self


def read_rows(sources: Sequence[str | Path], *, role: Role, **options: Any) -> tuple[Sequence[Row], list[Dropped]]:
    """The rows of :func:`read_sources`, and the records left out (empty with ``bad_rows="error"``)."""
    reading = read_sources(sources, role=role, **options)
    return reading.rows, reading.dropped


def read_sources(
    sources: Sequence[str | Path],
    *,
    role: Role,
    format: str = AUTO,
    id_field: str = AUTO,
    subtask_field: str = "subtask",
    group_field: str = "group",
    bad_rows: BadRows = "error",
    named: Format | None = None,
    limits: Limits | None = None,
    folder: Path | None = None,
) -> Reading:
    """Read all rows of the given sources, in order.

    Args:
        sources: Files (``.jsonl``, ``.ndjson``, ``.json``, ``.parquet``, ``.csv``, ``.tsv``, all but Parquet also
            compressed), folders of such files, patterns, folders saved by ``datasets`` (``folder#split``), hub ids
            (``org/name[@revision][:config][:split]``).
        role: What the rows are for; named in messages to the user.
        format: ``auto`` (by the first record of each file), ``mixed`` (by each record) or one of
            :data:`~siftune.data.formats.FORMATS`.
        id_field: ``auto`` takes a source's ``id`` field where every record has one and makes ids of source, index
            and content hash otherwise; ``none`` always makes them; another name is a field that must be there.
        subtask_field: Field with the row's subtask.
        group_field: Field with the row's group; without it the group is the source.
        bad_rows: ``error`` refuses records that cannot be used, ``drop`` leaves them out and lists them.
        named: Columns that the user named; they win in records that have them.
        limits: What is too large; :class:`~siftune.data.limits.Limits` by default.
        folder: Where many rows are written, see :class:`~siftune.data.collect.RowCollector`.

    Raises:
        ConfigError: ``format`` or ``bad_rows`` is not known.
        DataError: a source is missing, empty or damaged, an id is missing or there twice, the format changes inside
            a file, records cannot be used (with ``"error"``), or none is left (with ``"drop"``).
    """
    _check_choices(format, bad_rows)
    reading, rows = Reading(), RowCollector(folder)
    try:
        for source in find_sources(sources, train=role != "test"):
            if source.note:
                log(source.note)
            reader = _SourceReader(source, format, named, limits or Limits())
            made = SourceRows(source, Fields(id_field, subtask_field, group_field), rows)
            for one in reader.read():
                made.add(one)
            reading.advice = reading.advice or reader.advice
            summary, dropped = made.end()
            reading.sources.append(summary)
            reading.dropped += dropped
        reading.rows = rows.finish()
    finally:
        rows.abandon()
    reading.checked(role, bad_rows)
    check_unique(reading.rows, role)
    return reading


def _check_choices(format: str, bad_rows: str) -> None:
    formats = [AUTO, _MIXED, *FORMATS]
    if format not in formats:
        near = difflib.get_close_matches(format, formats, n=1)
        raise ConfigError(f"unknown format {format!r}", where="--format",
                          hint=f"did you mean {near[0]!r}?" if near else f"choose one of: {', '.join(formats)}")
    if bad_rows not in ("error", "drop"):
        raise ConfigError(f"unknown choice {bad_rows!r}", where="--bad-rows", hint="choose error or drop")


class _SourceReader:
    """Reads one source, and remembers what its format is and what the records seem to be that have none."""

    def __init__(self, source: Source, format: str, named: Format | None, limits: Limits):
        self._source, self._named, self._limits = source, named, limits
        self._explicit = columns.FORMATS.get(format)
        self._mixed = format == _MIXED
        self._settled: Format | None = None
        self._typed = source.kind in TYPED
        self.advice = ""

    def read(self) -> Iterator[Read]:
        size = self._source.path.stat().st_size if self._source.kind not in ("hub", "saved") else 0
        count = 0
        with bar(f"reading {self._source.name}", size / 1e6, "MB") if size >= _LARGE else nullcontext() as progress:
            for one in self._records():
                count += 1
                yield one
                if progress is not None:
                    progress.advance(one.record.size / 1e6)
        if not count:
            raise DataError(f"{self._source.path.name} is empty", where=self._source.location,
                            why="There is no record in it.", hint="check that the file was written whole")

    def _records(self) -> Iterator[Read]:
        for index, record in enumerate(read_records(self._source, self._limits, self._named)):
            one = Read(record, index, problem=record.problem)
            if one.problem is None:
                try:
                    self._interpret(one)
                except BadRow as problem:
                    one.problem = problem
                    if not self.advice and problem.reason in ("unknown-format", "non-string-content"):
                        self.advice = advice(one.fields) or ""
            yield one

    def _interpret(self, one: Read) -> None:
        value, raw = one.record.value, one.record.raw
        if raw.count("{") + raw.count("[") > self._limits.nesting:
            self._limits.check_nesting(value)
        if _SURROGATE.search(raw):
            check_unicode(value)
        found = self._format_of(one.record)
        one.conversation = read_conversation(value, found, self._limits, typed=self._typed)
        one.format = found.name
        one.content = content_of(one.conversation.messages, one.conversation.tools)
        one.digest = hash_of(one.content)

    def _format_of(self, record: RawRecord) -> Format:
        """The record's format, checked against the one the file is known to have.

        Raises:
            BadRow: not an object, or in no known format.
            DataError: in another known format than the records before it.
        """
        value = record.value
        if not isinstance(value, Mapping):
            raise BadRow("not-an-object", f"found {type(value).__name__}")
        if self._explicit is not None and self._explicit.fits(value):
            return self._explicit  # it may have the keys of another format besides
        found = detect(value, self._named)
        if found is None:
            raise BadRow("unknown-format", f"found the keys {keys_of(value)}")
        expected = self._explicit or self._settled
        if self._mixed or expected is None:
            self._settled = found
            return found
        # Merged tables have the columns of several formats, and in each row those of one are filled.
        merged = expected.fits(value) and not expected.is_filled(value)
        if found is not expected and not merged:
            raise DataError(f"a record is {found.name} where the file is {expected.name}", where=record.where,
                            why=f"found the keys {keys_of(value)}",
                            hint="pass --format mixed to detect the format of every record, or split the file")
        return found


def check_unicode(value: Any, path: str = "") -> None:
    """Refuse half of a surrogate pair anywhere in a record, keys included: nothing could write it back.

    Raises:
        BadRow: ``invalid-unicode``, with the field.
    """
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise BadRow("invalid-unicode", f"{path or 'the record'}, character {error.start}") from error
    elif isinstance(value, Mapping):
        for key, item in value.items():
            name = str(key).encode("ascii", "backslashreplace").decode()[:80]
            check_unicode(key, f"the key {name}")
            check_unicode(item, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for number, item in enumerate(value, 1):
            check_unicode(item, f"{path}, number {number}")


def _hint(bad: Sequence[Dropped], advised: str) -> str | None:
    """The advice that fits what is wrong, where there is one."""
    reasons = {row.reason for row in bad}
    if "not-utf8" in reasons:
        spoilt = next(row for row in bad if row.reason == "not-utf8")
        return utf8_hint(spoilt.where.rsplit(":", 1)[0])
    if "unknown-format" in reasons:
        return (f"{advised}{'; ' if advised else ''}the formats known are {', '.join(FORMATS)}: rename the keys to one "
                f"of them, or say what your columns are with {columns.FLAG} prompt=COLUMN,completion=COLUMN")
    if advised:
        return advised
    if "not-text" in reasons:
        return "take these rows out"
    return None
