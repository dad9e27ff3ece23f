"""Which of a trainer's rows is which of ours, where it keeps no ids and may have left rows out."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Any

Tokens = tuple[Sequence[int], Sequence[int]]
_Way = tuple[int, float, Any]  # how many pairs, how similar in sum, and the way before with its last pair

_MOST_PAIRS = 250_000


def aligned(ours: Sequence[Tokens], theirs: Sequence[Tokens]) -> list[int | None]:
    """For each of our rows the place of the trainer's, ``None`` where it has none; both are in one order.

    Rows that are equal in ids and labels are anchors; between two anchors as many rows are paired as can be, such that
    the pairs are most similar at their beginnings and ends.

    Args:
        ours, theirs: Ids and labels of each row.
    """
    matcher = SequenceMatcher(None, *([(tuple(ids), tuple(labels)) for ids, labels in rows] for rows in (ours, theirs)),
                              autojunk=False)
    places: list[int | None] = [None] * len(ours)
    for kind, a, a_end, b, b_end in matcher.get_opcodes():
        if kind == "equal":
            places[a:a_end] = range(b, b_end)
        elif kind == "replace":
            for i, j in _paired([ids for ids, _ in ours[a:a_end]], [ids for ids, _ in theirs[b:b_end]]):
                places[a + i] = b + j
    return places


def _paired(ours: Sequence[Sequence[int]], theirs: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """Pairs in order, most of them first, then those that are most similar; very many are paired by their place."""
    if len(ours) == len(theirs) or len(ours) * len(theirs) > _MOST_PAIRS:
        return [(i, i) for i in range(min(len(ours), len(theirs)))]
    nothing: _Way = (0, 0.0, None)
    before: list[_Way] = [nothing] * (len(theirs) + 1)
    for i, one in enumerate(ours):
        after: list[_Way] = [nothing]
        for j, other in enumerate(theirs):
            pairs, similar, _ = before[j]
            paired: _Way = (pairs + 1, similar + _similarity(one, other), (before[j], (i, j)))
            ways: list[_Way] = [before[j + 1], after[j], paired]
            after.append(max(ways, key=lambda way: way[:2]))
        before = after
    chosen, last = [], before[-1][2]
    while last is not None:
        chosen.append(last[1])
        last = last[0][2]
    return chosen[::-1]


def _similarity(one: Sequence[int], other: Sequence[int]) -> float:
    """The share of the longer row that both have at their beginnings and ends."""
    whole, short = max(len(one), len(other)), min(len(one), len(other))
    start = next((t for t in range(short) if one[t] != other[t]), short)
    end = next((t for t in range(short - start) if one[-1 - t] != other[-1 - t]), short - start)
    return (start + end) / whole if whole else 1.0
