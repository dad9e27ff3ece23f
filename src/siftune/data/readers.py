"""Reading a pool, a target or a test set: sources in any format become rows with stable ids.

Nothing is skipped silently: a record that cannot be used is an error, or, with ``bad_rows="drop"``, is listed with
its place and the reason.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

from siftune._common.errors import ConfigError, DataError
from siftune._common.progress import Bar, bar
from siftune.data.formats import FORMATS, detect, fits, keys_of, to_messages
from siftune.data.problems import BadRow, bad_rows_error
from siftune.data.raw import RawRecord
from siftune.data.records import read_records, utf8_hint
from siftune.data.rows import Dropped, Message, Row, content_hash
from siftune.data.sources import Source, find_sources

Role = Literal["pool", "target", "test", "existing"]
BadRows = Literal["error", "drop"]

_LARGE = 50_000_000  # bytes from which a file is worth a progress bar
_AUTO, _MIXED, _NONE = "auto", "mixed", "none"


@dataclass(slots=True)
class _Read:
    """One record on its way to a row: the id is known only when the whole source has been read."""

    record: RawRecord
    index: int
    format: str = ""
    messages: tuple[Message, ...] = ()
    digest: str = ""
    problem: BadRow | None = None

    @property
    def fields(self) -> Mapping[str, Any]:
        return self.record.value if isinstance(self.record.value, Mapping) else {}


def read_rows(
    sources: Sequence[str | Path],
    *,
    role: Role,
    format: str = _AUTO,
    id_field: str = _AUTO,
    subtask_field: str = "subtask",
    group_field: str = "group",
    bad_rows: BadRows = "error",
) -> tuple[list[Row], list[Dropped]]:
    """Read all rows of the given sources, in order.

    Args:
        sources: Files (``.jsonl``, ``.ndjson``, ``.json``, ``.parquet``, ``.csv``, all but Parquet also ``.gz``),
            folders of such files, folders saved by ``datasets`` (``folder#split``), hub ids
            (``org/name[:config][#split]``).
        role: What the rows are for; named in messages to the user.
        format: ``auto`` (by the first record of each file), ``mixed`` (by each record) or one of
            :data:`~siftune.data.formats.FORMATS`.
        id_field: ``auto`` takes a source's ``id`` field where every record has one and makes ids of source, index
            and content hash otherwise; ``none`` always makes them; another name is a field that must be there.
        subtask_field: Field with the row's subtask.
        group_field: Field with the row's group; without it the group is the source.
        bad_rows: ``error`` refuses records that cannot be used, ``drop`` leaves them out and lists them.

    Returns:
        The rows, and the records left out (empty with ``bad_rows="error"``).

    Raises:
        ConfigError: ``format`` or ``bad_rows`` is not known.
        DataError: a source is missing, empty or damaged, an id is missing or there twice, the format changes inside
            a file, records cannot be used (with ``"error"``), or none is left (with ``"drop"``).
    """
    _check_choices(format, bad_rows)
    rows: list[Row] = []
    dropped: list[Dropped] = []
    for source in find_sources(sources):
        read = _read_source(source, format)
        for one, row_id in zip(read, _ids(source, read, id_field), strict=True):
            if one.problem is not None:
                problem = one.problem
                dropped.append(Dropped(row_id, source.name, one.record.where, problem.reason, problem.detail))
            else:
                rows.append(_row(one, row_id, source, subtask_field, group_field))
    if dropped and (bad_rows == "error" or not rows):
        raise bad_rows_error(dropped, len(rows) + len(dropped), role, _hint(dropped))
    _check_unique(rows, role)
    return rows, dropped


def _check_choices(format: str, bad_rows: str) -> None:
    formats = [_AUTO, _MIXED, *FORMATS]
    if format not in formats:
        near = difflib.get_close_matches(format, formats, n=1)
        raise ConfigError(f"unknown format {format!r}", where="--format",
                          hint=f"did you mean {near[0]!r}?" if near else f"choose one of: {', '.join(formats)}")
    if bad_rows not in ("error", "drop"):
        raise ConfigError(f"unknown choice {bad_rows!r}", where="--bad-rows", hint="choose error or drop")


def _read_source(source: Source, format: str) -> list[_Read]:
    size = source.path.stat().st_size if source.kind not in ("hub", "saved") else 0
    if size < _LARGE:
        read = _interpret(source, format, None)
    else:
        with bar(f"reading {source.name}", size / 1e6, "MB") as progress:
            read = _interpret(source, format, progress)
    if not read:
        raise DataError(f"{source.path.name} is empty", where=source.location, why="There is no record in it.",
                        hint="check that the file was written whole")
    return read


def _interpret(source: Source, format: str, progress: Bar | None) -> list[_Read]:
    read: list[_Read] = []
    settled = None if format in (_AUTO, _MIXED) else format
    for index, record in enumerate(read_records(source)):
        one = _Read(record, index, problem=record.problem)
        read.append(one)
        if progress is not None:
            progress.advance(record.size / 1e6)
        if one.problem is not None:
            continue
        try:
            found = _format_of(record, settled or (_AUTO if format == _AUTO else _MIXED))
            if format == _AUTO:
                settled = found
            one.format, one.messages = found, to_messages(one.fields, found)
            one.digest = content_hash(one.messages)
        except BadRow as problem:
            one.problem = problem
    return read


def _format_of(record: RawRecord, expected: str) -> str:
    """The record's format, checked against the one the file is known to have.

    Raises:
        BadRow: not an object, or in no known format.
        DataError: in another known format than the records before it.
    """
    if not isinstance(record.value, Mapping):
        raise BadRow("not-an-object", f"found {type(record.value).__name__}")
    found = detect(record.value)
    if found is None:
        raise BadRow("unknown-format", f"found the keys {keys_of(record.value)}")
    if expected in (_AUTO, _MIXED):
        return found
    if fits(record.value, expected):
        return expected  # it may have the keys of another format besides
    raise DataError(f"a record is {found} where the file is {expected}", where=record.where,
                    why=f"found the keys {keys_of(record.value)}",
                    hint="pass --format mixed to detect the format of every record, or split the file")


def _ids(source: Source, read: list[_Read], id_field: str) -> list[str]:
    """An id for every record of a source.

    Raises:
        DataError: a record lacks the field the user named.
    """
    own = [_own_id(one.fields, "id" if id_field == _AUTO else id_field) for one in read]
    made = [_made_id(source, one) for one in read]
    if id_field == _NONE:
        return made
    if id_field == _AUTO:
        usable = [one.problem is None for one in read]
        complete = all(name is not None for name, use in zip(own, usable, strict=True) if use)
        return [name or other for name, other in zip(own, made, strict=True)] if complete else made
    for one, name in zip(read, own, strict=True):
        if name is None and one.problem is None:
            raise DataError(f"a record has no id in the field {id_field!r}", where=one.record.where,
                            why=f"found the keys {keys_of(one.fields)}",
                            hint="name another field, or let ids be made with --id-field none")
    return [name or other for name, other in zip(own, made, strict=True)]


def _own_id(fields: Mapping[str, Any], name: str) -> str | None:
    value = fields.get(name)
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        return None
    return str(value) or None


def _made_id(source: Source, one: _Read) -> str:
    digest = one.digest or blake2b(one.record.raw.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return f"{source.name}:{one.index}:{digest[:12]}"


def _row(one: _Read, row_id: str, source: Source, subtask_field: str, group_field: str) -> Row:
    return Row(
        id=row_id,
        source=source.name,
        where=one.record.where,
        messages=one.messages,
        raw=one.record.raw,
        content_hash=one.digest,
        format=one.format,
        subtask=_label(one.fields, subtask_field),
        group=_label(one.fields, group_field) or source.name,
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


def _hint(bad: Sequence[Dropped]) -> str | None:
    """The advice that fits what is wrong, where there is one."""
    reasons = {row.reason for row in bad}
    if "not-utf8" in reasons:
        spoilt = next(row for row in bad if row.reason == "not-utf8")
        return utf8_hint(spoilt.where.rsplit(":", 1)[0])
    if "unknown-format" in reasons:
        return f"the formats known are {', '.join(FORMATS)}: rename the keys to one of them"
    return None
