"""Rows in an Arrow file that is mapped into memory: each is made when it is looked at, columns without making any.

A million rows take some tens of bytes each in memory: their ids. What a row is made of stands in the file as reading
gave it: the raw record, and the conversation in the JSON that its content hash is of.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, overload

import numpy as np

from siftune._common.mapped import Mapped
from siftune.data.facts import Facts
from siftune.data.rows import Message, Row, Tools, conversation_of

BATCH_ROWS = 4096
BATCH_BYTES = 4_000_000

_FEW = ("source", "format", "subtask", "group")  # columns in which few values come again and again


class RowWriter:
    """Writes rows to an Arrow file, batch by batch.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path):
        import pyarrow as pa

        text, data = pa.string(), pa.binary()
        self._schema = pa.schema([
            ("source", pa.int32()), ("own", text), ("index", pa.int64()), ("where", text), ("raw", data),
            ("content", data), ("content_hash", text), ("format", text), ("subtask", text), ("group", text)])
        self._file = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_file(self._file, self._schema)
        self._columns: list[list[Any]] = [[] for _ in self._schema]
        self._bytes = 0

    def add(self, source: int, own: str | None, index: int, row: Row, content: bytes) -> None:
        """One row.

        Args:
            source: number of its source.
            own: the id that the record says, if any.
            index: of the record in the source.
            row: all but its id, messages and tools are written as they are.
            content: what :func:`~siftune.data.rows.content_of` says of its conversation.
        """
        raw = row.raw.encode("utf-8", "surrogatepass")
        values = (source, own, index, row.where, raw, content, row.content_hash, row.format, row.subtask, row.group)
        for column, value in zip(self._columns, values, strict=True):
            column.append(value)
        self._bytes += len(raw) + len(content)
        if len(self._columns[0]) >= BATCH_ROWS or self._bytes >= BATCH_BYTES:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        arrays = [pa.array(values, field.type) for values, field in zip(self._columns, self._schema, strict=True)]
        self._writer.write_batch(pa.record_batch(arrays, schema=self._schema))
        self._columns, self._bytes = [[] for _ in self._schema], 0

    def finish(self) -> None:
        """Write what is left, and the end of the file."""
        if self._columns[0]:
            self._flush()
        self.close()

    def close(self) -> None:
        self._writer.close()
        self._file.close()


