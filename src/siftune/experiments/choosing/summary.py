"""What a choice has come to, as its results."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from siftune._common.version import __version__
from siftune.config.choosing import ChooseConfig
from siftune.evaluation.choosing import Choice as Decision
from siftune.evaluation.choosing import Claim, Training, claim
from siftune.experiments.ablations import in_words
from siftune.experiments.choosing.metric import UNTUNED, Measured, Scores
from siftune.experiments.choosing.prepared import Prepared
from siftune.experiments.choosing.rounds import RoundLog, Trained
from siftune.experiments.results import RANDOM
from siftune.experiments.results.choice import (
    Choice,
    ChoiceClaim,
    ChoiceCosts,
    ChoiceRows,
    ChoiceTest,
    ChoiceTraining,
    Gain,
    Round,
)


def summarise(made: Prepared, trained: Trained, decision: Decision, selected: str | None) -> Choice:
    """The results of all rounds.

    Args:
        made: what was to be done.
        trained: what was.
        decision: after the last round.
        selected: the arm that selects; None where nothing is selected.
    """
    config, schedule, arms = made.arms.config, made.schedule, made.arms
    last = trained.rounds[-1]
    gain = next((one for one in decision.arms if one.arm == decision.take), None)
    found = [one for one in trained.found if one.arm not in trained.failed]
    return Choice(
        siftune=__version__,
        settings=_settings(config),
        rows=ChoiceRows(
            pool=len(made.rows.inputs.pool), targets=len(made.rows.inputs.target),
            scored_by="folds" if made.rows.validation is None else "validation",
            folds=schedule.folds if made.rows.validation is None else None, scored_ids=made.scored.ids,
            applicable=len(last.scores.rows),
            subtasks=sorted({row.subtask for row in made.rows.inputs.target.rows if row.subtask})),
        metric=last.scores.metric.name, metric_why=last.scores.metric.why, point=last.scores.point,
        take=decision.take, expected=gain.expected if gain else None, worth_training=decision.take != UNTUNED,
        selected=selected, budget=config.budget, unit="tokens" if schedule.unit == "tokens" else "rows",
        at=made.budget.limit, compared_at=schedule.rounds[-1], row_error=decision.row_error,
        rows_to_settle=decision.rows_to_settle, settled=decision.rows_to_settle == decision.rows,
        gains=[Gain(**dataclasses.asdict(one)) for one in decision.arms],
        claim=tested(last.scores.trainings, schedule.rounds[-1], last.scores.point, 1 - config.confidence,
                     {one.arm for one in found} - {RANDOM}),
        rounds=[_round(one) for one in trained.rounds],
        trainings=[_training(made, one, last.scores) for one in found],
        methods={name: _words(made, name) for name in arms.names},
        left_out=dict(arms.left_out), failed=trained.failed, cuts=list(schedule.cuts),
        costs=_costs(made, trained), notes=made.rows.notes)


def tested(trainings: Sequence[Training], at: int, point: float, level: float, tried: set[str]) -> ChoiceClaim:
    """Which arms beat random rows beyond chance at the largest budget that was trained.

    Arms that were stopped on the way were looked at, and dropped, on the same rows: the level is that of all of them
    together (Bonferroni's inequality for those that are tested: Holm's first step at level times tested / tried).

    Args:
        trainings: of all rounds.
        at: the largest budget.
        point: in units of the scores.
        level: chance of any winner where all arms are random subsets.
        tried: arms that were trained at all, the untuned model among them.
    """
    here = {one.arm for one in trainings if one.budget in (at, None)} - {RANDOM}
    share = len(here) / max(1, len(tried | here))
    if not here:
        return ChoiceClaim(level=level, at=at, why_not=f"No other arm was trained on {at:,} rows.")
    found: Claim = claim(trainings, at, level=level * share, point=point)
    tests = [ChoiceTest(arm=one.arm, gain=one.gain, p_trainings=one.p_trainings, p_rows=one.p_rows,
                        p_value=min(1.0, one.p_value / share)) for one in found.tests]
    return ChoiceClaim(winners=list(found.winners), tests=tests, level=level, at=at,
                       random_trainings=found.random_trainings, why_not=found.why_not)


def _settings(config: ChooseConfig) -> dict[str, object]:
    names = ("pool", "target", "validation", "test", "model", "within", "epochs", "learning_rate", "batch_size",
             "lora_rank", "lora_dropout", "max_length", "seeds", "random_trainings", "confidence", "seed")
    return {name: value for name in names if (value := getattr(config, name)) not in ((), "")}


def _words(made: Prepared, name: str) -> str:
    """An arm's method with what differs from its defaults."""
    arms = made.arms
    variant = arms.variant(name)
    method, owner = arms.method_of(name), arms.representation(name)
    own = {**arms.config.own.get(owner, {}), **(variant.settings if variant else {})}
    return f"{method} ({in_words(own)})" if own else method


def _round(one: RoundLog) -> Round:
    random = [t for t in one.scores.trainings if t.arm == RANDOM and t.budget == one.budget]
    base = float(np.mean([t.scores.mean() for t in random])) if random else None
    seen: dict[str, float | None] = {}
    for arm in dict.fromkeys(t.arm for t in one.scores.trainings if t.budget in (one.budget, None) and t.arm != RANDOM):
        mine = [t.scores.mean() for t in one.scores.trainings if t.arm == arm and t.budget in (one.budget, None)]
        seen[arm] = None if base is None else (float(np.mean(mine)) - base) / one.scores.point
    return Round(budget=one.budget, trained=list(one.trained), random=one.random, trainings=one.trainings,
                 front=one.decision.take, gains=[Gain(**dataclasses.asdict(gain)) for gain in one.decision.arms],
                 seen=seen, stopped=one.stopped)


def _training(made: Prepared, one: Measured, scores: Scores) -> ChoiceTraining:
    losses = one.losses
    values = -losses if one.shares is None or scores.metric.name == "loss" else one.shares
    mean = float(np.mean(values[scores.rows]))
    subsets = [cell.subset for cell in one.cells if cell.subset]
    pool = made.rows.inputs.pool
    return ChoiceTraining(
        arm=one.arm, budget=one.budget, number=one.number, cells=[cell.name for cell in one.cells],
        rows=float(np.mean([len(s.rows) for s in subsets])) if subsets else None,
        tokens=float(np.mean([int(pool.tokens[s.rows].sum()) for s in subsets])) if subsets else None,
        seconds=one.seconds, score=mean, loss=float(losses.mean()),
        scores=[None if np.isnan(value) else float(value) for value in values], losses=losses.tolist())


def _costs(made: Prepared, trained: Trained) -> ChoiceCosts:
    cells = {cell.name: cell for one in trained.found for cell in one.cells if cell.subset}
    seconds = {cell.name: one for m in trained.found for cell, one in zip(m.cells, m.cell_seconds, strict=True)
               if cell.subset}
    return ChoiceCosts(feature_seconds=round(trained.feature_seconds, 3),
                       train_seconds=round(sum(seconds.values()), 3), trainings=len(cells),
                       tokens=sum(cell.tokens for cell in cells.values()))

