"""How quotas are held, whatever the order in which a selector offers rows.

**Floors** are held by keeping rows: of every group that is still below its floor, the cheapest open rows that fill it,
no two of them near duplicates. A row is refused where it would leave too little of the budget for the rows that are
kept, and a kept row can always be taken; so no floor is ever missed. Under a row budget nothing is refused that could
be taken, except where near duplicates cross the borders of groups below their floors: then another set of rows to keep
is looked for, the cheapest first, without going through all of them.

**Ceilings** close a group's open rows as soon as they no longer fit below it.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from siftune._common.errors import ConfigError
from siftune._common.registry import unknown_name
from siftune.selectors.core import ordering
from siftune.selectors.core.budget import ResolvedBudget
from siftune.selectors.core.quotas import WHERE, read_quotas, unit

if TYPE_CHECKING:
    from siftune.selectors.core.problem import Problem

OPEN, TAKEN, EXCLUDED, DUPLICATE, TOO_LONG, CEILING, KEPT_FOR_FLOORS = range(7)
"""States of a row: open, taken, or why it is closed for good."""


@dataclass
class _Floor:
    """A group that is below its floor, and the rows that are kept for it.

    Attributes:
        lack: what is missing, in rows or tokens.
        members: the group's rows, the cheapest first; a row's index in it is its place.
        kept: the places of the kept rows, ascending.
        passed: places before ``next`` that are not kept, ascending; some of them closed by now.
        next: the first place not looked at.
        units, cost: what the kept rows contribute to the floor, and cost.
    """

    lack: int
    in_tokens: bool
    members: Sequence[int]
    kept: list[int] = field(default_factory=list)
    passed: list[int] = field(default_factory=list)
    next: int = 0
    units: int = 0
    cost: int = 0

    def copy(self) -> _Floor:
        return replace(self, kept=self.kept.copy(), passed=self.passed.copy())


class Quotas:
    """The quotas of a problem under a budget; a part of the :class:`~siftune.selectors.core.constraints.Ledger`.

    Args:
        problem: its ``quotas`` and ``groups``.
        budget: what shares are of.
        flags: the ledger's states, one byte a row.
        cost: what each row costs, in the unit of the budget.
        duplicates: lists of rows of which at most one is taken.
        lists_of: row -> the numbers of the lists that it is in.

    Attributes:
        all: every quota, in the order given.

    Raises:
        ConfigError: a quota that cannot be read, of a group that the pool does not have, or above its ceiling.
    """

    def __init__(self, problem: Problem, budget: ResolvedBudget, flags: bytearray, cost: array[int] | bytes,
                 duplicates: Sequence[Sequence[int]], lists_of: Mapping[int, Sequence[int]]):
        self.budget, self._flags, self._cost = budget, flags, cost
        self._duplicates, self._lists_of = duplicates, lists_of
        self._keeps = [0] * len(duplicates)  # kept rows in each list
        self.all = read_quotas(problem.quotas, budget)
        number = {quota.name: at for at, quota in enumerate(self.all)}
        groups = () if problem.groups is None else problem.groups
        of = np.fromiter((number.get(group, -1) for group in groups), dtype=np.int64, count=len(groups))
        present = np.bincount(of[of >= 0], minlength=len(self.all))
        for quota, rows in zip(self.all, present.tolist(), strict=True):
            if not rows:
                raise unknown_name("group", quota.name, set(groups), flag=WHERE)
        self._of = array("q", of.tobytes())
        # What is kept must not depend on the order of the pool: the cheapest first, the smaller id among equals.
        rank = ordering.id_rank(problem.ids) if any(quota.floor for quota in self.all) else np.arange(len(of))
        prices = np.asarray(memoryview(cost))
        place = np.zeros(len(of), dtype=np.int64)
        self._members: list[array[int]] = []
        for at in range(len(self.all)):
            rows = np.flatnonzero(of == at)
            rows = rows[np.lexsort((rank[rows], prices[rows]))]
            place[rows] = np.arange(len(rows))
            self._members.append(array("q", rows.tobytes()))
        self._place = array("q", place.tobytes())
        self._end = [len(members) for members in self._members]  # members from here on are closed
        self._kept = bytearray(len(of))
        self._kept_cost = 0
        self._floors: dict[int, _Floor] = {}

    def group_of(self, row: int) -> int:
        """The number of the row's quota, -1 where its group has none."""
        return self._of[row]

    @property
    def lacking(self) -> bool:
        """Whether some group is still below its floor."""
        return bool(self._floors)

    def include(self, row: int) -> None:
        """Count a must-include.

        Raises:
            ConfigError: it exceeds the ceiling of its group.
        """
        if (at := self._of[row]) < 0:
            return
        quota = self.all[at]
        if not quota.allows(1, self._cost[row]):
            raise ConfigError(
                f"the rows that must be included exceed the ceiling of group {quota.name!r}", where=WHERE,
                why=f"Its ceiling is {quota.ceiling} {unit(quota.ceiling_in_tokens)}.",
                hint="raise the ceiling, or include fewer rows of that group")
        self._count(at, row)

    def start(self, remaining: int) -> None:
        """Keep rows for the floors: after the must-includes, before anything is offered.

        Raises:
            ConfigError: the floors cannot be met; it names the conflict.
        """
        for at, quota in enumerate(self.all):
            self._close_above_ceiling(at)
            if quota.lack:
                self._floors[at] = _Floor(quota.lack, quota.floor_in_tokens, self._members[at])
        for at, floor in self._floors.items():
            quota = self.all[at]
            free = [row for row in floor.members if not self._flags[row]]
            if (most := sum(map(self._cost.__getitem__, free)) if floor.in_tokens else len(free)) < floor.lack:
                raise ConfigError(
                    f"the floor of group {quota.name!r} is {quota.floor} {unit(floor.in_tokens)}, but only "
                    f"{quota.floor - quota.lack + most} can be taken", where=WHERE,
                    why="Excluded rows and rows above the ceiling do not count.", hint="lower the floor")
        for at, floor in self._floors.items():
            quota = self.all[at]
            if not self._fill(floor, ()):
                raise ConfigError(
                    f"the floor of group {quota.name!r} cannot be met", where=WHERE,
                    why=f"{floor.units} of {floor.lack} {unit(floor.in_tokens)} were found: the other rows are near "
                        "duplicates of rows that the floors need.", hint="lower the floor")
            if not quota.allows(len(floor.kept), floor.cost):
                raise ConfigError(
                    f"the floor of group {quota.name!r} does not fit below its ceiling", where=WHERE,
                    why=f"Its shortest rows that fill the floor are {len(floor.kept)} rows, {floor.cost} "
                        f"{self.budget.kind} in all.", hint="raise the ceiling, or lower the floor")
        if self._kept_cost > remaining:
            raise ConfigError(
                f"the floors do not fit the budget {self.budget.asked!r}", where=WHERE,
                why=f"The shortest rows that fill them cost {self._kept_cost} {self.budget.kind} "
                    f"({', '.join(f'{self.all[at].name}: {floor.cost}' for at, floor in self._floors.items())}); "
                    f"{remaining} are left for them.", hint="lower the floors, raise --budget, or include fewer rows")

    def refuse(self, row: int, remaining: int) -> int:
        """Why the row may not be taken; or OPEN, and then it counts as taken and what is kept has made room."""
        cost, at = self._cost[row], self._of[row]
        if cost > remaining:
            return TOO_LONG
        if at >= 0 and not self.all[at].allows(1, cost):
            return CEILING
        if self._floors and not self._make_room(row, remaining):
            return KEPT_FOR_FLOORS
        if at >= 0:
            self._count(at, row)
        return OPEN

    def _count(self, at: int, row: int) -> None:
        self.all[at].rows += 1
        self.all[at].cost += self._cost[row]
        self._flags[row] = TAKEN
        self._close_above_ceiling(at)

    def _close_above_ceiling(self, at: int) -> None:
        quota, members = self.all[at], self._members[at]
        while (end := self._end[at]) and not quota.allows(1, self._cost[members[end - 1]]):
            if self._flags[members[end - 1]] in (OPEN, KEPT_FOR_FLOORS):
                self._flags[members[end - 1]] = CEILING
            self._end[at] = end - 1

    def _make_room(self, row: int, remaining: int) -> bool:
        """Change what is kept so that the row can be taken; False where it cannot, and then nothing has changed."""
        at, cost = self._of[row], self._cost[row]
        own = self._floors.get(at)
        lists = self._lists_of.get(row, ())
        lost = {mate for n in lists if self._keeps[n] for mate in self._duplicates[n] if self._kept[mate]} - {row}
        if own is None and not lost:
            return cost + self._kept_cost <= remaining
        affected = sorted({self._of[mate] for mate in lost} | ({at} if own else set()))
        # Only a near duplicate can make rows be kept that were not: without one, nothing but the dearest is given up.
        before = {number: self._floors[number].copy() for number in affected} if lost else {}
        lack = max(0, own.lack - (cost if own.in_tokens else 1)) if own else 0
        possible = True
        if lost:
            for gone in (*lost, row):
                if self._kept[gone]:
                    self._remove(self._floors[self._of[gone]], self._place[gone])
            if own:
                own.lack = lack
            possible = all(self._fill(self._floors[number], lists) for number in affected)
        elif self._kept[row] and own:
            self._remove(own, self._place[row])
        surplus, freed = self._surplus(own, lack) if own else (0, 0)
        if not possible or cost + self._kept_cost - freed > remaining or not all(
                self._fits_ceiling(number, row, surplus, freed) for number in affected):
            self._restore(before)
            return False
        if own:
            for place in own.kept[len(own.kept) - surplus:]:
                self._remove(own, place)
                insort(own.passed, place)
            own.lack = lack
            if not lack:
                del self._floors[at]
        return True

    def _fits_ceiling(self, number: int, row: int, surplus: int, freed: int) -> bool:
        floor = self._floors[number]
        rows, cost = len(floor.kept), floor.cost
        if number == self._of[row]:
            rows, cost = rows + 1 - surplus, cost + self._cost[row] - freed
        return self.all[number].allows(rows, cost)

    def _surplus(self, floor: _Floor, lack: int) -> tuple[int, int]:
        """How many of the dearest kept rows can be given up where so much is lacking, and what they cost."""
        count, units, freed = 0, floor.units, 0
        for place in reversed(floor.kept):
            cost = self._cost[floor.members[place]]
            units -= cost if floor.in_tokens else 1
            if units < lack:
                break
            count, freed = count + 1, freed + cost
        return count, freed

    def _fill(self, floor: _Floor, closing: Sequence[int]) -> bool:
        """Keep the cheapest open rows until nothing lacks, without duplicates of kept ones or rows of closing lists."""
        waiting, floor.passed = floor.passed, []
        for place in chain(waiting, range(floor.next, len(floor.members))):
            if floor.units >= floor.lack:
                if place >= floor.next:
                    break
                floor.passed.append(place)
                continue
            row = floor.members[place]
            floor.next = max(floor.next, place + 1)
            if self._flags[row]:
                continue
            if any(self._keeps[n] or n in closing for n in self._lists_of.get(row, ())):
                floor.passed.append(place)
            else:
                self._keep(floor, place)
        return floor.units >= floor.lack

    def _keep(self, floor: _Floor, place: int) -> None:
        row = floor.members[place]
        cost = self._cost[row]
        insort(floor.kept, place)
        self._mark(row, 1)
        floor.units += cost if floor.in_tokens else 1
        floor.cost += cost
        self._kept_cost += cost

    def _remove(self, floor: _Floor, place: int) -> None:
        row = floor.members[place]
        cost = self._cost[row]
        del floor.kept[bisect_left(floor.kept, place)]
        self._mark(row, 0)
        floor.units -= cost if floor.in_tokens else 1
        floor.cost -= cost
        self._kept_cost -= cost

    def _restore(self, before: Mapping[int, _Floor]) -> None:
        for number, floor in before.items():
            for place in self._floors[number].kept:
                self._mark(floor.members[place], 0)
            self._kept_cost += floor.cost - self._floors[number].cost
            self._floors[number] = floor
        for floor in before.values():
            for place in floor.kept:
                self._mark(floor.members[place], 1)

    def _mark(self, row: int, kept: int) -> None:
        self._kept[row] = kept
        for number in self._lists_of.get(row, ()):
            self._keeps[number] += 1 if kept else -1
