"""What may still be taken: budgets, exclusions, must-includes, near-duplicate groups and quotas, in one place.

Selectors differ in the order in which they offer rows; they all offer them to one :class:`Ledger`, which says whether
the row is taken. Every row that is not taken stays open or is closed for good: what remains of the budget only
shrinks, a group once used stays used, and a row refused for the sake of a floor (:mod:`siftune.selectors.core.floors`)
is not asked again. That is what lets selectors skip closed rows without looking back.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from siftune._common.errors import ConfigError
from siftune.selectors.core.budget import FLAG, ResolvedBudget
from siftune.selectors.core.floors import CEILING, DUPLICATE, EXCLUDED, KEPT_FOR_FLOORS, OPEN, TAKEN, TOO_LONG, Quotas

if TYPE_CHECKING:
    from siftune.selectors.core.problem import Problem

__all__ = ["CEILING", "DUPLICATE", "EXCLUDED", "KEPT_FOR_FLOORS", "OPEN", "TAKEN", "TOO_LONG", "Ledger"]


class Ledger:
    """The rows taken so far and, for every other row, whether it may still be taken.

    Args:
        problem: its ``include`` rows are taken at once, its ``exclude`` rows are closed.
        budget: the limit in rows or in tokens.

    Attributes:
        state: uint8 [N]: ``OPEN``, or the reason why the row is closed. A live view, to be read only.
        taken: rows in the order they were taken.
        remaining: what is left of the budget, in rows or tokens.
        included: how many of ``taken`` were must-includes.

    Raises:
        ConfigError: the must-includes exceed the budget, or not a single row fits it.
    """

    def __init__(self, problem: Problem, budget: ResolvedBudget):
        n = len(problem.ids)
        self.budget = budget
        self.remaining = budget.limit
        self.taken: list[int] = []
        self._cost: array[int] | bytes = b"\x01" * n  # a byte a row
        self._cheapest_first: Sequence[int] = range(n)
        if budget.kind == "tokens" and problem.tokens is not None:
            self._cost = array("q", problem.tokens.tobytes())
            self._cheapest_first = array("q", np.argsort(problem.tokens, kind="stable").tobytes())
        self._cheapest = 0
        self._flags = bytearray(n)  # plain bytes: reading one costs a fifth of reading an array element
        self.state = np.frombuffer(self._flags, dtype=np.uint8)
        self.state[problem.exclude] = EXCLUDED
        self._groups = [list(dict.fromkeys(map(int, group))) for group in problem.duplicate_groups]
        self._groups_of: dict[int, list[int]] = {}
        for number, group in enumerate(self._groups):
            for row in group:
                self._groups_of.setdefault(row, []).append(number)
        self.quotas: Quotas | None = None
        if problem.quotas:
            self.quotas = Quotas(problem, budget, self._flags, self._cost, self._groups, self._groups_of)
        for row in problem.include.tolist():
            self._include(row)
        self.included = len(self.taken)
        if self.quotas is not None:
            self.quotas.start(self.remaining)
        if not self.taken and not self.open.any():
            raise ConfigError("no row may be taken", where="quotas", why="Every group is closed by its ceiling.",
                              hint="raise the ceilings")
        if not self.taken and self.full:
            shortest = min(self._cost[row] for row in np.flatnonzero(self.open).tolist())
            raise ConfigError(f"the budget {budget.asked!r} is too small for even the shortest row", where=FLAG,
                              hint=f'the least that selects a row is "{shortest} {budget.kind}"')

    def offer(self, row: int) -> bool:
        """Take the row if it is open, fits what remains and leaves room for the floors; otherwise it is closed."""
        if self._flags[row]:
            return False
        if self.quotas is not None:
            if reason := self.quotas.refuse(row, self.remaining):
                self._flags[row] = reason
                return False
        elif self._cost[row] > self.remaining:
            self._flags[row] = TOO_LONG
            return False
        self._take(row)
        return True

    def offer_in_order(self, rows: np.ndarray) -> None:
        """Walk an order: take every row that fits, until nothing more can be taken."""
        for row in rows.tolist():
            if self.full:
                return
            self.offer(row)

    def is_open(self, row: int) -> bool:
        return not self._flags[row]

    @property
    def full(self) -> bool:
        """Whether no open row may be taken any more. Constant time on average: rows only ever close."""
        if self.quotas is not None and self.quotas.lacking:
            return False  # a row that is kept for a floor can always be taken
        cheapest_first, flags = self._cheapest_first, self._flags
        at, end = self._cheapest, len(cheapest_first)
        while at < end and flags[cheapest_first[at]]:
            at += 1
        self._cheapest = at
        return at == end or self._cost[cheapest_first[at]] > self.remaining

    @property
    def open(self) -> np.ndarray:
        """bool [N]: rows that may still be taken."""
        return self.state == OPEN

    @property
    def contenders(self) -> np.ndarray:
        """bool [N]: rows left out by their rank or length alone: not excluded, no near duplicates, below ceilings."""
        return (self.state == OPEN) | (self.state == TOO_LONG) | (self.state == KEPT_FOR_FLOORS)

    def exchange(self, out: int, into: int) -> None:
        """Give back a taken row for an open one; see :meth:`exchangeable` and :meth:`quota_of`."""
        self.taken[self.taken.index(out)] = into
        self._flags[out], self._flags[into] = OPEN, TAKEN
        self._cheapest = 0

    def exchangeable(self, row: int) -> bool:
        """Whether the row may be exchanged under a row budget with another of the same quota: it has no duplicates."""
        return row not in self._groups_of

    def quota_of(self, row: int) -> int:
        """The number of the quota of the row's group, -1 where there is none."""
        return -1 if self.quotas is None else self.quotas.group_of(row)

    def count(self, reason: int) -> int:
        return int((self.state == reason).sum())

    def _take(self, row: int) -> None:
        self._flags[row] = TAKEN
        self.remaining -= self._cost[row]
        self.taken.append(row)
        for number in self._groups_of.get(row, ()):
            for mate in self._groups[number]:
                if self._flags[mate] in (OPEN, TOO_LONG, KEPT_FOR_FLOORS):
                    self._flags[mate] = DUPLICATE

    def _include(self, row: int) -> None:
        # The user's explicit word counts for more than the suppression of near duplicates.
        if self._cost[row] > self.remaining:
            raise ConfigError(
                f"the rows that must be included exceed the budget {self.budget.asked!r}", where="--must-include",
                why=f"The budget is {self.budget.limit} {self.budget.kind}.",
                hint="include fewer rows, or raise --budget")
        if self.quotas is not None:
            self.quotas.include(row)
        self._take(row)
