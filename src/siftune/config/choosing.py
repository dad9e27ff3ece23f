"""Settings of `siftune choose`: which arms are measured, on what rows, and how long that may take."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any, Literal

from siftune._common.errors import ConfigError
from siftune.config.catalogue import recipe_named
from siftune.config.options import COUNT, COUNT_OR_NONE, Rule, option
from siftune.config.shared import (
    FIRST,
    TRAINING,
    CompareConfig,
    FeatureDtype,  # noqa: F401 - pydantic 2.6 looks for the annotations of inherited fields here
    SelectConfig,
)

DEFAULT_ARMS = ("bm25", "embed", "rds+", "fusion", "less-round-robin")
"""Cheap ones first. Random rows and the untuned model are always there."""

CENTRED = ("embed", "rds")
"""Methods whose vectors are centred here unless the user says otherwise: what all rows share hides what differs."""

ALWAYS = ("random", "untuned")

NOT_HERE = {
    "method": "name what is tried under arms", "representation": "write METHOD:SELECTOR under arms",
    "selector": "write METHOD:SELECTOR under arms", "methods": "name what is tried under arms",
    "collect": "all that the arms need of one forward pass is read by itself",
    "baselines": "random rows and the untuned model are always measured",
    "lm_eval": "give the task's rows as target or validation", "lm_eval_code": "give the task's rows as target",
}
"""Settings of `compare` that this command has no use for, and what to do instead."""

_TIME = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(s|sec|m|min|h|d)", re.ASCII)
_SECONDS = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True)
class ChooseConfig(CompareConfig):
    """What `siftune choose` reads: what is selected from, as for `select`, and how arms are measured."""

    arms: tuple[str | dict[str, Any], ...] = option(
        (), "Methods to try, as for --method, separated by commas or given several times; bm25, embed, rds+, fusion "
        "and less-round-robin when not given. In YAML also {name: , method: , settings: {}}. Random rows and the "
        "untuned model are always tried.", group=FIRST, decides="selection")
    validation: tuple[str, ...] = option((), "Labelled rows of the task that are neither target nor test rows, to "
                                         "score arms on; without them arms are scored on folds of the target.",
                                         group=FIRST, decides="nothing")
    within: str = option("", 'How long it may take, such as "2h" or "30min": arms, rounds and folds are cut to fit.',
                         group=FIRST, decides="nothing")
    metric: Literal["auto", "loss", "exact_match", "acc", "acc_norm"] = option(
        "auto", "What is scored: auto takes acc where rows offer answers, else exact_match where answers are short, "
        "else loss.", group=TRAINING, decides="nothing")
    folds: int = option(0, "Folds of the target that are left out in turn; 0 takes 2 to 4, by the number of rows.",
                        group=TRAINING, rule=Rule("0, or from 2 to 20", lambda x: x == 0 or 2 <= x <= 20,
                                                   {"minimum": 0, "maximum": 20}),
                        decides="nothing")
    most_validation_rows: int = option(200, "Score on at most so many rows, drawn by the seed.", group=TRAINING,
                                       rule=Rule("2 or more", lambda x: x >= 2, {"minimum": 2}), decides="nothing")
    random_trainings: int = option(4, "Trainings on random rows in the last round, and half as many before; with fewer "
                                   "than 4 hardly any win can be claimed.", group=TRAINING,
                                   rule=Rule("from 1 to 1,000", lambda x: 1 <= x <= 1000,
                                             {"minimum": 1, "maximum": 1000}), decides="nothing")
    seeds: int = option(1, "Trainings of each arm on each fold and round.", group=TRAINING, rule=COUNT,
                        decides="nothing")
    smallest_round: int = option(16, "No round trains on fewer rows than this; 0 for a single round.", group=TRAINING,
                                 rule=COUNT_OR_NONE, decides="nothing")
    select_anyway: bool = option(False, "Select with the best arm that is trained where the untuned model is taken.",
                                 group=TRAINING, decides="nothing")

    @property
    def named_arms(self) -> tuple[str | dict[str, Any], ...]:
        """The arms as given, or those by default; without those that are always there, lists with commas taken apart.

        Raises:
            ConfigError: an arm stands there twice.
        """
        parts: list[str | dict[str, Any]] = []
        for entry in self.arms:
            if isinstance(entry, str) and "file:" not in entry:
                parts += [part.strip() for part in entry.split(",") if part.strip()]
            else:
                parts.append(entry)
        given = tuple(part for part in parts if part not in ALWAYS)
        for name in (part for part in given if isinstance(part, str)):
            if given.count(name) > 1:
                raise ConfigError(f"{name!r} stands twice in arms", where="--arms", hint="take one of them out")
        return given if parts else DEFAULT_ARMS

    def recipes(self) -> list[tuple[str, str]]:
        """(method, selector) of every arm."""
        named = [arm if isinstance(arm, str) else str(arm.get("method", "")) for arm in self.named_arms]
        found = [recipe_named(name, bool(self.target), bool(self.existing)) for name in named
                 if name not in ("", "auto")]
        return [(recipe.representation, recipe.selector) for recipe in found] or [("none", "random")]

    @property
    def seconds(self) -> float | None:
        """``within`` in seconds; None without one.

        Raises:
            ConfigError: it is not a time.
        """
        if not self.within:
            return None
        match = _TIME.fullmatch(self.within.strip().lower())
        if match is None or float(match[1]) <= 0:
            raise ConfigError(f"cannot read the time {self.within!r}", where="--within",
                              hint='write "90s", "30min", "2h" or "1.5d"')
        return float(match[1]) * _SECONDS[match[2]]


def selecting(config: ChooseConfig, **changes: Any) -> SelectConfig:
    """The settings of `siftune select` among those of a choice, with changes."""
    told = {f.name: getattr(config, f.name) for f in dataclasses.fields(SelectConfig)}
    return SelectConfig(**{**told, **changes})
