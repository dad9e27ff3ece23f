"""``comparison.json`` as it was before comparisons and studies had one schema: read, and turned into today's."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from siftune.experiments.results.analyses import Analyses, SubtaskTest
from siftune.experiments.results.base import CHOSEN, FULL, RANDOM, ZERO_SHOT, Estimate
from siftune.experiments.results.experiment import TARGET, Arm, PartOfTest, Results, Settings, Target, Test


class _Earlier(BaseModel):
    model_config = ConfigDict(extra="ignore")


class _Result(_Earlier):
    loss: Estimate | None = None
    exact_match: Estimate | None = None
    n: int | None = None


class _Arm(_Earlier):
    name: str
    kind: Literal["baseline", "method"]
    rows: int | None = None
    tokens: int | None = None
    seeds: list[int] = []
    steps: int | None = None
    train_seconds: float | None = None
    results: dict[str, _Result] = {}
    lm_eval: dict[str, Estimate | None] = {}


class _Test(_Earlier):
    method: str
    against: str
    subtask: str
    metric: str
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    p_value_holm: float | None = None
    n_examples: int | None = None
    n_seeds: int | None = None
    verdict: Literal["better", "worse", "no different"]


class Comparison(_Earlier):
    """``comparison.json`` of version 1; results and tests are by subtask, ``all`` for the whole."""

    arms: list[_Arm]
    tests: list[_Test] = []
    confidence: float = Field(0.95, gt=0, lt=1)
    learning_rate: float | None = None
    epochs: int | None = None
    seeds: int | None = None
    budget: str | None = None
    note: str | None = None


_ALL = "all"


def upgraded(old: Comparison) -> Results:
    budget = old.budget or "as selected"
    test_rows = max((arm.results[_ALL].n or 0 for arm in old.arms if _ALL in arm.results), default=0)
    names = [arm.name for arm in old.arms if arm.kind in CHOSEN]
    losses = {(arm.name, part): found.loss.mean
              for arm in old.arms for part, found in arm.results.items() if found.loss}
    return Results(
        kind="comparison", complete=True, targets=[Target(name=TARGET, test_rows=test_rows or None)],
        settings=Settings(methods=names, headline=names, budgets=[budget], seeds=old.seeds, headline_seeds=old.seeds,
                          confidence=old.confidence, learning_rate=old.learning_rate, epochs=old.epochs,
                          baselines={arm.name: max(1, len(arm.seeds)) for arm in old.arms
                                     if arm.kind == "baseline" and arm.name != ZERO_SHOT}),
        arms=[_arm(arm, budget) for arm in old.arms],
        tests=[Test(target=TARGET, budget=budget, **test.model_dump(exclude={"subtask"}))
               for test in old.tests if test.subtask == _ALL],
        analyses=Analyses(subtasks=[
            SubtaskTest(target=TARGET, budget=budget, subtask=test.subtask, kind="method", name=test.method,
                        loss=losses.get((test.method, test.subtask)),
                        random_loss=losses.get((RANDOM, test.subtask)),
                        **test.model_dump(exclude={"subtask", "method"}))
            for test in old.tests if test.subtask != _ALL]),
        notes=[old.note] if old.note else [])


def _arm(arm: _Arm, budget: str) -> Arm:
    seeds, whole = len(arm.seeds), arm.results.get(_ALL, _Result())
    return Arm(model="", target=TARGET, budget=None if arm.name in (ZERO_SHOT, FULL) else budget, kind=arm.kind,
               name=arm.name, trainings=seeds, wanted=seeds, rows=arm.rows, tokens=arm.tokens, steps=arm.steps,
               # It was summed over the seeds.
               train_seconds=None if arm.train_seconds is None else arm.train_seconds / max(1, seeds),
               loss=whole.loss or Estimate(), exact_match=whole.exact_match, lm_eval=arm.lm_eval,
               subtasks={part: PartOfTest(loss=found.loss or Estimate(), exact_match=found.exact_match, n=found.n)
                         for part, found in arm.results.items() if part != _ALL})
