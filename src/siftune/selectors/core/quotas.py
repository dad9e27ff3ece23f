"""Quotas: how much each group (stratum, source) must and may contribute to the selection, over every selector.

A quota is a floor and a ceiling, each of them a number of rows (``50``), a share of the budget (``"20%"``), a number
of tokens under a token budget (``"2ktok"``), or None. Shares of a row budget are whole rows, floors rounded down and
ceilings up, so that shares which add up to 100% can always be met. How they are held:
:mod:`siftune.selectors.core.floors`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from siftune._common.errors import ConfigError
from siftune.config.options import shown
from siftune.selectors.core.budget import Budget, ResolvedBudget

WHERE = "quotas"
Limit = int | str | None
_NOTHING = re.compile(r"0+(\.0*)?\s*(%|rows?|k?tok|tokens?)?")


@dataclass
class Quota:
    """One group's floor and ceiling, and what has been taken of it.

    Attributes:
        floor, ceiling: in rows or tokens; no floor is 0 rows, no ceiling is None.
        floor_in_tokens, ceiling_in_tokens: their units.
        rows, cost: taken so far; the cost is in the unit of the budget.
    """

    name: str
    floor: int
    floor_in_tokens: bool
    ceiling: int | None
    ceiling_in_tokens: bool
    rows: int = 0
    cost: int = 0

    @property
    def lack(self) -> int:
        """What is missing to the floor, in its unit."""
        return max(0, self.floor - (self.cost if self.floor_in_tokens else self.rows))

    def allows(self, rows: int, cost: int) -> bool:
        """Whether so much more stays within the ceiling."""
        taken = self.cost + cost if self.ceiling_in_tokens else self.rows + rows
        return self.ceiling is None or taken <= self.ceiling

    def describe(self) -> dict[str, int | str | None]:
        """Ready for JSON."""
        return {"floor": self.floor, "floor_unit": unit(self.floor_in_tokens), "ceiling": self.ceiling,
                "ceiling_unit": unit(self.ceiling_in_tokens), "rows": self.rows, "cost": self.cost}


def read_quotas(quotas: Mapping[str, tuple[Limit, Limit]], budget: ResolvedBudget) -> list[Quota]:
    """Quotas in absolute numbers.

    Args:
        quotas: group -> (floor, ceiling).
        budget: what shares are of.

    Raises:
        ConfigError: a limit that cannot be read or does not suit the budget, or a floor above its ceiling.
    """
    return [_read(name, limits, budget) for name, limits in quotas.items()]


def _read(name: str, limits: tuple[Limit, Limit], budget: ResolvedBudget) -> Quota:
    floor, floor_in_tokens = _limit(name, "floor", limits[0], budget)
    ceiling, ceiling_in_tokens = _limit(name, "ceiling", limits[1], budget)
    if ceiling is not None and floor and floor > ceiling and floor_in_tokens == ceiling_in_tokens:
        raise ConfigError(f"the floor of group {name!r} is above its ceiling", where=WHERE,
                          why=f"{floor} {unit(floor_in_tokens)} against {ceiling}.",
                          hint="lower the floor, or raise the ceiling")
    return Quota(name, floor or 0, floor_in_tokens, ceiling, ceiling_in_tokens)


def _limit(name: str, which: str, value: Limit, budget: ResolvedBudget) -> tuple[int | None, bool]:
    """A floor or ceiling in rows or tokens, and whether it is in tokens."""
    if value is None:
        return None, False
    if _NOTHING.fullmatch(str(value).strip()[:41]):
        return 0, False
    try:
        limit = Budget.parse(value)
    except ConfigError:
        raise ConfigError(f"cannot read the {which} of group {shown(name)}: {shown(value)}", where=WHERE,
                          hint='write a number of rows ("50"), a share of the budget ("20%") or, under a budget in '
                               'tokens, a number of tokens ("2ktok")') from None
    if limit.kind == "tokens" and budget.kind != "tokens":
        raise ConfigError(f"the {which} of group {name!r} counts tokens, but the budget counts rows", where=WHERE,
                          hint="give both in tokens, or the quota in rows or as a share")
    if limit.kind != "share":
        return int(limit.amount), limit.kind == "tokens"
    share = limit.amount * budget.limit
    return (int(share) if which == "floor" else -int(-share // 1)), budget.kind == "tokens"


def unit(in_tokens: bool) -> str:
    """What floors and ceilings are counted in."""
    return "tokens" if in_tokens else "rows"
