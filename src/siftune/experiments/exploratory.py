"""What a study tells beside its main tests: what a setting changes, and how subtasks of a target fare.

Subtasks are many and their test rows few, so their tests are exploratory: a family of their own for Holm's method, in
which they cost the main tests nothing and decide nothing of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from siftune.config.options import plain
from siftune.experiments import schema
from siftune.experiments.analysis.overlap import jaccard
from siftune.experiments.analysis.subtasks import places_of
from siftune.experiments.estimates import difference, judge
from siftune.experiments.subsets import Subset
from siftune.experiments.summary import CHOSEN, RANDOM, ArmScores, Study

_TOLD = ("difference", "low", "high", "covers", "p_value", "n_examples", "n_seeds")


def ablations(study: Study, arms: Sequence[ArmScores], tests: Sequence[schema.Test]) -> Iterator[dict[str, Any]]:
    """Each ablation beside its method, by target and budget; what has not been trained yet is null.

    Args:
        study: with the subsets.
        arms: of the study's own model.
        tests: of the study, with their adjusted p-values.
    """
    config = study.inputs.config
    losses = {(a.target, a.budget, a.name): a.loss for a in arms}
    found = {(t["target"], t["budget"], t["method"], t["against"]): t for t in tests if t["metric"] == "loss"}
    for one in config.ablations:
        for target in (t.name for t in config.targets):
            for budget in config.budgets:
                ours, theirs = (_subset(study, kind, name, target, budget)
                                for kind, name in (("ablation", one.name), ("method", one.method)))
                test = found.get((target, budget, one.name, one.method))
                yield {"name": one.name, "method": one.method, "settings": plain(dict(one.settings)), "target": target,
                       "budget": budget, "rows": len(ours.rows) if ours else None,
                       "jaccard": jaccard(ours.rows, theirs.rows) if ours and theirs else None,
                       "loss": losses.get((target, budget, one.name)),
                       "method_loss": losses.get((target, budget, one.method)),
                       **{key: test[key] if test else None for key in (*_TOLD, "p_value_holm", "verdict")}}


def _subset(study: Study, kind: str, name: str, target: str, budget: str) -> Subset | None:
    return next((s for s in study.subsets if not s.error and s.wanted.target in (None, target)
                 and (s.wanted.kind, s.wanted.name, s.wanted.budget) == (kind, name, budget)), None)


def subtasks(study: Study, arms: Sequence[ArmScores]) -> list[dict[str, Any]]:
    """Mean loss of every arm on each subtask, and how methods and ablations differ from random there.

    Args:
        study: with the test rows, whose subtasks count.
        arms: of the study's own model.
    """
    found = [entry for target in study.inputs.config.targets
             for subtask, places in places_of([r.subtask for r in study.inputs.of(target.name).test.rows]).items()
             for entry in _on_rows(study, [a for a in arms if a.target == target.name], subtask, places)]
    tested = [entry for entry in found if entry["p_value"] is not None]
    judge(tested, study.confidence)
    for entry in tested:
        entry["family"] = len(tested)
    return found


def _on_rows(study: Study, arms: Sequence[ArmScores], subtask: str, places: np.ndarray) -> Iterator[dict[str, Any]]:
    random = {a.budget: a.losses[:, places] for a in arms if a.name == RANDOM}
    for arm in arms:
        ours, theirs = arm.losses[:, places], random.get(arm.budget)
        told = None
        if arm.kind in CHOSEN and theirs is not None:
            told = study.remember(difference, ours, theirs, "loss", study.confidence)
        yield {"target": arm.target, "subtask": subtask, "budget": arm.budget, "kind": arm.kind, "name": arm.name,
               "loss": float(ours.mean()), "random_loss": None if theirs is None else float(theirs.mean()),
               **{key: told[key] if told else None for key in _TOLD}, "n_examples": len(places), "p_value_holm": None,
               "family": None, "verdict": told["verdict"] if told else None}
