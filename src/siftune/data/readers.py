"""Reading a pool, a target or a test set: sources in any format become rows with stable ids.

Nothing is skipped silently: a record that cannot be used is an error, or, with ``bad_rows="drop"``, is listed with
its place and the reason; a column that is not used is counted.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

from siftune._common.errors import ConfigError, DataError
from siftune._common.progress import bar, log
from siftune.data import columns
from siftune.data.columns import Format, advice, keys_of
from siftune.data.formats import FORMATS, Conversation, detect, read_conversation
from siftune.data.limits import Limits
from siftune.data.problems import BadRow, bad_rows_error
from siftune.data.raw import RawRecord, utf8_hint
from siftune.data.records import TYPED, read_records
from siftune.data.rows import Dropped, Row, content_hash
from siftune.data.sources import Source, find_sources

Role = Literal["pool", "target", "test", "existing"]
BadRows = Literal["error", "drop"]

_LARGE = 50_000_000  # bytes from which a file is worth a progress bar
_AUTO, _MIXED, _NONE = "auto", "mixed", "none"
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


@dataclass(slots=True)
class SourceSummary:
    """What was found in one source.

    Attributes:
        name: Its short name.
        location: Path or hub id.
        formats: Usable rows of each format.
        used: Columns that became part of rows, or of their ids, subtasks and groups, with the number of rows that have
            a value there; fields of turns as ``messages[].weight``.
        kept: The other columns with a value. They stay in the record and are written back with it.
        note: What was left out beside it.
    """

    name: str
    location: str
    formats: dict[str, int] = field(default_factory=dict)
    used: dict[str, int] = field(default_factory=dict)
    kept: dict[str, int] = field(default_factory=dict)
    note: str = ""


@dataclass(slots=True)
class Reading:
    """Rows, the records left out, and what was found in each source."""

    rows: list[Row] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    sources: list[SourceSummary] = field(default_factory=list)


@dataclass(slots=True)
class _Read:
    """One record on its way to a row: the id is known only when the whole source has been read."""

    record: RawRecord
    index: int
    format: str = ""
    conversation: Conversation | None = None
    digest: str = ""
    problem: BadRow | None = None

    @property
    def fields(self) -> Mapping[str, Any]:
        return self.record.value if isinstance(self.record.value, Mapping) else {}


def read_rows(sources: Sequence[str | Path], *, role: Role, **options: Any) -> tuple[list[Row], list[Dropped]]:
    """The rows of :func:`read_sources`, and the records left out (empty with ``bad_rows="error"``)."""
    reading = read_sources(sources, role=role, **options)
    return reading.rows, reading.dropped


def read_sources(
    sources: Sequence[str | Path],
    *,
    role: Role,
    format: str = _AUTO,
    id_field: str = _AUTO,
    subtask_field: str = "subtask",
    group_field: str = "group",
    bad_rows: BadRows = "error",
    named: Format | None = None,
    limits: Limits | None = None,
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

    Raises:
        ConfigError: ``format`` or ``bad_rows`` is not known.
        DataError: a source is missing, empty or damaged, an id is missing or there twice, the format changes inside
            a file, records cannot be used (with ``"error"``), or none is left (with ``"drop"``).
    """
    _check_choices(format, bad_rows)
    reading, advised = Reading(), ""
    for source in find_sources(sources, train=role != "test"):
        if source.note:
            log(source.note)
        reader = _SourceReader(source, format, named, limits or Limits())
        read = reader.read()
        advised = advised or reader.advice
        ids, own = _ids(source, read, id_field)
        summary = SourceSummary(source.name, source.location, note=source.note)
        labels = Counter({own: len(read)} if own else {})
        fields: Counter[tuple[frozenset[str], frozenset[str]]] = Counter()
        formats: Counter[str] = Counter()
        for one, row_id in zip(read, ids, strict=True):
            if one.problem is not None or one.conversation is None:
                problem = one.problem or BadRow("unknown-format")
                reading.dropped.append(Dropped(row_id, source.name, one.record.where, problem.reason, problem.detail))
                continue
            row = _row(one, row_id, source, one.conversation, subtask_field, group_field)
            reading.rows.append(row)
            formats[row.format] += 1
            fields[one.conversation.used, one.conversation.kept] += 1
            labels.update([subtask_field] if row.subtask is not None else [])
            labels.update([group_field] if _label(one.fields, group_field) else [])
        summary.formats = dict(formats)
        summary.used, summary.kept = _field_counts(fields, labels)
        reading.sources.append(summary)
    if reading.dropped and (bad_rows == "error" or not reading.rows):
        total = len(reading.rows) + len(reading.dropped)
        raise bad_rows_error(reading.dropped, total, role, _hint(reading.dropped, advised))
    _check_unique(reading.rows, role)
    return reading


