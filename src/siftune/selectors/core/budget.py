"""How much may be selected: a number of rows, a share of the pool, or a number of training tokens."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Literal

from siftune._common.errors import ConfigError
from siftune.config.options import shown

FLAG = "--budget"
_FORMS = 'write a share ("5%"), a number of rows ("500") or of tokens ("20000 tokens", "20ktok", "1.5Mtok")'
_PATTERN = re.compile(r"([+-]?\d+(?:\.\d*)?|[+-]?\.\d+)\s*(?:([kKmM])\s*)?(%|rows?|tok|tokens?|)", re.ASCII)
_LONGEST = 40  # characters: numbers beyond are no budget, and take long to read
_SCALE = {"": 1, "k": 1_000, "m": 1_000_000}


@dataclass(frozen=True)
class ResolvedBudget:
    """A budget in absolute terms: at most ``limit`` rows or tokens. ``asked`` is what the user wrote."""

    kind: Literal["rows", "tokens"]
    limit: int
    asked: str


@dataclass(frozen=True)
class Budget:
    """A budget as asked for, before the size of the pool is known.

    Attributes:
        kind: ``rows``, ``share`` or ``tokens``.
        amount: whole rows or tokens, or the share in (0, 1]; exact, so that 5% of 1000 is 50.
        asked: what the user wrote.
    """

    kind: Literal["rows", "share", "tokens"]
    amount: Fraction
    asked: str

    @classmethod
    def parse(cls, text: str | int | Budget) -> Budget:
        """Read ``"5%"``, ``"500"``, ``500``, ``"20000 tokens"``, ``"20ktok"`` or ``"1.5Mtok"``.

        Raises:
            ConfigError: not a budget, not positive, above 100%, or a bare fraction such as ``0.05``.
        """
        if isinstance(text, Budget):
            return text
        asked = str(text).strip()
        match = _PATTERN.fullmatch(asked) if len(asked) <= _LONGEST else None
        if match is None or isinstance(text, bool):
            raise ConfigError(f"cannot read the budget {shown(asked)}", where=FLAG, hint=_FORMS)
        number, scale, unit = match[1], match[2] or "", match[3]
        if unit == "%" and scale:
            raise ConfigError(f"cannot read the budget {asked!r}", where=FLAG, hint=_FORMS)
        amount = Fraction(Decimal(number)) * _SCALE[scale.lower()]
        if amount <= 0:
            raise ConfigError(f"the budget {asked!r} selects nothing", where=FLAG, hint=_FORMS)
        if unit == "%":
            if amount > 100:
                raise ConfigError(f"the budget {asked!r} is more than the whole pool", where=FLAG,
                                  hint='the most that can be selected is "100%"')
            return cls("share", amount / 100, asked)
        kind = "tokens" if unit.startswith("tok") else "rows"
        if amount.denominator != 1:
            raise _not_whole(asked, kind, amount)
        return cls(kind, amount, asked)

    def resolve(self, n_rows: int, total_tokens: int | None = None) -> ResolvedBudget:
        """Rows or tokens of a pool of ``n_rows`` usable rows that cost ``total_tokens`` in training.

        A share is rounded down, exactly, but selects at least one row.

        Raises:
            ConfigError: the pool is empty or smaller than the budget, or a token budget without token counts.
        """
        if n_rows < 1:
            raise ConfigError("the pool has no usable row to select from", where="--pool")
        if self.kind == "share":
            return ResolvedBudget("rows", max(1, n_rows * self.amount.numerator // self.amount.denominator), self.asked)
        most = n_rows if self.kind == "rows" else total_tokens
        if most is None:
            raise ConfigError(f"the budget {self.asked!r} counts tokens, but the rows have no token counts",
                              where=FLAG, hint="pass tokens=..., or give the budget in rows or as a share")
        limit = int(self.amount)
        if limit > most:
            unit, suffix = ("rows", "") if self.kind == "rows" else ("tokens", "tok")
            raise ConfigError(f"the budget {self.asked!r} is more than the pool, which has {most} usable {unit}",
                              where=FLAG, hint=f'the most that can be selected is "{most}{suffix}", or "100%"')
        return ResolvedBudget(self.kind, limit, self.asked)

    def __str__(self) -> str:
        return self.asked


def _not_whole(asked: str, kind: str, amount: Fraction) -> ConfigError:
    if kind == "rows" and amount < 1:
        percent = format(Decimal(amount.numerator) * 100 / Decimal(amount.denominator), "f")
        percent = percent.rstrip("0").rstrip(".") if "." in percent else percent
        return ConfigError(f"the budget {asked!r} is ambiguous", where=FLAG,
                           why="A fraction could be meant as a share or as a percentage.",
                           hint=f'write "{percent}%" for that share of the pool, or a whole number of rows')
    return ConfigError(f"the budget {asked!r} is not a whole number of {kind}", where=FLAG, hint=_FORMS)
