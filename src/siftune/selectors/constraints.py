"""What may still be taken: budgets, exclusions, must-includes and near-duplicate groups, in one place.

Selectors differ in the order in which they offer rows; they all offer them to one :class:`Ledger`, which says whether
the row is taken. Every row that is not taken stays open or is closed for good, since what remains of the budget only
shrinks and a group once used stays used. That is what lets selectors skip closed rows without looking back. A further
constraint (a quota per group) is one more reason in :meth:`Ledger.offer`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from siftune.errors import ConfigError
from siftune.registry import unknown_name
from siftune.selectors.budget import FLAG, ResolvedBudget

if TYPE_CHECKING:
    from siftune.selectors.problem import Problem

OPEN, TAKEN, EXCLUDED, DUPLICATE, TOO_LONG = range(5)


def rows_of(ids: Sequence[str], wanted: Iterable[str], *, flag: str) -> np.ndarray:
    """int64: the rows with these ids, in the order they were given, each once.

    Raises:
        ConfigError: an id that the pool does not have.
    """
    wanted = list(wanted)
    if not wanted:
        return np.empty(0, dtype=np.int64)
    among = set(wanted)  # a dictionary of the whole pool would weigh more than its features
    place = {row_id: row for row, row_id in enumerate(ids) if row_id in among}
    rows: dict[int, None] = {}
    for row_id in wanted:
        if row_id not in place:
            # "Did you mean" over a whole pool would take minutes: the ids that begin alike are enough.
            alike = [known for known in ids if known[:3] == row_id[:3]][:1000]
            raise (unknown_name("row id", row_id, alike, flag=flag) if alike else ConfigError(
                f"unknown row id {row_id!r}", where=flag, hint=f"ids of this pool look like {ids[0]!r}"))
        rows[place[row_id]] = None
    return np.fromiter(rows, dtype=np.int64, count=len(rows))


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
        by_tokens = budget.kind == "tokens" and problem.tokens is not None
        cost = problem.tokens if by_tokens and problem.tokens is not None else np.ones(n, dtype=np.int64)
        self.budget = budget
        self.remaining = budget.limit
        self.taken: list[int] = []
        self._cost: list[int] = cost.tolist()
        self._cheapest_first: list[int] = np.argsort(cost, kind="stable").tolist()
        self._cheapest = 0
        self._flags = bytearray(n)  # plain bytes: reading one costs a fifth of reading an array element
        self.state = np.frombuffer(self._flags, dtype=np.uint8)
        self.state[problem.exclude] = EXCLUDED
        self._groups = [list(group) for group in problem.duplicate_groups]
        self._groups_of: dict[int, list[int]] = {}
        for number, group in enumerate(self._groups):
            for row in group:
                self._groups_of.setdefault(int(row), []).append(number)
        for row in problem.include.tolist():
            self._include(row)
        self.included = len(self.taken)
        if not self.taken and self.full:
            shortest = int(cost[~problem.exclude].min())
            raise ConfigError(f"the budget {budget.asked!r} is too small for even the shortest row", where=FLAG,
                              hint=f'the least that selects a row is "{shortest} {budget.kind}"')

    def offer(self, row: int) -> bool:
        """Take the row if it is open and fits what remains; one that does not fit is closed."""
        if self._flags[row]:
            return False
        if self._cost[row] > self.remaining:
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
        """Whether no open row fits any more. Constant time on average: rows only ever close."""
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
        """bool [N]: rows left out by their rank or length alone, neither excluded nor near duplicates."""
        return (self.state == OPEN) | (self.state == TOO_LONG)

    def exchange(self, out: int, into: int) -> None:
        """Give back a taken row for an open one of the same cost; neither may be in a duplicate group."""
        self.taken[self.taken.index(out)] = into
        self._flags[out], self._flags[into] = OPEN, TAKEN
        self._cheapest = 0

    def in_group(self, row: int) -> bool:
        return row in self._groups_of

    def count(self, reason: int) -> int:
        return int((self.state == reason).sum())

    def _take(self, row: int) -> None:
        self._flags[row] = TAKEN
        self.remaining -= self._cost[row]
        self.taken.append(row)
        for number in self._groups_of.get(row, ()):
            for mate in self._groups[number]:
                if self._flags[mate] in (OPEN, TOO_LONG):
                    self._flags[mate] = DUPLICATE

    def _include(self, row: int) -> None:
        # The user's explicit word counts for more than the suppression of near duplicates.
        if self._cost[row] > self.remaining:
            raise ConfigError(
                f"the rows that must be included exceed the budget {self.budget.asked!r}", where="--must-include",
                why=f"The budget is {self.budget.limit} {self.budget.kind}.",
                hint="include fewer rows, or raise --budget")
        self._take(row)
