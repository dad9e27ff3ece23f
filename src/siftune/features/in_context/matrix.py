"""Rows by content, and the utilities between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from siftune.data.rows import Examples
from siftune.features.base import content_key
from siftune.features.similarity import first_identical
from siftune.selectors.core.ordering import id_rank


class Contents:
    """The different contents among rows: each is scored once, so that copies are alike to the last bit.

    They stand in the order of their ids, which makes whatever is computed of them independent of the order of the rows.

    Args:
        examples: rows, rendered.

    Attributes:
        examples: one row of each content, that with the smallest id.
        of: int64 [N], which content each row has.
    """

    def __init__(self, examples: Examples):
        first, rank = first_identical(examples), id_rank(examples.ids)
        named: dict[int, int] = {}
        for row in np.argsort(rank).tolist():
            named.setdefault(int(first[row]), row)
        chosen = list(named.values())
        place = {alike: i for i, alike in enumerate(named)}
        self.examples = examples.take(chosen)
        self.of = np.array([place[int(alike)] for alike in first], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.examples)

    @cached_property
    def key(self) -> str:
        return content_key(self.examples)

    def place_of(self, others: Contents) -> np.ndarray:
        """int64 [len(others)]: where each of the other contents stands among these, -1 for nowhere."""
        places = {content: i for i, content in enumerate(self._contents())}
        return np.array([places.get(content, -1) for content in others._contents()], dtype=np.int64)

    def _contents(self) -> list[tuple[bytes, bytes]]:
        return [(r.ids.tobytes(), r.mask.tobytes()) for r in self.examples.rendered]


@dataclass(frozen=True, eq=False)
class Utilities:
    """U[i, j] of some pairs (row i, example j) of R rows and C examples.

    Attributes:
        rows, examples: int64 [pairs].
        utility: float32 [pairs].
        shape: (R, C).
        same: int64 [C], the row that an example is itself (never a pair), -1 for none.
    """

    rows: np.ndarray
    examples: np.ndarray
    utility: np.ndarray
    shape: tuple[int, int]
    same: np.ndarray

    @classmethod
    def between(cls, rows: np.ndarray, examples: np.ndarray, alone: np.ndarray, after: np.ndarray, form: str,
                same: Sequence[int] | np.ndarray, shape: tuple[int, int]) -> Utilities:
        """From scores without and with the example.

        Args:
            alone: float32 [R], the rows' scores without an example; NaN where the model cannot take the row.
            after: float32 [pairs], their scores after it; NaN where the row leaves no room: a utility of 0.
            form: ``distance``, which falls where an example helps, or ``logprob``, which rises.
        """
        gain = after - alone[rows] if form == "logprob" else alone[rows] - after
        return cls(rows, examples, np.nan_to_num(gain, nan=0.0), shape, np.asarray(same, dtype=np.int64))

    def best(self) -> np.ndarray:
        """float32 [R]: the most that any example helps each row, at least 0."""
        most = np.zeros(self.shape[0], dtype=np.float32)
        np.maximum.at(most, self.rows, self.utility)
        return most

    def matrix(self, itself: np.ndarray) -> np.ndarray:
        """float32 [R, C]: U, 0 where nothing was scored, and ``itself[i]`` where the example is the row."""
        U = np.zeros(self.shape, dtype=np.float32)
        U[self.rows, self.examples] = self.utility
        own = np.flatnonzero(self.same >= 0)
        U[self.same[own], own] = itself[self.same[own]]
        return U
