"""What the page shows of a study, in the order of the page; numbers are as in ``study.json`` or follow from them."""

from __future__ import annotations

from typing import Any

from siftune.experiments.results import CHOSEN, LENGTH_MATCHED, RANDOM, Arm, Results, Test
from siftune.report.formats import model_name
from siftune.report.study.analyses import (
    break_even,
    correlations,
    cost_and_gain,
    curves,
    deciles,
    efficiency,
    overlaps,
    transfer,
)
from siftune.report.study.answers import answers
from siftune.report.study.settings import ablations, subtasks
from siftune.report.study.verdict import share, verdict


def build_view(study: Results, name: str) -> dict[str, Any]:
    """All that the template needs.

    Args:
        study: the file.
        name: of the study's folder.
    """
    status = study.trainings
    return {
        "name": name, "siftune": study.siftune, "complete": study.complete, "model": study.model,
        "model_name": model_name(study.model), "confidence": study.confidence,
        "pool": study.pool.model_dump(), "costs": study.costs.model_dump(), "notes": study.notes,
        "target_files": [{**t.model_dump(include={"name", "target_files", "test_files", "target_rows"}),
                          "test_rows": t.tested} for t in study.targets],
        "settings": study.settings.model_dump(exclude_unset=True), "failures": [f.model_dump() for f in study.failures],
        "targets": [t.name for t in study.targets], "budgets": study.budgets, "methods": study.methods,
        "trainings": {kind: sum(s == kind for s in status.values()) for kind in ("done", "missing", "failed")},
        "verdict": (judged := verdict(study)), "answers": answers(study, judged),
        "ranking": [r.model_dump() for r in study.ranking],
        "tests": _tests(study),
        "curves": curves(study),
        "efficiency": efficiency(study),
        "correlations": correlations(study),
        "deciles": deciles(study),
        "overlaps": overlaps(study),
        "transfer": transfer(study, model_name),
        "costs_and_gains": cost_and_gain(study),
        "break_even": break_even(study),
        "ablations": ablations(study),
        "subtasks": subtasks(study),
        "subtask_family": next((t.family for t in study.analyses.subtasks if t.family), None),
        "arms": [_arm(study, arm) for arm in study.arms],
        "has_exact": any(a.exact_match for a in study.arms),
        "has_choices": any(a.acc for a in study.arms),
        "has_models": any(a.model != study.model for a in study.arms),
    }


def _tests(study: Results) -> list[dict[str, Any]]:
    """By target and budget: tests against random on the loss first, the best difference first."""
    places = [(t.name, b) for t in study.targets for b in study.budgets]
    found = []
    for target, budget in places:
        mine = [t for t in study.tests if (t.target, t.budget) == (target, budget)]
        mine.sort(key=lambda t: (t.against != RANDOM, t.metric != "loss",
                                 t.difference or 0.0 if t.metric == "loss" else -(t.difference or 0.0)))
        if mine:
            found.append({"target": target, "budget": budget, "tests": [_test(study, t) for t in mine]})
    return found


def _test(study: Results, test: Test) -> dict[str, Any]:
    part = share(study, test)
    return {**test.model_dump(), "share": part[0] if part else None}


def _arm(study: Results, arm: Arm) -> dict[str, Any]:
    test = study.test(arm.target, arm.budget, arm.name) if arm.model == study.model else None
    return {**arm.model_dump(), "model": model_name(arm.model), "test": _test(study, test) if test else None,
            "is_method": arm.kind in CHOSEN, "matched": arm.name == LENGTH_MATCHED}
