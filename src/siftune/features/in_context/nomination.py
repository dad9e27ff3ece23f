"""Which pairs (row to be helped, example) are worth a forward pass, where all of them are too many.

Two lists and chance: for each row, the examples nearest to it (so that no row is left without); for each example, the
rows nearest to it; and for each example, some rows at random, which show what nearness overlooks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from siftune._common.seeds import random_bits
from siftune.selectors import Problem
from siftune.selectors.core.grid import Vectors

_COMPARED = 2**22  # similarities held at a time


def all_pairs(rows: int, same: Sequence[int] | np.ndarray) -> list[np.ndarray]:
    """For each example every row but the one that it is itself (``same``, -1 for none)."""
    every = np.arange(rows)
    return [every[every != own] for own in same]


def nominated(vectors: np.ndarray, example_vectors: np.ndarray | None, same: Sequence[int] | np.ndarray,
              ids: Sequence[str], *, nominees: int, random_nominees: int, seed: int) -> list[np.ndarray]:
    """For each example the rows that it is scored on, int64, ascending.

    Args:
        vectors: float32 [R, D] of the rows, of length 1, in the order of their ids.
        example_vectors: float32 [C, D], likewise; None where rows and examples are the same.
        same: for each example the row that it is itself, -1 for none.
        ids: of the examples: what is random about one depends on its id and the seed.
        nominees: nearest rows for each example, and nearest examples for each row.
        random_nominees: further rows for each example.
        seed: the run's.
    """
    n = len(vectors)
    near = _nearest_of_pool(vectors, nominees) if example_vectors is None else (
        _nearest_across(vectors, example_vectors, same, nominees))
    wanted: list[set[int]] = [set() for _ in same]
    for row, example in near:
        wanted[example].add(row)
    for example, rows in enumerate(wanted):
        rows.discard(int(same[example]))
        free = n - len(rows) - (same[example] >= 0)
        rows.update(_drawn(n, rows | {int(same[example])}, min(random_nominees, free), seed, ids[example]))
    return [np.array(sorted(rows), dtype=np.int64) for rows in wanted]


def _nearest_of_pool(vectors: np.ndarray, k: int) -> list[tuple[int, int]]:
    """(row, example) where one of the two is among the k nearest of the other."""
    from siftune.selectors.core.neighbors import nearest_neighbors

    if not k:
        return []
    found = nearest_neighbors(_on_grid(vectors), np.arange(len(vectors)), k + 1).rows  # the first is the row itself
    pairs = [(i, j) for i, near in enumerate(found[:, 1:].tolist()) for j in near]
    return [*pairs, *((j, i) for i, j in pairs)]


def _nearest_across(vectors: np.ndarray, examples: np.ndarray, same: Sequence[int] | np.ndarray, k: int,
                    ) -> list[tuple[int, int]]:
    """The same between two sets of rows, all compared with all."""
    n, c = len(vectors), len(examples)
    both = _on_grid(np.concatenate([vectors, examples]))
    own = np.asarray(same)
    is_of = np.full(n, -1)
    is_of[own[own >= 0]] = np.flatnonzero(own >= 0)

    def nearest(some: slice, others: slice, not_: np.ndarray) -> list[tuple[int, int]]:
        pairs = []
        step = max(1, _COMPARED // max(1, others.stop - others.start))
        for at in range(some.start, some.stop, step):
            rows = slice(at, min(at + step, some.stop))
            similar = both.similarities(rows, others)
            self_ = not_[rows.start - some.start : rows.stop - some.start]
            similar[np.flatnonzero(self_ >= 0), self_[self_ >= 0]] = -np.inf
            order = np.argsort(-similar, axis=1, kind="stable")[:, :k]  # ties by id
            pairs += [(at - some.start + i, j) for i, near in enumerate(order.tolist()) for j in near]
        return pairs

    by_row = nearest(slice(0, n), slice(n, n + c), is_of)
    by_example = nearest(slice(n, n + c), slice(0, n), own)
    return [*by_row, *((row, example) for example, row in by_example)]


def _on_grid(vectors: np.ndarray) -> Vectors:
    return Vectors.of(Problem(ids=[str(i) for i in range(len(vectors))], vectors=lambda: iter([(0, vectors)])))


def _drawn(n: int, taken: set[int], count: int, seed: int, example: str) -> list[int]:
    """``count`` different numbers below n that are not taken; there are so many."""
    drawn: dict[int, None] = {}
    bits = 4 * (count + len(taken))
    while len(drawn) < count:  # a longer stream begins like a shorter one
        for number in (random_bits(bits, seed, "random nominees", example) % np.uint64(n)).tolist():
            if number not in taken and len(drawn) < count:
                drawn[number] = None
        bits *= 2
    return list(drawn)