def _field_counts(fields: Counter[tuple[frozenset[str], frozenset[str]]],
                  labels: Counter[str]) -> tuple[dict[str, int], dict[str, int]]:
    used, kept = Counter(labels), Counter()
    for (one_used, one_kept), count in fields.items():
        used.update(dict.fromkeys(one_used - labels.keys(), count))
        kept.update(dict.fromkeys(one_kept - labels.keys(), count))
    return _most_first(used), _most_first(kept)


def _most_first(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _check_choices(format: str, bad_rows: str) -> None:
    formats = [_AUTO, _MIXED, *FORMATS]
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

    def read(self) -> list[_Read]:
        size = self._source.path.stat().st_size if self._source.kind not in ("hub", "saved") else 0
        if size < _LARGE:
            read = list(self._records())
        else:
            read = []
            with bar(f"reading {self._source.name}", size / 1e6, "MB") as progress:
                for one in self._records():
                    read.append(one)
                    progress.advance(one.record.size / 1e6)
        if not read:
            raise DataError(f"{self._source.path.name} is empty", where=self._source.location,
                            why="There is no record in it.", hint="check that the file was written whole")
        return read

    def _records(self) -> Iterator[_Read]:
        for index, record in enumerate(read_records(self._source, self._limits, self._named)):
            one = _Read(record, index, problem=record.problem)
            if one.problem is None:
                try:
                    self._interpret(one)
                except BadRow as problem:
                    one.problem = problem
                    if not self.advice and problem.reason in ("unknown-format", "non-string-content"):
                        self.advice = advice(one.fields) or ""
            yield one

    def _interpret(self, one: _Read) -> None:
        value, raw = one.record.value, one.record.raw
        if raw.count("{") + raw.count("[") > self._limits.nesting:
            self._limits.check_nesting(value)
        if _SURROGATE.search(raw):
            check_unicode(value)
        found = self._format_of(one.record)
        one.conversation = read_conversation(value, found, self._limits, typed=self._typed)
        one.format = found.name
        one.digest = content_hash(one.conversation.messages, one.conversation.tools)

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


def _ids(source: Source, read: list[_Read], id_field: str) -> tuple[list[str], str]:
    """An id for every record of a source, and the field they are from, empty where they are made.

    Raises:
        DataError: a record lacks the field the user named.
    """
    key = "id" if id_field == _AUTO else id_field
    own = [_own_id(one.fields, key) for one in read]
    made = [_made_id(source, one) for one in read]
    if id_field == _NONE:
        return made, ""
    if id_field == _AUTO and any(name is None and one.problem is None for name, one in zip(own, read, strict=True)):
        return made, ""
    for one, name in zip(read, own, strict=True):
        if name is None and one.problem is None:
            raise DataError(f"a record has no id in the field {id_field!r}", where=one.record.where,
                            why=f"found the keys {keys_of(one.fields)}",
                            hint="name another field, or let ids be made with --id-field none")
    return [name or other for name, other in zip(own, made, strict=True)], key


def _own_id(fields: Mapping[str, Any], name: str) -> str | None:
    value = fields.get(name)
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        return None
    return str(value) or None


def _made_id(source: Source, one: _Read) -> str:
    digest = one.digest or blake2b(one.record.raw.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return f"{source.name}:{one.index}:{digest[:12]}"


def _row(one: _Read, row_id: str, source: Source, conversation: Conversation, subtask_field: str,
         group_field: str) -> Row:
    return Row(
        id=row_id,
        source=source.name,
        where=one.record.where,
        messages=conversation.messages,
        raw=one.record.raw,
        content_hash=one.digest,
        format=one.format,
        subtask=_label(one.fields, subtask_field),
        group=_label(one.fields, group_field) or source.name,
        tools=conversation.tools,
    )


def _label(fields: Mapping[str, Any], name: str) -> str | None:
    value = fields.get(name)
    return None if value is None or value == "" or isinstance(value, (list, dict)) else str(value)


def _check_unique(rows: list[Row], role: str) -> None:
    first: dict[str, Row] = {}
    for row in rows:
        before = first.setdefault(row.id, row)
        if before is not row:
            raise DataError(f"two {role} rows have the id {row.id!r}", where=row.where,
                            why=f"The other one is {before.where}.",
                            hint="make the ids unique, or let siftune make them with --id-field none")


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
