"""Random selection problems for hypothesis, and the definitions of the selectors as plain loops."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace

import numpy as np
from hypothesis import strategies as st

from siftune.selectors import Budget, Problem, Selection


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


def some_budget(instance: Instance, data: st.DataObject, in_tokens: bool | None = None) -> tuple[Budget, int, bool]:
    """A budget in rows or tokens that the pool and the must-includes allow."""
    usable = [row for row in range(instance.n) if row not in instance.exclude]
    in_tokens = data.draw(st.booleans(), label="in tokens") if in_tokens is None else in_tokens
    cost = (lambda rows: sum(instance.tokens[r] for r in rows)) if in_tokens else len
    least = max(1, cost(instance.include) or min(cost([row]) for row in usable))
    most = max(cost(usable), least)
    if in_tokens and cost(usable) < 1:
        return Budget.parse(max(1, len(instance.include))), max(1, len(instance.include)), False
    limit = data.draw(st.integers(least, most), label="limit")
    return Budget.parse(f"{limit} tokens" if in_tokens else limit), limit, in_tokens


def suppressed(instance: Instance, row: int, taken: list[int]) -> bool:
    return any(row in group and set(group) & set(taken) for group in instance.groups)


def assert_kept(instance: Instance, got: Selection, budget: Budget, limit: int, in_tokens: bool,
                ) -> tuple[list[int], list[int]]:
    """Budget and constraints are kept, and the diagnostics say so.

    Returns:
        The rows taken, and those that no constraint but the budget kept out.
    """
    rows = got.indices.tolist()
    spent = sum(instance.tokens[r] for r in rows)
    free = [r for r in range(instance.n) if r not in rows and r not in instance.exclude
            and not suppressed(instance, r, rows)]
    assert len(set(rows)) == len(rows) == len(got.score) == len(got.gain) == len(got.nearest_target)
    assert rows[: len(instance.include)] == instance.include
    assert not set(rows) & set(instance.exclude)
    for group in instance.groups:
        assert len(set(group) & set(rows) - set(instance.include)) <= 1
    if in_tokens:
        assert spent <= limit
        assert all(spent + instance.tokens[r] > limit for r in free)
    else:
        assert len(rows) == limit or not free
    said = got.diagnostics
    assert said["budget"] == {"asked": str(budget), "kind": "tokens" if in_tokens else "rows", "limit": limit,
                              "rows": len(rows), "tokens": spent}
    assert said["exhausted"] == ((spent if in_tokens else len(rows)) < limit and not free)
    assert json.loads(json.dumps(said, allow_nan=False)) == said
    return rows, free
