"""The rounds of a choice: each trains the arms that are still going on, and says which of them go on."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from siftune._common.progress import log
from siftune.evaluation.choosing import Choice as Decision
from siftune.evaluation.choosing import choose as decide
from siftune.execution import executor_of
from siftune.experiments.choosing.metric import UNTUNED, Measured, Scored, Scores, measured, to_trainings
from siftune.experiments.choosing.prepared import Prepared
from siftune.experiments.inputs import StudyInputs
from siftune.experiments.selecting import Selecting
from siftune.experiments.trainings import Executor, Setting, study_cells, study_settings


@dataclass
class RoundLog:
    """What a round was, and what was known after it."""

    budget: int
    trained: tuple[str, ...]
    random: int
    trainings: int
    decision: Decision
    scores: Scores
    stopped: dict[str, str] = field(default_factory=dict)


@dataclass
class Trained:
    """All rounds: the trainings, and what became of the arms."""

    found: list[Measured]
    rounds: list[RoundLog]
    failed: dict[str, str]
    feature_seconds: float


def run_rounds(made: Prepared, folder: Path, executor: Executor | None) -> Trained:
    arms, schedule, split = made.arms, made.schedule, made.split
    going_on, failed = arms.names, dict[str, str]()
    found: list[Measured] = []
    rounds: list[RoundLog] = []
    feature_seconds = 0.0
    settings: dict[str, Setting] | None = None
    for k, budget in enumerate(schedule.rounds):
        study = arms.study(split.names, schedule.budget(k), schedule.random[k], going_on)
        inputs = split.study_inputs(made.rows, study)
        selecting = Selecting(inputs, folder)
        if settings is None:  # a model that cannot be loaded is refused now
            settings = _with_tests(inputs, made.scored)
        subsets = selecting.all()
        feature_seconds = selecting.costs.total
        del selecting  # and with it what the representations hold in memory
        broken = {s.wanted.name: s.error.splitlines()[0] for s in subsets if s.error}
        kept = [s for s in subsets if s.wanted.name not in broken]
        cells = study_cells(inputs, settings, kept, folder)
        missing = len(cells.missing())
        with inputs.clock.measure(f"round {k + 1}: train and score ({missing} trainings)") as entry:
            entry["reused"] = not missing
            cells.run(executor or executor_of(arms.config, inputs.home, missing or 1), inputs.load, lambda: None)
        whole, lacking = measured(cells, budget, made.scored)
        found += [one for one in whole if one.arm != UNTUNED or not any(f.arm == UNTUNED for f in found)]
        broken |= {arm: why for arm, why in lacking.items() if arm in arms.names}
        failed |= broken
        scores = to_trainings([one for one in found if one.arm not in failed], made.scored.metric)
        decision = decide(scores.trainings, made.budget.limit, point=scores.point)
        done = RoundLog(budget, tuple(a for a in going_on if a not in broken), schedule.random[k], len(cells.all) - 1,
                        decision, scores, {arm: f"failed: {why}" for arm, why in broken.items()})
        front = decision.take
        for arm in done.trained:
            if arm not in decision.going_on:
                done.stopped[arm] = f"less than 5% chance to be better than {front}"
        rounds.append(done)
        going_on = tuple(a for a in done.trained if a in decision.going_on)
        log(f"after {budget:,} {schedule.unit}: {front} is in front" + (
            f"; stopped: {', '.join(done.stopped)}" if done.stopped and k < len(schedule.rounds) - 1 else ""))
    return Trained(found, rounds, failed, feature_seconds)


def _with_tests(inputs: StudyInputs, scored: Scored) -> dict[str, Setting]:
    """The model's setting with the rows that score as decided of all of them together."""
    return {name: dataclasses.replace(setting, tests=scored.tests) for name, setting in study_settings(inputs).items()}
