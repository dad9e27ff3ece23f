"""What a choice will train, said before it is done, and cut to fit a time.

Where ``within`` is given and the whole would take longer, the first of these that still can is done, until it fits:

1. one fold less, down to two;
2. the arm whose features take longest is left out, as long as they alone take more than a quarter of the time;
3. the smallest round is left out, down to the last one;
4. the arm that takes longest is left out, down to two arms;
5. one training on random rows less, down to two;
6. the arms are compared at half of the budget, then at a quarter (never on fewer rows than ``smallest_round``).

What still does not fit is refused. The plan that was made is kept and used again when the command is: how fast the
machine was on another day must not change what is tried.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from siftune._common.artefacts import digest, read_usable, write_sealed
from siftune._common.errors import ConfigError
from siftune._common.progress import about
from siftune.config.choosing import ChooseConfig
from siftune.config.options import plain
from siftune.experiments.choosing.arms import Arms
from siftune.experiments.choosing.rows import ChoiceRows
from siftune.experiments.subsets import looks_at_target
from siftune.features.base import content_key
from siftune.selectors import ResolvedBudget

FILE, KIND = "choice-plan.json", "plan of a choice"
VERSION = 1
_FORWARD = 1 / 3
"""What a token costs in scoring, beside one in training."""
_FEWEST_ARMS, _FEWEST_RANDOM, _FEWEST_FOLDS = 2, 2, 2
_DECIDES_NOTHING = ("output_dir", "from_run", "workers", "executor", "device", "recompute", "batch_tokens",
                    "shard_rows", "select_anyway", "confidence")


@dataclass(frozen=True)
class Schedule:
    """What is trained at most.

    Attributes:
        arms: in the order in which they are trained.
        folds: 1 where there are validation rows.
        unit: of the budgets, ``rows`` or ``tokens``.
        rounds: budgets, smallest first.
        random: trainings on random rows in each round.
        left_out: arm -> why it is not tried.
        cuts: what was cut to fit the time, in words.
    """

    arms: tuple[str, ...]
    folds: int
    unit: str
    rounds: tuple[int, ...]
    random: tuple[int, ...]
    left_out: Mapping[str, str]
    cuts: tuple[str, ...] = ()

    def budget(self, k: int) -> str:
        """Of a round, as it is written after ``--budget``."""
        return str(self.rounds[k]) + ("tok" if self.unit == "tokens" else "")


@dataclass(frozen=True)
class Work:
    """What a schedule comes to.

    Attributes:
        trainings: at most; with zero-shot, which is only scored.
        tokens: that these trainings read.
        scored: tokens that scoring reads.
        features: arm -> seconds of its features; None where they are not known.
        seconds: of everything; None where the speed is not known.
    """

    trainings: int
    tokens: float
    scored: float
    features: Mapping[str, float | None]
    seconds: float | None = None


@dataclass(frozen=True)
class Costs:
    """What work takes on this machine.

    Attributes:
        mean_tokens: of a pool row.
        epochs: of a training.
        scored_tokens: what scoring one training on all rows reads.
        looks: arm -> whether the targets play a part in what it selects.
        seeds: trainings of an arm on each fold.
        workers: processes that train.
        features: arm -> seconds of its features (with the number of folds); None where they are not known.
        per_token: seconds of a token in training; None where nobody has measured.
    """

    mean_tokens: float
    epochs: int
    scored_tokens: float
    looks: Mapping[str, bool]
    seeds: int
    workers: int
    features: Callable[[str, int], float | None]
    per_token: float | None

    def of(self, schedule: Schedule) -> Work:
        """The work of a schedule where no arm is stopped."""
        trainings, tokens, scorings = 1, 0.0, 1
        for budget, random in zip(schedule.rounds, schedule.random, strict=True):
            each = budget * (self.mean_tokens if schedule.unit == "rows" else 1.0) * self.epochs
            subsets = {arm: (schedule.folds if self.looks[arm] else 1) * self.seeds for arm in schedule.arms}
            count = random + sum(subsets.values())
            trainings += count
            tokens += count * each
            scorings += random + len(schedule.arms) * self.seeds
        scored = scorings * self.scored_tokens
        features = {arm: self.features(arm, schedule.folds) for arm in schedule.arms}
        if self.per_token is None:
            return Work(trainings, tokens, scored, features)
        seconds = (tokens + scored * _FORWARD) * self.per_token / self.workers
        return Work(trainings, tokens, scored, features, seconds + sum(one or 0.0 for one in features.values()))


def full_schedule(rows: ChoiceRows, arms: Arms, budget: ResolvedBudget, mean_tokens: float) -> Schedule:
    """Everything that the settings ask for, whatever it takes.

    Args:
        rows: of the choice.
        arms: that can be tried.
        budget: what the winner is to select.
        mean_tokens: of a pool row.
    """
    config = rows.config
    least = max(1.0, config.smallest_round * (1.0 if budget.kind == "rows" else mean_tokens))
    rounds = [budget.limit]
    while config.smallest_round and len(rounds) < 3 and rounds[0] / 2 >= least:
        rounds.insert(0, rounds[0] // 2)
    early = max(1, config.random_trainings // 2)
    return Schedule(arms.names, rows.most_folds, budget.kind, tuple(rounds),
                    (*(early for _ in rounds[1:]), config.random_trainings), dict(arms.left_out))


def fitted(schedule: Schedule, costs: Costs, config: ChooseConfig) -> Schedule:
    """The schedule cut until it fits into the time that the settings give, see the head of this module.

    Raises:
        ConfigError: the least of it does not fit.
    """
    limit = config.seconds
    if limit is None:
        return schedule
    first = costs.of(schedule).seconds
    if first is None or first <= limit:
        return schedule
    least = max(1.0, config.smallest_round * (1.0 if schedule.unit == "rows" else costs.mean_tokens))
    while (seconds := costs.of(schedule).seconds or 0.0) > limit:
        shorter = _shorter(schedule, costs, limit, least)
        if shorter is None:
            raise ConfigError(f"a choice does not fit into {config.within}", where="--within",
                              why=f"All of it would take {about(first)}; with everything cut that can be, "
                              f"{about(seconds)}.",
                              hint="give it more time, a smaller --budget or fewer --epochs, or name fewer --arms")
        schedule = shorter
    return schedule


def _shorter(schedule: Schedule, costs: Costs, limit: float, least: float) -> Schedule | None:
    work = costs.of(schedule)

    def cut(words: str, **changes: Any) -> Schedule:
        return dataclasses.replace(schedule, cuts=(*schedule.cuts, words), **changes)

    def without(arm: str, why: str) -> Schedule:
        return cut(f"{arm} is not tried", arms=tuple(a for a in schedule.arms if a != arm),
                   left_out={**schedule.left_out, arm: why})

    if schedule.folds > _FEWEST_FOLDS:
        return cut(f"{schedule.folds - 1} folds instead of {schedule.folds}", folds=schedule.folds - 1)
    features = {arm: seconds or 0.0 for arm, seconds in work.features.items()}
    dearest = max(schedule.arms, key=lambda arm: features[arm], default="")
    if len(schedule.arms) > _FEWEST_ARMS and features[dearest] > limit / 4:
        return without(dearest, f"its features alone take {about(features[dearest])}")
    if len(schedule.rounds) > 1:
        return cut(f"no round at {schedule.rounds[0]:,} {schedule.unit}", rounds=schedule.rounds[1:],
                   random=schedule.random[1:])
    if len(schedule.arms) > _FEWEST_ARMS:
        longest = max(reversed(schedule.arms), key=lambda arm: (features[arm], costs.looks[arm]))
        return without(longest, "there is no time for it")
    budget, random = max(schedule.rounds), max(schedule.random)  # of the one round that is left
    if random > _FEWEST_RANDOM:
        return cut(f"{random - 1} trainings on random rows instead of {random}", random=(random - 1,))
    if budget / 2 >= least and sum("arms are compared" in words for words in schedule.cuts) < 2:
        return cut(f"the arms are compared at {budget // 2:,} {schedule.unit} instead of {budget:,}",
                   rounds=(budget // 2,))
    return None


def plan_key(rows: ChoiceRows, arms: Arms) -> str:
    """Hash of all that decides what is tried, but for the machine's speed."""
    config = arms.config
    told = {f.name: plain(getattr(config, f.name)) for f in dataclasses.fields(config)
            if f.name not in _DECIDES_NOTHING}
    return digest({"code": VERSION, "settings": told, "arms": list(arms.names), "left_out": dict(arms.left_out),
                   "pool": content_key(rows.inputs.pool), "target": content_key(rows.inputs.target),
                   "validation": rows.validation and content_key(rows.validation)})


def kept_plan(folder: Path, key: str) -> tuple[Schedule, float | None] | None:
    """The plan that an earlier call of the same command has made, and what it expected it to take."""
    told = read_usable(folder / FILE, KIND, key)
    if told is None:
        return None
    seconds: float | None = told.pop("seconds")
    known: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in told.items()}
    return Schedule(**known), seconds


def keep_plan(folder: Path, key: str, schedule: Schedule, seconds: float | None) -> None:
    write_sealed(folder / FILE, KIND, key, {**plain(schedule), "seconds": seconds})


def targets_matter(arms: Arms) -> dict[str, bool]:
    """Arm -> whether the targets play a part in what it selects."""
    study = arms.study((), "1", 1, arms.names)
    return {name: looks_at_target(arms.method_of(name), study) for name in arms.names}
