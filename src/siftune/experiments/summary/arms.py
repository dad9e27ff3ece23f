"""The arms of an experiment: a method, ablation or baseline for one target and budget, with all of its trainings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from siftune._common.seeds import derive
from siftune.evaluation.harness import example_scores
from siftune.experiments.costs import Costs
from siftune.experiments.distances import Distances
from siftune.experiments.estimates import Remembered, difference, estimate
from siftune.experiments.inputs import StudyInputs
from siftune.experiments.results import ZERO_SHOT, Estimate
from siftune.experiments.subsets import Kind, Subset, SubsetSpec
from siftune.experiments.trainings import Cells, StudyCell


@dataclass(frozen=True, eq=False)
class ArmScores:
    """An arm with its scores.

    Attributes:
        model, target, budget, kind, name: which; ``budget`` is None for zero-shot and the full pool.
        cells: its trainings that are done.
        wanted: how many trainings it is to have.
        losses, correct, acc, acc_norm: float64 [trainings, test rows]; NaN where the metric does not apply.
        harness: ``task:metric`` of the lm-evaluation-harness -> float64 [trainings, examples].
    """

    model: str
    target: str
    budget: str | None
    kind: Kind
    name: str
    cells: tuple[StudyCell, ...]
    wanted: int
    losses: np.ndarray
    correct: np.ndarray
    acc: np.ndarray
    acc_norm: np.ndarray
    harness: Mapping[str, np.ndarray]

    def scores(self, metric: str) -> np.ndarray:
        """float64 [trainings, test rows or examples]; none where it has no such scores (yet)."""
        own = {"loss": self.losses, "exact_match": self.correct, "acc": self.acc, "acc_norm": self.acc_norm}
        return own[metric] if metric in own else self.harness.get(metric, np.zeros((0, 0)))

    @property
    def rows(self) -> float | None:
        return mean([len(c.subset.rows) for c in self.cells if c.subset])

    @property
    def loss(self) -> float:
        return float(self.losses.mean())


@dataclass(frozen=True)
class Study:
    """What a summary is made from.

    Attributes:
        inputs: the rows and the settings.
        subsets: all of them, failed ones too.
        cells: all trainings.
        distances: of the subsets to the targets.
        costs: of the features.
        remember: calls what need not be computed again.
    """

    inputs: StudyInputs
    subsets: Sequence[Subset]
    cells: Cells
    distances: Distances
    costs: Costs
    remember: Remembered

    @property
    def confidence(self) -> float:
        return self.inputs.config.common.confidence

    @property
    def seed(self) -> int:
        return derive(self.inputs.config.common.seed, "bootstrap")

    def estimate(self, values: np.ndarray, metric: str) -> Estimate | None:
        """Mean and interval of [trainings, test rows]; None where the metric applies to no row."""
        found = self.remember(estimate, values, metric, self.confidence, self.seed)
        return Estimate(**found) if found else None

    def difference(self, ours: np.ndarray, theirs: np.ndarray, metric: str) -> dict[str, Any] | None:
        """As :func:`~siftune.experiments.estimates.difference` has it; None where the metric applies to no row."""
        return self.remember(difference, ours, theirs, metric, self.confidence)

    def arms(self) -> list[ArmScores]:
        """Every arm of which a training is done: by model, target and budget, baselines first."""
        grouped: dict[tuple[str, str, str | None, Kind, str], list[StudyCell]] = {}
        for one in self.cells.all:
            wanted = one.subset.wanted if one.subset else None
            if wanted and wanted.kind == "decile":
                continue
            one_of = wanted or SubsetSpec("baseline", ZERO_SHOT, None, None)
            for target in one.targets:
                grouped.setdefault((one.model, target, one_of.budget, one_of.kind, one_of.name), []).append(one)
        targets = [t.name for t in self.inputs.config.targets]
        budgets = [None, *self.inputs.config.budgets]
        models = list(self.cells.settings)
        made = [self._arm(key, cells) for key, cells in grouped.items()]
        return sorted((arm for arm in made if arm.cells), key=lambda a: (
            models.index(a.model), targets.index(a.target), budgets.index(a.budget), a.kind))

    def _arm(self, key: tuple[str, str, str | None, Kind, str], cells: Sequence[StudyCell]) -> ArmScores:
        model, target, budget, kind, name = key
        done = [(c, s) for c in cells if (s := self.cells.scores(c, target)) is not None]
        losses = np.array([s["loss"] for _, s in done], dtype=np.float64)
        correct, acc, acc_norm = (np.array([_shares(s, metric) for _, s in done])
                                  for metric in ("correct", "acc", "acc_norm"))
        harness = [self.cells.harness(c) for c, _ in done]
        return ArmScores(model, target, budget, kind, name, tuple(c for c, _ in done), len(cells), losses, correct,
                         acc, acc_norm, example_scores([h for h in harness if h]) if all(harness) else {})

    def seconds(self, cell: StudyCell) -> float:
        return float(self._any(cell)["seconds"])

    def steps(self, cell: StudyCell) -> int:
        return int(self._any(cell)["steps"])

    def _any(self, cell: StudyCell) -> dict[str, Any]:
        return next(s for t in cell.targets if (s := self.cells.scores(cell, t)) is not None)


def _shares(scores: Mapping[str, Any], metric: str) -> list[float]:
    """Of each test row 0 or 1; NaN where the metric does not apply, or was not measured at all."""
    return [np.nan if one is None else float(one) for one in scores.get(metric) or [None] * len(scores["loss"])]


def selection_seconds(subset: Subset) -> float | None:
    """All that selecting took, features included; None where another run left them."""
    parts = [step["seconds"] for step in subset.features]
    return None if None in parts else float(sum(parts)) + subset.seconds


def mean(values: Sequence[float]) -> float | None:
    """None where there are none."""
    return float(np.mean(values)) if values else None
