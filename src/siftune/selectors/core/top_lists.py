"""The best rows of every target, from one pass over similarity blocks, without holding the matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from siftune.selectors.core import ordering

Stream = Callable[[], Iterator[tuple[int, np.ndarray]]]
"""Starts a pass of checked float64 blocks ``(first row, S[P, n])``."""


@dataclass(frozen=True, eq=False)
class TopLists:
    """For each of P players its best rows, best first.

    Attributes:
        rows: int64 [P, L].
        scores: float64 [P, L], never increasing along a row.
        complete: whether every usable row is in every list.
    """

    rows: np.ndarray
    scores: np.ndarray
    complete: bool


class _Keeper:
    """The best ``length`` entries of one growing list, trimmed whenever it has doubled."""

    def __init__(self, length: int, tiebreak: np.ndarray):
        self.length, self.tiebreak = length, tiebreak
        self.scores: list[np.ndarray] = []
        self.rows: list[np.ndarray] = []
        self.held = 0
        self.threshold = -np.inf  # a row below it cannot be among the best; an equal one still may, by its tiebreak

    def add(self, scores: np.ndarray, rows: np.ndarray) -> None:
        if self.threshold > -np.inf:
            promising = np.flatnonzero(scores >= self.threshold)
            scores, rows = scores[promising], rows[promising]
        self.scores.append(scores)
        self.rows.append(rows)
        self.held += len(rows)
        if self.held >= 2 * self.length:
            scores, rows = self._joined()
            kept = ordering.best(scores, self.tiebreak[rows], self.length)
            self.scores, self.rows, self.held = [scores[kept]], [rows[kept]], len(kept)
            self.threshold = self.scores[0].min()

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        scores, rows = self._joined()
        order = ordering.best_first(scores, self.tiebreak[rows], self.length)
        return scores[order], rows[order]

    def _joined(self) -> tuple[np.ndarray, np.ndarray]:
        return np.concatenate(self.scores), np.concatenate(self.rows)


def top_lists(stream: Stream, players: int, tiebreak: np.ndarray, usable: np.ndarray, length: int) -> TopLists:
    """The first ``length`` usable rows of every player in the total order: exactly those of the whole matrix.

    Args:
        stream: starts a pass over ``S[P, n]`` blocks.
        players: P.
        tiebreak: int64 [N], see :mod:`siftune.selectors.core.ordering`.
        usable: bool [N].
        length: L; lists are shorter when fewer rows are usable.

    Memory: O(P L) beside one block.
    """
    available = int(usable.sum())
    length = min(length, available)
    if not length:
        return TopLists(np.empty((players, 0), dtype=np.int64), np.empty((players, 0)), complete=True)
    keepers = [_Keeper(length, tiebreak) for _ in range(players)]
    for start, block in stream():
        columns = np.flatnonzero(usable[start:start + block.shape[1]])
        if not len(columns):
            continue
        if len(columns) < block.shape[1]:
            block = block.take(columns, axis=1)
        rows = start + columns
        for keeper, line in zip(keepers, block, strict=True):
            keeper.add(line, rows)
    lists = [keeper.finish() for keeper in keepers]
    return TopLists(np.stack([rows for _, rows in lists]), np.stack([scores for scores, _ in lists]),
                    complete=length == available)
