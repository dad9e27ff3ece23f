"""What the page reads of ``study.json``: :mod:`siftune.experiments.schema` tells what all of it means.

A study that has only begun lacks nearly everything, so that nearly everything has a default; a value of the wrong kind
is refused.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from siftune.report.schema import RANDOM, ZERO_SHOT

FULL, LENGTH_MATCHED = "full", "length-matched-random"

CHOSEN = ("method", "ablation")
"""Kinds of arms that are compared with random."""

__all__ = ["CHOSEN", "FULL", "LENGTH_MATCHED", "RANDOM", "ZERO_SHOT", "Study"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore")


class Estimate(_Part):
    mean: float | None
    low: float | None
    high: float | None
    per_seed: list[float | None] = []


class Target(_Part):
    name: str
    target_files: list[str] = []
    test_files: list[str] = []
    target_rows: int | None = None
    test_ids: list[str] = []


class Subset(_Part):
    id: str
    kind: str
    name: str
    target: str | None = None
    budget: str | None = None
    draw: int | None = None
    distances: dict[str, dict[str, dict[str, float | None]]] = {}
    error: str = ""


class Scores(_Part):
    loss: list[float | None] = []


class Cell(_Part):
    id: str
    subset: str | None = None
    model: str
    seed: int | None = None
    status: Literal["done", "missing", "failed"]
    results: dict[str, Scores] = {}


class Arm(_Part):
    model: str
    target: str
    budget: str | None
    kind: str
    name: str
    trainings: int = 0
    wanted: int = 0
    rows: float | None = None
    tokens: float | None = None
    steps: float | None = None
    train_seconds: float | None = None
    selection_seconds: float | None = None
    loss: Estimate
    exact_match: Estimate | None = None


Verdict = Literal["better", "worse", "no different", "single training"]


class Test(_Part):
    target: str
    budget: str
    method: str
    against: str
    metric: str
    difference: float | None
    low: float | None
    high: float | None
    covers: str | None = None
    p_value: float | None = None
    p_value_holm: float | None = None
    n_examples: int | None = None
    n_seeds: int | None = None
    verdict: Verdict


class Rank(_Part):
    name: str
    kind: str
    improvement: float | None
    comparisons: int
    judged: int | None = None
    better: int
    worse: int


class Failed(_Part):
    what: str
    title: str
    message: str
    traceback: str = ""


class Point(_Part):
    budget: str | None
    rows: float | None
    tokens: float | None
    loss: float | None


class Efficiency(_Part):
    budget: str | None
    rows_needed: float | None = None
    bound: str = ""
    limit: float | None = None
    ratio: float | None = None
    relation: str = ""


class Curve(_Part):
    target: str
    name: str
    points: list[Point] = []
    efficiency: list[Efficiency] = []


class Overlap(_Part):
    target: str
    budget: str
    names: list[str]
    jaccard: list[list[float | None]]


class Rho(_Part):
    """Spearman's rank correlation of ``n`` pairs, with its interval."""

    rho: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0


class Pair(_Part):
    """A subset that a correlation is made of; ``exact_match`` where that is on."""

    subset: str
    distance: float | None
    loss: float | None = None
    exact_match: float | None = None


class Correlation(Rho):
    representation: str
    target: str
    budget: str
    measure: str
    pairs: list[Pair] = []
    exact_match: Rho | None = None


class Deciles(Rho):
    name: str
    target: str
    bins: list[int] = []
    losses: list[float | None] = []
    rows: int | None = None


class Difference(_Part):
    """Of a paired comparison; nothing of it where that has not been trained yet."""

    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    p_value_holm: float | None = None


class Gain(Difference):
    name: str
    gain: float | None = None
    gain_here: float | None = None


class Transfer(Rho):
    model: str
    target: str
    budget: str
    names: list[str] = []
    gains: list[Gain] = []


class Saved(_Part):
    saved: float | None = None
    at_least: bool = False
    trainings: int | None = None


class BreakEven(_Part):
    target: str
    budget: str | None
    name: str
    selection_seconds: float | None = None
    train_seconds: float | None = None
    against_random: Saved | None = None
    against_full: Saved | None = None


class Compared(Difference):
    """A paired difference in loss; nothing of it where that has not been trained yet."""

    loss: float | None = None
    n_examples: int | None = None
    n_seeds: int | None = None
    verdict: Verdict | None = None


class Ablation(Compared):
    """A method with other settings, beside the method; the difference is ablation less method."""

    name: str
    method: str
    settings: dict[str, Any] = {}
    target: str
    budget: str
    rows: int | None = None
    jaccard: float | None = None
    method_loss: float | None = None


class SubtaskTest(Compared):
    """An arm on the test rows of one subtask; the difference is from random there."""

    target: str
    subtask: str
    budget: str | None
    kind: str
    name: str
    random_loss: float | None = None
    family: int | None = None


class Analyses(_Part):
    curves: list[Curve] = []
    overlap: list[Overlap] = []
    distance_predicts_loss: list[Correlation] = []
    deciles: list[Deciles] = []
    transfer: list[Transfer] = []
    break_even: list[BreakEven] = []
    ablations: list[Ablation] = []
    subtasks: list[SubtaskTest] = []


class Pool(_Part):
    rows: int | None = None
    tokens: int | None = None
    read: int | None = None


class Costs(_Part):
    feature_seconds: float | None = None
    select_seconds: float | None = None
    train_seconds: float | None = None
    trainings: int | None = None
    attribution: str = ""


class Study(_Part):
    """The whole file. ``settings`` is shown as it is; what the page itself needs of it has properties."""

    siftune: str | None = None
    complete: bool = False
    settings: dict[str, Any] = {}
    pool: Pool = Pool()
    targets: list[Target]
    subsets: list[Subset] = []
    cells: list[Cell] = []
    arms: list[Arm] = []
    tests: list[Test] = []
    ranking: list[Rank] = []
    analyses: Analyses = Analyses()
    costs: Costs = Costs()
    failures: list[Failed] = []
    notes: list[str] = []

    @property
    def model(self) -> str:
        """The model that chose the subsets; the others are trained on them too."""
        told = self.settings.get("model")
        return told if isinstance(told, str) else next((arm.model for arm in self.arms), "")

    @property
    def confidence(self) -> float:
        told = self.settings.get("confidence")
        return told if isinstance(told, float) and 0 < told < 1 else 0.95

    @property
    def budgets(self) -> list[str]:
        """In the order of the settings; those that only the results name after them."""
        told = self.settings.get("budgets")
        named = [b for b in told if isinstance(b, str)] if isinstance(told, list) else []
        return list(dict.fromkeys([*named, *(a.budget for a in self.arms if a.budget is not None)]))

    @property
    def methods(self) -> list[str]:
        """Of the settings and of the results, in alphabetical order."""
        told = self.settings.get("methods")
        named = [m for m in told if isinstance(m, str)] if isinstance(told, list) else []
        return sorted({*named, *(t.method for t in self.tests), *(a.name for a in self.arms if a.kind in CHOSEN)})

    @property
    def own(self) -> list[Arm]:
        return [arm for arm in self.arms if arm.model == self.model]

    def arm(self, target: str, budget: str | None, name: str) -> Arm | None:
        """With the study's own model."""
        return next((a for a in self.own if (a.target, a.budget, a.name) == (target, budget, name)), None)
