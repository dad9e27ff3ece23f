"""Paired tests of the arms, and a ranking.

Methods and ablations are compared with baselines, ablations also with the method that they vary, on the same test
rows. Whoever asks more questions gets more answers by luck, so the p-values of a whole family of tests are adjusted by
Holm's method, and the adjusted one decides the verdict. The tests against random and other baselines (and against the
methods that ablations vary) are one family, over methods, targets, budgets and metrics; those with the full pool answer
another question (can the rest of the rows go?) and are a family of their own, as those on single subtasks are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from siftune.evaluation.statistics import holm, verdict
from siftune.experiments.analysis.transfer import relative_gain
from siftune.experiments.results import CHOSEN, FULL, METRICS, RANDOM, Difference, Kind, Rank, SubtaskTest, Test
from siftune.experiments.summary.arms import ArmScores, Study


def tests_of(study: Study, arms: Sequence[ArmScores]) -> list[Test]:
    """Every test, with its adjusted p-value and verdict.

    Args:
        study: whose settings say what is compared with what.
        arms: of the study's own model.
    """
    found = list(_compared(study, arms))
    judge([t for t in found if t.against != FULL], study.confidence)
    judge([t for t in found if t.against == FULL], study.confidence)
    return found


def judge(family: Sequence[Test | SubtaskTest], confidence: float) -> None:
    """Fill in the adjusted p-values and the verdicts of tests that are asked together."""
    adjust(family)
    for test in family:
        if test.difference is not None:
            test.verdict = verdict(test.difference, test.p_value_holm, confidence,
                                   lower_is_better=test.metric == "loss")


def adjust(family: Sequence[Difference]) -> None:
    """Fill in the p-values of a family as adjusted by Holm's method. One training on a side has none, and the others
    do not pay for it."""
    for test, adjusted in zip(family, holm([test.p_value for test in family]), strict=True):
        test.p_value_holm = adjusted


def _compared(study: Study, arms: Sequence[ArmScores]) -> Iterator[Test]:
    config = study.inputs.config
    for arm in (a for a in arms if a.kind in CHOSEN):
        ablation = config.ablation(arm.name)
        others = (*config.tested_against, *([ablation.method] if ablation else []))
        for against in (a for a in arms if a.name in others and a.target == arm.target
                        and a.budget in (arm.budget, None)):
            for metric in (*METRICS, *(m for m in arm.harness if m in against.harness)):
                found = study.difference(arm.scores(metric), against.scores(metric), metric)
                if found:
                    yield Test(target=arm.target, budget=arm.budget, method=arm.name, against=against.name,
                               metric=metric, **found)


def ranking(arms: Sequence[ArmScores], tests: Sequence[Test]) -> list[Rank]:
    """Methods and baselines by their mean gain over random, the best first."""
    random = {(a.target, a.budget): a.loss for a in arms if a.name == RANDOM}
    names: dict[str, Kind] = {a.name: a.kind for a in arms if a.budget is not None and a.name != RANDOM}
    found: list[Rank] = []
    for name, kind in names.items():
        gains = [relative_gain(a.loss, random[a.target, a.budget]) for a in arms
                 if a.name == name and (a.target, a.budget) in random]
        verdicts = [t.verdict for t in tests if (t.method, t.against, t.metric) == (name, RANDOM, "loss")]
        if gains:
            found.append(Rank(name=name, kind=kind, improvement=float(np.mean(gains)), comparisons=len(gains),
                              judged=len(verdicts) - verdicts.count("single training"),
                              better=verdicts.count("better"), worse=verdicts.count("worse")))
    return sorted(found, key=lambda r: (-(r.improvement or 0.0), r.name))
