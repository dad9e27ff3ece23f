"""Row ids of a large pool in little memory: UTF-8 bytes end to end, and where each id ends.

Ten million ids as Python strings take 0.7 GB; packed they take their characters and four bytes each, and still read
as a ``Sequence[str]``. Sorting and the check that they are distinct work on the bytes: UTF-8 sorts as its code points.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from typing import overload

import numpy as np

from siftune._common.errors import ConfigError
from siftune._common.registry import unknown_name

_CHUNK = 1 << 16


class PackedIds(Sequence[str]):
    """An immutable sequence of strings. Build it with :meth:`pack`.

    Args:
        data: uint8, the UTF-8 bytes of all ids, end to end.
        ends: unsigned [N], where each id ends in ``data``.
    """

    def __init__(self, data: np.ndarray, ends: np.ndarray):
        self._data, self._ends = data, ends

    @classmethod
    def pack(cls, ids: Iterable[str]) -> PackedIds:
        """Pack strings from any iterable, a generator included; they are never all alive at once."""
        if isinstance(ids, PackedIds):
            return ids
        parts: list[bytes] = []
        lengths: list[np.ndarray] = []
        rest = iter(ids)
        while chunk := [row_id.encode() for row_id in islice(rest, _CHUNK)]:
            parts.append(b"".join(chunk))
            lengths.append(np.fromiter(map(len, chunk), dtype=np.uint32, count=len(chunk)))
        data = np.frombuffer(b"".join(parts), dtype=np.uint8)
        if not lengths:
            return cls(data, np.empty(0, dtype=np.uint32))
        width = np.uint32 if len(data) < 2**32 else np.uint64
        return cls(data, np.cumsum(np.concatenate(lengths), dtype=width))

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> PackedIds: ...
    def __getitem__(self, row: int | slice) -> str | PackedIds:
        if isinstance(row, slice):
            return PackedIds.pack(self[i] for i in range(*row.indices(len(self))))
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        row %= len(self)
        start = int(self._ends[row - 1]) if row else 0
        return self._data[start:int(self._ends[row])].tobytes().decode()

    def __iter__(self) -> Iterator[str]:
        start = 0
        for first in range(0, len(self), _CHUNK):
            ends = self._ends[first:first + _CHUNK].tolist()
            text = self._data[start:ends[-1]].tobytes()
            base = start
            for end in ends:
                yield text[start - base:end - base].decode()
                start = end

    @property
    def rank(self) -> np.ndarray:
        """int64 [N]: the place of each id among all ids sorted by code point."""
        return self._ranked[0]

    @property
    def twice(self) -> str | None:
        """An id that occurs more than once, if there is one."""
        return self._ranked[1]

    @cached_property
    def _ranked(self) -> tuple[np.ndarray, str | None]:
        order, same = self._sorted()
        rank = np.empty(len(self), dtype=np.int64)
        rank[order] = np.arange(len(self))
        found = np.flatnonzero(same)
        return rank, self[int(order[found[0]])] if len(found) else None

    def _sorted(self) -> tuple[np.ndarray, np.ndarray]:
        """int64 [N], the rows in the order of their ids; bool [N], whether the id is that of the row before.

        Eight bytes at a time, the most significant first: after each step only rows that are still equal to a
        neighbour are looked at again.
        """
        n = len(self)
        starts = np.zeros(n, dtype=self._ends.dtype)
        starts[1:] = self._ends[:-1]
        lengths = self._ends - starts
        order = np.arange(n)
        same = np.ones(n, dtype=bool)
        same[:1] = False
        for offset in range(0, int(lengths.max(initial=0)), 8):
            if not _refine(order, same, lambda rows, offset=offset: self._words(starts, lengths, rows, offset)):
                return order, same
        # Short words were padded with zeros: of ids that differ by trailing NUL characters the shorter comes first.
        _refine(order, same, lambda rows: lengths[rows].astype(np.uint64))
        return order, same

    def _words(self, starts: np.ndarray, lengths: np.ndarray, rows: np.ndarray, offset: int) -> np.ndarray:
        """uint64: bytes ``offset`` to ``offset + 8`` of each row's id, the first byte the most significant."""
        words = np.zeros(len(rows), dtype=np.uint64)
        for first in range(0, len(rows), _CHUNK):
            part = rows[first:first + _CHUNK]
            at, left = starts[part].astype(np.int64) + offset, lengths[part].astype(np.int64) - offset
            word = words[first:first + _CHUNK]
            for byte in range(8):
                inside = byte < left
                values = self._data[np.where(inside, at + byte, 0)].astype(np.uint64)
                word |= np.where(inside, values, np.uint64(0)) << np.uint64(56 - 8 * byte)
        return words


def _refine(order: np.ndarray, same: np.ndarray, key_of: Callable[[np.ndarray], np.ndarray]) -> bool:
    """Sort every run of equal neighbours by a further key, in place; whether there was any run."""
    tied = same.copy()
    tied[:-1] |= same[1:]
    at = np.flatnonzero(tied)
    if not len(at):
        return False
    rows, run = order[at], np.cumsum(~same[at])
    key = key_of(rows)
    if key.min() == key.max():
        return True
    again = np.argsort(key) if run[-1] == run[0] else np.lexsort((key, run))
    order[at] = rows[again]
    key = key[again]
    same[at[1:]] &= key[1:] == key[:-1]
    return True


def rows_of(ids: Sequence[str], wanted: Iterable[str], *, flag: str) -> np.ndarray:
    """int64: the rows with these ids, in the order they were given, each once.

    Raises:
        ConfigError: an id that the pool does not have.
    """
    wanted = list(wanted)
    if not wanted:
        return np.empty(0, dtype=np.int64)
    among = set(wanted)  # a dictionary of the whole pool would weigh more than its features
    place = {row_id: row for row, row_id in enumerate(ids) if row_id in among}
    rows: dict[int, None] = {}
    for row_id in wanted:
        if row_id not in place:
            # "Did you mean" over a whole pool would take minutes: the ids that begin alike are enough.
            alike = [known for known in ids if known[:3] == row_id[:3]][:1000]
            raise (unknown_name("row id", row_id, alike, flag=flag) if alike else ConfigError(
                f"unknown row id {row_id!r}", where=flag, hint=f"ids of this pool look like {ids[0]!r}"))
        rows[place[row_id]] = None
    return np.fromiter(rows, dtype=np.int64, count=len(rows))
