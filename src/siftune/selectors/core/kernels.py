"""Kernels: how well candidate rows represent rows of the pool.

Entries are ``s[i, j]``: how well candidate (column) j represents row i, on the grid of
:mod:`siftune.selectors.core.grid`, at least 0.

* :class:`Columns`: the columns one after the other, dense or sparse (CSC). 4 bytes an entry (sparse: 8).
* :class:`Blockwise`: nothing is kept; columns are recomputed from the vectors or read from a memory map when needed.

Where kernels come from: :mod:`siftune.selectors.core.kernel_sources`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from siftune._common.compiled import compiled
from siftune._common.errors import ConfigError
from siftune.selectors.core.grid import ENTRY_BITS, Settle

WIDTH, HEIGHT = 512, 4096  # candidates and rows looked at together
NO_INDICES = np.empty(0, dtype=np.int32)


@dataclass(frozen=True, eq=False)
class Columns:
    """A kernel in memory, column after column.

    Attributes:
        shape: (R, N).
        step: entries are multiples of it.
        indptr: int64 [N + 1]: where each column starts.
        indices: int32, the row of each entry; empty for a dense kernel.
        data: float32, the entries.
        dense: whether every entry is there.
        borrowed: whether ``data`` belongs to the caller: not to be written to, nor on the grid, but rounded when read.
        symmetric: whether it is its own transpose.
        facts: for the diagnostics.
    """

    shape: tuple[int, int]
    step: float
    indptr: np.ndarray
    indices: np.ndarray
    data: np.ndarray
    dense: bool = False
    borrowed: bool = False
    symmetric: bool = False
    facts: dict[str, Any] = field(default_factory=dict)

    def clipped(self, clip: np.ndarray) -> Columns:
        """The kernel ``min(s[i, j], clip[i])``; ``clip`` float32 [R] from :func:`on_grid`. Overwrites this one."""
        data = self._settled(self.data)
        _clip(self.indptr, self.indices, data, clip)
        return replace(self, data=data, borrowed=False, symmetric=False)

    def gains(self, candidates: np.ndarray, cover: np.ndarray) -> np.ndarray:
        """float64 [b], exact: ``sum_i max(0, s[i, j] - cover[i])`` for each candidate j; ``cover`` float32 [R]."""
        return _gains(candidates, self.indptr, self.indices, self.data, self.borrowed, self.step, cover)

    def raise_cover(self, candidate: int, cover: np.ndarray, owner: np.ndarray, mark: int
                    ) -> tuple[np.ndarray, np.ndarray]:
        """``cover[i] = max(cover[i], s[i, candidate])``; where that raised it, ``owner[i] = mark``.

        Returns:
            The rows i whose cover rose, and what it was.
        """
        return _raise_cover(candidate, self.indptr, self.indices, self.data, self.borrowed, self.step, cover, owner,
                            mark)

    @property
    def lowers_gains(self) -> bool:
        """Whether :meth:`lower_gains` may be used: a symmetric dense kernel, whose columns are its rows."""
        return self.dense and self.symmetric and rounds_in_float32(self.step)

    def lower_gains(self, gains: np.ndarray, rows: np.ndarray, old: np.ndarray, cover: np.ndarray) -> None:
        """Bring all ``gains`` (float64 [N]) up to date after the cover of ``rows`` rose: a line of memory for each."""
        _lower_gains(gains, rows, old, cover, self.data.reshape(self.shape), self.step)

    def column(self, candidate: int) -> tuple[Any, np.ndarray]:
        """Rows (indices or a slice) and entries of a column."""
        inside = slice(self.indptr[candidate], self.indptr[candidate + 1])
        return (slice(0, self.shape[0]) if self.dense else self.indices[inside]), self._settled(self.data[inside])

    def column_sums(self) -> np.ndarray:
        """float64 [N], exact."""
        return self.gains(np.arange(self.shape[1]), np.zeros(self.shape[0], dtype=np.float32))

    def diagonal(self) -> np.ndarray:
        """float32 [N] of a square kernel."""
        if self.dense:
            return self._settled(self.data.reshape(self.shape[::-1]).diagonal().copy())
        return self._csc().diagonal()

    def transposed(self) -> Columns:
        """The kernel ``s[j, i]``."""
        if self.symmetric:
            return self
        turned = (self.shape[1], self.shape[0])
        if self.dense:
            return dense_columns(np.ascontiguousarray(self.data.reshape(turned).T), self.step, self.facts)
        rows = self._csc().tocsr()
        return Columns(turned, self.step, rows.indptr.astype(np.int64), rows.indices, rows.data, facts=self.facts)

    def _settled(self, entries: np.ndarray) -> np.ndarray:
        return Settle(self.step * 2**ENTRY_BITS)(entries) if self.borrowed else entries

    def _csc(self) -> Any:
        from scipy.sparse import csc_array

        return csc_array((self.data, self.indices, self.indptr), shape=self.shape)


@dataclass(frozen=True, eq=False)
class Blockwise:
    """A kernel that is recomputed or read, never held: O(block) memory beside its source. Used as :class:`Columns`.

    Attributes:
        shape: (R, N).
        step: entries are multiples of it.
        block: ``(candidates, first row, end) -> float32 [b, end - first]``, entries on the grid.
        symmetric: whether it is its own transpose.
        clip: float32 [R], or None.
    """

    shape: tuple[int, int]
    step: float
    block: Callable[[np.ndarray, int, int], np.ndarray]
    symmetric: bool = False
    clip: np.ndarray | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def clipped(self, clip: np.ndarray) -> Blockwise:
        return replace(self, clip=clip, symmetric=False)

    def gains(self, candidates: np.ndarray, cover: np.ndarray) -> np.ndarray:
        out = np.zeros(len(candidates))
        for at in range(0, len(candidates), WIDTH):
            some = candidates[at:at + WIDTH]
            for first in range(0, self.shape[0], HEIGHT):
                end = min(first + HEIGHT, self.shape[0])
                indptr = np.arange(len(some) + 1) * (end - first)
                out[at:at + WIDTH] += _gains(np.arange(len(some)), indptr, NO_INDICES,
                                              self._entries(some, first, end).ravel(), False, self.step,
                                              cover[first:end])
        return out

    def raise_cover(self, candidate: int, cover: np.ndarray, owner: np.ndarray, mark: int
                    ) -> tuple[np.ndarray, np.ndarray]:
        _, entries = self.column(candidate)
        higher = np.flatnonzero(entries > cover)
        old = cover[higher]
        cover[higher] = entries[higher]
        owner[higher] = mark
        return higher, old

    def column(self, candidate: int) -> tuple[Any, np.ndarray]:
        return slice(0, self.shape[0]), self._entries(np.array([candidate]), 0, self.shape[0])[0]

    def column_sums(self) -> np.ndarray:
        return self.gains(np.arange(self.shape[1]), np.zeros(self.shape[0], dtype=np.float32))

    def diagonal(self) -> np.ndarray:
        squares = [(at, min(at + WIDTH, self.shape[1])) for at in range(0, self.shape[1], WIDTH)]
        return np.concatenate([self.block(np.arange(at, end), at, end).diagonal() for at, end in squares])

    def transposed(self) -> Blockwise:
        if not self.symmetric:
            raise ConfigError("a directed kernel that is read block by block cannot be turned around",
                              where="--selector", hint='load it into memory (kernel="dense") or pass it symmetric')
        return self

    def _entries(self, candidates: np.ndarray, first: int, end: int) -> np.ndarray:
        block = self.block(candidates, first, end)
        return block if self.clip is None else np.minimum(block, self.clip[first:end])


Kernel = Columns | Blockwise


def rounds_in_float32(step: float) -> bool:
    """Whether float32 entries can be rounded to the grid in float32: the step and its inverse are far from its ends."""
    return 2.0**-60 < step < 2.0**60


def on_grid(values: np.ndarray, kernel: Kernel) -> np.ndarray:
    """float32: numbers to be compared with entries (clips, covers), rounded down to the kernel's grid, within [0, top].

    No entry exceeds 2^24 steps, so neither a clip nor a cover needs to.
    """
    steps = np.floor(np.asarray(values, dtype=np.float64) / kernel.step)
    return (np.clip(steps, 0, 2**ENTRY_BITS) * kernel.step).astype(np.float32)


def dense_columns(columns: np.ndarray, step: float, facts: dict[str, Any]) -> Columns:
    N, R = columns.shape
    return Columns((R, N), step, np.arange(N + 1) * R, NO_INDICES, columns.ravel(), dense=True, facts=facts)


def sparse_columns(matrix: Any, step: float, facts: dict[str, Any]) -> Columns:
    return Columns(matrix.shape, step, matrix.indptr.astype(np.int64), matrix.indices.astype(np.int32, copy=False),
                   matrix.data, facts=facts)


# Sums are exact, so the compiler may add in any order ("reassoc"): that is what lets it use vector instructions.
# Borrowed entries are rounded when they are read: memory is what takes the time.
@compiled(fastmath={"reassoc", "nsz", "nnan"})
def _gains(candidates, indptr, indices, data, borrowed, step, cover):  # pragma: no cover - compiled
    out = np.empty(len(candidates))
    zero, unit, per_step = np.float32(0), np.float32(step), np.float32(1.0 / step)
    for c in range(len(candidates)):
        start, end = indptr[candidates[c]], indptr[candidates[c] + 1]
        total = 0.0
        column = data[start:end]
        if borrowed:
            for p in range(len(column)):
                total += np.float64(max(np.rint(column[p] * per_step) * unit - cover[p], zero))
        elif len(indices) == 0:
            for p in range(len(column)):
                total += np.float64(max(column[p] - cover[p], zero))
        else:
            rows = indices[start:end]
            for p in range(len(column)):
                total += np.float64(max(column[p] - cover[rows[p]], zero))
        out[c] = total
    return out


@compiled()
def _raise_cover(candidate, indptr, indices, data, borrowed, step, cover, owner, mark):  # pragma: no cover - compiled
    start, unit, per_step = indptr[candidate], np.float32(step), np.float32(1.0 / step)
    length = indptr[candidate + 1] - start
    rows, old, count = np.empty(length, dtype=np.int64), np.empty(length, dtype=np.float32), 0
    for p in range(start, start + length):
        row = indices[p] if len(indices) else p - start
        entry = np.rint(data[p] * per_step) * unit if borrowed else data[p]
        if entry > cover[row]:
            rows[count], old[count] = row, cover[row]
            count += 1
            cover[row] = entry
            owner[row] = mark
    return rows[:count], old[:count]


@compiled(fastmath={"nsz", "nnan"})
def _lower_gains(gains, rows, old, cover, data, step):  # pragma: no cover - compiled
    unit, per_step = np.float32(step), np.float32(1.0 / step)
    for r in range(0, len(rows), 2):  # two at a time: half the traffic of the gains
        second = min(r + 1, len(rows) - 1)
        line1, low1, high1 = data[rows[r]], old[r], cover[rows[r]]
        line2, low2, high2 = data[rows[second]], old[second], cover[rows[second]]
        if second == r:
            high2 = low2  # an odd number of rows: the last one counts once
        for j in range(len(gains)):
            lost1 = min(max(np.rint(line1[j] * per_step) * unit, low1), high1) - low1
            lost2 = min(max(np.rint(line2[j] * per_step) * unit, low2), high2) - low2
            gains[j] -= np.float64(lost1) + np.float64(lost2)


@compiled()
def _clip(indptr, indices, data, clip):  # pragma: no cover - compiled
    for column in range(len(indptr) - 1):
        start = indptr[column]
        for p in range(start, indptr[column + 1]):
            row = indices[p] if len(indices) else p - start
            data[p] = min(data[p], clip[row])