class RowFile:
    """A file that :class:`RowWriter` has written.

    Args:
        path: of the file.
        sources: names of the sources.
        own: for each source whether its rows have the ids that their records say, or ids that are made.

    Attributes:
        artefact: what the file is known by, once it is kept.
        leaves: removes the file when nobody reads it any more; None once it is kept.
    """

    artefact: str = ""
    leaves: Any = None

    def __init__(self, path: Path, sources: Sequence[str], own: Sequence[bool]):
        import pyarrow as pa

        self.path, self.sources, self.own = path, tuple(sources), tuple(own)
        self.mapped = Mapped(path)
        reader = pa.ipc.open_file(pa.BufferReader(pa.py_buffer(self.mapped.bytes)))
        self.batches: list[Any] = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        ends = np.cumsum([batch.num_rows for batch in self.batches], dtype=np.int64).tolist()
        self.starts = [0, *ends]

    def __len__(self) -> int:
        return self.starts[-1]

    @cached_property
    def ids(self) -> Any:
        """``pyarrow.Array`` of text: the ids of all rows."""
        import pyarrow as pa
        import pyarrow.compute

        pc: Any = pyarrow.compute  # its functions are made when it is imported
        names, own = pa.array(self.sources, pa.string()), pa.array(self.own, pa.bool_())
        parts = []
        for batch in self.batches:
            source = batch.column("source")
            digest = pc.utf8_slice_codeunits(batch.column("content_hash"), 0, 12)
            made = pc.binary_join_element_wise(names.take(source), batch.column("index").cast(pa.string()), digest, ":")
            parts.append(pc.if_else(own.take(source), batch.column("own"), made).cast(pa.large_string()))
            self.mapped.used(batch.nbytes)
        return pa.concat_arrays(parts) if parts else pa.array([], pa.large_string())

    def groups(self, places: np.ndarray | None) -> Iterator[tuple[int, Any, np.ndarray | None]]:
        """(number of a batch, the batch, places in it) for neighbours of the same batch, in the order of ``places``."""
        if places is None:
            for number, batch in enumerate(self.batches):
                yield number, batch, None
                self.mapped.used(batch.nbytes)
            return
        numbers = np.searchsorted(self.starts, places, side="right") - 1
        borders = np.flatnonzero(np.diff(numbers)) + 1
        for some in np.split(np.arange(len(places)), borders):
            if len(some):
                number = int(numbers[some[0]])
                yield number, self.batches[number], places[some] - self.starts[number]
                self.mapped.used(self.batches[number].nbytes * len(some) // self.batches[number].num_rows)


class StoredRows(Sequence[Row]):
    """Rows of a file, all of them or those at some places.

    Args:
        file: where they are.
        places: int64 [N], in the order of the rows; all rows of the file where not given.
        facts: of all rows of the file, where they are known.
    """

    def __init__(self, file: RowFile, places: np.ndarray | None = None, facts: Facts | None = None):
        self.file, self.places, self._facts = file, places, facts

    @property
    def facts(self) -> Facts | None:
        """Of these rows, where they are known."""
        if self._facts is None or self.places is None:
            return self._facts
        return self._facts.take(self.places)

    def knowing(self, facts: Facts) -> StoredRows:
        """The same rows, with facts of all rows of the file."""
        return StoredRows(self.file, self.places, facts)

    def __len__(self) -> int:
        return len(self.file) if self.places is None else len(self.places)

    @overload
    def __getitem__(self, at: int) -> Row: ...
    @overload
    def __getitem__(self, at: slice) -> StoredRows: ...
    def __getitem__(self, at: int | slice) -> Row | StoredRows:
        if isinstance(at, slice):
            return self.take(np.arange(*at.indices(len(self)), dtype=np.int64))
        at = int(at)
        if not -len(self) <= at < len(self):
            raise IndexError("there is no such row")
        place = at % len(self) if self.places is None else int(self.places[at])
        number = bisect_right(self.file.starts, place) - 1
        batch, inside = self.file.batches[number], place - self.file.starts[number]
        self.file.mapped.used(batch.nbytes // batch.num_rows)
        return next(self._rows(self.file.ids[place : place + 1], batch.slice(inside, 1)))

    def __iter__(self) -> Iterator[Row]:
        ids = self.file.ids
        for number, batch, inside in self.file.groups(self.places):
            start = self.file.starts[number]
            if inside is None:
                yield from self._rows(ids[start : start + batch.num_rows], batch)
            else:
                yield from self._rows(ids.take(inside + start), batch.take(inside))

    def take(self, places: np.ndarray) -> StoredRows:
        """The rows at some places, in that order."""
        of_file = np.asarray(places, dtype=np.int64)
        return StoredRows(self.file, of_file if self.places is None else self.places[of_file], self._facts)

    def column(self, name: str) -> list[Any]:
        """One attribute of all rows, but for the conversation."""
        if name == "id":
            return (self.file.ids if self.places is None else self.file.ids.take(self.places)).to_pylist()
        found: list[Any] = []
        for _, batch, inside in self.file.groups(self.places):
            values = batch.column(name) if inside is None else batch.column(name).take(inside)
            if name in _FEW:  # one object for each value
                coded = values.dictionary_encode()
                named: list[Any] = [self.file.sources[i] for i in coded.dictionary.to_pylist()] \
                    if name == "source" else coded.dictionary.to_pylist()
                found += [None if code is None else named[code] for code in coded.indices.to_pylist()]
            else:
                found += values.to_pylist()
        return [value.decode("utf-8", "surrogatepass") for value in found] if name == "raw" else found

    def conversations(self) -> Iterator[tuple[tuple[Message, ...], Tools | None]]:
        """Messages and tools of each row."""
        for _, batch, inside in self.file.groups(self.places):
            contents = batch.column("content")
            yield from map(conversation_of, (contents if inside is None else contents.take(inside)).to_pylist())

    def _rows(self, ids: Any, batch: Any) -> Iterator[Row]:
        names = ("source", "where", "raw", "content", "content_hash", "format", "subtask", "group")
        columns = (batch.column(name).to_pylist() for name in names)
        for row_id, source, where, raw, content, digest, form, subtask, group in zip(ids.to_pylist(), *columns,
                                                                                     strict=True):
            messages, tools = conversation_of(content)
            yield Row(row_id, self.file.sources[source], where, messages, raw.decode("utf-8", "surrogatepass"), digest,
                      form, subtask, group, tools)

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process of this machine reads the file for itself.
        return _reopened, (self.file.path, self.file.sources, self.file.own, self.places)


def _reopened(path: Path, sources: tuple[str, ...], own: tuple[bool, ...], places: np.ndarray | None) -> StoredRows:
    return StoredRows(_opened(path, sources, own), places)


@lru_cache(maxsize=2)
def _opened(path: Path, sources: tuple[str, ...], own: tuple[bool, ...]) -> RowFile:
    return RowFile(path, sources, own)
