"""Records on their way to rows: ids, which are known only at the end of a source, and where many rows are put.

Up to :data:`MANY` rows are objects in a list. From there on they go to a file (:mod:`siftune.data.stored`), so that
memory does not grow with them.
"""

from __future__ import annotations

import dataclasses
import secrets
import shutil
import tempfile
import weakref
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from siftune._common.errors import DataError
from siftune._common.files import make_folder, write_error
from siftune.data.columns import keys_of
from siftune.data.formats import Conversation
from siftune.data.problems import BadRow
from siftune.data.raw import RawRecord
from siftune.data.rows import Dropped, Row, column, content_of
from siftune.data.sources import Source
from siftune.data.stored import RowFile, RowWriter, StoredRows

AUTO, NONE = "auto", "none"

MANY = 20_000
"""Rows from which on they are kept in a file."""


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
class Read:
    """One record and what it says, or why it says nothing.

    Attributes:
        content: What :func:`~siftune.data.rows.content_of` says of the conversation.
        digest: The content hash.
    """

    record: RawRecord
    index: int
    format: str = ""
    conversation: Conversation | None = None
    content: bytes = b""
    digest: str = ""
    problem: BadRow | None = None

    @property
    def fields(self) -> Mapping[str, Any]:
        return self.record.value if isinstance(self.record.value, Mapping) else {}


@dataclass(frozen=True, slots=True)
class Fields:
    """Where ids, subtasks and groups are: names of fields, or ``auto`` and ``none`` for ids."""

    id: str = AUTO
    subtask: str = "subtask"
    group: str = "group"


class RowCollector:
    """Takes rows of one source after the other.

    Args:
        folder: where many rows are written; a temporary one where not given, which goes with the rows.
    """

    def __init__(self, folder: Path | None = None):
        self._folder = folder
        self._rows: list[Row] = []
        self._pending: list[tuple[str | None, int, Row]] = []  # of the source that is being read
        self._writer: RowWriter | None = None
        self._path: Path | None = None
        self._is_temporary = False
        self._sources: list[str] = []
        self._own: list[bool] = []

    def begin(self, source: Source) -> None:
        """The next rows are of this source."""
        self._sources.append(source.name)

    def add(self, own: str | None, index: int, row: Row, content: bytes) -> None:
        """A row of the source without its id; see :meth:`~siftune.data.stored.RowWriter.add`."""
        if self._writer is None and len(self._rows) + len(self._pending) >= MANY:
            self._begin_file()
        if self._writer is None:
            self._pending.append((own, index, row))
        else:
            self._write(len(self._sources) - 1, own, index, row, content)

    def end(self, own: bool) -> None:
        """The source ends; its rows have the ids that they say themselves, or made ones."""
        name = self._sources[-1]
        self._own.append(own)
        self._rows += [dataclasses.replace(row, id=said if own and said is not None else
                                           made_id(name, index, row.content_hash))
                       for said, index, row in self._pending]
        self._pending = []

    def finish(self) -> Sequence[Row]:
        """All rows."""
        if self._writer is None or self._path is None:
            return self._rows
        try:
            self._writer.finish()
        except OSError as error:
            raise write_error(self._path, error) from error
        self._writer = None
        file = RowFile(self._path, self._sources, self._own)
        path = self._path
        file.leaves = weakref.finalize(file, shutil.rmtree, path.parent, ignore_errors=True) if self._is_temporary \
            else weakref.finalize(file, path.unlink, missing_ok=True)
        return StoredRows(file)

    def abandon(self) -> None:
        """Remove what was begun; of no effect after :meth:`finish`."""
        if self._writer is not None and self._path is not None:
            with suppress(OSError):  # what was refused before is refused again
                self._writer.close()
            self._path.unlink(missing_ok=True)
            if self._is_temporary:
                shutil.rmtree(self._path.parent, ignore_errors=True)

    def _begin_file(self) -> None:
        self._is_temporary = self._folder is None
        try:
            folder = Path(tempfile.mkdtemp(prefix="siftune-")) if self._folder is None else make_folder(self._folder)
            # Named as the temporary files of other writers are: what a killed process leaves is removed by the next.
            self._path = folder / f".rows.{secrets.token_hex(4)}.tmp"
            self._writer = RowWriter(self._path)
        except OSError as error:
            raise write_error(self._folder or tempfile.gettempdir(), error) from error
        ended = {name: number for number, name in enumerate(self._sources)}
        for row in self._rows:  # of sources that have ended: their ids are known
            self._write(ended[row.source], row.id, 0, row, content_of(row.messages, row.tools))
        self._own = [True] * len(self._own)
        for own, index, row in self._pending:
            self._write(len(self._sources) - 1, own, index, row, content_of(row.messages, row.tools))
        self._rows, self._pending = [], []

    def _write(self, source: int, own: str | None, index: int, row: Row, content: bytes) -> None:
        assert self._writer is not None
        assert self._path is not None
        try:
            self._writer.add(source, own, index, row, content)
        except OSError as error:
            raise write_error(self._path, error) from error


