"""The comparison as the page shows it: baselines first, every subtask, every test."""

from __future__ import annotations

from typing import Any

from siftune.report.schema import ALL, RANDOM, ZERO_SHOT, Arm, Comparison
from siftune.report.verdict import relative


def comparison_section(comparison: Comparison) -> dict[str, Any]:
    """Arms, results by subtask (``all`` first) and tests (against random first), in the order of the page."""
    arms = sorted(comparison.arms, key=_order)
    subtasks = list(dict.fromkeys(name for arm in arms for name in arm.results))
    subtasks.sort(key=lambda name: name != ALL)
    tests = []
    for test in sorted(comparison.tests, key=lambda test: (test.against != RANDOM, test.metric != "loss",
                                                            test.subtask != ALL)):
        share = relative(test, comparison)
        tests.append({**test.model_dump(), "relative": None if share is None else
                      dict(zip(("difference", "low", "high"), share, strict=True))})
    return {
        "confidence": comparison.confidence,
        "learning_rate": comparison.learning_rate,
        "epochs": comparison.epochs,
        "note": comparison.note,
        "arms": [arm.model_dump(exclude={"results"}) for arm in arms],
        "results": [_results(subtask, arms) for subtask in subtasks],
        "tests": tests,
    }


def _order(arm: Arm) -> tuple[int, bool]:
    return {ZERO_SHOT: 0, RANDOM: 1}.get(arm.name, 2), arm.kind != "baseline"


def _results(subtask: str, arms: list[Arm]) -> dict[str, Any]:
    rows = []
    for arm in arms:
        result = arm.results.get(subtask)
        if result is not None:
            rows.append({"name": arm.name, "kind": arm.kind, **result.model_dump()})
    return {"subtask": subtask, "n": max((row["n"] or 0 for row in rows), default=0) or None, "arms": rows}
