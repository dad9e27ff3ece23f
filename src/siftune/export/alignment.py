"""Which of a trainer's rows is which of ours, where it keeps no ids and may have left rows out."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher

Tokens = tuple[Sequence[int], Sequence[int]]


def aligned(ours: Sequence[Tokens], theirs: Sequence[Tokens]) -> list[int | None]:
    """For each of our rows the place of the trainer's, ``None`` where it has none; both are in one order.

    Rows that are alike in ids and labels are anchors; between two anchors as many rows are paired as can be, such that
    the pairs are most alike at their beginnings and ends.

    Args:
        ours, theirs: Ids and labels of each row.
    """
    matcher = SequenceMatcher(None, *([(tuple(ids), tuple(labels)) for ids, labels in rows] for rows in (ours, theirs)),
                              autojunk=False)
    found: list[int | None] = [None] * len(ours)
    for kind, a, a_end, b, b_end in matcher.get_opcodes():
        if kind == "equal":
            found[a:a_end] = range(b, b_end)
        elif kind == "replace":
            for i, j in _paired([ids for ids, _ in ours[a:a_end]], [ids for ids, _ in theirs[b:b_end]]):
                found[a + i] = b + j
    return found


def _paired(ours: Sequence[Sequence[int]], theirs: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """Pairs in order, most of them first, then those that are most alike."""
    if len(ours) == len(theirs):
        return [(i, i) for i in range(len(ours))]
    best: list[list[tuple[int, float, list[tuple[int, int]]]]] = [[(0, 0.0, [])] * (len(theirs) + 1)
                                                                  for _ in range(len(ours) + 1)]
    for i, one in enumerate(ours):
        for j, other in enumerate(theirs):
            pairs, alike, way = best[i][j]
            best[i + 1][j + 1] = max(best[i][j + 1], best[i + 1][j],
                                     (pairs + 1, alike + _alike(one, other), [*way, (i, j)]),
                                     key=lambda found: found[:2])
    return best[-1][-1][2]


def _alike(one: Sequence[int], other: Sequence[int]) -> float:
    """The share of the longer row that both have at their beginnings and ends."""
    whole, short = max(len(one), len(other)), min(len(one), len(other))
    start = next((t for t in range(short) if one[t] != other[t]), short)
    end = next((t for t in range(short - start) if one[-1 - t] != other[-1 - t]), short - start)
    return (start + end) / whole if whole else 1.0
