"""What an experiment tells beside its main tests: what a setting changes, and how subtasks of a target fare.

Subtasks are many and their test rows few, so their tests are exploratory: a family of their own for Holm's method, in
which they cost the main tests nothing and decide nothing of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from siftune.config.options import plain
from siftune.experiments.analysis.overlap import jaccard
from siftune.experiments.analysis.subtasks import places_of
from siftune.experiments.results import CHOSEN, METRICS, RANDOM, Ablation, Difference, SubtaskTest, Test
from siftune.experiments.subsets import Subset
from siftune.experiments.summary.arms import ArmScores, Study
from siftune.experiments.summary.paired_tests import judge


def ablations(study: Study, arms: Sequence[ArmScores], tests: Sequence[Test]) -> Iterator[Ablation]:
    """Each ablation beside its method, by target and budget; what has not been trained yet is null.

    Args:
        study: with the subsets.
        arms: of the study's own model.
        tests: of the study, with their adjusted p-values.
    """
    config = study.inputs.config
    losses = {(a.target, a.budget, a.name): a.loss for a in arms}
    found = {(t.target, t.budget, t.method, t.against): t for t in tests if t.metric == "loss"}
    for one in config.ablations:
        for target in (t.name for t in config.targets):
            for budget in config.budgets:
                ours, theirs = (_subset(study, kind, name, target, budget)
                                for kind, name in (("ablation", one.name), ("method", one.method)))
                test = found.get((target, budget, one.name, one.method))
                yield Ablation(name=one.name, method=one.method, settings=plain(dict(one.settings)), target=target,
                               budget=budget, rows=len(ours.rows) if ours else None,
                               jaccard=jaccard(ours.rows, theirs.rows) if ours and theirs else None,
                               loss=losses.get((target, budget, one.name)),
                               method_loss=losses.get((target, budget, one.method)),
                               verdict=test.verdict if test else None, **_difference(test))


def _difference(test: Difference | None) -> dict[str, Any]:
    return {name: getattr(test, name) for name in Difference.model_fields} if test else {}


def _subset(study: Study, kind: str, name: str, target: str, budget: str) -> Subset | None:
    return next((s for s in study.subsets if not s.error and s.wanted.target in (None, target)
                 and (s.wanted.kind, s.wanted.name, s.wanted.budget) == (kind, name, budget)), None)


def subtask_places(study: Study, target: str) -> dict[str, np.ndarray]:
    """Subtask -> int64 places of its test rows; nothing where there is one subtask only."""
    return places_of([row.subtask for row in study.inputs.of(target).test.rows])


def subtasks(study: Study, arms: Sequence[ArmScores]) -> list[SubtaskTest]:
    """Mean loss of every arm on each subtask, and how methods and ablations differ from random there.

    In a comparison they are held against its other baselines too, and by the other metrics as well.

    Args:
        study: with the test rows, whose subtasks count.
        arms: of the study's own model.
    """
    found = [entry for target in study.inputs.config.targets
             for subtask, places in subtask_places(study, target.name).items()
             for entry in _on_rows(study, [a for a in arms if a.target == target.name], subtask, places)]
    tested = [entry for entry in found if entry.p_value is not None]
    judge(tested, study.confidence)
    for entry in tested:
        entry.family = len(tested)
    return found


def _on_rows(study: Study, arms: Sequence[ArmScores], subtask: str, places: np.ndarray) -> Iterator[SubtaskTest]:
    random = {a.budget: a.losses[:, places] for a in arms if a.name == RANDOM}
    for arm in arms:
        ours, theirs = arm.losses[:, places], random.get(arm.budget)
        entry = SubtaskTest(target=arm.target, subtask=subtask, budget=arm.budget, kind=arm.kind, name=arm.name,
                            loss=float(ours.mean()), random_loss=None if theirs is None else float(theirs.mean()),
                            n_examples=len(places))
        yield _tested(study, entry, ours, theirs)
        if study.inputs.config.is_comparison and arm.kind in CHOSEN:
            for against in (a for a in arms if a.name in study.inputs.config.tested_against):
                for metric in METRICS:
                    if (against.name, metric) != (RANDOM, "loss"):
                        made = _tested(study, entry.model_copy(update={"against": against.name, "metric": metric}),
                                       arm.scores(metric)[:, places], against.scores(metric)[:, places])
                        if made.difference is not None:
                            yield made


def _tested(study: Study, entry: SubtaskTest, ours: np.ndarray, theirs: np.ndarray | None) -> SubtaskTest:
    """The entry with a difference, where it is of an arm that is held against others."""
    found = study.difference(ours, theirs, entry.metric) if entry.kind in CHOSEN and theirs is not None else None
    return SubtaskTest(**{**entry.model_dump(), **found}) if found else entry
