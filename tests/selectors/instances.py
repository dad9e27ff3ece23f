"""Random selection problems for hypothesis, and the definitions of the selectors as plain loops."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from hypothesis import strategies as st

from siftune.selectors import Problem


@dataclass(frozen=True)
class Instance:
    """A small problem in plain Python, so that oracles read like the definitions."""

    S: list[list[float]]
    ids: list[str]
    targets: list[str]
    subtasks: list[str]
    tokens: list[int]
    exclude: list[int] = field(default_factory=list)
    include: list[int] = field(default_factory=list)
    groups: list[list[int]] = field(default_factory=list)

    @property
    def n(self) -> int:
        return len(self.ids)

    @property
    def m(self) -> int:
        return len(self.targets)

    def problem(self, block_rows: int = 4096, **changes: object) -> Problem:
        exclude = np.zeros(self.n, dtype=bool)
        exclude[self.exclude] = True
        return Problem.from_similarities(
            np.array(self.S), ids=self.ids, targets=self.targets, subtasks=self.subtasks,
            tokens=np.array(self.tokens), exclude=exclude, include=np.array(self.include, dtype=int),
            duplicate_groups=self.groups, block_rows=block_rows, **changes)

    def permuted(self, order: list[int]) -> Instance:
        """The same pool with its rows in another order."""
        place = {row: at for at, row in enumerate(order)}
        return replace(
            self, S=[[line[row] for row in order] for line in self.S], ids=[self.ids[row] for row in order],
            tokens=[self.tokens[row] for row in order], exclude=[place[r] for r in self.exclude],
            include=[place[r] for r in self.include], groups=[[place[r] for r in g] for g in self.groups])

    def mean(self, row: int) -> float:
        return sum(line[row] for line in self.S) / self.m

    def ranked(self, score: dict[int, float]) -> list[int]:
        """Rows by score descending, then mean similarity descending, then id ascending."""
        return sorted(score, key=lambda row: (-score[row], -self.mean(row), self.ids[row]))

    def nearest(self, row: int, among: list[int] | None = None) -> int:
        return min(range(self.m) if among is None else among, key=lambda q: (-self.S[q][row], self.targets[q]))


@st.composite
def instances(draw: st.DrawFn, constrained: bool = False) -> Instance:
    """Rectangular either way; half of them quantised, so full of ties; negative; with duplicated rows."""
    n, m = draw(st.integers(1, 40)), draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    S = rng.standard_normal((m, n))
    if draw(st.booleans()):
        S = np.round(S * 2) / 2
    if draw(st.booleans()):
        S = S[:, rng.integers(0, n, n)]
    rows = rng.permutation(n)
    count = lambda most: int(rng.integers(0, most + 1)) if constrained else 0  # noqa: E731
    excluded = count(n // 3)
    included = count(min(3, n - excluded))
    return Instance(
        S=S.tolist(), ids=[f"r{i}" for i in rng.permutation(n)], targets=[f"t{i}" for i in rng.permutation(m)],
        subtasks=[f"task{i}" for i in rng.integers(0, draw(st.integers(1, 4)), m)],
        tokens=rng.integers(1, 30, n).tolist(), exclude=rows[:excluded].tolist(),
        include=rows[excluded:excluded + included].tolist(),
        groups=[rng.integers(0, n, 3).tolist() for _ in range(count(3))])


class Shelf:
    """What may still be taken, by the definition: nothing clever, every question asked anew."""

    def __init__(self, instance: Instance, limit: int, in_tokens: bool):
        self.instance, self.limit, self.in_tokens = instance, limit, in_tokens
        self.taken: list[int] = list(instance.include)

    def cost(self, rows: list[int]) -> int:
        return sum(self.instance.tokens[row] for row in rows) if self.in_tokens else len(rows)

    def free(self, row: int) -> bool:
        """Neither taken, excluded, nor a near duplicate of a taken row."""
        mates = {mate for group in self.instance.groups if row in group for mate in group}
        return row not in self.instance.exclude and row not in self.taken and not mates & set(self.taken)

    def fits(self, row: int) -> bool:
        return self.cost([*self.taken, row]) <= self.limit

    @property
    def done(self) -> bool:
        return not any(self.free(row) and self.fits(row) for row in range(self.instance.n))


def walk(instance: Instance, order: list[int], limit: int, in_tokens: bool) -> list[int]:
    """Take every row of the order that may be taken and fits."""
    shelf = Shelf(instance, limit, in_tokens)
    for row in order:
        if shelf.free(row) and shelf.fits(row):
            shelf.taken.append(row)
    return shelf.taken


def play(instance: Instance, wishes: list[list[int]], limit: int, in_tokens: bool,
         on_taken: str) -> tuple[list[int], list[int]]:
    """Round-robin over whole rankings: rows taken, and whose turn each was (without the must-includes)."""
    shelf = Shelf(instance, limit, in_tokens)
    wishes = [[row for row in wish if row not in instance.exclude] for wish in wishes]
    turns: list[int] = []
    while not shelf.done and any(wishes):
        for player, wish in enumerate(wishes):
            while wish:
                row = wish.pop(0)
                if shelf.free(row) and shelf.fits(row):
                    shelf.taken.append(row)
                    turns.append(player)
                    break
                if on_taken == "forfeit":
                    break
    return shelf.taken, turns
