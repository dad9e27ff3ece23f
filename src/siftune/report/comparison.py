"""The comparison as the page shows it: baselines first, every subtask, every test."""

from __future__ import annotations

from typing import Any

from siftune.experiments.results import RANDOM, ZERO_SHOT, Arm, PartOfTest, Results, SubtaskTest, Test
from siftune.report.verdict import relative

ALL = "all"  # the name of the whole beside the subtasks'


def comparison_section(results: Results) -> dict[str, Any]:
    """Arms, results by subtask (``all`` first) and tests (against random first), in the order of the page."""
    arms = sorted(results.own, key=_order)
    tests = [*(_test(test, ALL, test.method, results) for test in results.tests),
             *(_test(test, test.subtask, test.name, results) for test in results.analyses.subtasks
               if test.difference is not None)]
    tests.sort(key=lambda test: (test["against"] != RANDOM, test["metric"] != "loss", test["subtask"] != ALL))
    size = next((target.tested for target in results.targets), 0)
    subtasks = dict.fromkeys(name for arm in arms for name in arm.subtasks)
    whole = {arm.name: PartOfTest(loss=arm.loss, exact_match=arm.exact_match, acc=arm.acc, acc_norm=arm.acc_norm,
                                  n=size or None)
             for arm in arms if arm.loss.mean is not None or arm.exact_match}
    return {
        "confidence": results.confidence,
        "learning_rate": results.settings.learning_rate,
        "epochs": results.settings.epochs,
        "note": " ".join(results.notes) or None,
        "arms": [{"name": arm.name, "kind": arm.kind, "rows": _rounded(arm.rows), "tokens": _rounded(arm.tokens),
                  "seeds": list(range(arm.trainings)), "steps": _rounded(arm.steps)} for arm in arms],
        "results": [_results(ALL, arms, whole),
                    *(_results(name, arms, {arm.name: arm.subtasks[name] for arm in arms if name in arm.subtasks})
                      for name in subtasks)],
        "has_choices": any(arm.acc for arm in arms),
        "tests": tests,
    }


def _order(arm: Arm) -> tuple[int, bool]:
    return {ZERO_SHOT: 0, RANDOM: 1}.get(arm.name, 2), arm.kind != "baseline"


def _test(test: Test | SubtaskTest, subtask: str, method: str, results: Results) -> dict[str, Any]:
    share = relative(test, results, None if subtask == ALL else subtask)
    return {"method": method, "against": test.against, "subtask": subtask, "metric": test.metric,
            "difference": test.difference, "low": test.low, "high": test.high, "p_value": test.p_value,
            "p_value_holm": test.p_value_holm, "n_examples": test.n_examples, "n_seeds": test.n_seeds,
            "verdict": test.verdict, "relative": None if share is None else
            dict(zip(("difference", "low", "high"), share, strict=True))}


def _results(subtask: str, arms: list[Arm], parts: dict[str, PartOfTest]) -> dict[str, Any]:
    rows = [{"name": arm.name, "kind": arm.kind, **parts[arm.name].model_dump()} for arm in arms if arm.name in parts]
    return {"subtask": subtask, "n": max((row["n"] or 0 for row in rows), default=0) or None, "arms": rows}


def _rounded(value: float | None) -> int | None:
    return None if value is None else round(value)
