"""How large a file, a record or a conversation may be, so that no input can hang a run or fill the memory.

Every limit is far above what real data needs, and each message that one causes names it and the flag that raises it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from siftune._common.errors import ConfigError
from siftune._common.registry import unknown_name
from siftune.data.problems import BadRow

FLAG = "--limit"

DEEPEST = 300
"""Nesting that every reader can follow."""

_NUMBER = re.compile(r"(\d{1,18})(k|m|g|)", re.IGNORECASE | re.ASCII)
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


@dataclass(frozen=True, slots=True)
class Limits:
    """Largest sizes that are read.

    Attributes:
        line: Bytes of one line (JSON lines, CSV).
        row: Characters of a row's conversation.
        turns: Turns of a row.
        nesting: Objects and lists inside each other in a record.
        expansion: How many times its own size a compressed file may become; told only from 64 MB of text on.
    """

    line: int = 100_000_000
    row: int = 10_000_000
    turns: int = 10_000
    nesting: int = 100
    expansion: int = 200

    @staticmethod
    def parse(given: Sequence[str]) -> Limits:
        """Limits from ``NAME=NUMBER`` texts; a number may end in k, m or g.

        Raises:
            ConfigError: not of that form, an unknown name, or no number of 1 or more.
        """
        known = [field.name for field in dataclasses.fields(Limits)]
        found: dict[str, int] = {}
        for text in given:
            name, equals, number = (part.strip() for part in text.partition("="))
            if name not in known:
                raise unknown_name("limit", name, known, flag=FLAG)
            match = _NUMBER.fullmatch(number)
            value = int(match[1]) * _UNITS[match[2].lower()] if match else 0
            if not equals or value < 1:
                raise ConfigError(f"{text!r} is no limit", where=FLAG,
                                  hint=f"write NAME=NUMBER with a number of 1 or more, such as {FLAG} {name}=20m")
            if name in found:
                raise ConfigError(f"two limits are given for {name}", where=FLAG, hint="give one")
            found[name] = value
        if found.get("nesting", 0) > DEEPEST:
            raise ConfigError(f"records nested {found['nesting']:,} deep cannot be read", where=FLAG,
                              hint=f"give {FLAG} nesting={DEEPEST} at most")
        return Limits(**found)

    def check_nesting(self, value: Any) -> None:
        """Raises: BadRow: ``over-limit``: objects and lists stand in each other too deep."""
        level, depth = [value], 0
        while level:
            level = [item for one in level if isinstance(one, (dict, list, tuple))
                     for item in (one.values() if isinstance(one, dict) else one)]
            depth += 1
            if depth > self.nesting and any(isinstance(item, (dict, list, tuple)) for item in level):
                raise self.exceeded("nesting", "objects and lists stand deeper in each other than")

    def exceeded(self, name: str, what: str) -> BadRow:
        """The problem of a record above a limit; ``what`` ends before the number."""
        return BadRow("over-limit", f"{what} {getattr(self, name):,} (raise it with {FLAG} {name}=...)")