class SourceRows:
    """Makes rows of the records of one source.

    Args:
        source: of the records.
        fields: where ids, subtasks and groups are.
        rows: where the rows go.
    """

    def __init__(self, source: Source, fields: Fields, rows: RowCollector):
        self._source, self._fields, self._rows = source, fields, rows
        self._key = "id" if fields.id == AUTO else fields.id
        self._count = 0
        self._lacking: tuple[str, str] | None = None  # place and keys of the first usable record without an id
        self._bad: list[tuple[str | None, str, Dropped]] = []
        self._formats: Counter[str] = Counter()
        self._labels: Counter[str] = Counter()
        self._columns: Counter[tuple[frozenset[str], frozenset[str]]] = Counter()
        rows.begin(source)

    def add(self, one: Read) -> None:
        """The next record."""
        self._count += 1
        own = None if self._fields.id == NONE else _own_id(one.fields, self._key)
        where, raw = one.record.where, one.record.raw
        if one.problem is not None or one.conversation is None:
            problem = one.problem or BadRow("unknown-format")
            digest = one.digest or blake2b(raw.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
            self._bad.append((own, made_id(self._source.name, one.index, digest),
                              Dropped("", self._source.name, where, problem.reason, problem.detail)))
            return
        if own is None and self._lacking is None:
            self._lacking = where, keys_of(one.fields)
        subtask, group = (_label(one.fields, name) for name in (self._fields.subtask, self._fields.group))
        self._formats[one.format] += 1
        self._columns[one.conversation.used, one.conversation.kept] += 1
        if subtask is not None:
            self._labels[self._fields.subtask] += 1
        if group:
            self._labels[self._fields.group] += 1
        self._rows.add(own, one.index, Row(
            id="", source=self._source.name, where=where, messages=one.conversation.messages, raw=raw,
            content_hash=one.digest, format=one.format, subtask=subtask, group=group or self._source.name,
            tools=one.conversation.tools), one.content)

    def end(self) -> tuple[SourceSummary, list[Dropped]]:
        """What was found in the source, and the records that cannot be used.

        Raises:
            DataError: a record lacks the field that the user named for ids.
        """
        uses_own = self._fields.id != NONE and self._lacking is None
        if self._lacking is not None and self._fields.id not in (AUTO, NONE):
            where, keys = self._lacking
            raise DataError(f"a record has no id in the field {self._fields.id!r}", where=where,
                            why=f"found the keys {keys}",
                            hint="name another field, or let ids be made with --id-field none")
        self._rows.end(uses_own)
        if uses_own:
            self._labels[self._key] += self._count
        summary = SourceSummary(self._source.name, self._source.location, dict(self._formats), note=self._source.note)
        summary.used, summary.kept = _field_counts(self._columns, self._labels)
        return summary, [dataclasses.replace(row, id=own if uses_own and own else made) for own, made, row in self._bad]


def made_id(source: str, index: int, digest: str) -> str:
    """The id of a record that says none."""
    return f"{source}:{index}:{digest[:12]}"


def check_unique(rows: Sequence[Row], role: str) -> None:
    """Raises: DataError: two rows have one id."""
    if isinstance(rows, StoredRows) and len(rows.file.ids.unique()) == len(rows):
        return
    first: dict[str, int] = {}
    for place, row_id in enumerate(column(rows, "id")):
        before = first.setdefault(row_id, place)
        if before != place:
            raise DataError(f"two {role} rows have the id {row_id!r}", where=rows[place].where,
                            why=f"The other one is {rows[before].where}.",
                            hint="make the ids unique, or let siftune make them with --id-field none")


def _own_id(fields: Mapping[str, Any], name: str) -> str | None:
    value = fields.get(name)
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        return None
    return str(value) or None


def _label(fields: Mapping[str, Any], name: str) -> str | None:
    value = fields.get(name)
    return None if value is None or value == "" or isinstance(value, (list, dict)) else str(value)


def _field_counts(fields: Counter[tuple[frozenset[str], frozenset[str]]],
                  labels: Counter[str]) -> tuple[dict[str, int], dict[str, int]]:
    used, kept = Counter(labels), Counter()
    for (one_used, one_kept), count in fields.items():
        used.update(dict.fromkeys(one_used - labels.keys(), count))
        kept.update(dict.fromkeys(one_kept - labels.keys(), count))
    return _most_first(used), _most_first(kept)


def _most_first(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
