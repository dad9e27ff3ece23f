"""What rendering makes of rows: of one, and of many in flat arrays.

A million rows are two arrays and a few numbers a row rather than three million objects. Whoever takes a row, a slice or
some places of them gets views: nothing is copied until a process sends rows to another one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, overload

import numpy as np

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Rendered:
    """What the model sees of a row.

    Attributes:
        ids: int32 [T] token ids.
        mask: bool [T]; ``mask[t]`` is true where token ``t`` is supervised, that is predicted from the tokens
            before it. ``mask[0]`` is always false. The loss of a row is the mean cross-entropy over these tokens.
        cut_tokens: how many tokens truncation removed; of a row that is far too long, about how many.
    """

    ids: np.ndarray
    mask: np.ndarray
    cut_tokens: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def supervised(self) -> int:
        return int(self.mask.sum())


class RenderedRows(Sequence[Rendered]):
    """Rendered rows in flat arrays; each item is a view of them.

    Args:
        ids: int32 [tokens of all rows].
        mask: bool [tokens of all rows].
        starts: int64 [N]: where each row begins in them.
        lengths: int32 [N]: tokens of each row.
        cut_tokens: int32 [N], see :class:`Rendered`.
        supervised: int32 [N]: supervised tokens of each row; counted where not given.
        used: is told how many bytes of the first two were looked at, where they are those of a file.
    """

    def __init__(self, ids: np.ndarray, mask: np.ndarray, starts: np.ndarray, lengths: np.ndarray,
                 cut_tokens: np.ndarray, supervised: np.ndarray | None = None,
                 used: Callable[[int], None] | None = None):
        self._ids, self._mask, self._starts, self._used = ids, mask, starts, used
        self.lengths, self.cut_tokens = lengths, cut_tokens
        self.supervised: np.ndarray = supervised_in(mask, starts, lengths) if supervised is None else supervised

    @classmethod
    def of(cls, rows: Iterable[Rendered]) -> RenderedRows:
        """Copies of single rows, one after the other."""
        if isinstance(rows, cls):
            return rows
        rows = list(rows)
        lengths = np.fromiter(map(len, rows), dtype=np.int32, count=len(rows))
        return cls(joined([row.ids for row in rows], np.int32), joined([row.mask for row in rows], np.bool_),
                   starts_of(lengths), lengths, np.array([row.cut_tokens for row in rows], dtype=np.int32))

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, at: int) -> Rendered: ...
    @overload
    def __getitem__(self, at: slice) -> RenderedRows: ...
    def __getitem__(self, at: int | slice) -> Rendered | RenderedRows:
        if isinstance(at, slice):
            return self.take(at)
        start = int(self._starts[at])
        stop = start + int(self.lengths[at])
        if self._used is not None:
            self._used(5 * (stop - start))
        return Rendered(self._ids[start:stop], self._mask[start:stop], int(self.cut_tokens[at]))

    def __iter__(self) -> Iterator[Rendered]:
        ids, mask = self._ids, self._mask
        for start, length, cut in zip(self._starts.tolist(), self.lengths.tolist(), self.cut_tokens.tolist(),
                                      strict=True):
            if self._used is not None:
                self._used(5 * length)
            yield Rendered(ids[start : start + length], mask[start : start + length], cut)

    def take(self, places: np.ndarray | slice) -> RenderedRows:
        """The rows at some places, in that order: views as well."""
        return RenderedRows(self._ids, self._mask, self._starts[places], self.lengths[places],
                            self.cut_tokens[places], self.supervised[places], self._used)

    def __reduce__(self) -> tuple[Any, ...]:
        # Of the arrays only what belongs to these rows goes to another process.
        starts, first = starts_of(self.lengths), int(self._starts[0]) if len(self) else 0
        if np.array_equal(self._starts - first, starts):
            size = int(self.lengths.sum())
            ids, mask = (np.array(array[first : first + size]) for array in (self._ids, self._mask))
        else:
            ids, mask = (joined([array[a : a + n] for a, n in zip(self._starts.tolist(), self.lengths.tolist(),
                                                                   strict=True)], array.dtype)
                         for array in (self._ids, self._mask))
        return RenderedRows, (ids, mask, starts, np.array(self.lengths), np.array(self.cut_tokens),
                              np.array(self.supervised))


def starts_of(lengths: np.ndarray) -> np.ndarray:
    """int64 [N]: where rows of these lengths begin when they stand one after the other."""
    ends = np.cumsum(lengths, dtype=np.int64)
    return ends - lengths


def joined(parts: Sequence[np.ndarray], dtype: Any) -> np.ndarray:
    """One array of them all, of that type where there is none."""
    return np.concatenate(parts, dtype=dtype, casting="unsafe") if parts else np.zeros(0, dtype=dtype)


def supervised_in(mask: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """int32 [N]: how many tokens of each row are supervised."""
    return np.fromiter((np.count_nonzero(mask[a : a + n]) for a, n in zip(starts.tolist(), lengths.tolist(),
                                                                          strict=True)),
                       dtype=np.int32, count=len(lengths))


def lengths_of(rendered: Sequence[Rendered]) -> np.ndarray:
    """int64 [N]: tokens of each row."""
    if isinstance(rendered, RenderedRows):
        return rendered.lengths.astype(np.int64)
    return np.fromiter(map(len, rendered), dtype=np.int64, count=len(rendered))


def supervised_of(rendered: Sequence[Rendered]) -> np.ndarray:
    """int64 [N]: supervised tokens of each row."""
    if isinstance(rendered, RenderedRows):
        return rendered.supervised.astype(np.int64)
    return np.array([row.supervised for row in rendered], dtype=np.int64)


def cut_of(rendered: Sequence[Rendered]) -> np.ndarray:
    """int64 [N]: tokens cut off each row."""
    if isinstance(rendered, RenderedRows):
        return rendered.cut_tokens.astype(np.int64)
    return np.array([row.cut_tokens for row in rendered], dtype=np.int64)


def taken(rows: Sequence[T], places: np.ndarray) -> Sequence[T]:
    """Some of the rows of a sequence, in the order of ``places``; a view where the sequence has views."""
    take = getattr(rows, "take", None)
    return [rows[i] for i in places.tolist()] if take is None else take(places)
