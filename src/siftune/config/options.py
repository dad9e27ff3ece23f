"""What a setting is, whoever owns it: a field of a frozen dataclass with its help, its range and what it decides.

Settings that all share are in :mod:`siftune.config.settings`; those of a method or a selector stand in its own file,
in a child of :class:`OwnSettings`.
"""

from __future__ import annotations

import dataclasses
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, get_args

from siftune._common.errors import ConfigError

Decides = Literal["features", "selection", "nothing"]
"""What a setting can change.

* ``features``: numbers that are kept. It is part of the key of whatever is computed with it. This is the default, so
  that a new setting can never be forgotten.
* ``selection``: what is made of kept features when rows are chosen. Features are reused whatever its value.
* ``nothing``: only how fast, where or in which pieces something is computed.
"""


class Rule(NamedTuple):
    """What a number must be.

    Attributes:
        words: for messages and lists.
        holds: the test, which NaN never passes.
        schema: the same as keywords of JSON schema (``minimum``, ``exclusiveMaximum`` ...), as far as those can say it.
    """

    words: str
    holds: Callable[[float], bool]
    schema: Mapping[str, float] = MappingProxyType({})


POSITIVE = Rule("a finite number above 0", lambda x: 0 < x < float("inf"), {"exclusiveMinimum": 0})
NOT_NEGATIVE = Rule("a finite number of 0 or more", lambda x: 0 <= x < float("inf"), {"minimum": 0})
COUNT = Rule("1 or more, below 2^63", lambda x: 1 <= x < 2**63, {"minimum": 1, "exclusiveMaximum": 2**63})
COUNT_OR_NONE = Rule("0 or more, below 2^63", lambda x: 0 <= x < 2**63, {"minimum": 0, "exclusiveMaximum": 2**63})
SHARE = Rule("above 0 and at most 1", lambda x: 0 < x <= 1, {"exclusiveMinimum": 0, "maximum": 1})
SHARE_OR_NONE = Rule("from 0 to 1", lambda x: 0 <= x <= 1, {"minimum": 0, "maximum": 1})
PROPER_SHARE = Rule("above 0 and below 1", lambda x: 0 < x < 1, {"exclusiveMinimum": 0, "exclusiveMaximum": 1})
RATE = Rule("at least 0 and below 1", lambda x: 0 <= x < 1, {"minimum": 0, "exclusiveMaximum": 1})


def option(default: Any, help: str, *, decides: Decides = "features", rule: Rule | None = None, paper: Any = None,
           group: str = "", flag: str | None = None) -> Any:
    """A setting of a frozen dataclass.

    Args:
        default: its value where none is given.
        help: one sentence, for ``--help`` and ``siftune methods NAME``.
        decides: what it can change, see :data:`Decides`.
        rule: its range, for numbers.
        paper: the published value, where the default is another.
        group: the panel of ``--help``, for settings that are flags.
        flag: its flag, where that is not made from the name.
    """
    if decides not in get_args(Decides):
        raise ValueError(f"a setting cannot decide {decides!r}")
    given: Any = {"default_factory": lambda: dict(default)} if isinstance(default, dict) else {"default": default}
    return field(**given, metadata={"help": help, "decides": decides, "rule": rule, "paper": paper, "group": group,
                                     "flag": flag})


def check_rules(settings: Any, name_of: Callable[[dataclasses.Field[Any]], str]) -> None:
    """Hold every number of a settings object against its range.

    Args:
        settings: an instance of a dataclass whose fields are :func:`option`.
        name_of: how a field is called in an error, for example its flag.

    Raises:
        ConfigError: a number is out of its range.
    """
    for setting in dataclasses.fields(settings):
        rule, value = setting.metadata.get("rule"), getattr(settings, setting.name)
        if rule and value is not None and not rule.holds(value):
            name = name_of(setting)
            raise ConfigError(f"{name} cannot be {shown(value)}", where=name,
                              hint=f"give a value that is {rule.words}")


@dataclass(frozen=True)
class OwnSettings:
    """Base of the settings of one method or selector; by itself, those of one that has none.

    Raises:
        ConfigError: a number is out of its range.
    """

    def __post_init__(self) -> None:
        check_rules(self, lambda setting: setting.name)


def deciding(settings: Any, *stages: Decides) -> dict[str, Any]:
    """The settings that decide one of these stages, as JSON values by name: what a key is derived from.

    Args:
        settings: an instance of a dataclass. A field that says nothing decides features.
        stages: ``features``; ``selection``.
    """
    return {f.name: plain(getattr(settings, f.name)) for f in dataclasses.fields(settings)
            if f.metadata.get("decides", "features") in stages}


def plain(value: Any) -> Any:
    """A setting as JSON holds it: tuples become lists, settings within settings mappings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def shown(value: Any) -> str:
    """A value as an error tells it: never long, whatever a file held."""
    if isinstance(value, float):
        return repr(value)
    told = reprlib.Repr()
    told.maxstring = told.maxother = 80
    try:
        return told.repr(value)
    except ValueError:  # a whole number of more digits than Python writes out
        return "a huge number"
